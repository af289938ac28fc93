"""White-box attacks in batches: rows in the attacker's units to changed rows inside the box.

Every attack takes ``loss_model``, an (n, d) to (n, C) differentiable function, and gives for each
row the changed one, whether it fools the model or not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import nn

Model = Callable[[Any], Any]

STEPS: Final = 40


@dataclass(frozen=True, slots=True)
class Box:
    """(d,) bounds that a changed row keeps to, in the attacker's units."""

    low: Any
    high: Any

    def clip(self, rows: Any) -> Any:
        """The nearest rows inside."""
        return torch.minimum(torch.maximum(rows, self.low), self.high)


def fgsm(model: Model, rows: Any, labels: Any, box: Box, epsilon: float) -> Any:
    """One step of the gradient's sign (Goodfellow et al. 2015, arXiv 1412.6572)."""
    return box.clip(rows + epsilon * _gradient(model, rows, labels).sign())


def pgd(  # noqa: PLR0917 - the common five, and where randomness comes from
    model: Model,
    rows: Any,
    labels: Any,
    box: Box,
    epsilon: float,
    generator: Any,
    *,
    steps: int = STEPS,
    basis: Any = None,
) -> Any:
    """Projected gradient ascent of the loss from a random start within L-infinity ``epsilon``
    (Madry et al. 2018, arXiv 1706.06083).

    Args:
        basis: (d, k) orthonormal columns, to keep the change within their span, but for the box.
    """
    change = (2 * torch.rand(rows.shape, generator=generator) - 1) * epsilon
    size = 2.5 * epsilon / steps
    for _ in range(steps):
        change = _within(change, rows, box, epsilon, basis)
        change = change + size * _gradient(model, rows + change, labels).sign()
    return box.clip(rows + _within(change, rows, box, epsilon, basis))


def _within(change: Any, rows: Any, box: Box, epsilon: float, basis: Any) -> Any:
    if basis is None:
        return box.clip(rows + change.clamp(-epsilon, epsilon)) - rows
    inside = (change @ basis) @ basis.T
    largest = inside.abs().amax(dim=1, keepdim=True).clamp(min=1e-12)
    return inside * (epsilon / largest).clamp(max=1)  # scaled, not clipped: it stays in the span


def deepfool(model: Model, rows: Any, box: Box, *, steps: int = 50, overshoot: float = 0.02) -> Any:
    """To the nearest boundary of the linearised model, again and again (Moosavi-Dezfooli et al.
    2016, arXiv 1511.04599)."""
    first = model(rows).argmax(dim=1)
    total = torch.zeros_like(rows)
    changed = rows
    for _ in range(steps):
        given = changed.clone().requires_grad_(True)
        logits = model(given)
        waiting = logits.argmax(dim=1) == first
        if not bool(waiting.any()):
            break
        gradients = torch.stack(
            [torch.autograd.grad(one.sum(), given, retain_graph=True)[0] for one in logits.T], dim=1
        )
        logits = logits.detach()
        own = first[:, None]
        gap = logits - logits.gather(1, own)
        index = first[:, None, None].expand(-1, 1, rows.shape[1])
        slope = gradients - gradients.gather(1, index)
        length = slope.norm(dim=2)
        distance = gap.abs() / length.clamp(min=1e-9)
        distance.scatter_(1, own, torch.inf)
        target = distance.argmin(dim=1, keepdim=True)
        direction = slope.gather(1, target[:, :, None].expand(-1, 1, rows.shape[1]))[:, 0]
        size = (gap.gather(1, target).abs() + 1e-4) / length.gather(1, target).clamp(min=1e-9) ** 2
        total = total + waiting[:, None] * size * direction
        changed = box.clip(rows + (1 + overshoot) * total)
    return changed


def carlini_wagner(
    model: Model,
    rows: Any,
    labels: Any,
    box: Box,
    confidence: float,
    *,
    rounds: int = 5,
    steps: int = 120,
    rate: float = 0.03,
) -> Any:
    """The smallest L2 change with a margin of logits of ``confidence`` (Carlini & Wagner 2017,
    arXiv 1608.04644): Adam under tanh, the trade-off found by bisection. A row for which none is
    found comes back unchanged."""
    middle, half = (box.low + box.high) / 2, ((box.high - box.low) / 2).clamp(min=1e-6)
    start = torch.atanh(((rows - middle) / half).clamp(-0.999, 0.999))
    n = len(rows)
    low, high, weight = torch.zeros(n), torch.full((n,), 1e6), torch.full((n,), 1.0)
    best, smallest = rows.clone(), torch.full((n,), torch.inf)
    mine = nn.functional.one_hot(labels, model(rows[:1]).shape[1]).bool()
    for _ in range(rounds):
        free = start.clone().requires_grad_(True)
        optimiser = torch.optim.Adam([free], lr=rate)
        fooled = torch.zeros(n, dtype=torch.bool)
        for _ in range(steps):
            changed = middle + half * torch.tanh(free)
            logits = model(changed)
            other = logits.masked_fill(mine, -torch.inf).amax(dim=1)
            margin = logits[mine] - other
            distance = ((changed - rows) ** 2).sum(dim=1)
            with torch.no_grad():
                reached = margin < -confidence
                better = reached & (distance < smallest)
                smallest = torch.where(better, distance, smallest)
                best = torch.where(better[:, None], changed, best)
                fooled |= reached
            loss = distance + weight * (margin + confidence).clamp(min=-0.01)
            optimiser.zero_grad()
            loss.sum().backward()
            optimiser.step()
        high = torch.where(fooled, torch.minimum(high, weight), high)
        low = torch.where(fooled, low, torch.maximum(low, weight))
        weight = torch.where(high < 1e6, (low + high) / 2, weight * 10)
    return box.clip(best.detach())


def push(
    error: Model, rows: Any, box: Box, epsilon: float, generator: Any, *, steps: int = STEPS
) -> Any:
    """The largest error of a regression model, up or down, within L-infinity ``epsilon``.

    Args:
        error: (n, d) to (n,): the model's answer less the truth. To push the answer alone would
            mostly find where the truth itself changes.
    """
    best, largest = rows, error(rows).detach().abs()
    for sign in (1.0, -1.0):
        change = (2 * torch.rand(rows.shape, generator=generator) - 1) * epsilon
        for _ in range(steps):
            change = box.clip(rows + change.clamp(-epsilon, epsilon)) - rows
            given = (rows + change).requires_grad_(True)
            slope = torch.autograd.grad(error(given).sum(), given)[0]
            change = change + sign * 2.5 * epsilon / steps * slope.sign()
        changed = box.clip(rows + change.clamp(-epsilon, epsilon))
        reached = error(changed).detach().abs()
        best = torch.where((reached > largest)[:, None], changed, best)
        largest = torch.maximum(reached, largest)
    return best


def _gradient(model: Model, rows: Any, labels: Any) -> Any:
    given = rows.clone().requires_grad_(True)
    loss = nn.functional.cross_entropy(model(given), labels, reduction="sum")
    return torch.autograd.grad(loss, given)[0]
