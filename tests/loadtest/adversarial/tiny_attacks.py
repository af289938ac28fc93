"""Run by the environment that has torch: attacks small models and prints what came of it as JSON.

Arguments: a folder with pairs NAME.npz (a crafted set) and NAME.bundle.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch

from detectors.bundle import load_bundle
from loadtest.adversarial import adaptive, attacks, datasets, victims
from loadtest.adversarial.attacks import Box
from loadtest.adversarial.crafted import Crafted

torch.set_num_threads(1)


def linear():
    """Every attack on the model whose logits are the row itself: the nearest other class of
    (3, 0, 0, 0) begins at a distance of 3 / sqrt(2), and 1.5 away at each feature."""
    rows = torch.tensor([[3.0, 0.0, -1.0, 0.5], [0.0, 3.0, -1.0, 0.5]])
    labels = torch.tensor([0, 1])
    box = Box(torch.full((4,), -4.0), torch.full((4,), 4.0))
    tight = Box(torch.full((4,), -4.0), torch.full((4,), 3.1))
    generator = torch.Generator().manual_seed(0)
    basis = torch.eye(4)[:, :2]

    def model(x):
        return x[:, :3]

    changed = {
        "fgsm": attacks.fgsm(model, rows, labels, box, 2.0),
        "fgsm small": attacks.fgsm(model, rows, labels, box, 0.5),
        "pgd": attacks.pgd(model, rows, labels, box, 2.0, generator),
        "pgd tight": attacks.pgd(model, rows, labels, tight, 2.0, generator),
        "pgd basis": attacks.pgd(model, rows, labels, box, 2.0, generator, basis=basis),
        "deepfool": attacks.deepfool(model, rows, box),
        "cw": attacks.carlini_wagner(model, rows, labels, box, 0, rounds=6, steps=100),
        "cw margin": attacks.carlini_wagner(model, rows, labels, box, 2, rounds=6, steps=100),
        "push": attacks.push(lambda x: x[:, 0] - 2 * x[:, 2], rows, box, 0.5, generator),
    }
    told = {"rows": rows.tolist()}
    for name, x in changed.items():
        logits = model(x)
        other = logits.masked_fill(torch.nn.functional.one_hot(labels, 3).bool(), -torch.inf)
        told[name] = {
            "margin": (logits[[0, 1], labels] - other.amax(dim=1)).tolist(),
            "largest": (x - rows).abs().amax(dim=1).tolist(),
            "length": (x - rows).norm(dim=1).tolist(),
            "highest": x.max().item(),
            "change": (x - rows).tolist(),
        }
    return told


def trained():
    """Networks of both shapes, for an image and a table: in torch and as arrays."""
    found = {}
    for name in ("digits", "friedman"):
        victims.EPOCHS[name] = 2
        cut = datasets.load(name, 0)
        for surrogate in (False, True):
            victim = victims.train(cut, seed=1, surrogate=surrogate)
            rows = victim.from_units(victim.to_units(cut.rest_x[:50]))
            theirs = victim.model(victim.to_units(rows)).numpy()
            gap = np.abs(theirs - victim.network.outputs(rows)).max() / np.abs(theirs).max()
            found[f"{name} {surrogate}"] = float(gap)
    return found


def evaded(folder):
    """Both attackers on each set, a few rows of it; the copies are checked on the way."""
    return {
        path.stem: adaptive.attack(
            Crafted.load(path), *2 * [load_bundle(path.with_suffix(".bundle"))], most=6, steps=20
        )
        for path in sorted(folder.glob("*.npz"))
    }


if __name__ == "__main__":
    told = {"linear": linear(), "trained": trained(), "evaded": evaded(Path(sys.argv[1]))}
    sys.stdout.write(json.dumps(told))
