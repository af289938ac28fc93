"""The demonstration's traffic: honest images, outliers, adversarial images, a black-box attack,
malformed requests."""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from loadtest.mlp import Floats, Mlp, fgsm
from loadtest.payloads import TENSOR, infer_binary, infer_json, infer_target
from loadtest.wire import Header, render_request
from proxy import rules
from proxy.rules import Rule


def outliers(images: Floats, seed: int) -> dict[str, Floats]:
    """Images that no honest client sends, as many of each kind as ``images``."""
    rng = np.random.default_rng(seed)
    return {
        "uniform noise": rng.random(images.shape, np.float32),
        "inverted": 1 - images,
        "pixels shuffled": rng.permuted(images, axis=1),
    }


def adversarial(
    model: Mlp, images: Floats, labels: npt.NDArray[np.int64], epsilon: float
) -> Floats:
    """The FGSM images of the given size that fool the model, of images that it knew before."""
    crafted = fgsm(model, images, labels, epsilon)
    known = model.probabilities(images).argmax(axis=1) == labels
    fooled = model.probabilities(crafted).argmax(axis=1) != labels
    return np.asarray(crafted[known & fooled])


def probes(image: Floats, other: Floats, count: int, seed: int) -> Floats:
    """(count, d): the queries of a decision-based attack (HopSkipJump, Chen et al., 2020).

    First a search by halves along the line from ``image`` to one of another class, for the boundary
    between them; then small steps around the point found, by which its slope is estimated. Each
    query alone looks honest.
    """
    rng = np.random.default_rng(seed)
    near, far, queries = 0.0, 1.0, []
    for _ in range(8):
        middle = (near + far) / 2
        queries.append((1 - middle) * image + middle * other)
        near, far = (middle, far) if rng.random() < 0.5 else (near, middle)
    steps = rng.normal(size=(count - len(queries), image.size))
    steps *= 0.1 / np.linalg.norm(steps, axis=1, keepdims=True)
    every = np.vstack([*queries, queries[-1] + steps])
    return np.asarray(every.clip(0, 1), np.float32)


@dataclass(frozen=True, slots=True)
class Malformed:
    """A request that must be refused, and how.

    Attributes:
        refused_by: the rules of which one must decide, with its status.
    """

    name: str
    request: bytes
    refused_by: tuple[Rule, ...]


def malformed(image: Floats, model: str, host: str, key: Header, max_rows: int) -> list[Malformed]:
    """One request for each way of being wrong, built on a (1, d) honest image."""
    target = infer_target(model)
    kind = ("Content-Type", "application/json")
    good = infer_json(image)
    document = json.loads(good)

    def post(body: bytes, *headers: Header, path: str = target) -> bytes:
        return render_request("POST", path, host, body, [key, *(headers or (kind,))])

    def changed(**tensor: Any) -> bytes:
        return post(json.dumps({"inputs": [{**document["inputs"][0], **tensor}]}).encode())

    def raw(*framing: str, body: bytes = good) -> bytes:
        lines = [f"POST {target} HTTP/1.1", f"Host: {host}", "{}: {}".format(*key), *framing]
        lines.append("{}: {}".format(*kind))
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + body

    not_a_number = image.copy()
    not_a_number[0, 0] = np.nan
    binary, header_length = infer_binary(not_a_number)
    smuggled = b"0\r\n\r\nPOST /v2/repository/models/x/load HTTP/1.1\r\nHost: x\r\n\r\n"
    bomb = gzip.compress(good[:-1] + b" " * (32 << 20) + b"}", 9)
    many = np.repeat(image, max_rows + 1, axis=0)
    in_shared_memory = {"shared_memory_region": "r", "shared_memory_byte_size": 256}
    return [
        Malformed("JSON cut short", post(good[:-2]), (rules.SYNTAX,)),
        Malformed(
            "NaN in JSON",
            changed(data=[float("nan"), *document["inputs"][0]["data"][1:]]),
            (rules.SYNTAX, rules.VALUE),
        ),
        Malformed(
            "NaN in binary",
            post(
                binary,
                ("Content-Type", "application/octet-stream"),
                ("Inference-Header-Content-Length", str(header_length)),
            ),
            (rules.VALUE,),
        ),
        Malformed("a key given twice", post(good[:-1] + b"," + good[1:]),
                  (rules.DUPLICATE_KEY,)),
        Malformed("wrong shape", changed(shape=[1, image.shape[1] + 1]), (rules.SHAPE,)),
        Malformed("2^40 rows", changed(shape=[1 << 40, image.shape[1]]),
                  (rules.SHAPE,)),
        Malformed("wrong datatype", changed(datatype="INT64"), (rules.DATATYPE,)),
        Malformed("unknown tensor", changed(name=f"{TENSOR}2"), (rules.TENSOR_NAME,)),
        Malformed("too many rows", post(infer_json(many)), (rules.ROWS_PER_REQUEST,)),
        Malformed("shared memory", changed(parameters=in_shared_memory),
                  (rules.SHARED_MEMORY,)),
        Malformed("control path", post(b"{}", path=f"/v2/repository/models/{model}/load"),
                  (rules.CONTROL_PATH,)),
        Malformed("encoded path", post(good, path=target.replace("/d", "/%64")),
                  (rules.NO_ROUTE, rules.MALFORMED)),
        Malformed(
            "smuggling: CL and TE",
            raw(f"Content-Length: {len(smuggled)}", "Transfer-Encoding: chunked", body=smuggled),
            (rules.FRAMING, rules.MALFORMED),
        ),
        Malformed(
            "smuggling: two CLs",
            raw(f"Content-Length: {len(good)}", "Content-Length: 0"),
            (rules.FRAMING, rules.MALFORMED),
        ),
        Malformed("gzip bomb", post(bomb, kind, ("Content-Encoding", "gzip")),
                  (rules.RATIO, rules.BODY_TOO_LARGE)),
    ]  # fmt: skip
