"""What each mode of shaping makes of a model's scores. Pure.

A *row* here is one vector of scores, (C,), of one thing that the model judges. What it holds is
told row by row, so that the other rows of a batch change nothing:

- ``distribution``: in [0, 1], summing to 1;
- ``shares``: each in [0, 1] on its own, as of a model with several labels, or of one column;
- ``logs``: the logarithms of a distribution;
- ``logits``: any other scores of more than one class;
- ``values``: numbers of which none is the best, as of regression.

The verdict, which honest clients go by, is the best class (the first of equals), for ``shares``
also on which side of 0.5 each one lies, and for logits of one column on which side of 0.
"""

from __future__ import annotations

from typing import Any, Final, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

Reals = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Form: TypeAlias = Literal["distribution", "shares", "logs", "logits", "values"]
Kind: TypeAlias = Literal["auto", "probabilities", "logits", "labels", "values"]

_INTEGERS: Final = 2.0**52  # a double from here on has no fraction
SUMS: Final = 0.01
"""How far from 1 a distribution may sum: servers round."""
_LEVEL: Final = 8.0  # logits of a label: a softmax of a thousand classes gives it 0.9999


def forms(values: Reals, kind: Kind) -> list[tuple[Form, Bools | slice]]:
    """What the rows hold: each form with the rows of it.

    Args:
        values: (m, C), finite.
        kind: what the operator says they hold, ``auto`` for nothing.
    """
    if kind == "values":
        return [("values", slice(None))]
    low, high = values.min(axis=1), values.max(axis=1)
    if values.shape[1] == 1:
        if kind == "logits":
            return [("logits", slice(None))]
        share = (low >= 0) & (high <= 1)
        return _parts({"shares": share, "values": ~share})
    sums = values.sum(axis=1)
    share = (low >= 0) & (high <= 1) & (kind != "logits")
    distribution = share & (np.abs(sums - 1) <= SUMS)
    below = ~share & (high <= SUMS)
    logs = below
    if below.any():
        logs = below & (np.abs(np.exp(np.minimum(values, SUMS)).sum(axis=1) - 1) <= SUMS)
    return _parts(
        {
            "distribution": distribution,
            "shares": share & ~distribution,
            "logs": logs,
            "logits": ~share & ~logs,
        }
    )


def _parts(masks: dict[Form, Bools]) -> list[tuple[Form, Bools | slice]]:
    for form, mask in masks.items():
        if mask.all():
            return [(form, slice(None))]
    return [(form, mask) for form, mask in masks.items() if mask.any()]


def rounded(values: Reals, form: Form, decimals: int) -> Reals:
    """Rounded. Where that would level the verdict, it stays by a step."""
    coarse = nearest(values, decimals)
    step = 10.0**-decimals
    if form == "shares":
        # Towards the side that it is on: 0.46 becomes 0.4, and without decimals 0.
        crossed = ((values < 0.5) & (coarse >= 0.5)) | ((values > 0.5) & (coarse <= 0.5))
        if crossed.any():
            away = np.where(values < 0.5, coarse - step, coarse + step)
            coarse = np.where(crossed, nearest(away, decimals), coarse)
    if values.shape[1] == 1:
        if form == "logits":
            crossed = (values != 0) & (coarse == 0)
            coarse = np.where(crossed, np.copysign(step, values), coarse)
        return coarse
    return coarse if form == "values" else _with_winners(values, coarse, form, decimals)


def nearest(values: Reals, decimals: int) -> Reals:
    """Rounded, to zero without a sign."""
    with np.errstate(over="ignore", invalid="ignore"):
        coarse = np.round(values, decimals) + 0.0  # -0.0 would tell on which side of 0 it was
    # Neighbours among larger numbers are further apart than a step: there is nothing to round.
    finer = np.abs(values) < _INTEGERS / 10**decimals
    return np.where(finer, coarse, values)


def _with_winners(values: Reals, coarse: Reals, form: Form, decimals: int) -> Reals:
    """The rounded values, the best of each row above all that were not its best."""
    won = values == values.max(axis=1, keepdims=True)
    level = coarse == coarse.max(axis=1, keepdims=True)
    tied = (level & ~won).any(axis=1, keepdims=True)
    if not tied.any():
        return coarse
    step = 10.0**-decimals
    raised = nearest(coarse + step, decimals)
    if form != "shares":
        return np.where(won & tied, raised, coarse)
    # A winner that would pass 1, or come to 0.5 from below, stays: the others yield instead.
    stuck = tied & ((raised > 1) | ((values < 0.5) & (raised >= 0.5)) & (coarse > 0))
    stuck = (stuck & won).any(axis=1, keepdims=True)
    yields = tied & stuck & level & ~won
    lowered = nearest(coarse - step, decimals)
    return np.where(yields, lowered, np.where(won & tied & ~stuck, raised, coarse))


def best_few(values: Reals, form: Form, k: int) -> Reals:
    """The best ``k`` of each row as they are, with all that equal the last of them; the others at
    one level, which leaves their sum as it was: that of the probabilities behind logits.
    """
    classes = values.shape[1]
    if k >= classes:
        return values
    least = np.partition(values, classes - k, axis=1)[:, classes - k, None]
    others = values < least
    count = np.maximum(others.sum(axis=1, keepdims=True), 1)
    high = np.where(others, values, -np.inf).max(axis=1, keepdims=True)
    low = np.where(others, values, np.inf).min(axis=1, keepdims=True)
    if form in ("logits", "logs"):
        high = np.where(np.isfinite(high), high, 0.0)
        shifted = np.where(others, np.exp(np.minimum(values - high, 0.0)), 0.0)
        mean = high + np.log(np.maximum(shifted.sum(axis=1, keepdims=True), 1.0) / count)
    else:
        mean = np.where(others, values, 0.0).sum(axis=1, keepdims=True) / count
    # Of equals the mean is their value, not what rounding makes of it.
    return np.where(others, np.clip(mean, low, high), values)


def label(values: Reals, form: Form) -> Reals:
    """The verdict alone, at fixed levels: 1 and 0 for probabilities, 0 and -16 for their
    logarithms, 8 and -8 for logits.

    Of ``shares`` those above 0.5 become 0.75 and those below it 0; the best one gets 0.25 more.
    """
    if values.shape[1] == 1:
        if form == "logits":
            return np.where(values == 0, 0.0, np.where(values > 0, _LEVEL, -_LEVEL))
        return np.where(values == 0.5, 0.5, np.where(values > 0.5, 1.0, 0.0))
    won = np.arange(values.shape[1]) == values.argmax(axis=1)[:, None]
    if form == "distribution":
        return np.where(won, 1.0, 0.0)
    if form == "logs":
        return np.where(won, 0.0, -2 * _LEVEL)
    if form == "logits":
        return np.where(won, _LEVEL, -_LEVEL)
    sides = np.where(values == 0.5, 0.5, np.where(values > 0.5, 0.75, 0.0))
    return np.where(won & (sides != 0.5), sides + 0.25, sides)


def disturbed(values: Reals, form: Form, noise: Reals, keep: Bools) -> Reals:
    """With noise in the log-odds of any two classes, or of a share; added to ``values``.

    The same noise does the same to probabilities, their logarithms and logits, so that there is
    nothing to be had from comparing two outputs of one answer. Where the verdict is kept, the best
    changes places with what became the best, and a share that changed sides is mirrored back.

    Args:
        values: (m, C), finite.
        noise: (m, C) normal, of the deviation wanted; (m, 2) for one column: that of either answer.
        keep: (m,) whether the verdict is kept.
    """
    single = values.shape[1] == 1
    if single:
        # One column stands for two classes: what two columns would get, it gets.
        noise = noise[:, 1:] - noise[:, :1]
    if single or form not in ("shares", "values"):
        noise = noise * np.sqrt(0.5)
    if form == "values":
        return values + noise
    if form == "shares":
        return _shares(values, noise, keep[:, None])
    if single:
        return np.where(keep[:, None], np.copysign(values + noise, values), values + noise) + 0.0
    if form == "distribution":
        found = values * np.exp(noise - noise.max(axis=1, keepdims=True))
        found *= values.sum(axis=1, keepdims=True) / found.sum(axis=1, keepdims=True)
        found = np.minimum(found, 1.0)  # of a server's sum of 1.001 one may get all
    else:
        found = values + noise
        if form == "logs":
            peak = found.max(axis=1, keepdims=True)
            found -= peak + np.log(np.exp(found - peak).sum(axis=1, keepdims=True))
    was, is_ = values.argmax(axis=1), found.argmax(axis=1)
    return _swapped(found, was, is_, keep)


def _shares(values: Reals, noise: Reals, kept: Bools) -> Reals:
    grown = values * np.exp(np.minimum(noise, 0.0))
    shrunk = (1 - values) * np.exp(-np.maximum(noise, 0.0))
    found = grown / (grown + shrunk)
    crossed = ((values < 0.5) & (found > 0.5)) | ((values > 0.5) & (found < 0.5))
    found = np.where(kept & crossed, 1 - found, found)
    found = np.where(kept & (values == 0.5), 0.5, found)
    return _swapped(found, values.argmax(axis=1), found.argmax(axis=1), kept[:, 0])


def _swapped(
    found: Reals, was: npt.NDArray[np.intp], is_: npt.NDArray[np.intp], keep: Bools
) -> Reals:
    """What was the best, the best again: it changes places with what is."""
    (moved,) = np.nonzero(keep & (was != is_))
    if moved.size:
        was, is_ = was[moved], is_[moved]
        found[moved, was], found[moved, is_] = found[moved, is_], found[moved, was]
    return found


def verdict_kept(values: Reals, cast: npt.NDArray[Any], form: Form) -> npt.NDArray[Any]:
    """Scores narrowed to their datatype, their verdict not lost to its rounding.

    Args:
        values: (m, C) as the model gave them.
        cast: (m, C) with the same verdict before they were narrowed.
    """
    if form == "shares":
        half = cast.dtype.type(0.5)
        below, above = np.nextafter(half, half - half), np.nextafter(half, half + half)
        cast = np.where(values < 0.5, np.minimum(cast, below), cast)
        cast = np.where(values > 0.5, np.maximum(cast, above), cast)
    if form == "values" or cast.shape[1] == 1:
        return cast
    places = values.argmax(axis=1)
    (lost,) = np.nonzero(cast.argmax(axis=1) != places)
    if lost.size:
        # It is level with one before it: of equals the first is the best.
        best = cast[lost, places[lost]]
        ceiling = np.nextafter(best, np.array(-np.inf, cast.dtype))
        cast[lost] = np.minimum(cast[lost], ceiling[:, None])
        cast[lost, places[lost]] = best
    return cast
