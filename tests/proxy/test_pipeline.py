"""The way of a request, with all around it in memory: what is sent, answered and recorded."""

import asyncio
import hashlib
import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import judges
import numpy as np
import pytest

from detectors.patterns.base import Alarm, Family, Scope
from detectors.scorer import ScoreFault, Verdicts
from proxy import rules
from proxy.decision import Action, FailureMode, Mode, Permit
from proxy.endpoint import Binding, Endpoint
from proxy.explanations import Explanations
from proxy.http.messages import Head, Peer, Reply
from proxy.identity import Identity
from proxy.pipeline import Pipeline
from proxy.policy import Policy, RuleSetting
from proxy.protocols.base import INLINE_BYTES
from proxy.protocols.contract import Contract
from proxy.protocols.v2 import V2
from proxy.reading import AnswerReader
from proxy.rules import Refusal
from proxy.state.base import LeaseNeeded
from proxy.telemetry.metrics import EndpointMetrics

FEATURES = 4
TARGET = "/v2/models/m/infer"
PEER = Peer("127.0.0.1")
CONTRACT = Contract.from_config(
    [{"name": "x", "datatype": "FP32", "shape": [-1, FEATURES]}],
)


class Scorer:
    """Flags a row whose first value is above 100; fails where it is told to."""

    features = FEATURES
    names = ("first",)

    def __init__(self):
        self.rows = []
        self.fault = None

    def score_row(self, rows):
        return float(rows[0, 0]), 0.5, self._look(rows).any()

    def row_p_values(self):
        return {"first": 0.5}

    def score(self, rows):
        flagged = self._look(rows)
        column = rows[:, :1].astype(np.float64)
        half = np.full((len(rows), 1), 0.5)
        return Verdicts(self.names, column[:, 0], half[:, 0], flagged, column, half)

    def _look(self, rows):
        if self.fault is not None:
            raise self.fault
        self.rows.append(rows.copy())
        return rows[:, 0] > 100


class Pool:
    """Takes what is permitted, and answers 200 or as it is told."""

    def __init__(self):
        self.sent = []
        self.fault = None
        self.complete = True
        self.status = 200
        self.broken = None
        self.body = b""

    crowded = False

    async def send(self, permit):
        assert type(permit) is Permit
        self.sent.append(permit.request)
        if self.fault is not None:
            raise self.fault
        return Answer(self)


class Answer:
    """What the model server says: ``pool.body`` as JSON."""

    bodiless = False
    buffered = 0
    headers = ((b"content-type", b"application/json"),)

    def __init__(self, pool):
        self.pool = pool
        self.status = pool.status
        self.complete = pool.complete

    def get(self, name):
        return dict(self.headers).get(name)

    def discard(self):
        self.pool.sent.append("discarded")

    async def gathered(self, limit):
        assert limit > 0
        if self.pool.broken is not None:
            raise self.pool.broken
        return self.pool.body


class Sample:
    """Takes every exchange that it is offered."""

    def __init__(self):
        self.offered = []
        self.left_out = Counter()

    def offer(self, identity, rows, response, now, decision):
        self.offered.append((identity.client, rows.copy(), response.tensors["y"].tolist(), now))


class Limiter:
    """Admits or refuses as it is told, once ``lacking`` leases were fetched."""

    def __init__(self):
        self.refusal = None
        self.taken = []
        self.lacking = 0
        self.fetched = 0

    def take(self, identity, rows, now):
        if self.lacking:
            raise LeaseNeeded((identity.client,), rows)
        self.taken.append((identity.client, rows))
        return self.refusal

    async def refill(self, needed):
        assert needed.keys == ("c" * 32,)
        await asyncio.sleep(0)
        self.fetched += 1
        self.lacking -= 1


class Clients:
    """Raises the alarms, the fault and the ban that it is told."""

    def __init__(self):
        self.alarms, self.seen = [], []
        self.fault = self.ban = None
        self.wait = 0

    def banned(self, client, now):
        assert now > 0
        return self.ban

    def observe(self, identity, rows, p_values, now):
        self.seen.append((identity.client, rows.copy(), p_values))
        if self.fault is not None:
            raise self.fault
        return self.alarms

    def pace(self, client, rows, now):
        assert rows > 0
        return self.wait

    def alarm(self, nats, scope=Scope.CLIENT):
        self.alarms = [Alarm(Family.PROBING, scope, nats, 14.0)]


class Audit:
    """Holds the records; ``disk`` is what ``released`` says."""

    def __init__(self):
        self.records = []
        self.full = False
        self.waits = False
        self.disk = True

    def append(self, record):
        self.records.append(record)
        return len(self.records)

    async def released(self, ticket):
        await asyncio.sleep(0)
        return self.disk


class Exchange:
    """One request, and the answer that it got."""

    upstream = None

    def __init__(self, pipeline, head, body):
        self.head, self.body, self.peer = head, body, PEER
        self.received, self.read = 1.0, 2.0
        self.status = 0
        self.answered = False
        self.answer = None
        self.lines = b""
        self.context = pipeline.open(head, PEER).context

    def reply(self, reply: Reply):
        assert not self.status, "answered twice"
        self.status, self.answer, self.answered = reply.status, reply, True

    async def relay(self, response, extra=b"", tap=None):
        assert not self.status, "answered twice"
        self.status, self.lines, self.answered = response.status, extra, True
        return 7

    def replace(self, response, lines, body, extra=b""):
        assert not self.status, "answered twice"
        self.status, self.lines, self.answered = response.status, lines + extra, True
        self.shaped = json.loads(body)
        return len(body)


class World:
    """A pipeline of one endpoint."""

    def __init__(
        self, executor, digests=False, values=False, judged=False, capture=False, **policy
    ):
        self.scorer, self.pool, self.limiter, self.audit = Scorer(), Pool(), Limiter(), Audit()
        self.clients = Clients()
        self.metrics = SimpleNamespace(unrouted=EndpointMetrics())
        codec = V2("/v2/models/m", CONTRACT, max_rows=100_000)
        self.binding = Binding("/v2/models/m", codec, self.pool)
        self.endpoint = Endpoint(
            name="m",
            policy=Policy(**policy),
            bindings=(self.binding,),
            limiter=self.limiter,
            clients=self.clients,
            metrics=EndpointMetrics(("first",)),
            body_limit=10 * 2**20,
            expanded_ratio=100,
            bundle=SimpleNamespace(
                scorer=self.scorer, digest="b" * 64, embedding=None, agreement=None
            ),
            capture=Sample() if capture else None,
        )
        if judged:
            judge = judges.scorer()
            self.endpoint.bundle.agreement = judge
            reader = AnswerReader(judges.CLASSES, 3, frozenset({"labels"}))
            self.endpoint.judge = reader, judge
        ticks = iter(range(3, 10**9))
        self.explanations = Explanations(9, wall=lambda: 1e9)
        self.pipeline = Pipeline(
            [self.endpoint],
            forward=["accept", "user-agent"],
            identify=lambda head, peer: Identity("c" * 32, "ip"),
            request_id=lambda: "id",
            metrics=self.metrics,
            audit=self.audit,
            clock=lambda: float(next(ticks)),
            wall=lambda: 1e9,
            executor=executor,
            configuration="d" * 64,
            explanations=self.explanations,
            digests=digests,
            values=values,
        )

    async def ask(self, body, target=TARGET, method="POST", **headers):
        given = {name.replace("_", "-").encode(): value for name, value in headers.items()}
        exchange = Exchange(self.pipeline, Head(method, target, given, True), body)
        await self.pipeline.handle(exchange)
        assert exchange.status, "an exchange ended without an answer"
        return exchange

    @property
    def record(self):
        assert len(self.audit.records) == 1, "one record per exchange"
        return self.audit.records[0]


@pytest.fixture
def executor():
    with ThreadPoolExecutor(1) as one:
        yield one


@pytest.fixture
def world(executor):
    return lambda **policy: World(executor, **policy)


def body_of(rows, **extra):
    rows = np.asarray(rows, np.float32).reshape(-1, FEATURES)
    tensor = {"name": "x", "datatype": "FP32", "shape": list(rows.shape), "data": rows.tolist()}
    return json.dumps({"inputs": [tensor], **extra}).encode()


HONEST = body_of([1.5, 2, 3, 4])
OUTLIER = body_of([200, 2, 3, 4])
SENT_ROWS = [[0.1, -2.5e-7, 3e30, 4], [5, 6, 7, 8]]


async def test_what_was_scored_is_what_is_forwarded(world):
    one = world()
    exchange = await one.ask(body_of(SENT_ROWS, id="7"), accept=b"a/b", cookie=b"secret")
    [request] = one.pool.sent
    document = json.loads(request.body)
    forwarded = np.array(document["inputs"][0]["data"], np.float64).astype("<f4")
    scored = hashlib.sha256(one.scorer.rows[0].tobytes()).hexdigest()
    assert hashlib.sha256(forwarded.tobytes()).hexdigest() == scored
    assert document["id"] == "7"
    assert (request.method, request.target) == (b"POST", TARGET.encode())
    assert request.headers.lower() == (
        b"content-type: application/json\r\naccept: a/b\r\nx-request-id: id\r\n"
    )
    assert exchange.status == 200
    assert exchange.lines == b"x-request-id: id\r\n"
    record = one.record
    assert (record.rows, record.status, record.response_bytes) == (2, 200, 7)
    assert record.client == "c" * 32
    assert record.received < record.read < record.decoded < record.admitted < record.scored
    assert record.scored < record.decided < record.answered < record.finished


async def test_the_audit_log_holds_digests_and_values_only_where_it_is_asked(world):
    plain, asked = world(), world(digests=True, values=True)
    for one in (plain, asked):
        await one.ask(body_of(SENT_ROWS))
        await one.ask(OUTLIER)
    assert [record.notes for record in plain.audit.records] == [{}, {}]
    passed, refused = asked.audit.records
    assert passed.notes["sha256"] == hashlib.sha256(asked.pool.sent[0].body).hexdigest()
    assert passed.notes["values"].tolist() == np.array(SENT_ROWS, np.float32).tolist()
    assert "sha256" not in refused.notes
    assert refused.notes["values"].tolist() == [[200, 2, 3, 4]]


async def test_an_outlier_is_refused_with_a_fixed_body_and_never_sent(world):
    one = world()
    exchange = await one.ask(OUTLIER)
    assert exchange.status == 403
    assert json.loads(exchange.answer.body) == {"error": "request refused"}
    assert (b"x-request-id", b"id") in exchange.answer.headers
    assert one.pool.sent == []
    assert one.record.decision.reasons[0].rule is rules.OUTLIER
    assert one.record.status == 403


async def test_one_bad_row_refuses_the_request_unless_a_fraction_is_allowed(world):
    rows = [[1, 2, 3, 4]] * 9 + [[200, 0, 0, 0]]
    strict, lenient = world(), world(block_fraction=0.1)
    assert (await strict.ask(body_of(rows))).status == 403
    assert (strict.record.flagged_rows, strict.record.worst_row) == (1, 9)
    assert (await lenient.ask(body_of(rows))).status == 200
    assert lenient.record.flagged_rows == 1


@pytest.mark.parametrize("body", [OUTLIER, b"{", b"", body_of([1, 2, 3, 4]) + b"x"])
async def test_monitor_mode_changes_nothing_and_says_what_it_would_have_done(world, body):
    one = world(mode=Mode.MONITOR)
    exchange = await one.ask(body, content_type=b"application/json")
    assert exchange.status == 200
    assert one.record.decision.would_block
    assert one.record.decision.action is Action.BLOCK
    [request] = one.pool.sent
    if one.record.rows:
        assert json.loads(request.body)["inputs"][0]["data"] == [200.0, 2.0, 3.0, 4.0]
    else:
        assert request.body == body, "what was not understood goes on as it came"
        assert b"content-type: application/json\r\n" in request.headers


async def test_enforce_refuses_what_it_cannot_read(world):
    one = world()
    exchange = await one.ask(b'{"inputs": [], "inputs": []}')
    assert exchange.status == 400
    assert "error" in json.loads(exchange.answer.body)
    assert one.pool.sent == []


async def test_a_limit_is_answered_with_its_retry_and_not_scored(world):
    one = world()
    one.limiter.refusal = Refusal(rules.CLIENT_RATE, "over", retry_after=17)
    exchange = await one.ask(HONEST)
    assert exchange.status == 429
    assert (b"retry-after", b"17") in exchange.answer.headers
    assert one.scorer.rows == []
    assert one.record.decision.enforced is Action.THROTTLE


@pytest.mark.parametrize("setting", [RuleSetting(off=True), RuleSetting(mode=Mode.MONITOR)])
async def test_a_limit_that_is_not_enforced_does_not_hide_an_outlier(world, setting):
    one = world(settings={rules.CLIENT_RATE.id: setting})
    one.limiter.refusal = Refusal(rules.CLIENT_RATE, "over", retry_after=17)
    assert (await one.ask(OUTLIER)).status == 403
    assert (await one.ask(HONEST)).status == 200


FAULTS = {
    "not finite": (ScoreFault("not finite"), rules.DETECTOR_FAULT),
    "exception": (ZeroDivisionError("bug"), rules.INTERNAL),
}


@pytest.mark.parametrize("name", list(FAULTS))
@pytest.mark.parametrize("failure_mode", list(FailureMode))
async def test_a_detectors_fault_follows_the_failure_mode(world, name, failure_mode):
    one = world(failure_mode=failure_mode)
    one.scorer.fault, rule = FAULTS[name]
    exchange = await one.ask(HONEST)
    assert one.record.fault == rule.id
    if failure_mode is FailureMode.DENY:
        assert exchange.status == 503
        assert one.pool.sent == []
    else:
        assert exchange.status == 200
        assert one.record.decision.would_block
        one.endpoint.metrics.fold()
        assert one.endpoint.metrics.failed_open == {rule.id: 1}


async def test_enforce_never_forwards_what_it_did_not_read(world):
    """Whatever is switched: only a fault that the failure mode tolerates passes uninspected."""
    switched = {rule: RuleSetting(off=True) for rule in rules.RULES}
    one = world(settings=switched)
    one.binding.codec = V2("/v2/models/m", CONTRACT, max_rows=2)
    for body in (body_of(np.ones((3, FEATURES))), b"{", b'{"inputs":[],"inputs":[]}'):
        assert (await one.ask(body)).status in (400, 413)
    assert one.pool.sent == []


async def test_what_cannot_be_read_costs_its_sender_a_row(world):
    one = world()
    assert (await one.ask(b"{")).status == 400
    assert one.limiter.taken == [("c" * 32, 1)]
    one.limiter.refusal = Refusal(rules.CLIENT_RATE, "over", retry_after=2)
    one.audit.records.clear()
    assert (await one.ask(b"{")).status == 400
    assert [reason.rule for reason in one.record.decision.reasons] == [
        rules.SYNTAX,
        rules.CLIENT_RATE,
    ]


async def test_the_inspections_that_may_wait_are_bounded(world, monkeypatch):
    monkeypatch.setattr("proxy.inspection.INSPECTIONS", 0)
    one = world()
    one.pipeline._requests.admits = lambda *_: True  # its head did not tell
    exchange = await one.ask(body_of(np.ones((20_000, FEATURES))))
    assert exchange.status == 503
    assert one.record.decision.reasons[0].rule is rules.BUSY
    assert (await one.ask(HONEST)).status == 200, "small requests go on"


async def test_a_wrong_method_is_told_the_right_one(world):
    one = world()
    head = Head("GET", TARGET, {}, True)
    with pytest.raises(Refusal) as refused:
        one.pipeline.open(head, PEER)
    reply = one.pipeline.refuse(refused.value, head, PEER, 1.0)
    assert (reply.status, dict(reply.headers)[b"allow"]) == (405, b"POST")


async def test_an_answer_that_nobody_takes_is_discarded(world):
    one = world()
    one.audit.waits = True

    async def leave(ticket):
        raise asyncio.CancelledError

    one.audit.released = leave
    exchange = Exchange(one.pipeline, Head("POST", TARGET, {}, True), HONEST)
    with pytest.raises(asyncio.CancelledError):
        await one.pipeline.handle(exchange)
    assert one.pool.sent[1:] == ["discarded"]


@pytest.mark.parametrize("failure_mode", list(FailureMode))
async def test_a_fault_while_encoding_follows_the_failure_mode(world, failure_mode, monkeypatch):
    def broken(self, request):
        raise ZeroDivisionError("bug")

    monkeypatch.setattr(V2, "encode_request", broken)
    one = world(failure_mode=failure_mode)
    exchange = await one.ask(HONEST)
    assert one.record.fault == rules.INTERNAL.id
    if failure_mode is FailureMode.DENY:
        assert (exchange.status, one.pool.sent) == (503, [])
    else:
        assert exchange.status == 200
        assert one.pool.sent[0].body == HONEST


async def test_a_tolerated_fault_does_not_excuse_a_limit(world):
    one = world(failure_mode=FailureMode.ALLOW)
    one.scorer.fault = ScoreFault("not finite")
    one.limiter.refusal = Refusal(rules.CLIENT_RATE, "over", retry_after=1)
    assert (await one.ask(HONEST)).status == 429


async def test_an_unknown_contract_is_a_fault(world):
    denied, tolerated = world(), world(failure_mode=FailureMode.ALLOW)
    for one in (denied, tolerated):
        one.binding.codec = one.binding.codec.with_contract(None)
    assert (await denied.ask(HONEST)).status == 503
    assert (await tolerated.ask(HONEST)).status == 200
    assert tolerated.pool.sent[0].body == HONEST
    assert tolerated.record.fault == rules.CONTRACT_UNKNOWN.id


async def test_a_fault_of_the_upstream_is_answered_and_recorded(world):
    one = world()
    one.pool.fault = Refusal(rules.UPSTREAM_TIMEOUT, "10.0.0.1 took too long")
    exchange = await one.ask(HONEST)
    assert exchange.status == 504
    assert b"10.0.0.1" not in exchange.answer.body
    assert one.record.decision.reasons[0].rule is rules.UPSTREAM_TIMEOUT


async def test_the_time_of_a_stream_is_not_the_firewalls(world):
    whole, streamed = world(), world()
    streamed.pool.complete = False
    for one in (whole, streamed):
        await one.ask(HONEST)
    clock_reads = 1.0
    assert streamed.record.answered == whole.record.answered + clock_reads
    assert streamed.record.finished - streamed.record.answered == clock_reads


async def test_a_defect_anywhere_is_answered_503(world):
    one = world(failure_mode=FailureMode.ALLOW)
    one.pool.fault = RuntimeError("a defect")
    exchange = await one.ask(HONEST)
    assert exchange.status == 503
    assert b"a defect" not in exchange.answer.body
    assert one.record.decision.reasons[0].rule is rules.INTERNAL


async def test_a_client_that_leaves_is_recorded(world):
    one = world()
    one.pool.fault = asyncio.CancelledError()
    exchange = Exchange(one.pipeline, Head("POST", TARGET, {}, True), HONEST)
    with pytest.raises(asyncio.CancelledError):
        await one.pipeline.handle(exchange)
    assert exchange.status == 0
    assert one.record.status == 0


async def test_large_and_compressed_bodies_are_inspected_in_a_thread(world, executor):
    import gzip
    import threading

    one = world()
    threads = []
    inner = one.scorer.score
    one.scorer.score = lambda rows: (threads.append(threading.current_thread()), inner(rows))[1]
    many = body_of(np.ones((20_000, FEATURES)))
    assert len(many) > INLINE_BYTES
    assert (await one.ask(many)).status == 200
    assert (await one.ask(gzip.compress(HONEST), content_encoding=b"gzip")).status == 200
    assert len(threads) == 2
    assert threading.main_thread() not in threads
    plain = one.pool.sent[1]
    assert json.loads(plain.body)["inputs"][0]["data"] == [1.5, 2.0, 3.0, 4.0]
    assert b"content-encoding" not in plain.headers.lower()
    assert (await one.ask(b"\x1f\x8b" + bytes(50), content_encoding=b"gzip")).status == 400


async def test_metadata_and_health_pass_without_being_scored_or_metered(world):
    one = world()
    for target in ("/v2/models/m", "/v2/models/m/ready", "/v2/health/ready", "/v2"):
        assert (await one.ask(b"", target, "GET")).status == 200
    assert one.limiter.taken == []
    assert [request.target.decode() for request in one.pool.sent] == [
        "/v2/models/m",
        "/v2/models/m/ready",
        "/v2/health/ready",
        "/v2",
    ]


async def test_no_answer_leaves_before_its_record_where_that_is_demanded(world):
    one = world()
    one.audit.waits = True
    exchange = await one.ask(HONEST)
    assert exchange.status == 200
    assert one.record.finished > one.record.answered
    one = world()
    one.audit.waits, one.audit.disk = True, False
    exchange = await one.ask(HONEST)
    assert exchange.status == 503
    assert one.pool.sent[1:] == ["discarded"]
    assert one.record.decision.reasons[0].rule is rules.AUDIT_FAULT
    one = world(failure_mode=FailureMode.ALLOW)
    one.audit.waits, one.audit.disk = True, False
    assert (await one.ask(HONEST)).status == 200
    assert one.record.fault == rules.AUDIT_FAULT.id


@pytest.mark.parametrize("failure_mode", list(FailureMode))
async def test_a_full_audit_queue_follows_the_failure_mode(world, failure_mode):
    one = world(failure_mode=failure_mode)
    one.audit.full = True
    denied = failure_mode is FailureMode.DENY
    assert (await one.ask(HONEST)).status == (503 if denied else 200)
    assert one.record.fault == rules.AUDIT_FAULT.id
    assert (await one.ask(OUTLIER)).status == (503 if denied else 403), (
        "what cannot be recorded is still inspected"
    )


async def test_a_trace_context_is_passed_on_only_if_it_is_valid(world):
    one = world()
    valid = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    await one.ask(HONEST, traceparent=valid, tracestate=b"a=1")
    await one.ask(HONEST, traceparent=b"00-zz", tracestate=b"a=1")
    first, second = one.pool.sent
    assert b"traceparent: " + valid + b"\r\ntracestate: a=1\r\n" in first.headers
    assert b"trace" not in second.headers


def test_what_never_became_an_exchange_is_counted_and_recorded(world):
    one = world()
    reply = one.pipeline.refuse(Refusal(rules.MALFORMED, "no"), None, PEER, 1.0)
    assert (reply.status, one.record.endpoint, one.record.client) == (400, "", "c" * 32)
    assert (b"x-request-id", b"id") in reply.headers
    one.metrics.unrouted.fold()
    assert one.metrics.unrouted.refusals == {(rules.MALFORMED.id, True): 1}
    one = world()
    head = Head("POST", TARGET, {}, True)
    reply = one.pipeline.refuse(Refusal(rules.BODY_TOO_LARGE), head, PEER, 1.0)
    assert (reply.status, one.record.endpoint, one.record.client) == (413, "m", "c" * 32)


# ---------------------------------------------------------------------------------------- patterns


def answer_of(*values):
    tensor = {"name": "y", "datatype": "FP32", "shape": [1, len(values)], "data": list(values)}
    return json.dumps({"model_name": "m", "outputs": [tensor]}).encode()


async def test_every_row_that_is_scored_reaches_the_patterns(world):
    one = world()
    await one.ask(body_of(SENT_ROWS))
    await one.ask(OUTLIER)  # what is refused as an outlier is a query all the same
    assert [len(rows) for _, rows, _ in one.clients.seen] == [2, 1]
    assert [list(p) for _, _, p in one.clients.seen] == [[0.5, 0.5], [0.5]]


async def test_what_a_limit_refuses_is_no_query(world):
    one = world()
    one.limiter.refusal = Refusal(rules.CLIENT_RATE, retry_after=1)
    assert (await one.ask(HONEST)).status == 429
    assert one.clients.seen == []


async def test_a_pattern_is_answered_silently_first(world):
    one = world()
    one.clients.alarm(14.5)
    one.pool.body = answer_of(0.26, 0.7)
    exchange = await one.ask(HONEST, accept_encoding=b"gzip")
    assert exchange.status == 200
    assert exchange.shaped["outputs"][0]["data"] == pytest.approx([0.3, 0.7])
    assert b"accept-encoding: identity" in one.pool.sent[0].headers
    record = one.record
    assert (record.decision.action, record.decision.enforced) == (Action.SHAPE, Action.SHAPE)
    assert record.decision.reasons[0].rule is rules.PROBING_CLIENT
    assert record.response_bytes > 0


@pytest.mark.parametrize(
    ("failure_mode", "status"), [(FailureMode.DENY, 502), (FailureMode.ALLOW, 200)]
)
async def test_an_answer_that_cannot_be_shaped_follows_the_failure_mode(
    world, failure_mode, status
):
    one = world(failure_mode=failure_mode)
    one.clients.alarm(14.5)
    one.pool.body = b"not JSON"
    exchange = await one.ask(HONEST)
    assert exchange.status == status
    assert one.record.fault == "BZ-135"
    assert ("discarded" in one.pool.sent) == (status == 502)


async def test_an_answer_that_broke_off_is_the_model_servers_fault(world):
    one = world(failure_mode=FailureMode.ALLOW)
    one.clients.alarm(14.5)
    one.pool.broken = Refusal(rules.UPSTREAM_INVALID, "closed in the middle")
    exchange = await one.ask(HONEST)
    assert exchange.status == 502
    assert one.record.decision.reasons[0].rule is rules.UPSTREAM_INVALID


@pytest.mark.parametrize(
    ("failure_mode", "status"), [(FailureMode.DENY, 502), (FailureMode.ALLOW, 200)]
)
async def test_an_answer_too_large_to_be_shaped_follows_the_failure_mode(
    world, failure_mode, status
):
    one = world(failure_mode=failure_mode)
    one.clients.alarm(14.5)
    one.pool.body, one.pool.complete = None, False
    exchange = await one.ask(HONEST)
    assert exchange.status == status
    assert one.record.fault == "BZ-135"
    assert not one.record.shaped


async def test_a_throttled_client_reads_the_words_of_an_ordinary_limit(world):
    one = world()
    one.clients.alarm(22.0)
    one.clients.wait = 9
    exchange = await one.ask(HONEST)
    assert exchange.status == 429
    assert (b"retry-after", b"9") in exchange.answer.headers
    assert json.loads(exchange.answer.body) == {"error": "rate limit exceeded"}
    assert one.record.decision.enforced is Action.THROTTLE
    assert one.record.decision.reasons[0].rule is rules.PROBING_CLIENT
    assert one.pool.sent == []


async def test_a_throttled_client_is_shaped_when_its_turn_comes(world):
    one = world()
    one.clients.alarm(22.0)
    one.pool.body = answer_of(0.26, 0.7)
    assert (await one.ask(HONEST)).status == 200
    assert one.record.decision.enforced is Action.SHAPE


async def test_strong_evidence_blocks(world):
    one = world()
    one.clients.alarm(29.0)
    exchange = await one.ask(HONEST)
    assert exchange.status == 403
    assert json.loads(exchange.answer.body) == {"error": "request refused"}
    assert "29.0 of 14.0 nats" in one.record.decision.reasons[0].detail


async def test_monitor_mode_only_tells_of_a_pattern(world):
    one = world(mode=Mode.MONITOR)
    one.clients.alarm(29.0)
    exchange = await one.ask(HONEST, accept_encoding=b"gzip")
    assert exchange.status == 200
    assert one.record.decision.would_block
    assert b"identity" not in one.pool.sent[0].headers


async def test_what_all_clients_do_together_refuses_nobody(world):
    one = world()
    one.clients.alarm(500.0, Scope.ENDPOINT)
    assert (await one.ask(HONEST)).status == 200
    assert one.record.decision.reasons[0].rule is rules.PROBING_ENDPOINT
    assert not one.record.decision.would_block


@pytest.mark.parametrize(
    ("failure_mode", "status"), [(FailureMode.DENY, 503), (FailureMode.ALLOW, 200)]
)
async def test_a_pattern_that_cannot_be_told_follows_the_failure_mode(world, failure_mode, status):
    one = world(failure_mode=failure_mode)
    one.clients.fault = ScoreFault("not finite")
    assert (await one.ask(HONEST)).status == status
    assert one.record.fault == "BZ-590"


@pytest.mark.parametrize("body", [HONEST, b"{"])
async def test_a_banned_client_is_refused_before_its_request_is_read(world, body):
    one = world()
    one.clients.ban = 60
    exchange = await one.ask(body)
    assert exchange.status == 403
    assert one.record.decision.reasons[0].rule is rules.BANNED
    assert one.record.rows == 0 and one.limiter.taken == []


@pytest.mark.parametrize("rows", [1, 9000])
async def test_quota_that_is_elsewhere_is_fetched_once_it_is_needed(world, rows):
    one = world()
    one.limiter.lacking = 2
    exchange = await one.ask(body_of(np.ones((rows, FEATURES))))
    assert exchange.status == 200
    assert one.limiter.fetched == 2
    assert one.limiter.taken == [("c" * 32, rows)]
    assert len(one.clients.seen) == len(one.scorer.rows) == 1
    assert one.record.rows == rows


async def test_what_cannot_be_read_costs_its_sender_a_row_that_is_elsewhere(world):
    one = world()
    one.limiter.lacking = 1
    assert (await one.ask(b"{")).status == 400
    assert one.limiter.taken == [("c" * 32, 1)]


async def test_a_lease_that_others_always_take_ends_the_wait(world):
    one = world()
    one.limiter.lacking = 10**6
    exchange = await one.ask(HONEST)
    assert exchange.status == 503
    assert one.record.decision.reasons[0].rule is rules.BUSY
    assert one.limiter.fetched < 100


def label_of(*labels):
    output = {"name": "y", "datatype": "INT64", "shape": [len(labels)], "data": labels}
    return json.dumps({"outputs": [output]}).encode()


async def test_an_answer_that_goes_with_its_input_is_relayed_as_it_came(world):
    one = world(judged=True)
    one.pool.body = label_of(1, 2)
    exchange = await one.ask(body_of([[1, 0, 0, 0], [2, 0, 0, 0]]), accept_encoding=b"gzip")
    assert exchange.status == 200 and not hasattr(exchange, "shaped")
    assert b"accept-encoding: identity" in one.pool.sent[0].headers
    record = one.record
    assert record.answer_score == 2.0 and record.answer_p_value < 1
    assert record.decided < record.answered < record.judged < record.finished
    assert len(one.explanations) == 0


@pytest.mark.parametrize("rows", [1, 9000])
async def test_an_answer_that_does_not_is_refused_and_discarded(world, rows):
    one = world(judged=True)
    one.pool.body = label_of(*[1] * rows)
    exchange = await one.ask(body_of([[90, 0, 0, 0]] * rows, outputs=[]))
    assert exchange.status == 403
    assert json.loads(exchange.answer.body) == {"error": "request refused"}
    assert one.pool.sent[1:] == ["discarded"]
    record = one.record
    assert [reason.rule for reason in record.decision.reasons] == [rules.DISAGREEMENT]
    assert (record.status, record.flagged_rows) == (403, rows)
    assert one.explanations.find("id").doubted.row.tolist() == [[90, 0, 0, 0]]


RANKED = [{"name": "y", "parameters": {"classification": 1}}]


@pytest.mark.parametrize("failure_mode", list(FailureMode))
async def test_where_answers_are_judged_nobody_asks_for_rankings(world, failure_mode):
    one, plain = world(judged=True, failure_mode=failure_mode), world()
    one.pool.body = label_of(1)
    others = {"id": "7", "outputs": [{"name": "z", "parameters": {"binary_data": False}}, *RANKED]}
    for said in ({"outputs": RANKED}, others):
        assert (await one.ask(body_of([1, 0, 0, 0], **said))).status == 400
        assert (await plain.ask(body_of([1, 0, 0, 0], **said))).status == 200
    assert one.pool.sent == [] and one.scorer.rows == []
    assert [r.decision.reasons[0].rule for r in one.audit.records] == [rules.TENSOR_NAME] * 2
    assert (await one.ask(body_of([1, 0, 0, 0], outputs=[{"name": "y"}]))).status == 200


async def test_in_monitor_mode_a_ranking_is_told_once(world):
    one = world(judged=True, mode=Mode.MONITOR)
    one.pool.body = label_of(1).replace(b"INT64", b"BYTES").replace(b"[1]}", b'["7:0"]}')
    assert b"7:0" in one.pool.body
    assert (await one.ask(body_of([1, 0, 0, 0], outputs=RANKED))).status == 200
    assert [reason.rule for reason in one.record.decision.reasons] == [rules.TENSOR_NAME]
    assert len(one.scorer.rows) == 1, "its rows are scored all the same"


async def test_a_large_answer_is_held_until_its_client_has_taken_it(world, monkeypatch):
    one = world(judged=True)
    one.pool.body = label_of(1) + b" " * 40_000
    monkeypatch.setattr("proxy.answer.HELD_BYTES", len(one.pool.body))
    body, written, taken = body_of([1, 0, 0, 0]), asyncio.Event(), asyncio.Event()

    def drained(exchange):
        written.set()
        return taken.wait()

    monkeypatch.setattr(Exchange, "drained", drained, raising=False)
    first = asyncio.create_task(one.ask(body))
    await asyncio.wait_for(written.wait(), 5)
    assert not first.done(), "its client takes its time"
    assert one.record.finished and one.record.status == 200
    assert (await one.ask(body)).status == 503
    taken.set()
    assert (await first).context.response is None
    assert (await one.ask(body)).status == 200
    taken.clear()
    written.clear()
    second = asyncio.create_task(one.ask(body))
    await asyncio.wait_for(written.wait(), 5)
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    taken.set()
    assert (await one.ask(body)).status == 200, "a client that left holds nothing"


@pytest.mark.parametrize("status", [200, 206, 302])
async def test_whatever_is_no_error_is_judged(world, status):
    one = world(judged=True)
    one.pool.status, one.pool.body = status, label_of(1)
    assert (await one.ask(body_of([90, 0, 0, 0]))).status == 403
    assert (await one.ask(body_of([1, 0, 0, 0]))).status == status


async def test_an_error_of_the_model_server_is_not_judged(world):
    one = world(judged=True, capture=True)
    one.pool.status, one.pool.body = 500, b"why"
    exchange = await one.ask(HONEST)
    assert exchange.status == 500
    assert one.record.answer_score is None and not one.record.decision.reasons
    assert one.endpoint.capture.offered == []


async def test_a_refusal_after_the_answer_waits_for_its_record_too(world):
    one = world(judged=True)
    one.audit.waits = True
    one.pool.body = label_of(1)
    assert (await one.ask(body_of([90, 0, 0, 0]))).status == 403
    assert one.record.decision.enforced is Action.BLOCK
    one.audit.records.clear()
    assert (await one.ask(body_of([1, 0, 0, 0]))).status == 200
    assert one.record.answer_score is not None, "it was judged before it was recorded"


async def test_without_need_no_answer_is_read_and_no_row_is_kept(world):
    one = world()
    one.pool.broken = AssertionError("it was read")
    exchange = await one.ask(HONEST, accept_encoding=b"gzip")
    assert exchange.status == 200
    assert exchange.context.request is None
    assert b"identity" not in one.pool.sent[0].headers


async def test_what_passes_is_offered_to_the_sample(world):
    one = world(judged=True, capture=True)
    one.pool.body = label_of(1)
    row = np.float32([[1, 2, 3, 4]])
    assert (await one.ask(body_of(row))).status == 200
    [(client, rows, labels, now)] = one.endpoint.capture.offered
    assert (client, rows.tolist(), labels, now) == ("c" * 32, row.tolist(), [1], 1e9)
    assert (await one.ask(body_of([90, 0, 0, 0]))).status == 403
    assert (await one.ask(OUTLIER)).status == 403
    one.clients.alarm(14.5)
    assert (await one.ask(body_of(row))).status == 200  # shaped
    assert len(one.endpoint.capture.offered) == 1


async def test_monitor_mode_offers_what_it_would_have_refused_as_such(world):
    one = world(judged=True, capture=True, mode=Mode.MONITOR)
    one.pool.body = label_of(1)
    assert (await one.ask(body_of([90, 0, 0, 0]))).status == 200
    assert len(one.endpoint.capture.offered) == 1


async def test_an_answer_that_a_sample_cannot_read_passes(world):
    one = world(capture=True)
    one.pool.body = b"not JSON"
    exchange = await one.ask(HONEST)
    assert exchange.status == 200
    assert one.endpoint.capture.offered == [] and not one.record.decision.reasons


async def test_a_sample_that_fails_changes_nothing_that_is_told_of_the_exchange(world):
    one = world(capture=True)
    one.pool.body = label_of(1)
    one.endpoint.capture.offer = None  # a call raises TypeError
    assert (await one.ask(HONEST)).status == 200
    assert one.record.decision.enforced is Action.ALLOW and not one.record.decision.reasons
    assert one.endpoint.capture.left_out == {"faults": 1}


async def test_rows_are_judged_as_the_embedding_makes_them(world):
    one = world(judged=True)
    one.endpoint.bundle.embedding = SimpleNamespace(embed=lambda rows: rows - np.float32(50))
    one.pool.body = label_of(1)
    assert (await one.ask(body_of([51, 50, 50, 50]))).status == 200
    assert one.scorer.rows[-1].tolist() == [[1, 0, 0, 0]]
    assert one.clients.seen[-1][1].tolist() == [[51, 50, 50, 50]], "patterns see the wire's"
    assert (await one.ask(body_of([1, 0, 0, 0]))).status == 403


async def test_who_leaves_first_was_answered_nothing(world):
    one = world()
    one.audit.waits = True

    async def leave(ticket):
        raise asyncio.CancelledError

    one.audit.released = leave
    exchange = Exchange(one.pipeline, Head("POST", TARGET, {}, True), HONEST)
    with pytest.raises(asyncio.CancelledError):
        await one.pipeline.handle(exchange)
    assert one.record.status == 0


@pytest.mark.parametrize(
    ("accept", "reads", "mode", "passed"),
    [
        (b"application/json", True, "enforce", True),
        (b"Application/JSON ", True, "enforce", True),
        (b"*/*", True, "enforce", True),
        (b"application/x-npz", True, "enforce", False),
        (b"application/json, application/x-npz", True, "enforce", False),
        (b"application/x-npz", True, "monitor", True),
        (b"application/x-npz", False, "enforce", True),
    ],
)
async def test_no_client_may_choose_an_answer_that_cannot_be_read(
    world, accept, reads, mode, passed
):
    one = world(judged=reads, mode=Mode(mode))
    one.pool.body = label_of(1)
    await one.ask(HONEST, accept=accept)
    assert (b"accept: " + accept in one.pool.sent[0].headers) is passed
