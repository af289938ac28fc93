"""The model's answer on its way back: read whole, judged together with its input, made coarse."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from functools import partial
from typing import Final, TypeAlias

import numpy as np
import structlog

from detectors.agreement.base import Answers
from detectors.agreement.scorer import AnswerScorer
from detectors.arrays import Floats
from detectors.scorer import ScoreFault, Verdicts
from proxy import rules
from proxy.decision import Action, Permit, Reason
from proxy.forwarding import Forwarding
from proxy.http import coding
from proxy.http.messages import Head
from proxy.protocols.base import CHOOSES, SAYS, Codec, Holds, InferResponse, Rows
from proxy.reading import MissingAnswer, UnreadableAnswer
from proxy.recording import Heard, question
from proxy.rules import UPSTREAM_INVALID, Refusal
from proxy.scoring import found_in
from proxy.second_opinion import Indices, LateOpinion, in_time, joined
from proxy.shaping import shape
from proxy.telemetry.record import Record
from proxy.transport import Answer
from proxy.visit import Scored, Visit

_log = structlog.get_logger("bartizan.pipeline")

MAX_BYTES: Final = 10 * 2**20
"""Bytes of an answer that is understood, where nothing else is said."""

MAX_RATIO: Final = 100
"""How many times its size a compressed answer may grow."""

HELD_BYTES: Final = 256 * 2**20
"""Bytes of answers that were read and that their clients have not taken, over all exchanges of a
worker; beyond it the answer is "busy". Small ones are not counted."""

JUDGEMENTS: Final = 256
"""Answers that may be, or wait to be, judged in a thread; beyond it the answer is "busy"."""

_INLINE_BYTES: Final = 32 * 1024  # decoded, shaped and encoded on the loop in 3 ms at most
_INLINE_VALUES: Final = 4096  # of rows judged together with their answers in about as long

Replacement: TypeAlias = tuple[bytes, bytes]
"""Header lines that describe a body, and the body, in place of the model server's."""


class AnswerInspection:
    """Inspects answers to inferences.

    Args:
        forwarding: writes what is sent upstream.
        clock: monotonic seconds.
        wall: seconds since the epoch.
        executor: runs what would hold the loop too long.
        values: whether the audit log holds the answers. They may be personal data.
    """

    def __init__(
        self,
        forwarding: Forwarding,
        *,
        clock: Callable[[], float],
        wall: Callable[[], float],
        executor: Executor,
        values: bool = False,
    ) -> None:
        self._forwarding = forwarding
        self._clock = clock
        self._wall = wall
        self._executor = executor
        self._values = values
        self._held = 0
        self._waiting = 0

    def release(self, visit: Visit) -> None:
        """The client has taken the answer, or never will."""
        self._held -= visit.held
        visit.held = 0

    async def inspect(self, visit: Visit, head: Head, response: Answer) -> Replacement | None:
        """Reads an answer whole, judges it together with its input, decides anew, and makes it
        coarse where that was decided.

        Nothing of it was sent yet. ``response`` stays whole: where nothing is returned and the
        decision lets it pass, it can be relayed as it came.

        Args:
            head: of the client's request.

        Returns:
            What to send in its place, or None.

        Raises:
            Refusal: if the model server died, or missed its deadline; BUSY.
        """
        record, endpoint = visit.record, visit.endpoint
        body = await response.gathered(endpoint.answer_limit)
        record.answered = self._clock()
        if visit.heard is not None:
            visit.heard.append(Heard(response.status, response.headers, body))
        self._hold(visit, response.buffered if body is None else len(body))
        if body is not None and visit.meter is not None:
            visit.show(body)
            visit.metered = True
        if body is None:
            self._unreadable(visit, f"an answer of more than {endpoint.answer_limit} bytes")
            return None
        scored = visit.scored
        light = (
            visit.light
            and len(body) < _INLINE_BYTES
            and response.get(b"content-encoding") is None
            and (scored is None or scored.rows.size <= _INLINE_VALUES)
        )
        if light:
            verdicts = self._judge(visit, response, body)
        else:
            visit.light = False
            verdicts = await self._aside(visit, response, body)
        if endpoint.opinions is not None:
            if visit.heard is not None:
                visit.weighed = self._clock()
            endpoint.opinions.budget.earn(record.rows)
            if verdicts is not None and not visit.refused:
                await self._ask_again(visit, head, verdicts)
        if visit.refused or visit.response is None or not _is_shaped(visit):
            return None
        record.shaped = True
        if light:
            return _shaped(visit)
        return await asyncio.get_running_loop().run_in_executor(self._executor, _shaped, visit)

    def _hold(self, visit: Visit, size: int) -> None:
        """Counts an answer of so many bytes until :meth:`release`.

        Raises:
            Refusal: BUSY.
        """
        if size < _INLINE_BYTES:
            return
        if self._held + size > HELD_BYTES:
            raise Refusal(rules.BUSY, "clients have not taken the answers that were read")
        visit.held = size
        self._held += size

    async def _aside(self, visit: Visit, response: Answer, body: bytes) -> Verdicts | None:
        """Judges in a thread.

        Raises:
            Refusal: BUSY.
        """
        if self._waiting >= JUDGEMENTS:
            raise Refusal(rules.BUSY, f"{JUDGEMENTS} answers are being judged")
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(
                self._executor, self._judge, visit, response, body
            )
        finally:
            self._waiting -= 1

    def _judge(self, visit: Visit, response: Answer, body: bytes) -> Verdicts | None:
        """Decodes an answer and judges it together with its rows; what was found of them, or
        None."""
        endpoint, scored = visit.endpoint, visit.scored
        try:
            visit.response = understood(
                response, body, visit.binding.codec, limit=endpoint.answer_limit
            )
        except Refusal as refusal:
            self._unreadable(visit, refusal.detail)
            return None
        if visit.response.rows is not None:
            self._score(visit, visit.response.rows)
            return None
        if scored is None or endpoint.judge is None:
            return None
        reader, scorer = endpoint.judge
        try:
            visit.answers = reader.read(visit.response, len(scored.rows), _among(visit))
            verdicts = scorer.score(scored.rows, visit.answers, _entry(visit, scored, scorer))
        except MissingAnswer as missing:
            self._unjudged(visit, str(missing), SAYS, chosen=len(endpoint.bindings) > 1)
            return None
        except UnreadableAnswer as unreadable:
            self._unjudged(visit, str(unreadable), CHOOSES)
            return None
        except ScoreFault as fault:
            self._unjudged(visit, str(fault))
            return None
        except Exception as fault:
            _log.exception("fault", endpoint=endpoint.name, request=visit.record.id)
            self._unjudged(visit, repr(fault))
            return None
        self._find(visit, scored, verdicts)
        visit.record.judged = self._clock()
        return verdicts

    def _score(self, visit: Visit, rows: Rows) -> None:
        """Scores the rows that an answer holds, and decides on what is found."""
        record, bundle = visit.record, visit.endpoint.bundle
        if bundle is None:
            return
        try:
            found = found_in(visit, rows, bundle, record.answered)
        except ScoreFault as fault:
            found = [Reason(rules.DETECTOR_FAULT, str(fault))]
        except Exception as fault:
            _log.exception("fault", endpoint=visit.endpoint.name, request=record.id)
            found = [Reason(rules.INTERNAL, repr(fault))]
        record.judged = self._clock()
        if self._values:
            record.notes["values"] = rows
        if found:
            self._decide(visit, *found)

    def _find(self, visit: Visit, scored: Scored, verdicts: Verdicts) -> None:
        """Notes what was found of the rows with their answers, and decides on it."""
        record, endpoint = visit.record, visit.endpoint
        _note(record, verdicts, scored)
        if self._values and visit.answers is not None:
            record.notes["answers"] = _plain(visit.answers)
        if visit.answers is not None and visit.answers.labels is not None and endpoint.judge:
            classes = endpoint.judge[1].classes or ()
            record.answer_label = classes[int(visit.answers.labels[record.answer_row])]
        found = endpoint.policy.disagreement(record.answer_flagged_rows, record.rows)
        # What was found before a second opinion is not found twice.
        others = [one for one in visit.findings if one.rule is not rules.DISAGREEMENT]
        if found is not None:
            others.append(found)
        if found is not None or len(others) < len(visit.findings):
            visit.refuses(others, self._wall())

    def _unjudged(
        self,
        visit: Visit,
        detail: str,
        says: frozenset[str] = frozenset(),
        *,
        chosen: bool = False,
    ) -> None:
        """Decides about an answer that was understood and cannot be judged."""
        fault = Reason(rules.AGREEMENT_FAULT, detail)
        self._decide(visit, *_blamed(visit, fault, says=says, chosen=chosen))

    def _unreadable(self, visit: Visit, detail: str) -> None:
        """Decides about an answer that was not understood, by what it was needed for."""
        faults = []
        request = visit.request
        if request is not None and request.answer is Holds.ROWS and visit.endpoint.bundle:
            faults.append(Reason(rules.DETECTOR_FAULT, detail))
        if visit.scored is not None:
            faults.append(Reason(rules.AGREEMENT_FAULT, detail))
        if _is_shaped(visit):
            faults.append(Reason(rules.ANSWER_UNREADABLE, detail))
        if faults:
            self._decide(visit, *_blamed(visit, *faults, says=CHOOSES))

    def _decide(self, visit: Visit, *found: Reason) -> None:
        """Decides over all that was found so far, and this."""
        visit.refuses([*visit.findings, *found], self._wall())

    async def _ask_again(self, visit: Visit, head: Head, verdicts: Verdicts) -> None:
        """Hears a second opinion of suspicious rows, as far as its budget goes. Whatever fails is
        noted, and the decision stands: without this step the budget of false alarms holds too."""
        record, endpoint, scored = visit.record, visit.endpoint, visit.scored
        opinions, judge, answers = endpoint.opinions, endpoint.judge, visit.answers
        assert opinions and judge and scored and answers  # there are verdicts
        rows, record.suspicious_rows = opinions.choose(verdicts, answers)
        visit.drawn = opinions.drawn
        if not rows.size:
            return
        record.asked_rows = len(rows)
        try:
            again = await in_time(self._asked(visit, head, rows), opinions.seconds)
            merged = _entry(visit, scored, judge[1])
            heard = await asyncio.get_running_loop().run_in_executor(
                self._executor,
                judge[1].reconsider,
                scored.rows[rows],
                answers[rows],
                merged[rows],
                opinions.split(again),
            )
        except (Refusal, LateOpinion, UnreadableAnswer, ScoreFault) as fault:
            record.opinion_fault = str(fault)
        except Exception as fault:
            _log.exception("fault", endpoint=endpoint.name, request=record.id)
            record.opinion_fault = repr(fault)
        else:
            self._find(visit, scored, _joined(verdicts, rows, heard))
        record.reconsidered = self._clock()

    async def _asked(self, visit: Visit, head: Head, rows: Indices) -> Answers:
        """What the same model says of the changed copies of these rows."""
        endpoint, request, scored = visit.endpoint, visit.request, visit.scored
        opinions, judge, codec = endpoint.opinions, endpoint.judge, visit.binding.codec
        assert opinions and judge and request and scored  # the caller looked

        def written(of: slice) -> tuple[bytes, bytes]:
            return codec.encode_request(codec.with_rows(request, views[of], origins[of]))

        run = asyncio.get_running_loop().run_in_executor
        views = await run(self._executor, opinions.views, scored.rows[rows])
        origins = opinions.origins(rows)
        step = codec.batch(request)
        said: list[Answers] = []
        for start in range(0, len(views), step):
            part = slice(start, start + step)
            lines, body = await run(self._executor, written, part)
            permit = Permit(
                visit.record.decision, self._forwarding.request(visit, head, lines, body)
            )
            visit.record.opinion_rows += len(views[part])
            response = await visit.binding.pool.send(permit)
            answer = await response.whole(endpoint.answer_limit)
            if visit.heard is not None:
                asked = question(body)
                visit.heard.append(Heard(response.status, response.headers, answer, asked))
            if response.status != 200:
                raise UnreadableAnswer(f"the model server answered {response.status}")
            read = await run(
                self._executor,
                partial(understood, response, answer, codec, limit=endpoint.answer_limit),
            )
            said.append(judge[0].read(read, len(views[part]), _among(visit)))
        return joined(said)


def understood(
    response: Answer,
    body: bytes,
    codec: Codec,
    *,
    limit: int = MAX_BYTES,
    ratio: int = MAX_RATIO,
) -> InferResponse:
    """An answer as tensors.

    Args:
        body: all of it, as sent.
        codec: the one that encoded the request.
        limit: bytes of the answer, as sent and with its content coding undone.
        ratio: how many times its size a compressed answer may grow.

    Raises:
        Refusal: UPSTREAM_INVALID.
    """
    headers = dict(reversed(response.headers))  # the first of equal names, as Response.get has it
    try:
        plain = coding.decode(
            headers.pop(b"content-encoding", None), body, limit=limit, ratio=ratio
        )
    except Refusal as refusal:
        detail = f"{refusal.rule.message}: {refusal.detail}"
        raise Refusal(UPSTREAM_INVALID, detail) from None
    return codec.decode_response(Head("", "", headers, keep_alive=False), plain)


def _among(visit: Visit) -> frozenset[str] | None:
    """The model's outputs, as far as they are known, where the client chose among them."""
    if visit.request is None or CHOOSES.isdisjoint(visit.request.options):
        return None
    contract = visit.endpoint.contract
    return frozenset(spec.name for spec in contract.outputs) if contract else frozenset()


def _blamed(
    visit: Visit,
    *faults: Reason,
    says: frozenset[str] = frozenset(),
    chosen: bool = False,
) -> Sequence[Reason]:
    """The findings that faults of ours with an answer are, or what the client did to bring them
    about: no failure mode may let clients choose not to be judged.

    It may have by what it asked for; or by rows that are far out: on one of them a model may break,
    and with its answer those to all rows beside it cannot be read.

    Args:
        says: the options of a request that may have led to it.
        chosen: whether the protocol may have, of which the client had a choice.
    """
    request, scored, record = visit.request, visit.scored, visit.record
    if request is not None and not says.isdisjoint(request.options):
        record.notes["missing"] = faults[0].detail  # the client need not know
        if any(found.rule is rules.TENSOR_NAME for found in visit.findings):
            return ()  # in monitor mode: it was found on the way in
        detail = "the outputs and parameters asked for leave the model's answer out"
        return (Reason(rules.TENSOR_NAME, detail),)
    if chosen:
        record.notes["missing"] = faults[0].detail
        return (Reason(rules.TENSOR_NAME, "this protocol's answers leave the model's answer out"),)
    if scored is None:
        return faults
    unanswered = visit.endpoint.policy.unanswered(int(scored.flagged.sum()), record.rows)
    return faults if unanswered is None else (*faults, unanswered)


def _is_shaped(visit: Visit) -> bool:
    return visit.record.decision.enforced is Action.SHAPE or visit.endpoint.always_shaped


def _shaped(visit: Visit) -> Replacement:
    """The answer made coarse."""
    endpoint, request, response = visit.endpoint, visit.request, visit.response
    assert response is not None  # the caller looked
    return visit.binding.codec.encode_response(shape(response, endpoint.style, request))


def _entry(visit: Visit, scored: Scored, scorer: AnswerScorer) -> Floats:
    """The rows' merged scores, as the judgement with the answer is to count them.

    Rows that were found to be outliers and were let pass have been judged as such. They are judged
    by their answers alone, or the operator's word on outliers would mean nothing.
    """
    if any(found.rule is rules.OUTLIER for found in visit.findings):
        return np.where(scored.flagged, scorer.entry.knots[0], scored.merged)
    return scored.merged


def _plain(answers: Answers) -> dict[str, object]:
    """The most that is known of answers, by what it is."""
    if answers.probabilities is not None:
        return {"probabilities": answers.probabilities}
    return {"labels": answers.labels} if answers.values is None else {"values": answers.values}


def _note(record: Record, verdicts: Verdicts, scored: Scored) -> None:
    record.answer_row = worst = int(verdicts.merged.argmax())
    record.answer_score = float(verdicts.merged[worst])
    record.answer_p_value = float(verdicts.p_values[worst])
    signals = zip(verdicts.names, verdicts.detector_p_values[worst].tolist(), strict=True)
    record.answer_signals = {name: p for name, p in signals if p == p}  # noqa: PLR0124 - no NaN
    record.answer_flagged_rows = int(verdicts.flagged.sum())
    record.flagged_rows = int((verdicts.flagged | scored.flagged).sum())


def _joined(before: Verdicts, rows: Indices, heard: Verdicts) -> Verdicts:
    """The verdicts over all rows, some of which were reconsidered by more detectors: what those
    would say of the others is not known (NaN)."""
    merged, p_values, flagged = before.merged.copy(), before.p_values.copy(), before.flagged.copy()
    merged[rows], p_values[rows], flagged[rows] = heard.merged, heard.p_values, heard.flagged
    width, most = len(before.names), len(heard.names)
    scores, signals = np.full((2, len(merged), most), np.nan)
    scores[:, :width], signals[:, :width] = before.scores, before.detector_p_values
    scores[rows], signals[rows] = heard.scores, heard.detector_p_values
    return Verdicts(heard.names, merged, p_values, flagged, scores, signals)
