"""Crafted sets as files: rows, what the victim says of them, and the attacks on it. Needs numpy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from loadtest.adversarial.datasets import Labels, Singles
from loadtest.adversarial.networks import Floats, Network


@dataclass(frozen=True, slots=True)
class Attack:
    """What one attack reached.

    Attributes:
        rows: (m, d) changed rows that fool the victim; those that do not are left out.
        answers: (m, C) what the victim says of them: probabilities, or values.
        bases: (m,) positions in the unseen rows of what they were made from.
        tried: how many bases were attacked.
    """

    rows: Singles
    answers: Floats
    bases: Labels
    tried: int


@dataclass(frozen=True, slots=True)
class Crafted:
    """One set under one seed.

    Attributes:
        row_shape: of an image, or (d,).
        regression: whether answers are values.
        train_x, train_y, train_p: rows that the victim was trained on, truths, its answers.
        rest_x, rest_y, rest_p: honest rows that it was not trained on.
        bases: (b,) positions in ``rest_x`` of the rows that were attacked.
        attacks: by name.
        network: the victim.
        surrogate: another model that was trained on the same rows; the attacker's own.
    """

    row_shape: tuple[int, ...]
    regression: bool
    train_x: Singles
    train_y: npt.NDArray[Any]
    train_p: Floats
    rest_x: Singles
    rest_y: npt.NDArray[Any]
    rest_p: Floats
    bases: Labels
    attacks: Mapping[str, Attack]
    network: Network
    surrogate: Network

    def ask(self, rows: Singles) -> Floats:
        """(n, d) rows to the victim's (n, C) probabilities, or (n, 1) values."""
        if self.regression:
            return self.network.outputs(rows).astype(np.float64)
        return self.network.probabilities(rows)

    def of_surrogate(self) -> Crafted:
        """The same rows with the surrogate in the victim's place, and nothing attacked."""
        mine = self.surrogate.outputs if self.regression else self.surrogate.probabilities
        return replace(
            self,
            train_p=mine(self.train_x).astype(np.float64),
            rest_p=mine(self.rest_x).astype(np.float64),
            attacks={},
            network=self.surrogate,
        )

    @property
    def accuracy(self) -> float:
        """Of a classifier, on unseen rows."""
        return float((self.rest_p.argmax(axis=1) == self.rest_y).mean())

    def save(self, path: Path) -> None:
        """Writes an npz without pickles, whole or not at all."""
        arrays: dict[str, npt.NDArray[Any]] = {
            "row_shape": np.array(self.row_shape, np.int64),
            "regression": np.array(self.regression),
            "base": self.bases,
        }
        for part in ("train", "rest"):
            for field in ("x", "y", "p"):
                arrays[f"{part}_{field}"] = getattr(self, f"{part}_{field}")
        for name, attack in self.attacks.items():
            arrays[f"adv_{name}_x"] = attack.rows
            arrays[f"adv_{name}_p"] = attack.answers
            arrays[f"adv_{name}_base"] = attack.bases
            arrays[f"adv_{name}_tried"] = np.array(attack.tried)
        for prefix, network in (("net", self.network), ("sub", self.surrogate)):
            arrays |= {f"{prefix}_{name}": array for name, array in network.arrays().items()}
        partial = path.with_suffix(".part.npz")
        np.savez(partial, **arrays)  # type: ignore[arg-type]  # its stub takes the keyword for `allow_pickle`
        partial.replace(path)

    @classmethod
    def load(cls, path: Path) -> Crafted:
        """Reads it.

        Raises:
            OSError, KeyError, ValueError: if there is no such file, or it is another.
        """
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        names = [name[4:-2] for name in arrays if name.startswith("adv_") and name.endswith("_x")]
        return cls(
            row_shape=tuple(int(side) for side in arrays["row_shape"]),
            regression=bool(arrays["regression"]),
            **{
                f"{part}_{field}": arrays[f"{part}_{field}"]
                for part in ("train", "rest")
                for field in "xyp"
            },
            bases=arrays["base"],
            attacks={
                name: Attack(
                    arrays[f"adv_{name}_x"],
                    arrays[f"adv_{name}_p"],
                    arrays[f"adv_{name}_base"],
                    int(arrays[f"adv_{name}_tried"]),
                )
                for name in names
            },
            network=_network(arrays, "net_"),
            surrogate=_network(arrays, "sub_"),
        )


def _network(arrays: Mapping[str, npt.NDArray[Any]], prefix: str) -> Network:
    return Network.of_arrays(
        {name.removeprefix(prefix): arrays[name] for name in arrays if name.startswith(prefix)}
    )
