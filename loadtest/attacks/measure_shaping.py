"""What shaped answers are worth: to a thief, to a black-box attack, and to an honest client."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from loadtest.attacks import extraction, published
from loadtest.attacks.datasets import Labels, Singles
from loadtest.attacks.distillation import distil
from loadtest.attacks.study import Study
from loadtest.attacks.victims import Victim
from loadtest.mlp import Floats
from proxy.protocols.base import InferRequest, InferResponse
from proxy.shaping import Style, noise_key, shape

KEY: Final = noise_key(b"the secret of a measurement", "victim")
DEFENCES: Final[dict[str, Style | None]] = {
    "none": None,
    "round, 1 decimal": Style(),
    "top_k 1": Style("top_k"),
    "label": Style("label"),
    "noise 0.5": Style("noise", noise=0.5, key=KEY),
    "noise 1": Style("noise", noise=1.0, key=KEY),
    "noise 2": Style("noise", noise=2.0, key=KEY),
    "noise 1, best free": Style("noise", noise=1.0, key=KEY, keep_best=False),
    "noise 2, best free": Style("noise", noise=2.0, key=KEY, keep_best=False),
}
FREE: Final = "noise 2, best free"
FRESH: Final = "noise 2, not keyed"
"""For comparison: drawn anew for each query, the best class left free."""
QUERIES: Final = 1000
REPEATS: Final = 5
COPIES: Final = 20
NEAR: Final = 0.03
"""Standard deviation of a near-duplicate's features about the row, in units of the box."""
ATTACKS: Final = ("square", "simba")
STEP: Final = 0.2
"""Of both, in units of the box: where nothing defends they mostly succeed."""
BASES: Final = 8
PROBED: Final = ("none", "round, 1 decimal", "top_k 1", "label", "noise 1", "noise 2", FREE)

Row = dict[str, Any]


class Shaped(Victim):
    """A victim behind shaping. What it decides (``label``) stays what the model itself decides."""

    def __init__(self, victim: Victim, style: Style | None) -> None:
        super().__init__(victim.split, victim.model)
        self._style = style

    def ask(self, rows: Singles) -> Floats:
        """(n, d) rows to (n, classes) probabilities, shaped."""
        answers = self.model.probabilities(rows)
        if self._style is None:
            return answers
        response = InferResponse({"p": answers}, len(rows))
        shaped: Floats = shape(response, self._style, InferRequest({}, rows, len(rows))).tensors[
            "p"
        ]
        return shaped

    def label(self, rows: Singles) -> Labels:
        """The model's own decisions."""
        found: Labels = self.model.probabilities(rows).argmax(axis=1)
        return found


class Rescaled(Shaped):
    """Rescaled by the attacker so that they sum to 1, as some attacks want them."""

    def ask(self, rows: Singles) -> Floats:
        """(n, d) rows to (n, classes) probabilities."""
        answers = super().ask(rows)
        return np.asarray(answers / answers.sum(axis=1, keepdims=True), np.float32)


def theft(study: Study, quick: bool) -> list[Row]:
    """The surrogate's agreement with the victim after so many queries, on rows that the thief never
    had: one that learns from whole answers, from their best class, from averages over repeats, and
    over near-duplicates."""
    far = "matched noise" if study.split.table else "other images"
    rows: list[Row] = []
    for strategy in ("in-distribution", far):
        own = study.random(f"shaping {strategy}").permutation(np.concatenate(study.thief))
        asked = _asked(study, strategy, own)
        truth = study.victim.label(study.split.fit.rows)
        known: dict[bytes, float] = {}

        def fidelity(
            targets: Floats,
            asked: Singles = asked,
            truth: Labels = truth,
            known: dict[bytes, float] = known,
        ) -> float:
            content = targets.tobytes()
            if content not in known:  # equal answers make equal surrogates
                student = distil(asked, targets, study.seed)
                decided = student.probabilities(study.split.fit.rows).argmax(axis=1)
                known[content] = float((decided == truth).mean())
            return known[content]

        for name, style in DEFENCES.items():
            victim = Shaped(study.victim, style)
            answers = victim.ask(asked)
            repeated = _mean([victim.ask(asked) for _ in range(REPEATS)])
            near, votes = _near(victim, study, asked, 2 if quick else COPIES)
            found = {
                "whole": fidelity(answers),
                "best": fidelity(_one_hot(answers)),
                "repeats": fidelity(repeated),
                "same": bool(np.array_equal(repeated, answers)),
                "near": fidelity(near),
                "votes": fidelity(votes),
            }
            rows.append(_row(strategy, asked, name) | found)
        rows.append(_row(strategy, asked, FRESH) | _fresh(study, asked, fidelity))
    return rows


def honest(study: Study, _quick: bool) -> list[Row]:
    """What an honest client loses: accuracy, and by how much the best class's probability is
    off."""
    part = study.split.honest
    plain = study.victim.ask(part.rows)
    places = plain.argmax(axis=1)
    rows = []
    for name, style in DEFENCES.items():
        answers = Shaped(study.victim, style).ask(part.rows)
        change = np.abs(answers - plain)[np.arange(len(places)), places]
        rows.append(
            {
                "defence": name,
                "right": int((answers.argmax(axis=1) == part.labels).sum()),
                "changed": int((answers.argmax(axis=1) != places).sum()),
                "rows": len(places),
                "off": float(change.mean()),
            }
        )
    return rows


def probing(study: Study, quick: bool) -> list[Row]:
    """How many distinct queries attacks that climb along scores take, and how many succeed."""
    rows = []
    for attack in ATTACKS:
        bases = study.victim.bases(2 if quick else BASES, study.seed)
        for name in PROBED:
            victim = Rescaled(study.victim, DEFENCES[name])
            runs = [
                published.attack(victim, attack, base, 1000 * study.seed + number, (STEP,))
                for number, base in enumerate(bases)
            ]
            asked = [run.asked for run in runs if run.success]
            rows.append(
                {"attack": attack, "defence": name, "runs": len(runs), "won": len(asked)}
                | {"asked": asked}
            )
    return rows


def _asked(study: Study, strategy: str, own: Singles) -> Singles:
    random = study.random(f"shaping {strategy} queries")
    queries = extraction.STRATEGIES[strategy](extraction.Means(study.split, own), random)
    batches: list[Singles] = []
    for batch in queries:
        batches.append(batch)
        if sum(map(len, batches)) >= QUERIES:
            break
    return np.concatenate(batches)[:QUERIES]


def _near(victim: Victim, study: Study, asked: Singles, copies: int) -> tuple[Floats, Floats]:
    """Averages in the log-odds over near-duplicates, the row itself among them, and their votes."""
    random = study.random("shaping near")
    low, high = study.split.low, study.split.high
    steps = random.standard_normal((copies - 1, *asked.shape)) * (NEAR * (high - low))
    answers = [victim.ask(asked)]
    answers += [victim.ask(np.clip(asked + step, low, high).astype(np.float32)) for step in steps]
    votes = np.sum([_one_hot(answer) for answer in answers], axis=0)
    # The row's own answer decides between equals.
    return _mean(answers), _one_hot(votes + 0.5 * _one_hot(answers[0]))


def _fresh(study: Study, asked: Singles, fidelity: Any) -> Row:
    styles = [
        Style("noise", noise=2.0, key=noise_key(b"another", str(number)), keep_best=False)
        for number in range(REPEATS)
    ]
    answers = [Shaped(study.victim, style).ask(asked) for style in styles]
    return {
        "whole": fidelity(answers[0]),
        "best": fidelity(_one_hot(answers[0])),
        "repeats": fidelity(_mean(answers)),
        "same": False,
    }


def _mean(answers: list[Floats]) -> Floats:
    """In the log-odds, where the noise is; of equal answers that answer itself."""
    if all(np.array_equal(answer, answers[0]) for answer in answers):
        return answers[0]
    logs = np.mean([np.log(np.maximum(answer, 1e-7)) for answer in answers], axis=0)
    powers = np.exp(logs - logs.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True), np.float32)


def _one_hot(answers: Floats) -> Floats:
    found: Floats = np.eye(answers.shape[1], dtype=np.float32)[answers.argmax(axis=1)]
    return found


def _row(strategy: str, asked: Singles, name: str) -> Row:
    return {"strategy": strategy, "queries": len(asked), "defence": name}
