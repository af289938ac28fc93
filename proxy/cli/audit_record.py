"""One exchange's record in an audit log, as what can be explained."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from detectors.agreement.base import Answers
from detectors.bundle import Bundle
from proxy.decision import Action, Decision, Reason
from proxy.explanations import Kept, Worst
from proxy.rules import RULES
from proxy.telemetry.audit_chain import chain_paths, lines, rotated


class Unexplained(Exception):  # noqa: N818 - the condition's name
    """The log does not hold what an explanation takes. The message says what is missing."""


def find(log: Path, exchange: str) -> dict[str, Any]:
    """The record of the exchange with this request id, whichever worker wrote it.

    Raises:
        Unexplained: if there is none.
        OSError: if the log cannot be read.
    """
    wanted = orjson.dumps(exchange)
    for path in _files(log):
        try:
            file = path.open("rb")
        except FileNotFoundError:
            continue  # retention deleted it meanwhile, or only the head is there
        with file:
            for line in lines(file):
                if wanted not in line or b'"type":"exchange"' not in line:
                    continue
                try:
                    record = orjson.loads(line)
                except orjson.JSONDecodeError:
                    continue
                if record.get("id") == exchange:
                    return dict(record)
    raise Unexplained(f"{log} holds no exchange {exchange}, or not any more")


def kept_of(record: dict[str, Any], bundle: Bundle) -> tuple[Kept, str]:
    """A record as what can be explained, and what it lacks in words, or "".

    Raises:
        Unexplained: if it is no record of an exchange that this program wrote.
    """
    try:
        return _kept_of(record, bundle)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Unexplained(f"the record cannot be read: {error!r}") from error


def _kept_of(record: dict[str, Any], bundle: Bundle) -> tuple[Kept, str]:
    values = record.get("notes", {}).get("values")
    judged = record.get("answer", {})
    worst = doubted = None
    note = ""
    if record.get("p_value") is None:
        note = "nothing was scored"
    elif values is None:
        note = "the record holds no values (audit.values): the scores cannot be explained"
    else:
        rows = np.array(values, np.float32)
        if rows.ndim != 2 or rows.shape[1] != bundle.features:
            raise ValueError(f"values of shape {rows.shape}")
        worst = _row(rows, record["worst_row"], None)
        if judged:
            index = judged["worst_row"]
            answer = _answer(record["notes"].get("answers") or {}, index)
            if answer is None or bundle.agreement is None:
                note = "the record does not hold what the model answered"
            else:
                doubted = _row(rows, index, answer)
    kept = Kept(
        id=record["id"],
        endpoint=record["endpoint"],
        client=record["client"],
        at=datetime.fromisoformat(record["time"]).timestamp(),
        decision=Decision(
            Action(record["action"]),
            Action(record["enforced"]),
            tuple(Reason(RULES[one["rule"]], one["detail"]) for one in record["reasons"]),
        ),
        status=record["status"],
        rows=record["rows"],
        flagged_rows=record.get("flagged_rows", 0),
        bundle=record["bundle"],
        score=record.get("score"),
        answer_score=judged.get("score"),
        answer_p_value=judged.get("p_value", 1.0),
        signals=judged.get("signals", {}),
        worst=worst,
        doubted=doubted,
    )
    return kept, note


def _row(rows: np.ndarray[Any, np.dtype[np.float32]], index: int, answer: Answers | None) -> Worst:
    if not 0 <= index < len(rows):
        raise ValueError(f"row {index} of {len(rows)}")
    return Worst(index, np.ascontiguousarray(rows[index : index + 1]), answer)


def _answer(answers: dict[str, Any], index: int) -> Answers | None:
    """The answer to one row, from all that the model said; None if the record lacks it."""
    for name, read in (
        ("probabilities", Answers.of_probabilities),
        ("labels", Answers.of_labels),
        ("values", Answers.of_values),
    ):
        if answers.get(name) is not None:
            return read(answers[name][index : index + 1])
    return None


def _files(log: Path) -> Iterator[Path]:
    """Every file of every chain."""
    for chain in chain_paths(log).values():
        yield from rotated(chain).values()
        yield chain
