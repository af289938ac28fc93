"""JSONPaths of the configuration (RFC 9535) that lead to one place, as plain steps."""

from __future__ import annotations

from typing import TypeAlias

Steps: TypeAlias = tuple[str | int, ...]
"""The names of members and the indices of elements on the way from the document to a place."""


def steps_of(path: str) -> Steps:
    """The steps of a singular query (RFC 9535, section 2.3.5.1): names and indices alone.

    Nothing of the library that reads it is used afterwards.

    Raises:
        ValueError: if it is none, or an index counts from the end.
    """
    import jsonpath  # noqa: PLC0415 - only who speaks such a protocol pays for it
    from jsonpath.segments import JSONPathChildSegment  # noqa: PLC0415
    from jsonpath.selectors import IndexSelector, NameSelector  # noqa: PLC0415

    wrong = f"{path!r} is not a JSONPath of names and indices to one place, such as $.input"
    try:
        query = jsonpath.JSONPathEnvironment(strict=True).compile(path)
    except (jsonpath.JSONPathError, ValueError, RecursionError):
        raise ValueError(wrong) from None
    steps: list[str | int] = []
    for segment in query.segments if isinstance(query, jsonpath.JSONPath) else [None]:
        selectors = segment.selectors if isinstance(segment, JSONPathChildSegment) else ()
        match selectors:
            case [NameSelector() as selector]:
                steps.append(selector.name)
            case [IndexSelector() as selector] if selector.index >= 0:
                steps.append(selector.index)
            case _:
                raise ValueError(wrong)
    return tuple(steps)
