"""What a shaped answer looks like: the same verdicts, with less to learn from. Pure.

A label serves an honest client; the digits behind it serve a thief and a black-box attack, which
climb along them. ``docs/shaping.md`` says what each mode takes away, and what it does not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from proxy import shaping_columns, shaping_texts
from proxy.protocols.base import InferRequest, InferResponse
from proxy.shaping_embeddings import disturbed as disturbed_vectors
from proxy.shaping_embeddings import rounded as rounded_vectors
from proxy.shaping_labels import labels, renamed
from proxy.shaping_noise import KEY_BYTES, beside, noise, noise_key, noise_of
from proxy.shaping_scores import (
    Bools,
    Form,
    Kind,
    Reals,
    best_few,
    disturbed,
    forms,
    label,
    rounded,
    verdict_kept,
)

__all__ = ["DECIMALS", "MAX_DECIMALS", "Mode", "Style", "noise_key", "shape"]

DECIMALS: Final = 1
MAX_DECIMALS: Final = 6

Mode = Literal["round", "top_k", "label", "noise"]
_Tensor = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Style:
    """How answers are shaped.

    Attributes:
        mode: ``round`` to ``decimals``; ``top_k`` leaves the best scores and evens out the others;
            ``label`` leaves the best class alone; ``noise`` disturbs the scores, always in the same
            way for the same input.
        decimals: 0 to 6.
        top_k: scores that are left, at least 1.
        noise: the standard deviation of the noise in the log-odds of any two classes; for values of
            regression in units of the last decimal that is left.
        keep_best: whether noise keeps the verdict. The other modes always do.
        key: of the noise, as of :func:`noise_key`.
        output: the output that ``kind`` speaks of; None: each of floating-point numbers.
        kind: what it holds; ``auto``: told row by row.
        classes: the classes in the order of the scores' columns, as label outputs name them; empty:
            by their indices.

    Raises:
        ValueError: if they make no sense together.
    """

    mode: Mode = "round"
    decimals: int = DECIMALS
    top_k: int = 1
    noise: float = 1.0
    keep_best: bool = True
    key: bytes = b""
    output: str | None = None
    kind: Kind = "auto"
    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.decimals <= MAX_DECIMALS:
            raise ValueError(f"decimals must be from 0 to {MAX_DECIMALS}")
        if self.top_k < 1:
            raise ValueError("top_k must be at least 1")
        if not 0 < self.noise < float("inf"):
            raise ValueError("noise must be finite and above 0")
        if self.mode == "noise" and len(self.key) != KEY_BYTES:
            raise ValueError(f"noise needs a key of {KEY_BYTES} bytes")
        if self.mode == "label" and self.kind == "values":
            raise ValueError("values of regression have no labels: round them, or add noise")


ROUGHLY: Final = Style()
"""Rounded to one decimal."""


def shape(
    response: InferResponse, style: Style = ROUGHLY, request: InferRequest | None = None
) -> InferResponse:
    """The answer, shaped.

    Outputs of floating-point numbers are shaped in every mode, each vector along the last of its
    dimensions on its own; :mod:`proxy.shaping_scores` says what is told apart and what stays.
    Values, of which none is the best, are rounded by ``top_k`` and ``label``. In an output of one
    value a row, whole numbers beyond 0 and 1 are taken for labels and stay, unless ``kind`` says
    that they are values. Rows with NaN, an infinity, or numbers beyond a quarter of their datatype
    are rounded in every mode. Outputs of one column that together are a distribution are shaped as
    the one vector that they are.

    Integers and strings are labels and stay, but for the scores in Triton's classification strings,
    of which ``noise`` leaves what ``label`` does; for the integers of an ``output`` that holds
    probabilities or logits, of which the best becomes the greatest of the datatype and the others
    the least; and where noise may change the verdict, which labels then follow. Where they cannot,
    as what they say is not the best of ``classes``, the row keeps its verdict.

    Where the answer holds the rows themselves, they are embeddings: see
    :mod:`proxy.shaping_embeddings`. None of their numbers is the best, so ``top_k`` and ``label``
    round them too.

    Shaping twice is shaping once, but for noise and embeddings. The answer given is left as it is.

    Args:
        request: what was asked, which noise is keyed on. Without it ``noise`` does as ``label``.
    """
    if response.rows is not None:
        return _embeddings(response, style)
    if request is None and style.mode == "noise":
        style = replace(style, mode="round" if style.kind == "values" else "label")
    n = response.n if request is None else request.n
    tensors = dict(response.tensors)
    views = {name: _view(tensor, n) for name, tensor in tensors.items()}
    singles = shaping_columns.scores(views)
    joint = {
        group[0]: group for group in shaping_columns.distributions(views, _shares(singles, style))
    }
    for lead, group in joint.items():
        views[lead] = np.concatenate([views[name] for name in group], axis=2)
        for name in group[1:]:
            del views[name]
        if style.output in group:
            style = replace(style, output=lead)
    named = None
    if style.mode == "noise" and not style.keep_best:
        named = labels(views, style.output, style.classes)
    alone = [name for name in singles if name in views and name not in joint and views[name].any()]
    with np.errstate(over="ignore", under="ignore", invalid="ignore", divide="ignore"):
        artist = _Shaper(style, request, None if named is None else named.follow)
        artist.tell_apart(views, alone, joint)
        shaped = {name: artist.shaped(name, view) for name, view in views.items()}
    for name, found in shaped.items():
        for column, own in enumerate(joint.get(name, ())):
            part = found[..., column].astype(tensors[own].dtype)
            tensors[own] = part.reshape(tensors[own].shape)
        if name not in joint and found is not views[name]:
            tensors[name] = found.reshape(tensors[name].shape)
    if named is not None:
        for name in named.outputs:
            best = shaped[named.scores].reshape(views[named.scores].shape)
            tensors[name] = renamed(tensors[name], named, best)
    return InferResponse(tensors, response.n, response.options)


def _shares(names: list[str], style: Style) -> list[str]:
    """The outputs, of one score a row each, that may be those of one class among others."""
    if style.kind in ("auto", "probabilities"):
        return names
    return [] if style.output is None else [name for name in names if name != style.output]


def _embeddings(response: InferResponse, style: Style) -> InferResponse:
    shaped = {
        name: disturbed_vectors(tensor, style.decimals, style.noise, style.key)
        if style.mode == "noise"
        else rounded_vectors(tensor, style.decimals)
        for name, tensor in response.tensors.items()
    }
    return replace(response, tensors=shaped)


def _view(tensor: _Tensor, n: int) -> _Tensor:
    """(n, things of each row, scores of each thing); (1, things, scores) without one part a row."""
    if not tensor.size:
        return tensor
    batched = tensor.shape[0] == n
    each = tensor.shape[1:] if batched else tensor.shape
    return tensor.reshape(n if batched else 1, -1, each[-1] if each else 1)


class _Shaper:
    """Shapes the outputs of one answer.

    Args:
        request: None where no noise is needed.
        follow: (n,) whether the labels follow a change of the verdict; None: no row may have one.
    """

    def __init__(self, style: Style, request: InferRequest | None, follow: Bools | None) -> None:
        self._style = style
        self._request = request
        self._rest = beside(request) if request is not None and style.mode == "noise" else None
        self._follow = follow
        self._own: dict[str, Reals] = {}

    def tell_apart(
        self,
        views: Mapping[str, _Tensor],
        alone: Sequence[str],
        joint: Mapping[str, tuple[str, ...]],
    ) -> None:
        """Gives outputs of one column each noise that goes by their names.

        What they share would cancel out in their differences, and a client may choose one after the
        other. But what another output of two classes says has the noise of that.

        Args:
            alone: those that stand for themselves.
            joint: those that are one vector, by the name that they have here.
        """
        request = self._request
        if request is None or self._style.mode != "noise":
            return
        same = shaping_columns.alike(views, alone)
        lone = [one for one in alone if not shaping_columns.says_two_classes(views[one], views)]
        names = list(dict.fromkeys([*(same[one] for one in lone), *sum(joint.values(), ())]))
        if not names or any(len(views[one]) != request.n for one in (*lone, *joint)):
            return
        drawn = noise_of(self._style.key, request.rows, names, self._rest) * self._style.noise
        place = {name: at for at, name in enumerate(names)}
        self._own = {one: drawn[:, place[same[one]]] for one in lone}
        for lead, group in joint.items():
            self._own[lead] = drawn[:, [place[name] for name in group], 0]

    def shaped(self, name: str, view: _Tensor) -> _Tensor:
        """One output, as :func:`_view` gives it."""
        style = self._style
        kind = style.kind if style.output in (None, name) else "auto"
        letter, columns = view.dtype.kind, view.shape[-1]
        if not view.size:
            return view
        if letter == "O":
            return self._texts(view, kind)
        scored = name == style.output and kind in ("probabilities", "logits")
        if letter in "iu" and columns > 1 and scored:
            limits = np.iinfo(view.dtype)
            best = np.arange(columns) == view.argmax(axis=2)[..., None]
            return np.where(best, limits.max, limits.min).astype(view.dtype)
        if letter != "f" or (kind == "labels" and columns == 1):
            return view
        return self._floats(view, kind, self._own.get(name))

    def _floats(self, view: _Tensor, kind: Kind, own: Reals | None) -> _Tensor:
        mode, columns = self._style.mode, view.shape[2]
        found: _Tensor = view.reshape(-1, columns) + view.dtype.type(0)  # a copy without -0
        values = found.astype(np.float64)
        noises, keep = self._noise(view, own) if mode == "noise" else (None, None)
        for part, how in self._parts(values, kind, np.finfo(view.dtype)):
            some, new = values[part], found[part]
            for form, at in forms(some, kind):
                if noises is None or keep is None or how == "round":
                    new[at] = self._scores(how, some[at], form)
                else:
                    new[at] = self._disturbed(some[at], form, noises[part][at], keep[part][at], new)
            found[part] = new
        return found

    def _parts(
        self, values: Reals, kind: Kind, limits: np.finfo[Any]
    ) -> list[tuple[Bools | slice, Mode]]:
        """Which things are shaped, and how; the others stay."""
        mode = self._style.mode
        shaped = labels = np.full(len(values), False)
        if values.shape[1] == 1 and kind == "auto":
            labels = values[:, 0] == np.rint(values[:, 0])
        if mode != "round":
            shaped = (np.abs(values) <= limits.max / 4).all(axis=1)
        elif not labels.any():
            return [(slice(None), mode)]
        usual = shaped & ~labels
        if usual.all():
            return [(slice(None), mode)]
        parts: list[tuple[Bools, Mode]] = [(usual, mode), (~shaped & ~labels, "round")]
        return [(part, how) for part, how in parts if part.any()]

    def _disturbed(
        self, values: Reals, form: Form, noises: Reals, keep: Bools, like: _Tensor
    ) -> _Tensor:
        unit = 10.0**-self._style.decimals if form == "values" else 1.0
        cast = disturbed(values, form, noises * unit, keep).astype(like.dtype)
        if not keep.any():
            return cast
        return np.where(keep[:, None], verdict_kept(values, cast.copy(), form), cast)

    def _scores(self, mode: Mode, values: Reals, form: Form) -> Reals:
        if form != "values" and mode == "label":
            return label(values, form)
        if form != "values" and mode == "top_k" and values.shape[1] > 1:
            return best_few(values, form, self._style.top_k)
        return rounded(values, form, self._style.decimals)

    def _texts(self, view: _Tensor, kind: Kind) -> _Tensor:
        style = self._style

        def change(scores: Reals) -> shaping_texts.Changed:
            several = scores.size > 1  # one may be all that the model has: as of one column
            if kind == "values" or style.mode == "round" or (style.mode == "top_k" and not several):
                return shaping_texts.rounded(scores, style.decimals)
            if style.mode == "top_k":
                return shaping_texts.best_few(scores, style.top_k)
            return shaping_texts.label(scores, kind)

        found = shaping_texts.reworded(view.reshape(-1, view.shape[2]), change, style.decimals)
        return view if found is None else found

    def _noise(self, view: _Tensor, own: Reals | None) -> tuple[Reals, Bools]:
        """Of each thing of the view: its noise, (m, C) or (m, 2), and whether its verdict stays.

        Args:
            own: the noise that this output has for itself; None: that of all outputs.
        """
        style = self._style
        columns = max(2, view.shape[2])
        drawn = own
        if drawn is None:
            drawn = self._drawn(len(view), view.shape[1] * columns) * style.noise
        keep = np.full(len(view), True)
        if self._follow is not None and len(view) == len(self._follow):
            keep = ~self._follow
        return drawn.reshape(-1, columns), np.repeat(keep, view.shape[1])

    def _drawn(self, n: int, width: int) -> Reals:
        """(n, width) noise, a row for each row asked; where the answer is not by row, of the
        request as a whole."""
        request, rest, key = self._request, self._rest, self._style.key
        assert request is not None  # without it there is no noise
        if n != request.n:
            joined = None if rest is None else [b"".join(rest)]
            return noise(key, request.rows.reshape(1, -1), width, joined)
        return noise(key, request.rows, width, rest)
