"""The models that are attacked: trained with torch, and given out as plain arrays."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import numpy as np
import torch
from torch import nn

from loadtest.adversarial.datasets import Cut, Singles
from loadtest.adversarial.networks import Layer, Network

EPOCHS: Final = {"mnist": 50, "digits": 100, "segment": 300, "shuttle": 40, "friedman": 300}


@dataclass(frozen=True, slots=True)
class Victim:
    """A model from the attacker's side of it: differentiable, in the attacker's units.

    Rows of images are the attacker's units, 0 to 1. Those of tables are standard deviations over
    the training rows, around their mean, inside the box of the training rows' smallest and largest
    values.

    Attributes:
        model: standardised (n, d) tensors to (n, outputs).
        network: the same, as arrays, for rows in the world's units.
        mean, deviation: from the world's units to those of the attacker.
        low, high: (d,) the box, in the attacker's units.
    """

    model: Any
    network: Network
    mean: Singles
    deviation: Singles
    low: Any
    high: Any

    def to_units(self, rows: Singles) -> Any:
        """The world's rows to tensors in the attacker's units, inside the box."""
        given = torch.from_numpy((rows - self.mean) / self.deviation)
        return torch.clamp(given, self.low, self.high)

    def from_units(self, rows: Any) -> Singles:
        """Back."""
        return np.ascontiguousarray(rows.numpy() * self.deviation + self.mean, np.float32)


def train(cut: Cut, *, seed: int, surrogate: bool = False) -> Victim:
    """A convolutional network for images, a perceptron for tables; deterministic under ``seed``.

    Args:
        surrogate: a network of another shape, as an attacker would have who does not know the
            model.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng((seed, 73))
    if cut.image:
        mean, deviation = np.zeros(1, np.float32), np.ones(1, np.float32)
        low, high = torch.zeros(cut.train_x.shape[1]), torch.ones(cut.train_x.shape[1])
        model = _convolutional(cut, surrogate)
    else:
        mean = cut.train_x.mean(axis=0)
        deviation = cut.train_x.std(axis=0)
        deviation = np.where(deviation > 0, deviation, 1).astype(np.float32)
        units = (cut.train_x - mean) / deviation
        low, high = torch.from_numpy(units.min(axis=0)), torch.from_numpy(units.max(axis=0))
        model = _perceptron(cut, surrogate)
    x = torch.from_numpy((cut.train_x - mean) / deviation)
    targets = torch.from_numpy(cut.train_y)
    if cut.kind.regression:
        centre, spread = float(cut.train_y.mean()), float(cut.train_y.std())
        targets = ((targets - centre) / spread).float()[:, None]
    _fit(model, x, targets, cut, rng)
    if cut.kind.regression:
        last = model[-1]
        with torch.no_grad():  # answers in the targets' own units
            last.weight *= spread
            last.bias.copy_(last.bias * spread + centre)
    network = Network(_layers(model), cut.kind.row_shape, mean, deviation)
    return Victim(model, network, mean, deviation, low, high)


def _convolutional(cut: Cut, surrogate: bool) -> Any:
    h, w = cut.kind.row_shape
    small = h <= 8
    first, second, hidden, k = (12, 24, 96, 3) if surrogate else (16, 32, 128, 5)
    layers = [nn.Unflatten(1, (1, h, w))]
    layers += [nn.Conv2d(1, first, k, padding=k // 2), nn.ReLU()]
    layers += [] if small else [nn.MaxPool2d(2)]
    layers += [nn.Conv2d(first, second, k, padding=k // 2), nn.ReLU(), nn.MaxPool2d(2)]
    if not surrogate:
        layers += [nn.Conv2d(second, second, 3, padding=1), nn.ReLU()]
    side = (h // 2 if small else h // 4) * (w // 2 if small else w // 4)
    layers += [nn.Flatten(), nn.Linear(second * side, hidden), nn.ReLU()]
    layers += [nn.Dropout(0.3), nn.Linear(hidden, cut.classes)]
    return nn.Sequential(*layers)


def _perceptron(cut: Cut, surrogate: bool) -> Any:
    widths = [cut.train_x.shape[1], *((96,) if surrogate else (128, 64))]
    layers: list[Any] = []
    for one, other in pairwise(widths):
        layers += [nn.Linear(one, other), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], cut.classes))


def _fit(model: Any, x: Any, targets: Any, cut: Cut, rng: np.random.Generator) -> None:
    loss_of = nn.MSELoss() if cut.kind.regression else nn.CrossEntropyLoss()
    epochs, batch = EPOCHS[cut.name], 64
    steps = epochs * -(-len(x) // batch)
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=steps)
    model.train()
    for _ in range(epochs):
        order = torch.from_numpy(rng.permutation(len(x)))
        for start in range(0, len(x), batch):
            chosen = order[start : start + batch]
            seen = _moved(x[chosen], cut, rng) if cut.image else x[chosen]
            optimiser.zero_grad()
            loss_of(model(seen), targets[chosen]).backward()
            optimiser.step()
            schedule.step()
    model.eval()
    for parameter in model.parameters():
        parameter.requires_grad_(False)


def _moved(x: Any, cut: Cut, rng: np.random.Generator) -> Any:
    """Images turned, scaled and shifted a little, each in its own way."""
    h, w = cut.kind.row_shape
    n = len(x)
    turn, scale = rng.uniform(-0.2, 0.2, n), rng.uniform(0.9, 1.1, n)
    shift = rng.uniform(-0.14, 0.14, (n, 2)) * (0.7 if h <= 8 else 1.0)
    cos, sin = np.cos(turn) * scale, np.sin(turn) * scale
    maps = np.stack(
        [np.stack([cos, -sin, shift[:, 0]], 1), np.stack([sin, cos, shift[:, 1]], 1)], 1
    )
    grid = nn.functional.affine_grid(
        torch.from_numpy(maps.astype(np.float32)), [n, 1, h, w], align_corners=False
    )
    moved = nn.functional.grid_sample(x.reshape(n, 1, h, w), grid, align_corners=False)
    return moved.reshape(n, -1)


def _layers(model: Any) -> list[Layer]:
    found: list[Layer] = []
    for module in model:
        if isinstance(module, nn.Conv2d):
            found.append(Layer("conv", _array(module.weight), _array(module.bias)))
        elif isinstance(module, nn.Linear):
            found.append(Layer("dense", _array(module.weight.T), _array(module.bias)))
        elif isinstance(module, nn.ReLU):
            found.append(Layer("relu"))
        elif isinstance(module, nn.MaxPool2d):
            found.append(Layer("pool"))
        elif isinstance(module, nn.Flatten):
            found.append(Layer("flatten"))
    return found


def _array(tensor: Any) -> Singles:
    return np.ascontiguousarray(tensor.detach().numpy(), np.float32)
