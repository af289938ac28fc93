"""The gRPC messages of OIP v2 that the benchmark sends and answers, written once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from loadtest.payloads import TENSOR, Floats
from proxy.protobuf import integer, span, varint

INFER: Final = "/inference.GRPCInferenceService/ModelInfer"
READY: Final = integer(1, 1)
"""What ``ModelReady``, ``ServerReady`` and ``ServerLive`` answer."""


def infer_message(model: str, rows: Floats) -> bytes:
    """A ``ModelInferRequest`` of (n, d) rows as raw contents."""
    raw = np.ascontiguousarray(rows, "<f4").tobytes()
    return span(1, model.encode()) + span(5, _tensor(TENSOR, "FP32", rows.shape)) + span(7, raw)


def answer_message(model: str) -> bytes:
    """A ``ModelInferResponse`` with one label."""
    raw = (3).to_bytes(8, "little")
    return span(1, model.encode()) + span(5, _tensor("label", "INT64", (1,))) + span(6, raw)


def _tensor(name: str, datatype: str, shape: Sequence[int]) -> bytes:
    """The fields that every message about a tensor begins with."""
    return (
        span(1, name.encode()) + span(2, datatype.encode()) + span(3, b"".join(map(varint, shape)))
    )
