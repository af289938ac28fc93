"""Random tensors of every datatype, with the values in them at which serialisers go wrong."""

import numpy as np
from real_servers import FEATURES, NUMERIC

# Finite extremes, the least normal and subnormal numbers, both zeros, and numbers whose shortest
# decimal form is long.
EDGES = {
    "FP16": ["0x1.ffcp15", "-0x1.ffcp15", "0x1p-14", "0x1p-24", "-0x1p-24", "0x0p0", "-0x0p0"],
    "FP32": ["0x1.fffffep127", "0x1p-126", "0x1p-149", "-0x1p-149", "0x0p0", "-0x0p0", "0x1p24"],
    "FP64": ["0x1.fffffep127", "-0x1p127", "0x1p-1022", "0x1p-1074", "0x0p0", "-0x0p0", "0x1p53"],
}
FP32_MOST = float.fromhex("0x1.fffffep127")


def random_tensor(draw, datatype, rows):
    """(rows, FEATURES) of a datatype: every bit random, and finite."""
    shape = (rows, FEATURES)
    if datatype == "BYTES":
        texts = ["", " ", "naïve", "漢字", '"quoted"', "back\\slash", "a\tb\n", "\x7f", "😀", "0"]
        parts = [text.encode() for text in draw.choice(texts, rows * FEATURES)]
        tensor = np.empty(rows * FEATURES, dtype=object)
        tensor[:] = parts
        return tensor.reshape(shape)
    kind = np.dtype(NUMERIC[datatype])
    if kind.kind == "b":
        return draw.integers(0, 2, shape).astype(bool)
    if kind.kind in "iu":
        bounds = np.iinfo(kind)
        tensor = draw.integers(bounds.min, bounds.max, shape, dtype=kind, endpoint=True)
        tensor.flat[:2] = bounds.min, bounds.max
        return tensor
    tensor = np.frombuffer(draw.bytes(rows * FEATURES * kind.itemsize), kind).reshape(shape).copy()
    tensor[~np.isfinite(tensor)] = 0
    if kind.itemsize == 8:  # detectors score FP32: a number beyond its range is refused
        tensor[np.abs(tensor) > FP32_MOST] = 0
    edges = [float.fromhex(edge) for edge in EDGES[datatype]]
    tensor.flat[: len(edges)] = edges
    return tensor
