"""Fits each kind of agreement detector, and second opinions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

import numpy as np
import numpy.typing as npt

from detectors.agreement import (
    ClassDensity,
    Confidence,
    FeatureSqueezing,
    GradientAgreement,
    KernelAgreement,
    NearestAgreement,
    NoiseConsistency,
    NoisyGradientAgreement,
    Registered,
    RegisteredOpinion,
    ResidualAgreement,
)
from detectors.agreement.base import Labels
from detectors.agreement.space import Space
from detectors.agreement.witness import log_softmax
from detectors.arrays import Floats, Singles
from detectors.training.agreement_lesson import MIN_ROWS, Lesson, fit_space, image_shape

BANK_CAP: Final = 4000
NEIGHBOURS: Final = 3
CENTRES: Final = 1000
CHUNK_ROWS: Final = 2000
RIDGE: Final = 0.01
GAMMA: Final = 0.6
"""Of the kernels, in inverse median squared distances."""

KernelWitness = TypeVar("KernelWitness", bound=KernelAgreement)


def temperature(logits: Floats, labels: Labels) -> float:
    """The scale of logits that makes their softmax most likely, by golden section in its log."""

    def loss(log_scale: float) -> float:
        found = log_softmax(np.exp(log_scale) * logits)
        return -float(found[np.arange(len(labels)), labels].mean())

    low, high = np.log(1e-3), np.log(1e4)
    ratio = (np.sqrt(5.0) - 1.0) / 2.0
    inner = [high - ratio * (high - low), low + ratio * (high - low)]
    for _ in range(40):
        if loss(inner[0]) <= loss(inner[1]):
            high = inner[1]
        else:
            low = inner[0]
        inner = [high - ratio * (high - low), low + ratio * (high - low)]
    return float(np.exp((low + high) / 2.0))


def fit_knn_agreement(lesson: Lesson) -> NearestAgreement:
    """A bank of training rows, of each class at most an even share."""

    def made(keep: npt.NDArray[np.bool_], scale: float) -> NearestAgreement:
        rng = np.random.default_rng(lesson.seed)
        places = []
        for label in range(lesson.classes):
            own = rng.permutation(np.flatnonzero(keep & (lesson.labels == label)))
            own = np.sort(own[: max(NEIGHBOURS, BANK_CAP // lesson.classes)])
            if 0 < len(own) < NEIGHBOURS:
                own = np.resize(own, NEIGHBOURS)
            places.append(own)
        counts = np.array([len(own) for own in places])
        bank = lesson.seen[np.concatenate(places)].astype(np.float32)
        return NearestAgreement(lesson.space, lesson.classes, scale, bank, counts, NEIGHBOURS)

    part = made(~lesson.held, 1.0)
    scale = temperature(part.logits(lesson.seen[lesson.held]), lesson.labels[lesson.held])
    return made(np.ones(len(lesson.rows), bool), scale)


def fit_kernel_agreement(lesson: Lesson) -> KernelAgreement:
    """On the components of the rows as they are."""
    return _kernel(lesson, KernelAgreement, lesson.space, [])


def fit_gradient_agreement(lesson: Lesson) -> GradientAgreement | None:
    """On the edges of the images as they are; None if there are none."""
    if lesson.gradients is None:
        return None
    return _kernel(lesson, GradientAgreement, lesson.gradients, [])


def fit_noisy_gradient_agreement(lesson: Lesson) -> NoisyGradientAgreement | None:
    """On the edges of the images and of disturbed copies; None if there are none."""
    if lesson.gradients is None:
        return None
    return _kernel(lesson, NoisyGradientAgreement, lesson.gradients, lesson.noisy())


def _kernel(
    lesson: Lesson, kind: type[KernelWitness], space: Space, more: list[Singles]
) -> KernelWitness:
    """Centres are training rows; the width follows their median distance.

    Args:
        more: copies of the first training rows, to learn from as well.
    """
    rng = np.random.default_rng(lesson.seed)
    clean = space.apply(lesson.rows)
    centres = clean[rng.permutation(len(clean))[:CENTRES]].astype(np.float32)
    wide = centres.astype(np.float64)
    gamma = GAMMA / median_distance(wide)

    def sums(keep: npt.NDArray[np.bool_]) -> Sums:
        found = Sums(len(wide), lesson.classes)
        for seen in (clean, *(space.apply(part) for part in more)):
            own = keep[: len(seen)]
            found.add(seen[own], lesson.one_hot[: len(seen)][own], wide, gamma)
        return found

    def made(weights: Floats, biases: Floats, scale: float) -> KernelWitness:
        single = weights.astype(np.float32)
        return kind(space, lesson.classes, scale, centres, single, biases, gamma)

    taught, held = sums(~lesson.held), sums(lesson.held)
    part = made(*taught.solve(RIDGE), 1.0)
    scale = temperature(part.logits(clean[lesson.held]), lesson.labels[lesson.held])
    return made(*(taught + held).solve(RIDGE), scale)


class Sums:
    """What a ridge regression on Gaussian kernels needs of its rows, taken a chunk at a time."""

    def __init__(self, centres: int, outputs: int) -> None:
        self.count = 0
        self.kernels = np.zeros(centres)
        self.targets = np.zeros(outputs)
        self.squares = np.zeros((centres, centres))
        self.products = np.zeros((centres, outputs))

    def add(self, rows: Floats, targets: Floats, centres: Floats, gamma: float) -> None:
        """Counts (n, r) rows with their (n, outputs) targets in."""
        for start in range(0, len(rows), CHUNK_ROWS):
            part = gaussian(rows[start : start + CHUNK_ROWS], centres, gamma)
            wanted = targets[start : start + CHUNK_ROWS]
            self.count += len(part)
            self.kernels += part.sum(axis=0)
            self.targets += wanted.sum(axis=0)
            self.squares += part.T @ part
            self.products += part.T @ wanted

    def __add__(self, other: Sums) -> Sums:
        both = Sums(len(self.kernels), len(self.targets))
        for name in ("count", "kernels", "targets", "squares", "products"):
            setattr(both, name, getattr(self, name) + getattr(other, name))
        return both

    def solve(self, strength: float) -> tuple[Floats, Floats]:
        """Weights and biases, these unpunished."""
        mean, level = self.kernels / self.count, self.targets / self.count
        gram = self.squares - self.count * np.outer(mean, mean)
        gram[np.diag_indices_from(gram)] += strength
        products = self.products - self.count * np.outer(mean, level)
        weights = np.asarray(np.linalg.solve(gram, products), np.float64)
        return weights, level - mean @ weights


def fit_class_density(lesson: Lesson) -> ClassDensity:
    """A covariance for each class, half that of all classes, and a share of the identity."""
    rows, rank = lesson.seen, lesson.space.rank
    means = np.zeros((lesson.classes, rank))
    own: list[Floats] = []
    for label in range(lesson.classes):
        part = rows[lesson.labels == label]
        means[label] = part.mean(axis=0) if len(part) else rows.mean(axis=0)
        own.append(part - means[label])
    gaps = np.concatenate(own)
    shared = gaps.T @ gaps / len(gaps)
    ridge_term = 1e-3 * np.trace(shared) / rank + 1e-12
    factors = np.empty((lesson.classes, rank, rank), np.float32)
    offsets = np.empty(lesson.classes)
    for label, part in enumerate(own):
        trust = len(part) / (len(part) + 4.0 * rank)
        covariance = (1.0 - trust) * shared + ridge_term * np.eye(rank)
        if len(part):
            covariance = covariance + trust * (part.T @ part) / len(part)
        factors[label] = np.linalg.inv(np.linalg.cholesky(covariance))
        offsets[label] = 0.0
    return ClassDensity(lesson.space, factors, means.astype(np.float32), offsets)


def fit_confidence(lesson: Lesson) -> Confidence:
    """Nothing to learn."""
    return Confidence(lesson.rows.shape[1], lesson.classes)


FITTERS: Final[dict[str, Callable[[Lesson], Registered | None]]] = {
    NearestAgreement.name: fit_knn_agreement,
    KernelAgreement.name: fit_kernel_agreement,
    GradientAgreement.name: fit_gradient_agreement,
    NoisyGradientAgreement.name: fit_noisy_gradient_agreement,
    ClassDensity.name: fit_class_density,
    Confidence.name: fit_confidence,
}
"""Of classifiers, by registered name; None where the rows do not allow it."""


def fit_residual_agreement(rows: Singles, targets: Floats, seed: int) -> ResidualAgreement:
    """Ridge regression on kernels and components; its unit is the median residual held out."""
    wide = np.asarray(targets, np.float64)
    wide = wide[:, None] if wide.ndim == 1 else wide
    if len(rows) < MIN_ROWS or len(wide) != len(rows) or not bool(np.isfinite(wide).all()):
        raise ValueError(f"{len(rows)} rows and {wide.shape} targets to learn from")
    space = fit_space(rows, image=False)
    seen = space.apply(rows)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(rows))
    centres = seen[order[:CENTRES]].astype(np.float32)
    gamma = GAMMA / median_distance(centres.astype(np.float64))
    features = np.hstack([gaussian(seen, centres.astype(np.float64), gamma), seen])
    held = np.isin(np.arange(len(rows)), order[: max(5, len(rows) // 4)])
    spread = np.maximum(wide.std(axis=0), 1e-12)
    best, units, least = RIDGE, spread, np.inf
    for attempt in (1e-3, 1e-2, 1e-1, 1.0, 10.0):
        weights, biases = ridge(features[~held], wide[~held], attempt)
        residuals = np.abs(features[held] @ weights + biases - wide[held])
        error = float((residuals / spread).mean())
        if error < least:
            best, least, units = attempt, error, np.median(residuals, axis=0)
    weights, biases = ridge(features, wide, best)
    return ResidualAgreement(
        space,
        centres,
        weights[: len(centres)].astype(np.float32),
        weights[len(centres) :].astype(np.float32),
        biases,
        np.maximum(units, 1e-9 * spread),
        gamma,
    )


def fit_feature_squeezing(
    rows: Singles, row_shape: tuple[int, ...] | None, seed: int, *, levels: int = 1
) -> FeatureSqueezing:
    """Two shades, and a median filter for images."""
    shape = image_shape(row_shape, rows.shape[1])
    height, width = shape[:2] if shape else (0, 0)
    first = int(shape is not None and shape.channels_first)
    return FeatureSqueezing(rows.min(axis=0), rows.max(axis=0), levels, height, width, first)


def fit_noise_consistency(
    rows: Singles,
    row_shape: tuple[int, ...] | None,
    seed: int,
    *,
    copies: int = 4,
    share: float = 0.25,
) -> NoiseConsistency:
    """Noise of a share of each feature's deviation, drawn once."""
    rng = np.random.default_rng(seed)
    deviation = rows.astype(np.float64).std(axis=0)
    noise = rng.normal(size=(copies, rows.shape[1])) * deviation * share
    return NoiseConsistency(noise.astype(np.float32), rows.min(axis=0), rows.max(axis=0))


OPINION_FITTERS: Final[
    dict[str, Callable[[Singles, tuple[int, ...] | None, int], RegisteredOpinion]]
] = {
    FeatureSqueezing.name: fit_feature_squeezing,
    NoiseConsistency.name: fit_noise_consistency,
}
"""Of second opinions, by registered name: training rows, their shape and a seed."""


def ridge(features: Floats, targets: Floats, strength: float) -> tuple[Floats, Floats]:
    """Weights and biases of a ridge regression, with the biases unpunished."""
    centre, level = features.mean(axis=0), targets.mean(axis=0)
    shifted = features - centre
    gram = shifted.T @ shifted
    gram[np.diag_indices_from(gram)] += strength
    weights = np.linalg.solve(gram, shifted.T @ (targets - level))
    return weights, level - centre @ weights


def gaussian(rows: Floats, centres: Floats, gamma: float) -> Floats:
    """(n, m) Gaussian kernels."""
    squared = np.square(rows).sum(axis=1)[:, None] + np.square(centres).sum(axis=1)
    squared -= 2.0 * (rows @ centres.T)
    kernels: Floats = np.exp(-gamma * np.maximum(squared, 0.0))
    return kernels


def median_distance(rows: Floats) -> float:
    """The median squared distance between different rows, above 0."""
    part = rows[:500]
    squared = np.square(part[:, None] - part[None]).sum(axis=2)
    found = float(np.median(squared[np.triu_indices(len(part), 1)]))
    return found if found > 0 else 1.0
