"""What a shaped answer looks like: the same verdicts, with less to learn from. Pure.

A label serves an honest client; the digits behind it serve a thief and a black-box attack, which
climb along differences that rounding takes away. So floating-point outputs keep their order of
magnitude and the best class of every row, and lose the rest.
"""

from __future__ import annotations

import re
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from proxy.protocols.base import InferResponse

DECIMALS: Final = 1
MAX_DECIMALS: Final = 6

_Tensor = npt.NDArray[Any]
_Reals = npt.NDArray[np.float64]

_INTEGERS: Final = 2.0**52  # a double from here on has no fraction
# What Triton answers to the parameter ``classification``: the score as C's %f writes it, the index
# of the class, and its name if it has one. The score would leave unshaped as text.
_CLASSIFIED: Final = re.compile(rb"(-?[0-9]{1,300}\.[0-9]+)(:[0-9]+(?::.*)?)", re.DOTALL)


def shape(response: InferResponse, *, decimals: int = DECIMALS) -> InferResponse:
    """The answer with its numbers rounded.

    Floating-point outputs of any datatype are rounded to ``decimals``, and zeros lose their sign.
    Along the last of two or more dimensions, the classes, those that were best stay best and alone:
    where rounding brings another level, they are raised by one step. Outputs of one dimension, or
    of one value a row, are rounded and nothing else. NaN and infinities stay. Integers, booleans
    and strings stay, but for the scores in Triton's classification strings.

    Shaping twice is shaping once. The answer given is left as it is.

    Args:
        decimals: 0 to 6.

    Raises:
        ValueError: for other ``decimals``.
    """
    if not 0 <= decimals <= MAX_DECIMALS:
        raise ValueError(f"decimals must be from 0 to {MAX_DECIMALS}")
    tensors = {name: _shaped(tensor, decimals) for name, tensor in response.tensors.items()}
    return InferResponse(tensors, response.n, response.options)


def _shaped(tensor: _Tensor, decimals: int) -> _Tensor:
    if tensor.dtype.kind == "f" and tensor.size:
        values = tensor.astype(np.float64)
        coarse = _rounded(values, decimals)
        if tensor.ndim > 1 and tensor.shape[-1] > 1:
            coarse = _with_winners(values, coarse, decimals)
        return coarse.astype(tensor.dtype)
    if tensor.dtype.hasobject:
        return _texts(tensor, decimals)
    return tensor


def _rounded(values: _Reals, decimals: int) -> _Reals:
    with np.errstate(over="ignore", invalid="ignore"):
        rounded = np.round(values, decimals) + 0.0  # -0.0 would tell on which side of 0 it was
    # Neighbours among larger numbers are further apart than a step: there is nothing to round.
    finer = np.abs(values) < _INTEGERS / 10**decimals
    return np.where(finer, rounded, values)


def _with_winners(values: _Reals, coarse: _Reals, decimals: int) -> _Reals:
    """The rounded values, the best of each row above all that were not its best."""
    with np.errstate(invalid="ignore"):  # a row with NaN has no best, and stays
        won = values == values.max(axis=-1, keepdims=True)
        level = coarse == coarse.max(axis=-1, keepdims=True)
    tied = (level & ~won).any(axis=-1, keepdims=True)
    return np.where(won & tied, _rounded(coarse + 10.0**-decimals, decimals), coarse)


def _texts(tensor: _Tensor, decimals: int) -> _Tensor:
    texts: list[bytes] = tensor.reshape(-1).tolist()
    matches = list(map(_CLASSIFIED.fullmatch, texts))
    if not any(matches):
        return tensor
    shaped = np.empty(len(texts), object)
    shaped[:] = [
        text if match is None else b"%f%b" % (round(float(match[1]), decimals) + 0.0, match[2])
        for text, match in zip(texts, matches, strict=True)
    ]
    return shaped.reshape(tensor.shape)
