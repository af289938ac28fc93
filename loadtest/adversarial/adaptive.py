"""An attacker who knows the defence. Needs torch, and what ``craft`` and ``evaluate`` wrote:

    PYTHONPATH=. .venv-torch/bin/python -m loadtest.adversarial.adaptive [--set mnist] [--seed 1]

*White box*: the attacker holds the model, the bundle and its threshold. *Grey box*: it holds the
training data, from which it has made a model and a bundle of its own, and knows everything but the
secret arrays.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click
import numpy as np
import torch

from detectors.agreement.base import Answers
from detectors.bundle import Bundle, load_bundle
from loadtest.adversarial.attacks import Box
from loadtest.adversarial.crafted import Crafted
from loadtest.adversarial.datasets import DEVELOPMENT, REPORTED, SETS, Singles
from loadtest.adversarial.differentiable import joint_of, model_of
from loadtest.adversarial.work import WORK, adaptive_of, bundle_of, kept_in, set_of

WHITE: Final = "white box"
GREY: Final = "grey box"
EPSILONS: Final = {True: (0.1, 0.2, 0.3), False: (0.1, 0.2, 0.3, 0.5)}
"""Of images, in the pixel range; of tables, in standard deviations."""
BASES: Final = 50
STEPS: Final = 60
MARGIN: Final = {WHITE: 0.1, GREY: 3.0}
"""Logits by which the attacker's own model is to be wrong: more, where it must carry over."""
TRIES: Final = ((True, None), (False, None), (False, 0), (False, 1))
"""Whether a try is selective, and what it aims at: any wrong answer, or the most likely one, or the
next. The best try counts."""
EQUAL: Final = 1e-3
"""Relative difference of J, beyond which the attacker's copy is no copy."""

Joint = Callable[[Any, Any], Any]
Row = dict[str, Any]


def attack(
    made: Crafted, bundle: Bundle, own: Bundle, *, most: int = BASES, steps: int = STEPS
) -> list[Row]:
    """Both attackers, at each epsilon, against the threshold that ``bundle`` promises, on at
    ``most`` so many bases.

    Raises:
        ValueError: if the differentiable copy's scores are not those that the gateway computes.
    """
    bases = made.bases[:most]
    rows, labels = made.rest_x[bases], made.rest_y[bases]
    low, high = made.train_x.min(axis=0), made.train_x.max(axis=0)
    image = len(made.row_shape) == 2
    if image:
        low, high = np.zeros_like(low), np.ones_like(high)
    box = Box(torch.from_numpy(low), torch.from_numpy(high))
    joint = joint_of(bundle)
    check(joint, model_of(made.network), made, bundle, rows)
    attackers = {
        WHITE: (model_of(made.network), joint),
        GREY: (model_of(made.surrogate), joint_of(own)),
    }
    found = []
    for attacker, (model, known) in attackers.items():
        for epsilon in EPSILONS[image]:
            fooled, passed = np.zeros(len(rows), bool), np.zeros(len(rows), bool)
            for seed, (selective, place) in enumerate(TRIES):
                changed = evade(
                    model,
                    known,
                    torch.from_numpy(rows),
                    torch.from_numpy(labels),
                    box,
                    torch.from_numpy(np.asarray(epsilon * made.network.deviation, np.float32)),
                    margin=MARGIN[attacker],
                    selective=selective,
                    generator=torch.Generator().manual_seed(seed),
                    steps=steps,
                    target=_target(model, rows, labels, place),
                )
                wrong, flagged = outcome(made, bundle, changed.numpy(), labels)
                fooled |= wrong
                passed |= wrong & ~flagged
            counts = {"fooled": int(fooled.sum()), "passed": int(passed.sum())}
            found.append({"attacker": attacker, "epsilon": epsilon, "tried": len(rows)} | counts)
    return found


def _target(model: Any, rows: Singles, labels: Any, place: int | None) -> Any:
    """The wrong answer of this place, from the most likely; the last one where there are fewer."""
    if place is None:
        return None
    with torch.no_grad():
        logits = model(torch.from_numpy(rows))
        logits[torch.arange(len(rows)), torch.from_numpy(labels)] = -torch.inf
        wrong = logits.argsort(dim=1, descending=True)
        return wrong[:, min(place, logits.shape[1] - 2)]


def outcome(
    made: Crafted, bundle: Bundle, changed: Singles, labels: Any
) -> tuple[np.ndarray[Any, np.dtype[np.bool_]], np.ndarray[Any, np.dtype[np.bool_]]]:
    """Which rows fool the real model, and which the gateway flags, with its own arithmetic."""
    told = made.ask(changed)
    return told.argmax(axis=1) != labels, _judge(bundle, changed, told)[1]


def check(joint: Joint, model: Any, made: Crafted, bundle: Bundle, rows: Singles) -> None:
    """That the copy is one."""
    given = torch.from_numpy(rows)
    with torch.no_grad():
        copied = joint(given.double(), torch.log_softmax(model(given).double(), dim=1)).numpy()
    known = _judge(bundle, rows, made.ask(rows))[0]
    worst = float(np.abs(copied - known).max() / max(1.0, np.abs(known).max()))
    if worst > EQUAL:
        raise ValueError(f"the copy's scores differ from the gateway's by {worst:.2g}")


def _judge(bundle: Bundle, rows: Singles, told: Any) -> tuple[Any, Any]:
    after = bundle.agreement
    if after is None:
        raise ValueError("the bundle has no agreement")
    merged = bundle.scorer.score(rows).merged
    verdicts = after.score(rows, Answers.of_probabilities(told), merged)
    return verdicts.merged, verdicts.flagged


def evade(  # noqa: PLR0917 - what an attack takes
    model: Any,
    joint: Joint,
    rows: Any,
    labels: Any,
    box: Box,
    epsilon: Any,
    *,
    margin: float,
    selective: bool,
    generator: Any,
    steps: int,
    target: Any = None,
) -> Any:
    """Rows that the attacker's model gets wrong, with the lowest J found within ``epsilon``.

    Args:
        epsilon: scalar or (d,), in the rows' units.
        selective: each step follows one gradient alone, the model's until it is fooled and J's
            from then on (Bryniarski et al. 2022, arXiv 2106.15023); otherwise both at once, each of
            unit length.
        target: (n,) the answers to aim at; None: any wrong one.
    """
    change = (2 * torch.rand(rows.shape, generator=generator) - 1) * epsilon
    aim = labels if target is None else target
    sign = 1.0 if target is None else -1.0
    best, least = rows.clone(), torch.full((len(rows),), torch.inf, dtype=torch.float64)
    wrong_before = torch.zeros(len(rows), dtype=torch.bool)
    for step in range(steps):
        changed = box.clip(rows + torch.clamp(change, -epsilon, epsilon))
        change = changed - rows
        given = changed.clone().requires_grad_(True)
        logits = model(given)
        mine = torch.nn.functional.one_hot(aim, logits.shape[1]).bool()
        gap = sign * (logits[mine] - logits.masked_fill(mine, -torch.inf).amax(dim=1))
        score = joint(given.double(), torch.log_softmax(logits.double(), dim=1))
        to_fool = torch.autograd.grad(gap.sum(), given, retain_graph=True)[0]
        to_hide = torch.autograd.grad(score.sum(), given)[0]
        with torch.no_grad():
            wrong = gap < -margin
            better = wrong & (score < least)
            # Until the model is fooled with the margin, keep what at least changes the answer.
            first = (gap < 0) & ~wrong_before & ~wrong
            best[better | first] = changed[better | first]
            least = torch.where(better, score, least)
            wrong_before |= wrong
            if selective:
                direction = torch.where(wrong[:, None], to_hide, to_fool)
            else:
                direction = _unit(to_hide) + (gap > -2 * margin)[:, None] * _unit(to_fool)
            size = (0.1 if step < steps // 2 else 0.03) * epsilon
            change = change - size * direction.sign()
    return best


def _unit(gradient: Any) -> Any:
    return gradient / gradient.norm(dim=1, keepdim=True).clamp(min=1e-12)


@click.command()
@click.option("--set", "sets", type=click.Choice(list(SETS)), multiple=True)
@click.option(
    "--seed", "seeds", type=click.Choice([str(s) for s in (DEVELOPMENT, *REPORTED)]), multiple=True
)
@click.option("--work", type=click.Path(path_type=Path), default=WORK, show_default=True)
def main(sets: tuple[str, ...], seeds: tuple[str, ...], work: Path) -> None:
    """Attacks the bundles that the evaluation fitted, and keeps the figures beside them."""
    torch.set_num_threads(1)
    kept = kept_in(work)
    for name in sets or tuple(name for name, kind in SETS.items() if not kind.regression):
        for seed in map(int, seeds or map(str, REPORTED)):
            served, own = (bundle_of(kept, name, seed, attackers=one) for one in (False, True))
            if not (served.exists() and own.exists()):
                click.echo(f"{name}, seed {seed}: no bundle; run the evaluation first", err=True)
                continue
            start = time.monotonic()
            made = Crafted.load(set_of(work, name, seed))
            found = attack(made, load_bundle(served), load_bundle(own))
            rows = [{"set": name, "seed": seed} | row for row in found]
            path = adaptive_of(kept, name, seed)
            partial = path.with_suffix(".part")
            partial.write_text(json.dumps(rows), encoding="utf-8")
            partial.replace(path)
            click.echo(f"{name}, seed {seed}: {time.monotonic() - start:.0f} s", err=True)


if __name__ == "__main__":
    main()
