"""JSON of tensors by nothing but the standard library, for wires without datatypes and shapes."""

import json

import numpy as np

INFERRED = frozenset({"BOOL", "INT64", "FP64", "BYTES"})
"""Datatypes that a reader can tell from JSON alone."""

JSON = {b"content-type": b"application/json"}


def plain(array):
    """A tensor as nested lists."""
    if array.dtype != object:
        return array.tolist()
    texts = np.empty(array.size, object)
    texts[:] = [item.decode() for item in array.reshape(-1)]
    return texts.reshape(array.shape).tolist()


def tensor(value):
    """Nested lists as an array; strings are bytes."""
    elements = np.array(value, object)
    flat = elements.reshape(-1).tolist()
    kinds = set(map(type, flat))
    if kinds <= {str, bytes}:
        items = np.empty(len(flat), object)
        items[:] = [text.encode() if isinstance(text, str) else text for text in flat]
        return items.reshape(elements.shape)
    # Left to itself numpy makes doubles of small and large 64-bit integers together.
    large = kinds == {int} and max(flat) > 2**63 - 1
    return np.array(flat, np.uint64 if large else None).reshape(elements.shape)


def columns(named):
    """``{name: (datatype, array)}`` as an object of lists."""
    return {name: plain(array) for name, (_, array) in named.items()}


def records(named):
    """``{name: (datatype, array)}`` as a list of objects."""
    lists = columns(named)
    return [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)]


def alone(named):
    """The only one of ``{name: (datatype, array)}`` as a list."""
    ((_, array),) = named.values()
    return plain(array)


def of_columns(value):
    return {name: tensor(inner) for name, inner in value.items()}


def of_records(value):
    return {name: tensor([row[name] for row in value]) for name in value[0]}


def written(document):
    return JSON, json.dumps(document).encode()
