"""One exchange explained, in values that are ready for JSON. For the operator alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import numpy as np

from detectors.agreement.base import Answers
from detectors.arrays import Floats, Singles
from detectors.base import Rows
from detectors.bundle import Bundle
from detectors.explanation import explain_answer, explain_input, middle, nearest
from detectors.explanation_sampling import EVALUATIONS, Groups, blocks
from detectors.explanation_values import Finding, Witness
from detectors.scorer import ScoreFault
from proxy.decision import Action
from proxy.explanations import Kept, Worst
from proxy.policy import is_switchable
from proxy.protocols.contract import Contract
from proxy.protocols.rows import feature_name

FEATURES: Final = 10
"""Features that are told for each score: those that make most of it."""
_DIGEST: Final = 16  # hex digits that the audit log holds of a bundle's
_EXAMPLES: Final = 3
_CLASSES: Final = 3
_EXCLUDED: Final = timedelta(days=7)


def explained(
    kept: Kept,
    bundle: Bundle | None,
    *,
    now: float,
    contract: Contract | None = None,
    features: int = FEATURES,
    evaluations: int = EVALUATIONS,
    pause: Callable[[], object] | None = None,
) -> dict[str, Any]:
    """Everything that can be said about an exchange. It takes milliseconds to seconds.

    Args:
        bundle: what scores at its endpoint now. If that is another one than scored the exchange,
            its scores cannot be explained, and a note says so.
        now: seconds since the epoch, from which an exclusion lasts.
        contract: what the model takes, whose names features bear where the bundle has none.
        features: how many are told for each score.
        evaluations: rows that scores without a form of their own are asked about.
        pause: called every few milliseconds: other threads may want the interpreter.
    """
    notes: list[str] = []
    told: dict[str, Any] = {
        "id": kept.id,
        "endpoint": kept.endpoint,
        "client": kept.client,
        "time": datetime.fromtimestamp(kept.at, UTC).isoformat(timespec="milliseconds"),
        "action": kept.decision.action.value,
        "enforced": kept.decision.enforced.value,
        "would_block": kept.decision.would_block,
        "status": kept.status,
        "reasons": [
            {
                "rule": reason.rule.id,
                "meaning": reason.rule.meaning,
                "detail": reason.detail,
                "atlas": list(reason.rule.atlas),
            }
            for reason in kept.decision.reasons
        ],
        "rows": kept.rows,
        "flagged_rows": kept.flagged_rows,
        "bundle": kept.bundle,
        "input": None,
        "answer": None,
        "examples": [],
        "exclusion": exclusion(kept, now),
        "notes": notes,
    }
    if kept.worst is None:
        return told
    if bundle is None or bundle.digest[:_DIGEST] != kept.bundle[:_DIGEST]:
        notes.append(
            f"the bundle that scored it, {kept.bundle[:_DIGEST]}, does not serve this endpoint any "
            "more: nothing more can be said of its scores here"
        )
        return told
    view = _View(bundle, contract, features, evaluations, pause)
    try:
        told["input"], shown = view.input(kept.worst)
        if kept.doubted is not None:
            told["answer"], shown = view.answer(kept, kept.doubted)
    except (ScoreFault, ValueError) as fault:
        notes.append(f"the scores cannot be explained: {fault}")
        return told
    told["examples"] = view.examples(kept.doubted or kept.worst, shown)
    return told


def exclusion(kept: Kept, now: float) -> str | None:
    """What to paste into the configuration, so that the rules do not refuse this client for a week
    from ``now``; None if none of them can be switched."""
    rules = [
        reason.rule.id
        for reason in kept.decision.reasons
        if is_switchable(reason.rule) and reason.action is not Action.ALLOW
    ]
    if not rules or not kept.client:
        return None
    until = datetime.fromtimestamp(now, UTC).replace(microsecond=0) + _EXCLUDED
    lines = ["rules:"]
    for rule in dict.fromkeys(rules):
        lines += [
            f"  {rule}:",
            "    exclude:",
            # In quotes: a pseudonym of digits alone would be read as a number.
            f'      - client: "{kept.client}"',
            f"        until: {until:%Y-%m-%dT%H:%M:%SZ}",
        ]
    return "\n".join(lines) + "\n"


class _View:
    """A bundle's detectors, and how their findings are told."""

    def __init__(
        self,
        bundle: Bundle,
        contract: Contract | None,
        most: int,
        evaluations: int,
        pause: Callable[[], object] | None,
    ) -> None:
        self._bundle = bundle
        self._contract = contract
        self._most = most
        self._evaluations = evaluations
        self._pause = pause
        self._shape = bundle.row_shape
        self._names = bundle.manifest.feature_names
        self._embed = None if bundle.embedding is None else bundle.embedding.embed
        # At least two orders of features, each walked both ways.
        self._groups: Groups = blocks(self._shape, max(1, evaluations // 4 - 1))
        self._usual = self._middle()

    def input(self, worst: Worst) -> tuple[dict[str, Any], Sequence[int]]:
        """What the input alone shows, and the features to look at."""
        found = explain_input(
            self._bundle.scorer,
            worst.row,
            references=None if self._embed is None else self._usual,
            embed=self._embed,
            groups=self._groups,
            evaluations=self._evaluations,
            pause=self._pause,
        )
        row = worst.row[0]
        told = {
            "row": worst.index,
            "score": found.merged,
            "threshold": found.threshold,
            "p_value": found.p_value,
            "flagged": found.flagged,
            "baseline": found.baseline,
            **self._features(row, found.contributions),
            "detectors": [self._finding(row, finding) for finding in found.findings],
        }
        return told, self._order(found.contributions)

    def answer(self, kept: Kept, doubted: Worst) -> tuple[dict[str, Any], Sequence[int]]:
        """What input and answer show together, and the features to look at.

        Raises:
            ValueError: if the bundle judges no answers, or the answer was not kept.
        """
        scorer, answer, row = self._bundle.agreement, doubted.answer, doubted.row
        if scorer is None or answer is None:
            raise ValueError("the model's answer is not known")
        view = row if self._embed is None else self._embed(row)
        merged = float(self._bundle.scorer.score(view).merged[0])
        found = explain_answer(
            scorer,
            row,
            answer,
            merged,
            references=self._references(row, answer),
            embed=self._embed,
            groups=self._groups,
            evaluations=self._evaluations,
            pause=self._pause,
        )
        label, confidence, values = _said(answer, scorer.classes)
        asked = {name: p for name, p in kept.signals.items() if name not in scorer.names}
        joint, p_value = found.joint, found.p_value
        if asked and kept.answer_score is not None:  # the model is not asked once more
            joint, p_value = kept.answer_score, kept.answer_p_value
        told = {
            "row": doubted.index,
            "label": label,
            "confidence": confidence,
            "values": values,
            "score": joint,
            "threshold": found.threshold,
            "p_value": p_value,
            "flagged": joint > found.threshold,
            "input_evidence": found.entry,
            "baseline": found.baseline,
            **self._features(row[0], found.contributions),
            "detectors": [self._finding(row[0], finding) for finding in found.findings],
            "witnesses": [_heard(witness, answer, scorer.classes) for witness in found.witnesses],
            "expected": {name: values.tolist() for name, values in found.expected.items()},
            "second_opinions": asked,
            "without_second_opinions": found.joint,
        }
        return told, self._order(found.contributions)

    def examples(self, worst: Worst, shown: Sequence[int]) -> list[dict[str, Any]]:
        """The nearest honest rows, at the features that are shown."""
        examples = self._bundle.examples
        if examples is None:
            return []
        near = nearest(examples.rows, worst.row, labels=examples.labels, most=_EXAMPLES)
        return [
            {
                "index": one.index,
                "distance": one.distance,
                "label": None if one.label is None else examples.classes[one.label],
                "values": [{**self._place(j), "value": float(one.values[j])} for j in shown],
            }
            for one in near
        ]

    def _references(self, row: Rows, answer: Answers) -> Rows:
        """What the row is compared with: the honest row most like it that has this answer's class,
        or else the middle of all."""
        examples, scorer = self._bundle.examples, self._bundle.agreement
        if examples is not None:
            rows = examples.rows
            if answer.labels is not None and examples.labels is not None and scorer is not None:
                name = _class_name(int(answer.labels[0]), scorer.classes)
                known = np.array([examples.classes[label] == name for label in examples.labels])
                rows = rows[known] if known.any() else rows
            return nearest(rows, row, most=1)[0].values[None]
        return np.zeros_like(row) if self._usual is None else self._usual

    def _middle(self) -> Rows | None:
        examples = self._bundle.examples
        if examples is not None:
            mean = examples.rows.mean(axis=0, keepdims=True, dtype=np.float64)
            return np.asarray(mean, np.float32)
        return middle(self._bundle.scorer) if self._embed is None else None

    def _finding(self, row: Singles, finding: Finding) -> dict[str, Any]:
        made = finding.attribution
        return {
            "name": finding.name,
            "score": finding.score,
            "p_value": finding.p_value,
            "evidence": finding.evidence,
            "method": None if made is None else made.method,
            "baseline": None if made is None else made.baseline,
            **self._features(row, finding.nats),
        }

    def _features(self, row: Singles, nats: Floats) -> dict[str, Any]:
        """The features that make most of it, and what all others add together."""
        order = self._order(nats)
        told = [
            {
                **self._place(j),
                "value": float(row[j]),
                "usual": None if self._usual is None else float(self._usual[0, j]),
                "nats": float(nats[j]),
            }
            for j in order
        ]
        return {"features": told, "others": float(np.delete(nats, order).sum())}

    def _order(self, nats: Floats) -> list[int]:
        order = np.argsort(-np.abs(nats), kind="stable")[: self._most]
        return [int(j) for j in order if nats[j]]

    def _place(self, feature: int) -> dict[str, Any]:
        """A feature by its index, and by its name or its place in an image."""
        told: dict[str, Any] = {"index": feature}
        if self._names is not None:
            told["name"] = self._names[feature]
        if len(self._shape) > 1:
            told["position"] = [int(place) for place in np.unravel_index(feature, self._shape)]
        elif self._names is None and self._contract is not None:
            name = feature_name(self._contract, feature)
            told |= {} if name is None else {"name": name}
        return told


def _said(
    answer: Answers, classes: Sequence[str] | None
) -> tuple[str | None, float | None, list[float] | None]:
    """The model's answer: label, its probability, or values."""
    if answer.labels is None:
        values = answer.values
        return None, None, None if values is None else values[0].tolist()
    label = int(answer.labels[0])
    probabilities = answer.probabilities
    confidence = None if probabilities is None else float(probabilities[0, label])
    return _class_name(label, classes), confidence, None


def _class_name(label: int, classes: Sequence[str] | None) -> str:
    return str(label) if classes is None else classes[label]


def _heard(witness: Witness, answer: Answers, classes: Sequence[str] | None) -> dict[str, Any]:
    """What a witness would have answered, and how strongly it doubts what was."""
    order = np.argsort(witness.doubts, kind="stable")[:_CLASSES]
    assert answer.labels is not None  # it judges labels
    return {
        "name": witness.name,
        "answer": _class_name(witness.answer, classes),
        "doubt": float(witness.doubts[answer.labels[0]]),
        "doubts": {_class_name(int(c), classes): float(witness.doubts[c]) for c in order},
    }
