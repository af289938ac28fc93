"""What only the answer tells that it cost, and rows that only the answer holds."""

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
from openai_stub import chunk, completion, embeddings, usage

from detectors.scorer import ScoreFault, Verdicts
from proxy import rules
from proxy.decision import Action, FailureMode, Mode
from proxy.endpoint import Binding, Endpoint
from proxy.explanations import Explanations
from proxy.http.messages import Head, Peer
from proxy.identity import Identity
from proxy.pipeline import Pipeline
from proxy.policy import Policy
from proxy.protocols.contract import Contract
from proxy.protocols.openai import OpenAI
from proxy.protocols.openai_meter import TokenMeter
from proxy.rules import Refusal
from proxy.state.base import Quota
from proxy.state.limits import Limiter
from proxy.state.memory import MemoryState
from proxy.telemetry.metrics import EndpointMetrics

PEER = Peer("127.0.0.1")
CHAT, EMBEDDINGS = "/v1/chat/completions", "/v1/embeddings"
HELLO = {"messages": [{"role": "user", "content": "x" * 396}]}  # 50 tokens for sure, perhaps 100
BUDGET = 1000


class Response:
    """The server's answer, in pieces; ``then`` is raised behind them."""

    bodiless = buffered = 0
    complete = False
    headers = ((b"content-type", b"application/json"),)

    def __init__(self, pieces, status=200, then=None):
        self.pieces, self.status, self.then = pieces, status, then
        self.discarded = False

    def get(self, name):
        return dict(self.headers).get(name)

    def discard(self):
        self.discarded = True

    async def gathered(self, limit):
        return b"".join(self.pieces)


class Pool:
    def __init__(self, answer):
        self.answer = answer
        self.sent = []

    crowded = False

    async def send(self, permit):
        self.sent.append(permit.request)
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


class Exchange:
    upstream = None

    def __init__(self, pipeline, head, body):
        self.head, self.body, self.peer = head, body, PEER
        self.received, self.read = 1.0, 2.0
        self.status, self.answered, self.sent = 0, False, None
        self.context = pipeline.open(head, PEER).context

    def reply(self, reply):
        self.status, self.sent, self.answered = reply.status, reply, True

    async def relay(self, response, extra=b"", tap=None):
        self.status, self.tap = response.status, tap
        for piece in response.pieces:
            if tap is not None:
                tap(piece)
        if response.then is not None:
            raise response.then
        self.answered = True
        return sum(map(len, response.pieces))

    def replace(self, response, lines, body, extra=b""):
        self.status, self.sent, self.answered = response.status, body, True
        return len(body)


class Scorer:
    """Flags a row whose first value is above 100; fails where it is told to."""

    features = 4
    names = ("first",)
    fault = None

    def score_row(self, rows):
        self.rows = rows
        if self.fault is not None:
            raise self.fault
        return float(rows[0, 0]), 0.5, rows[0, 0] > 100

    def row_p_values(self):
        return {"first": 0.5}

    def score(self, rows):
        self.rows = rows
        if self.fault is not None:
            raise self.fault
        half = np.full((len(rows), 1), 0.5)
        return Verdicts(self.names, rows[:, 0], half[:, 0], rows[:, 0] > 100, half, half)


class World:
    """A pipeline of one endpoint, whose client may spend ``BUDGET`` and has then to wait."""

    def __init__(self, executor, answer, *, scores=False, shaped=False, policy=None, **codec):
        self.pool = Pool(answer)
        self.now = 10.0
        quota = Quota.of(1.0, BUDGET, None)
        self.records = []
        self.seen = []
        self.scorer = Scorer()
        calls = {"calls": ("embeddings",)} if scores else {}
        width = 4 if scores else None
        given = {"unit": "tokens", **calls, **codec}
        self.endpoint = Endpoint(
            name="texts",
            policy=Policy(**(policy or {})),
            bindings=(Binding("/v1", OpenAI("/v1", Contract(width=width), **given), self.pool),),
            limiter=Limiter(
                MemoryState(10, lambda: 0.0), "texts", client=quota, subnet=Quota(), total=Quota()
            ),
            clients=SimpleNamespace(banned=lambda *_: None, observe=self.observe),
            metrics=EndpointMetrics(("first",)),
            body_limit=10**6,
            expanded_ratio=100,
            bundle=SimpleNamespace(
                scorer=self.scorer, digest="b" * 64, embedding=None, agreement=None
            )
            if scores
            else None,
            always_shaped=shaped,
        )
        self.pipeline = Pipeline(
            [self.endpoint],
            forward=["accept-encoding"],
            identify=lambda head, peer: Identity("c" * 32, "ip"),
            request_id=lambda: "id",
            metrics=SimpleNamespace(unrouted=EndpointMetrics()),
            audit=SimpleNamespace(full=False, waits=False, append=self.records.append),
            clock=lambda: self.now,
            wall=lambda: 1e9,
            executor=executor,
            configuration="d" * 64,
            explanations=Explanations(9, wall=lambda: 1e9),
        )

    def observe(self, identity, rows, p_values, now):
        self.seen.append(rows.copy())
        return []

    async def ask(self, document=HELLO, target=CHAT, **headers):
        head = {b"content-type": b"application/json"}
        head |= {name.replace("_", "-").encode(): value for name, value in headers.items()}
        body = json.dumps(document).encode()
        exchange = Exchange(self.pipeline, Head("POST", target, head, True), body)
        await self.pipeline.handle(exchange)
        return exchange

    @property
    def spent(self):
        """How much of its quota the client has used."""
        one = SimpleNamespace(client="c" * 32, subnet="")
        for most in range(BUDGET, 0, -1):
            if self.endpoint.limiter.take(one, most, self.now) is None:
                return BUDGET - most
        return BUDGET + self.endpoint.limiter.take(one, 1, self.now).retry_after - 1


@pytest.fixture
def world():
    with ThreadPoolExecutor(1) as executor:
        yield lambda answer, **keywords: World(executor, answer, **keywords)


def whole(document):
    return Response([json.dumps(document).encode()])


async def test_tokens_are_charged_once_they_are_told(world):
    one = world(whole(completion(total=700)))
    await one.ask()
    assert one.records[0].rows == 700
    assert one.spent == 700


async def test_a_debt_is_refused_until_it_has_melted(world):
    one = world(whole(completion(total=5000)))
    assert (await one.ask()).status == 200
    refused = await one.ask()
    assert refused.status == 429
    assert dict(refused.sent.headers)[b"retry-after"] == b"4051"  # 4000 s, and 50 tokens of prompt
    assert [record.rows for record in one.records] == [5000, 50]
    assert len(one.pool.sent) == 1
    one.now += 4051
    assert (await one.ask()).status == 200


async def test_a_stream_is_charged_by_its_last_event(world):
    one = world(Response([chunk("Hello"), chunk(usage=usage(321)), b"data: [DONE]\n\n"]))
    await one.ask({**HELLO, "stream": True})
    assert one.spent == 321


@pytest.mark.parametrize(
    "end", [asyncio.CancelledError(), Refusal(rules.UPSTREAM_INVALID, "cut"), OSError("odd")]
)
async def test_a_stream_that_is_broken_off_is_charged_by_what_came(world, end):
    one = world(Response([chunk("x" * 40)] * 5, then=end))
    if isinstance(end, asyncio.CancelledError):
        with pytest.raises(asyncio.CancelledError):
            await one.ask({**HELLO, "stream": True})
    else:
        await one.ask({**HELLO, "stream": True})
    assert one.spent == 100 + 5 * 10
    assert one.records[0].rows == 150
    assert one.pool.answer.discarded


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("broken", ["add", "units", "charge"])
async def test_a_fault_in_counting_breaks_no_answer_and_is_counted(
    world, monkeypatch, broken, stream
):
    def fails(*_):
        raise ArithmeticError("odd")

    one = world(Response([chunk("Hello"), chunk(usage=usage(321))]))
    owner = one.endpoint.limiter if broken == "charge" else TokenMeter
    monkeypatch.setattr(owner, broken, fails)
    exchange = await one.ask({**HELLO, "stream": stream})
    assert (exchange.status, exchange.answered) == (200, True)
    [record] = one.records
    assert (record.fault, record.rows, record.status) == ("BZ-900", 50, 200)
    assert one.endpoint.metrics.faults == one.endpoint.metrics.failed_open == {"BZ-900": 1}
    assert one.spent == 50


@pytest.mark.parametrize(
    ("answer", "spent"),
    [
        (Response([b'{"usage": {"total_tokens": 900}}'], status=400), 50),
        (Response([b"x" * 4000], status=500), 50),
        (Refusal(rules.UPSTREAM_TIMEOUT), 100),
        (asyncio.CancelledError(), 100),
    ],
)
async def test_without_an_answer_no_more_than_the_prompt_is_charged(world, answer, spent):
    one = world(answer)
    try:
        await one.ask()
    except asyncio.CancelledError:
        assert one.records[0].status == 0
    assert one.spent == spent


async def test_what_is_refused_on_the_way_in_is_not_charged_twice(world):
    one = world(whole(completion(total=700)))
    await one.ask({"messages": [{"role": "user", "content": "x", "odd": 1}]})
    assert one.spent == 1
    assert not one.pool.sent


@pytest.mark.parametrize("unit", ["requests", "items", "characters"])
async def test_where_all_is_known_beforehand_nothing_is_read_off(world, unit):
    one = world(whole(completion(total=700)), unit=unit)
    exchange = await one.ask(accept_encoding=b"gzip")
    assert exchange.tap is None
    assert one.spent == {"requests": 1, "items": 1, "characters": 400}[unit]
    assert b"accept-encoding: gzip\r\n" in one.pool.sent[0].headers


async def test_what_is_read_off_comes_without_a_content_coding(world):
    one = world(whole(completion(total=700)))
    await one.ask(accept_encoding=b"gzip")
    assert b"accept-encoding: identity\r\n" in one.pool.sent[0].headers
    assert b"gzip" not in one.pool.sent[0].headers


async def test_a_text_streams_by_whatever_is_configured(world):
    one = world(Response([chunk("Hello")]), shaped=True)
    exchange = await one.ask({**HELLO, "stream": True})
    assert exchange.tap is not None
    assert exchange.sent is None


# Rows that are in the answer.

FINE, ODD = [1.0, 2.0, 3.0, 4.0], [200.0, 0.0, 0.0, 0.0]


def vectors(*rows):
    return whole(embeddings(rows, packed=True, total=77))


async def embed(one, *texts):
    return await one.ask({"input": list(texts or "a")}, EMBEDDINGS)


async def test_rows_of_the_answer_are_scored_and_watched(world):
    one = world(vectors(FINE, FINE), scores=True)
    exchange = await embed(one, "a", "b")
    assert exchange.status == 200
    assert exchange.tap is None  # it was seen when it was read
    assert one.spent == 77
    assert one.scorer.rows.tolist() == [FINE, FINE]
    assert [rows.tolist() for rows in one.seen] == [[FINE, FINE]]
    record = one.records[0]
    assert (record.score, record.flagged_rows) == (1.0, 0)
    assert record.answered <= record.judged


async def test_an_outlier_among_them_never_leaves(world):
    for rows in ([ODD], [FINE, ODD]):
        one = world(vectors(*rows), scores=True)
        exchange = await embed(one, *(["a"] * len(rows)))
        assert exchange.status == 403
        record = one.records[0]
        assert record.decision.reasons[0].rule is rules.OUTLIER
        assert record.flagged_rows == 1
        assert one.spent == 77  # the model has worked
        assert one.pipeline._explanations.find("id").worst.row.tolist() == [ODD]


async def test_in_monitor_mode_it_does(world):
    one = world(vectors(ODD), scores=True, policy={"mode": Mode.MONITOR})
    assert (await embed(one)).status == 200
    assert one.records[0].decision.action is Action.BLOCK


@pytest.mark.parametrize("mode", FailureMode)
@pytest.mark.parametrize(
    ("answer", "fault", "rule"),
    [
        (vectors([1.0, 2.0]), None, rules.DETECTOR_FAULT),
        (Response([b"{}"]), None, rules.DETECTOR_FAULT),
        (vectors(FINE), ScoreFault("NaN"), rules.DETECTOR_FAULT),
        (vectors(FINE), ZeroDivisionError(), rules.INTERNAL),
    ],
)
async def test_what_cannot_be_scored_follows_the_failure_mode(world, mode, answer, fault, rule):
    one = world(answer, scores=True, policy={"failure_mode": mode})
    one.scorer.fault = fault
    exchange = await embed(one)
    assert exchange.status == (503 if mode is FailureMode.DENY else 200)
    assert one.records[0].decision.reasons[0].rule is rule
    assert one.records[0].fault == rule.id


async def test_an_error_of_the_server_is_passed_on(world):
    one = world(Response([b'{"error": {}}'], status=400), scores=True)
    assert (await embed(one)).status == 400
    assert not one.seen


async def test_shaped_vectors_are_written_in_their_own_form(world):
    one = world(vectors(FINE), scores=True, shaped=True)
    exchange = await embed(one)
    assert exchange.status == 200
    [item] = json.loads(exchange.sent)["data"]
    assert isinstance(item["embedding"], str)
    assert one.records[0].shaped
