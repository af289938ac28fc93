"""Runs the tests of a security configuration on a clock that is set: the same result every time."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, cast

import numpy as np

from detectors.base import Rows as Array
from detectors.bundle import Bundle
from proxy.decision import Permit
from proxy.endpoint import Binding, Endpoint
from proxy.http.messages import Head, Peer
from proxy.identity import Identity
from proxy.protocols.base import Codec, InferRequest, InferResponse
from proxy.rehearsal.cases import Answer, Expectation, Generated, PolicyTests, Request, Step, Test
from proxy.rehearsal.prompted import Prompted
from proxy.rehearsal.scene import Scene, Spoken, Threaded
from proxy.rehearsal.stage import Stage
from proxy.rules import Refusal
from proxy.settings.models import Settings
from proxy.telemetry.record import Record

_START: Final = 1000.0
_BAN: Final = 86_400.0

Form = Callable[[Endpoint, Binding, int], tuple[str, InferRequest]]
"""The target and the form in which an endpoint is asked for rows of so many features."""


class TrialError(ValueError):
    """A test that cannot be run: the message says why."""


@dataclass(slots=True)
class Result:
    """What came of one test.

    Attributes:
        failed: the step that was not as expected, from 1; 0: none.
        words: what was expected, and what came.
        requests: how many were sent.
    """

    name: str
    failed: int = 0
    words: str = ""
    requests: int = 0


class _Cue:
    """Says what the file says. Implements ``scene.Model``."""

    def __init__(self, answer: Answer) -> None:
        self.said = answer

    def thread(self, scene: Scene) -> Threaded | None:
        """As ``scene.Model``."""
        return None

    async def answer(self, scene: Scene, permit: Permit) -> Spoken:
        """As ``scene.Model``."""
        said = self.said
        headers = [(b"content-type", said.content_type.encode())]
        unknown = said.body is None and said.row is None
        if said.body is not None:
            return Spoken(said.status, headers, said.body.encode())
        codec: Any = scene.context.binding.codec
        if isinstance(codec, Prompted) and said.row is not None:
            n = scene.context.record.rows
            if scene.asked > 1:
                n = _asked(codec, permit, scene)
            values = np.tile(np.array(said.row, np.float64), (n, 1))
            codec.prompt(InferResponse({said.output: values}, n))
        return Spoken(said.status, headers, b"", unknown=unknown)

    async def relayed(self, scene: Scene) -> None:
        """As ``scene.Model``."""


@dataclass(slots=True)
class Trial:
    """The tests of one file.

    Args:
        data: the rows of its files, by name.
        form: in which rows are asked.
    """

    tests: PolicyTests
    settings: Settings
    bundles: Mapping[str, Bundle]
    data: Mapping[str, Array]
    form: Form
    _stage: Stage = field(init=False)
    _random: np.random.Generator = field(init=False)
    _names: int = 0

    def __post_init__(self) -> None:
        self._stage = Stage(self.settings, self.bundles)

    async def run(self, test: Test) -> Result:
        """Runs one test, on a gateway that was just started.

        Raises:
            TrialError: if it cannot be run.
        """
        stage = self._stage
        stage.clock.now, stage.clock.epoch = _START, self.tests.begins - _START
        stage.begin()
        await stage.prepare()
        self._random = np.random.default_rng(self.tests.seed)
        endpoint = self._endpoint(test.endpoint or self.tests.endpoint)
        if endpoint.contract is None:
            raise TrialError(
                f"endpoint {endpoint.name} learns its contract from its server, and no server is "
                "asked here: state the contract in the configuration"
            )
        for one in stage.generation.pipeline.endpoints:
            for binding in one.bindings:
                binding.codec = cast("Codec", Prompted(binding.codec))
        result = Result(test.name)
        for number, step in enumerate(test.steps, 1):
            records = await self._step(endpoint, step)
            result.requests += len(records)
            words = "" if step.expect is None else _judged(step.expect, records)
            if words:
                result.failed, result.words = number, words
                break
        return result

    def _endpoint(self, name: str | None) -> Endpoint:
        every = self._stage.generation.pipeline.endpoints
        if name is None and len(every) == 1:
            return every[0]
        found = self._stage.endpoint(name or "")
        if found is None:
            names = ", ".join(one.name for one in every)
            raise TrialError(f"endpoint {name!r} is not one of {names}")
        return found

    async def _step(self, endpoint: Endpoint, step: Step) -> list[Record]:
        stage = self._stage
        if step.advance is not None:
            stage.clock.now += step.advance
            await endpoint.clients.exchange()
            await endpoint.clients.learn_bans()
        elif step.ban is not None:
            await endpoint.clients.ban(self._pseudonym(step.ban), _BAN)
        elif step.forgive is not None:
            await endpoint.clients.forgive(self._pseudonym(step.forgive))
        else:
            return [await self._send(endpoint, step, index) for index in range(step.repeat)]
        return []

    async def _send(self, endpoint: Endpoint, step: Step, index: int) -> Record:
        stage = self._stage
        if index:
            stage.clock.now += step.every
        if step.request is not None:
            head, body = _plain(step.request)
        else:
            head, body = self._asking(endpoint, step, index)
        identity = None
        if step.client is not None:
            subnet = step.subnet and self._pseudonym(step.subnet)
            identity = Identity(self._pseudonym(step.client), "tested", subnet)
        self._names += 1
        name = f"{self._names:08}"
        cue = _Cue(step.answer or self.tests.answer)
        try:
            scene = stage.enter(head, body, identity, cue, read=stage.clock.now, name=name)
        except Refusal as refusal:
            stage.generation.pipeline.refuse(refusal, head, Peer("127.0.0.1"), stage.clock.now)
            assert stage.notebook.last is not None  # it was recorded
            return stage.notebook.last
        await stage.play(scene)
        return scene.record

    def _pseudonym(self, name: str) -> str:
        given = name if ":" in name else f"api_key:{name}"
        return self._stage.identifier.pseudonym(given)

    def _asking(self, endpoint: Endpoint, step: Step, index: int) -> tuple[Head, bytes]:
        binding = endpoint.bindings[0]
        width = endpoint.bundle.features if endpoint.bundle is not None else 0
        if endpoint.bundle is not None and endpoint.bundle.embedding is not None:
            width = 0
        rows = self._rows(step, index, width)
        target, form = self.form(endpoint, binding, rows.shape[1])
        codec = binding.codec
        try:
            asked = codec.with_rows(form, rows, np.zeros(len(rows), np.int64))
        except ValueError as error:
            raise TrialError(f"the rows do not fit the model: {error}") from None
        lines, body = codec.encode_request(asked)
        return Head("RPC" if binding.rpc else "POST", target, headers_in(lines), True), body

    def _rows(self, step: Step, index: int, width: int) -> Array:
        given = step.rows
        if isinstance(given, str):
            return self._slice(given)
        if not isinstance(given, Generated):
            try:
                return np.array(given, np.float32, ndmin=2)
            except ValueError:
                raise TrialError("the rows are not of equal length") from None
        if given.around is not None:
            rows = self._slice(given.around)
            noise = self._random.normal(0.0, given.noise or 0.0, rows.shape)
            return (rows + noise).astype(np.float32)
        if given.between is not None:
            start, end = (self._slice(one)[:1] for one in given.between)
            share = index / max(step.repeat - 1, 1)
            return (start + share * (end - start)).astype(np.float32)
        assert given.uniform is not None  # one of the three is given
        columns = width or next((rows.shape[1] for rows in self.data.values()), 0)
        if not columns:
            raise TrialError("how many features a row has is not known")
        return self._random.uniform(*given.uniform, (given.count, columns)).astype(np.float32)

    def _slice(self, text: str) -> Array:
        return sliced(self.data, text)


def sliced(data: Mapping[str, Array], text: str) -> Array:
    """The rows that ``honest``, ``honest[3]`` or ``honest[0:5]`` stands for.

    Raises:
        TrialError: if there are none.
    """
    name, _, rest = text.partition("[")
    if name not in data:
        known = ", ".join(data) or "none are given"
        raise TrialError(f"no data are named {name!r}; there are: {known}")
    rows = data[name]
    if rest:
        first, colon, last = rest.removesuffix("]").partition(":")
        start = int(first or 0)
        rows = rows[start : int(last) if last else None] if colon else rows[start : start + 1]
    if not len(rows):
        raise TrialError(f"{text}: there are only {len(data[name])} rows")
    return rows


def headers_in(lines: bytes) -> dict[bytes, bytes]:
    """Rendered header lines as a mapping."""
    pairs = (line.split(b": ", 1) for line in lines.split(b"\r\n") if line)
    return {pair[0].lower(): pair[-1] for pair in pairs}


def _plain(request: Request) -> tuple[Head, bytes]:
    headers = {name.lower().encode(): value.encode() for name, value in request.headers.items()}
    return Head(request.method, request.path, headers, keep_alive=True), request.body.encode()


def _asked(codec: Any, permit: Permit, scene: Scene) -> int:
    """How many rows a question of ours to the model holds."""
    head = Head("POST", "", headers_in(permit.request.headers), keep_alive=True)
    n: int = codec.decode_request(head, permit.request.body, scene.context.route).n
    return n


def _judged(expected: Expectation, records: list[Record]) -> str:
    """What is not as expected, in words; "" if all is."""
    wanted = expected.wanted
    fits = [_fits(wanted, record) for record in records]
    words = ", ".join(f"{name} {_word(value)}" for name, value in wanted.items())
    if expected.never is not None:
        for number, record in enumerate(records, 1):
            if record.decision.action.value == expected.never:
                return f"expected never {expected.never}; request {number}: {_came(record)}"
    if not wanted:
        return ""
    if expected.within is not None:
        if not any(fits[: expected.within]):
            last = records[min(expected.within, len(records)) - 1]
            first = fits.index(True) + 1 if any(fits) else None
            when = f"it came with request {first}" if first else "it never came"
            return f"expected {words} within {expected.within}; {when}; then: {_came(last)}"
    elif expected.at_least is None and expected.at_most is None and not all(fits):
        number = fits.index(False)
        which = f"request {number + 1} of {len(fits)}: " if len(fits) > 1 else ""
        return f"expected {words}; {which}{_came(records[number])}"
    count = sum(fits)
    if expected.at_least is not None and count < expected.at_least:
        return f"expected {words} at least {expected.at_least} times; came {count} times"
    if expected.at_most is not None and count > expected.at_most:
        return f"expected {words} at most {expected.at_most} times; came {count} times"
    return ""


def _fits(wanted: Mapping[str, Any], record: Record) -> bool:
    decision = record.decision
    found = {
        "action": decision.action.value,
        "enforced": decision.enforced.value,
        "would_block": decision.would_block,
        "status": record.status,
        "shaped": record.shaped,
    }
    rule = wanted.get("rule")
    if rule is not None and rule not in {reason.rule.id for reason in decision.reasons}:
        return False
    return all(found[name] == value for name, value in wanted.items() if name != "rule")


def _came(record: Record) -> str:
    decision = record.decision
    reasons = "; ".join(f"{reason.rule.id} {reason.detail}".strip() for reason in decision.reasons)
    done = "" if not decision.would_block else f", {decision.enforced.value} enforced"
    score = "" if record.p_value is None else f", p-value {record.p_value:.3g}"
    return f"{decision.action.value}{done}, status {record.status}{score} ({reasons or 'nothing'})"


def _word(value: object) -> str:
    return re.sub("^(True|False)$", lambda found: found[0].lower(), str(value))
