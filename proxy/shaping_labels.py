"""Labels beside scores: where noise changes the best class, the label is to say the same. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from proxy.shaping_scores import Bools

Tensor = npt.NDArray[Any]
Places = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True, eq=False)
class Labels:
    """How the labels of an answer hang on its scores.

    Attributes:
        scores: the output of scores.
        outputs: the outputs of labels.
        names: what the labels call the columns of the scores.
        places: (n,) the best column of each row, as the model had it.
        follow: (n,) whether all labels of the row name that column, and so can follow it.
    """

    scores: str
    outputs: tuple[str, ...]
    names: Sequence[str]
    places: Places
    follow: Bools


def labels(
    views: Mapping[str, Tensor], output: str | None, classes: Sequence[str]
) -> Labels | None:
    """Finds scores and labels; None if there are no scores that labels could hang on.

    Args:
        views: (n, things, scores) by output; (1, ...) where an output has not one thing a row.
        output: the output of scores; None: the first of floating-point numbers that fits.
        classes: the names of the scores' columns; their indices if they are not as many.
    """
    for name, view in views.items():
        if output in (None, name) and view.dtype.kind == "f" and _is_scores(view):
            break
    else:
        return None
    places = _best(view)
    columns = max(2, view.shape[2])
    names = classes if len(classes) == columns else [str(place) for place in range(columns)]
    outputs = tuple(other for other in views if other != name and _is_labels(views[other], view))
    follow = np.full(len(view), True)
    for other in outputs:
        texts = [_text(label) for label in views[other].reshape(-1).tolist()]
        follow &= np.array(
            [text == names[place] for text, place in zip(texts, places, strict=True)]
        )
        follow &= all(_holds(views[other].dtype, one) for one in names)
    return Labels(name, outputs, names, places, follow)


def renamed(tensor: Tensor, found: Labels, scores: Tensor) -> Tensor:
    """Labels that follow their scores.

    Args:
        tensor: (n, ...) labels, one a row.
        scores: (n, 1, C) shaped.
    """
    places = _best(scores)
    (moved,) = np.nonzero(found.follow & (places != found.places))
    if not moved.size:
        return tensor
    changed = tensor.copy()
    flat = changed.reshape(-1)
    for row in moved.tolist():
        flat[row] = _named(tensor.dtype, found.names[places[row]])
    return changed


def _is_scores(view: Tensor) -> bool:
    if not view.size or view.shape[1] != 1:
        return False
    return view.shape[2] > 1 or not _is_whole(view)


def _is_labels(view: Tensor, scores: Tensor) -> bool:
    if view.shape != (len(scores), 1, 1):
        return False
    return view.dtype.kind in "biuO" or _is_whole(view)


def _is_whole(view: Tensor) -> bool:
    return view.dtype.kind == "f" and bool((view == np.rint(view)).all())


def _best(scores: Tensor) -> Places:
    rows = scores[:, 0, :]
    return rows.argmax(axis=1) if rows.shape[1] > 1 else (rows[:, 0] > 0.5).astype(np.intp)


def _text(label: Any) -> str:
    if isinstance(label, bytes):
        return label.decode(errors="replace")
    return str(int(label)) if label == label and abs(label) < 2**63 else ""  # noqa: PLR0124 - NaN


def _holds(dtype: np.dtype[Any], name: str) -> bool:
    """Whether a label of this datatype can be of this name."""
    try:
        return _text(_named(dtype, name)) == name
    except (ValueError, OverflowError):
        return False


def _named(dtype: np.dtype[Any], name: str) -> Any:
    if dtype.hasobject:
        return name.encode()
    return np.array([int(name)]).astype(dtype).tolist()[0]
