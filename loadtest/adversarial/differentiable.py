"""A served bundle and a network again, in torch: what an attacker who holds them differentiates.

Each score is checked against the gateway's own in :func:`loadtest.adversarial.adaptive.attack`.
The forest has no gradient; its evidence enters as a constant that is computed anew at each step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import torch
from torch.nn import functional

from detectors.agreement.confidence import CERTAIN, Confidence
from detectors.agreement.density import ClassDensity
from detectors.agreement.gradients import DIRECTIONS, Gradients, window_means
from detectors.agreement.kernel import KernelAgreement
from detectors.agreement.nearest import NearestAgreement
from detectors.agreement.space import Space
from detectors.agreement.witness import FLOOR, Witness
from detectors.bundle import Bundle
from detectors.calibration import Tail
from detectors.outlier.gmm import GaussianMixture
from detectors.outlier.one_class_svm import OneClassSVM
from detectors.outlier.projection import Projection, QuadraticForm
from loadtest.adversarial.networks import Network

Scored = Callable[[Any, Any], Any]
"""(n, d) float64 rows and (n, C) log-probabilities of the model to (n,) scores."""

TINY: Final = float(np.log(np.finfo(np.float64).tiny))


def model_of(network: Network) -> Callable[[Any], Any]:
    """(n, d) rows in the world's units to (n, C) float32 logits."""
    mean, deviation = torch.from_numpy(network.mean), torch.from_numpy(network.deviation)
    weights = [
        None
        if one.weight is None or one.bias is None
        else (torch.from_numpy(one.weight), torch.from_numpy(one.bias))
        for one in network.layers
    ]

    def forward(rows: Any) -> Any:
        x = (rows.float() - mean) / deviation
        if len(network.row_shape) == 2:
            x = x.reshape(len(rows), 1, *network.row_shape)
        for layer, pair in zip(network.layers, weights, strict=True):
            if layer.kind == "conv" and pair is not None:
                x = functional.conv2d(x, pair[0], pair[1], padding=pair[0].shape[2] // 2)
            elif pair is not None:
                x = x @ pair[0] + pair[1]
            elif layer.kind == "relu":
                x = functional.relu(x)
            elif layer.kind == "pool":
                x = functional.max_pool2d(x, 2)
            else:
                x = x.reshape(len(x), -1)
        return x

    return forward


def joint_of(bundle: Bundle) -> Scored:
    """J, the score that the bundle's threshold is on.

    Raises:
        TypeError: if a detector has no differentiable form here.
        ValueError: if the bundle has no agreement.
    """
    scorer, after = bundle.scorer, bundle.agreement
    if after is None:
        raise ValueError("the bundle has no agreement")
    inputs = [_input(one) for one in scorer.detectors]
    agreement = [_agreement(one) for one in after.detectors]
    input_tails = [_tail(one) for one in scorer.tails]
    agreement_tails = [_tail(one) for one in after.tails]
    entry_tail, total_tail = _tail(after.entry), _tail(after.total)

    def joint(rows: Any, answers: Any) -> Any:
        told = torch.stack(
            [tail(one(rows, answers)) for tail, one in zip(input_tails, inputs, strict=True)], dim=1
        )
        entry = entry_tail(torch.logsumexp(told, dim=1) - float(np.log(len(inputs))))
        total = entry
        for tail, one in zip(agreement_tails, agreement, strict=True):
            total = total + tail(one(rows, answers))
        return torch.maximum(entry - after.handicap, total_tail(total))

    return joint


def _tail(tail: Tail) -> Callable[[Any], Any]:
    knots, evidence = torch.tensor(tail.knots), torch.tensor(tail.evidence)

    def apply(scores: Any) -> Any:
        if len(knots) == 1:
            inside = evidence[0].expand(len(scores))
        else:
            place = torch.searchsorted(knots, scores.detach(), right=True).clamp(1, len(knots) - 1)
            low, high = knots[place - 1], knots[place]
            share = ((scores - low) / (high - low)).clamp(0, 1)
            inside = evidence[place - 1] + share * (evidence[place] - evidence[place - 1])
        excess = (scores - knots[-1]).clamp(min=0) / tail.scale
        return inside + torch.log1p(tail.shape * excess) / tail.shape

    return apply


def _input(detector: Any) -> Scored:
    if isinstance(detector, QuadraticForm):
        return _quadratic(detector)
    if isinstance(detector, GaussianMixture):
        return _mixture(detector)
    if isinstance(detector, OneClassSVM):
        return _one_class(detector)
    return lambda rows, _: torch.from_numpy(detector.score(rows.detach().float().numpy()))


def _project(projection: Projection, rank: int) -> Callable[[Any], tuple[Any, Any]]:
    mean, scale = torch.tensor(projection.mean), torch.tensor(projection.scale)
    basis = torch.tensor(projection.basis[:rank].T.copy()) if projection.turns else None

    def apply(rows: Any) -> tuple[Any, Any]:
        standard = (rows - mean) / scale
        seen = standard[:, :rank] if basis is None else standard @ basis
        return seen, (standard**2).sum(dim=1)

    return apply


def _quadratic(detector: QuadraticForm) -> Scored:
    project = _project(detector.projection, detector.weights.size)
    weights = torch.tensor(detector.weights)

    def score(rows: Any, _: Any) -> Any:
        seen, norms = project(rows)
        squares = seen**2
        return squares @ weights + detector.rest * (norms - squares.sum(dim=1)).clamp(min=0)

    return score


def _mixture(detector: GaussianMixture) -> Scored:
    project = _project(detector.projection, detector.means.shape[1])
    means, factors = torch.tensor(detector.means), torch.tensor(detector.factors)
    offsets = torch.tensor(detector.offsets)

    def score(rows: Any, _: Any) -> Any:
        white = (project(rows)[0] - means[:, None]) @ factors.transpose(1, 2)
        return -torch.logsumexp(offsets[:, None] - 0.5 * (white**2).sum(dim=2), dim=0)

    return score


def _one_class(detector: OneClassSVM) -> Scored:
    project = _project(detector.projection, detector.vectors.shape[1])
    vectors, logs = torch.tensor(detector.vectors), torch.log(torch.tensor(detector.weights))

    def score(rows: Any, _: Any) -> Any:
        return -torch.logsumexp(logs - detector.gamma * _squares(project(rows)[0], vectors), dim=1)

    return score


def _squares(one: Any, other: Any) -> Any:
    found = (one**2).sum(dim=1)[:, None] + (other**2).sum(dim=1) - 2 * one @ other.T
    return found.clamp(min=0)


def _agreement(detector: Any) -> Scored:
    if isinstance(detector, NearestAgreement):
        return _witness(detector, _nearest(detector))
    if isinstance(detector, KernelAgreement):
        return _witness(detector, _kernel(detector))
    if isinstance(detector, ClassDensity):
        return _density(detector)
    if isinstance(detector, Confidence):
        return _confidence
    raise TypeError(f"{detector.name} has no differentiable form here")


def _space(space: Space) -> Callable[[Any], Any]:
    weights, offset = torch.tensor(space.weights).double().T, torch.tensor(space.offset)
    histograms = _histograms(space) if isinstance(space, Gradients) else None
    return lambda rows: (histograms(rows) if histograms else rows) @ weights + offset


def _histograms(space: Gradients) -> Callable[[Any], Any]:
    shape = (space.height, space.width)
    down = torch.tensor(window_means(space.height, space.cell_height))
    across = torch.tensor(window_means(space.width, space.cell_width))
    angles = torch.arange(DIRECTIONS, dtype=torch.float64) * (2 * torch.pi / DIRECTIONS)
    unit = space.unit

    def apply(rows: Any) -> Any:
        if space.channels == 1:
            images = rows.reshape(len(rows), 1, *shape)
        elif space.channels_first:
            images = rows.reshape(len(rows), space.channels, *shape).mean(dim=1, keepdim=True)
        else:
            images = rows.reshape(len(rows), *shape, space.channels).mean(dim=3)[:, None]
        padded = functional.pad(images, (1, 1, 1, 1), mode="replicate")[:, 0]
        x = (padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2])[..., None]
        y = (padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1])[..., None]
        squared = x**2 + y**2 + (1e-9 * unit) ** 2
        length = (squared.sqrt() - space.floor * unit).clamp(min=0) / squared
        shares = (x * angles.cos() + y * angles.sin()).clamp(min=0) ** 2 * length
        cells = torch.einsum("ah,nhwd,bw->nabd", down, shares, across).reshape(len(rows), -1)
        cells = cells / (cells.sum(dim=1, keepdim=True) + 1e-6 * unit)
        return (cells + 1e-18).sqrt()  # its slope at 0 would be infinite

    return apply


def _witness(detector: Witness, logits: Callable[[Any], Any]) -> Scored:
    space = _space(detector.space)

    def score(rows: Any, answers: Any) -> Any:
        said = answers.detach().argmax(dim=1)[:, None]
        logs = _floored(torch.log_softmax(detector.scale * logits(space(rows)), dim=1), FLOOR)
        others = logs.scatter(1, said, -torch.inf)
        return others.amax(dim=1) - logs.gather(1, said)[:, 0]

    return score


def _nearest(detector: NearestAgreement) -> Callable[[Any], Any]:
    banks = [
        torch.tensor(part).double()
        for part in np.split(detector.bank, np.cumsum(detector.counts)[:-1])
    ]

    def near(seen: Any, bank: Any) -> Any:
        with torch.no_grad():
            chosen = _squares(seen, bank).topk(detector.neighbours, dim=1, largest=False)[1]
        return ((seen[:, None] - bank[chosen]) ** 2).sum(dim=2).mean(dim=1)

    def logits(seen: Any) -> Any:
        found = torch.stack([near(seen, bank) for bank in banks], dim=1).clamp(min=1e-9)
        return -found / found.amin(dim=1, keepdim=True)

    return logits


def _kernel(detector: KernelAgreement) -> Callable[[Any], Any]:
    centres, weights = torch.tensor(detector.centres).double(), torch.tensor(detector.weights)
    biases = torch.tensor(detector.biases)

    def logits(seen: Any) -> Any:
        return torch.exp(-detector.gamma * _squares(seen, centres)) @ weights.double() + biases

    return logits


def _density(detector: ClassDensity) -> Scored:
    space = _space(detector.space)
    factors, means = torch.tensor(detector.factors).double(), torch.tensor(detector.means).double()
    offsets = torch.tensor(detector.offsets)

    def score(rows: Any, answers: Any) -> Any:
        said = answers.detach().argmax(dim=1)
        gap = torch.einsum("nrs,ns->nr", factors[said], space(rows) - means[said])
        return torch.log1p((gap**2).sum(dim=1)) - offsets[said]

    return score


def _confidence(_: Any, answers: Any) -> Any:
    best = answers.clamp(min=TINY).topk(2, dim=1)[0]
    return _floored(best[:, 1] - best[:, 0], -CERTAIN)


def _floored(values: Any, floor: float) -> Any:
    """The values that the gateway computes with the slope of those without the floor: where a
    witness is certain, there is a way all the same."""
    return values + (values.clamp(min=floor) - values).detach()
