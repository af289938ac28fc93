"""An answer on its way back: understood and judged before a byte of it is sent, or not sent."""

import asyncio
import gzip
import json
import zlib
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from judges import CLASSES, Distance, scorer

from detectors.scorer import ScoreFault
from proxy import rules
from proxy.answer import AnswerInspection, understood
from proxy.decision import Action, FailureMode, Mode, Permit, Reason
from proxy.endpoint import Binding, Endpoint
from proxy.forwarding import Forwarding
from proxy.http.messages import Head
from proxy.http.response import Response
from proxy.identity import Identity
from proxy.policy import Exclusion, Policy, RuleSetting
from proxy.protocols.base import Call, Route
from proxy.protocols.contract import Contract
from proxy.protocols.v2 import V2
from proxy.reading import AnswerReader
from proxy.rules import UPSTREAM_INVALID, Refusal
from proxy.second_opinion import SecondOpinions
from proxy.telemetry.metrics import EndpointMetrics
from proxy.telemetry.record import Record
from proxy.visit import Scored, Visit

JSON = (b"content-type", b"application/json")
SCORES = [[0.123, 0.877], [0.502, 0.498]]
CONTRACT = Contract.from_config([{"name": "x", "datatype": "FP32", "shape": [-1, 4]}])
ROUTE = Route(Call.INFER, "POST", b"/v2/models/m/infer", "m")
HEAD = Head("POST", "/v2/models/m/infer", {b"accept": b"a/b", b"cookie": b"c"}, True)
CODEC = V2("/v2/models/m", Contract())


def document(labels, **more):
    output = {"name": "y", "datatype": "INT64", "shape": [len(labels)], "data": list(labels)}
    return json.dumps({"model_name": "m", "outputs": [output]} | more).encode()


def scores(rows=SCORES):
    rows = np.array(rows)
    output = {"name": "y", "datatype": "FP64", "shape": list(rows.shape), "data": rows.tolist()}
    label = {"name": "label", "datatype": "INT64", "shape": [len(rows)], "data": [7] * len(rows)}
    return json.dumps({"model_name": "m", "id": "i", "outputs": [output, label]}).encode()


def response_of(body, *headers, status=200):
    response = Response(None)
    response.status = status
    response.headers = list(headers)
    response.bodiless = status in {204, 304}
    if body:
        response.add(body)
    response.end()
    return response


class Connection:
    """To a model server that says no more."""

    def flow(self):
        return

    def abandon(self):
        return


class Threads(ThreadPoolExecutor):
    """Counts what was put into a thread."""

    calls = 0

    def submit(self, *arguments, **keywords):
        self.calls += 1
        return super().submit(*arguments, **keywords)


class Pool:
    """The model server, asked again: says ``answers`` in turn."""

    def __init__(self):
        self.sent = []
        self.answers = []

    crowded = False

    async def send(self, permit):
        assert type(permit) is Permit
        self.sent.append(permit.request)
        await asyncio.sleep(0)
        said = self.answers.pop(0)
        if isinstance(said, BaseException):
            raise said
        return said() if callable(said) else said

    def asked(self):
        """The rows of every question."""
        documents = [json.loads(request.body) for request in self.sent]
        return [
            np.reshape(document["inputs"][0]["data"], document["inputs"][0]["shape"]).tolist()
            for document in documents
        ]


class Rig:
    """The way back of one endpoint whose model says a label for rows of four features."""

    def __init__(
        self, executor, *, judge=None, ask=False, contract=CONTRACT, seconds=60.0, shaped=False,
        values=False, **policy,
    ):  # fmt: skip
        self.pool = Pool()
        self.scorer = judge or scorer(opinions=ask)
        opinions = None
        if ask:
            opinions = SecondOpinions(self.scorer, share=1.0, seconds=seconds, random=np.zeros)
            opinions.budget.earn(1000)
        self.binding = Binding(
            "/v2/models/m", V2("/v2/models/m", contract, max_rows=8192), self.pool
        )
        self.endpoint = Endpoint(
            name="m",
            policy=Policy(**policy),
            bindings=(self.binding,),
            limiter=None,
            clients=None,
            metrics=EndpointMetrics(),
            body_limit=2**20,
            expanded_ratio=20,
            bundle=SimpleNamespace(agreement=self.scorer),
            judge=(AnswerReader(CLASSES, 3, frozenset({"labels"})), self.scorer),
            opinions=opinions,
            always_shaped=shaped,
        )
        ticks = iter(range(10, 10**9))
        self.executor = executor
        self.inspection = AnswerInspection(
            Forwarding(["accept", "accept-encoding"]),
            clock=lambda: float(next(ticks)),
            wall=lambda: 1e9,
            executor=executor,
            values=values,
        )

    def visit(self, firsts, *, merged=None, flagged=(), findings=(), judged=True, **said):
        """An exchange whose rows have these first values, on its way back."""
        rows = np.zeros((len(firsts), 4), np.float32)
        rows[:, 0] = firsts
        tensor = {"name": "x", "datatype": "FP32", "shape": list(rows.shape)}
        body = json.dumps({"id": "7", "inputs": [{**tensor, "data": rows.tolist()}], **said})
        request = self.binding.codec.decode_request(HEAD, body.encode(), ROUTE)
        record = Record("id", 1.0, 2.0, client="c" * 32, rows=len(rows))
        client = Identity("c" * 32, "ip")
        visit = Visit(self.endpoint, self.binding, ROUTE, client, record, request=request)
        visit.light = visit.reads = True
        marks = np.isin(np.arange(len(rows)), flagged)
        if judged:
            given = np.zeros(len(rows)) if merged is None else np.array(merged, float)
            visit.scored = Scored(request.rows, given, marks)
            record.flagged_rows = int(marks.sum())
        visit.refuses(list(findings), 1e9)
        return visit

    async def inspect(self, visit, response):
        return await self.inspection.inspect(visit, HEAD, response)


@pytest.fixture
def executor():
    with Threads(2) as one:
        yield one


@pytest.fixture
def rig(executor):
    return lambda **how: Rig(executor, **how)


def found(visit):
    return [reason.rule.id for reason in visit.record.decision.reasons]


async def test_an_answer_that_agrees_goes_as_it_came(rig):
    one = rig()
    visit, response = one.visit([1, 2]), response_of(document([1, 2]), JSON)
    assert await one.inspect(visit, response) is None
    record = visit.record
    assert record.decision.enforced is Action.ALLOW and not record.decision.reasons
    assert (record.answer_score, record.answer_row, record.answer_label) == (0.0, 0, "dog")
    assert record.answer_signals == {"distance": 1.0}
    assert record.answered < record.judged
    assert record.answer_flagged_rows == record.flagged_rows == record.reconsidered == 0
    assert one.executor.calls == 0
    assert response.take() == document([1, 2])


async def test_a_row_that_disagrees_refuses_the_answer(rig):
    one = rig()
    visit = one.visit([1, 30])
    assert await one.inspect(visit, response_of(document([1, 2]), JSON)) is None
    record = visit.record
    assert visit.refused and found(visit) == ["BZ-400"]
    assert (record.answer_row, record.answer_label, record.answer_flagged_rows) == (1, "eel", 1)
    assert record.answer_score == 28.0
    assert record.answer_p_value < 0.001
    assert record.flagged_rows == 1
    assert "1 of 2 rows" in record.decision.reasons[0].detail


async def test_a_row_counts_once_where_both_steps_flag_it(rig):
    one = rig(block_fraction=0.9)
    visit = one.visit([30, 1, 2], merged=[50, 0, 50], flagged=[0, 2])
    await one.inspect(visit, response_of(document([1, 1, 2]), JSON))
    assert visit.record.flagged_rows == 2
    assert visit.record.answer_flagged_rows == 2
    assert not visit.refused, "two of three are no more than nine tenths"


@pytest.mark.parametrize(("fraction", "refused"), [(0.0, True), (0.5, False), (0.25, True)])
async def test_the_block_fraction_holds_for_answers_too(rig, fraction, refused):
    one = rig(block_fraction=fraction)
    visit = one.visit([30, 30, 1, 1])
    await one.inspect(visit, response_of(document([1, 1, 1, 1]), JSON))
    assert visit.refused is refused


@pytest.mark.parametrize("name", ["monitor", "allow", "off", "excluded", "rule in monitor"])
async def test_a_disagreement_that_is_not_enforced_is_recorded(rig, name):
    settings = {
        "off": RuleSetting(off=True),
        "excluded": RuleSetting(exclusions=(Exclusion("c" * 32, 2e9),)),
        "rule in monitor": RuleSetting(mode=Mode.MONITOR),
    }
    one = rig(
        mode=Mode.MONITOR if name == "monitor" else Mode.ENFORCE,
        on_disagreement=Action.ALLOW if name == "allow" else Action.BLOCK,
        settings={"BZ-400": settings[name]} if name in settings else {},
    )
    visit = one.visit([30])
    assert await one.inspect(visit, response_of(document([1]), JSON)) is None
    assert not visit.refused
    assert visit.record.answer_flagged_rows == 1
    assert found(visit) == ([] if name == "off" else ["BZ-400"])
    assert visit.record.decision.would_block is (name not in {"off", "allow"})


async def test_a_disagreement_may_be_answered_coarsely(rig):
    one = rig(on_disagreement=Action.SHAPE)
    visit = one.visit([30])
    lines, body = await one.inspect(visit, response_of(document([1]), JSON))
    assert json.loads(body)["outputs"][0]["data"] == [1]
    assert visit.record.shaped and visit.record.decision.enforced is Action.SHAPE
    assert lines == b"Content-Type: application/json\r\n"


OUTLIER = Reason(rules.OUTLIER, "1 of 2")


@pytest.mark.parametrize("disagrees", [False, True])
async def test_an_outlier_that_was_let_pass_is_judged_by_its_answer_alone(rig, disagrees):
    one = rig(on_outlier=Action.ALLOW)
    visit = one.visit([30 if disagrees else 1, 1], merged=[60, 0], flagged=[0], findings=[OUTLIER])
    await one.inspect(visit, response_of(document([1, 1]), JSON))
    assert visit.refused is disagrees
    assert found(visit) == (["BZ-400", "BZ-300"] if disagrees else ["BZ-300"])
    assert visit.record.flagged_rows == 1


async def test_what_was_found_on_the_way_in_still_counts(rig):
    one = rig()
    pattern = Reason(rules.PROBING_CLIENT, action=Action.SHAPE)
    visit = one.visit([30], findings=[pattern])
    assert await one.inspect(visit, response_of(document([1]), JSON)) is None
    assert visit.refused and found(visit) == ["BZ-400", "BZ-500"]
    visit = one.visit([1], findings=[pattern])
    assert await one.inspect(visit, response_of(document([1]), JSON)) is not None
    assert found(visit) == ["BZ-500"]


UNFIT = {
    "nothing": (b"",),
    "no JSON": (b"0.123", JSON),
    "NaN": (scores().replace(b"0.123", b"NaN"), JSON),
    "another type": (document([1]), (b"content-type", b"text/html")),
    "an unknown datatype": (document([1]).replace(b"INT64", b"BF16"), JSON),
    "brotli": (document([1]), (b"content-encoding", b"br")),
    "two codings": (gzip.compress(document([1])), (b"content-encoding", b"gzip, gzip")),
    "coded twice": (
        gzip.compress(gzip.compress(document([1]))),
        (b"content-encoding", b"gzip"),
        (b"content-encoding", b"gzip"),
    ),
    "a lying coding": (document([1]), (b"content-encoding", b"gzip")),
    "a truncated coding": (gzip.compress(document([1]))[:-9], (b"content-encoding", b"gzip")),
    "a bomb": (gzip.compress(document([1]) + b" " * 500_000), (b"content-encoding", b"gzip")),
    "a lying length": (document([1]), (b"inference-header-content-length", b"10")),
    "truncated": (document([1])[:-3], JSON),
    "something behind": (document([1]) + b"{}", JSON),
}
NEEDLESS = {
    "other rows": document([1, 1]),
    "an unknown class": document([3]),
    "no label": scores([[0.5, 0.5]]).replace(b'"INT64"', b'"FP32"'),
    "an error in a 200": b'{"error": "out of memory"}',
    "no outputs": b'{"outputs": []}',
}


@pytest.mark.parametrize("failure_mode", list(FailureMode))
@pytest.mark.parametrize("name", [*UNFIT, *NEEDLESS])
async def test_an_answer_that_cannot_be_judged_follows_the_failure_mode(rig, name, failure_mode):
    one = rig(failure_mode=failure_mode)
    body, *headers = UNFIT.get(name) or (NEEDLESS[name], JSON)
    visit, response = one.visit([1]), response_of(body, *headers)
    assert await one.inspect(visit, response) is None
    assert visit.refused is (failure_mode is FailureMode.DENY)
    assert found(visit) == ["BZ-490"] and visit.record.fault == "BZ-490"
    assert visit.record.answer_score is None
    assert response.take() == body, "a failure mode that lets it through gets it as it came"


@pytest.mark.parametrize("failure_mode", list(FailureMode))
@pytest.mark.parametrize("name", UNFIT)
async def test_an_answer_that_cannot_be_shaped_follows_the_failure_mode(rig, name, failure_mode):
    one = rig(shaped=True, failure_mode=failure_mode)
    body, *headers = UNFIT[name]
    visit = one.visit([1], judged=False)
    assert await one.inspect(visit, response_of(body, *headers)) is None
    assert visit.refused is (failure_mode is FailureMode.DENY)
    assert found(visit) == ["BZ-135"]
    assert not visit.record.shaped


@given(
    st.one_of(
        st.binary(max_size=64),
        st.tuples(st.integers(0, 90), st.integers(0, 3), st.binary(max_size=3)),
    ),
    st.sampled_from([b"application/json", b"application/octet-stream", b"text/plain"]),
    st.none() | st.integers(0, 99),
    st.booleans(),
)
def test_whatever_comes_is_judged_or_a_fault(said, kind, length, shaped):
    if isinstance(said, tuple):
        at, gone, new = said
        body = document([1])
        said = body[:at] + new + body[at + gone :]
    headers = [(b"content-type", kind)]
    if length is not None:
        headers.append((b"inference-header-content-length", b"%d" % length))
    one = Rig(None, shaped=shaped)
    visit = one.visit([1])
    inspecting = one.inspect(visit, response_of(said, *headers))
    with pytest.raises(StopIteration) as ended:
        inspecting.send(None)
    if visit.record.answer_score is None:
        assert visit.refused and found(visit)[0] == "BZ-490"
        assert ended.value.value is None
    else:
        (answer,) = visit.response.tensors.values()  # whatever its name became
        assert visit.record.answer_score == abs(1 - int(answer[0]))
        assert (ended.value.value is not None) is shaped


SAID = {
    "outputs": {"outputs": [{"name": "z"}]},
    "parameters": {"parameters": {"binary_data_output": True}},
}


@pytest.mark.parametrize("failure_mode", list(FailureMode))
@pytest.mark.parametrize("name", SAID)
async def test_no_client_chooses_not_to_be_judged(rig, name, failure_mode):
    one = rig(failure_mode=failure_mode)
    visit = one.visit([30], **SAID[name])
    other = scores([[0.5] * 9]).replace(b'"shape": [1]', b'"shape": [1, 1, 1, 0]')
    other = other.replace(b'"data": [7]', b'"data": []')
    assert await one.inspect(visit, response_of(other, JSON)) is None
    assert visit.refused and found(visit) == ["BZ-200"]
    assert not visit.record.fault
    assert "'y'" in visit.record.notes["missing"]


@pytest.mark.parametrize("failure_mode", list(FailureMode))
async def test_no_client_chooses_a_protocol_in_which_it_is_not_judged(rig, failure_mode):
    one = rig(failure_mode=failure_mode)
    one.endpoint.bindings = (one.binding, Binding("/v1/models/m", None, one.pool))
    visit = one.visit([1])
    await one.inspect(visit, response_of(NEEDLESS["other rows"], JSON))
    assert visit.refused and found(visit) == ["BZ-200"] and not visit.record.fault
    assert "'y'" in visit.record.notes["missing"]
    assert found(await judged(one, document([1]))) == []


ASKED = {"outputs": [{"name": "y"}, {"name": "z"}]}


@pytest.mark.parametrize("failure_mode", list(FailureMode))
@pytest.mark.parametrize("name", [*UNFIT, *NEEDLESS])
async def test_no_client_chooses_an_answer_that_cannot_be_judged(rig, name, failure_mode):
    one = rig(failure_mode=failure_mode)
    body, *headers = UNFIT.get(name) or (NEEDLESS[name], JSON)
    visit = one.visit([1], **ASKED)
    assert await one.inspect(visit, response_of(body, *headers)) is None
    assert visit.refused and found(visit) == ["BZ-200"] and not visit.record.fault


@pytest.mark.parametrize("name", UNFIT)
async def test_no_client_chooses_an_answer_that_cannot_be_shaped(rig, name):
    one = rig(shaped=True, failure_mode=FailureMode.ALLOW)
    body, *headers = UNFIT[name]
    visit = one.visit([1], judged=False, **ASKED)
    assert await one.inspect(visit, response_of(body, *headers)) is None
    assert visit.refused and found(visit) == ["BZ-200"]


async def test_how_an_answer_is_to_be_written_excuses_no_model(rig):
    visit = rig().visit([1], **SAID["parameters"])
    await rig().inspect(visit, response_of(NEEDLESS["an unknown class"], JSON))
    assert found(visit) == ["BZ-490"]


async def test_outputs_that_were_chosen_are_judged_only_where_it_is_clear_which(rig):
    one = rig()
    visit = one.visit([1], **ASKED)
    await one.inspect(visit, response_of(document([1]), JSON))
    assert not visit.refused, "what goes out is what was judged"
    both = json.loads(document([1]))
    both["outputs"].append({**both["outputs"][0], "name": "z", "shape": [1, 2], "data": [1, 2]})
    said = json.dumps(both).encode()
    assert found(await judged(one, said)) == []
    assert found(await judged(one, said, **ASKED)) == ["BZ-200"]
    declared = [{"name": name, "datatype": "INT64", "shape": [-1]} for name in "yz"]
    contract = Contract.from_config(
        [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}], outputs=declared
    )
    one = rig(contract=contract)
    assert found(await judged(one, said, **ASKED)) == [], "all there are"
    assert found(await judged(one, document([1]), outputs=[{"name": "y"}])) == [], "it alone"


async def judged(one, body, **said):
    visit = one.visit([1], **said)
    await one.inspect(visit, response_of(body, JSON))
    return visit


OPERATORS_WORD = {
    "block": ({}, True),
    "shape": ({"on_disagreement": Action.SHAPE}, True),
    "fraction": ({"block_fraction": 0.5}, True),
    "allow": ({"on_disagreement": Action.ALLOW}, False),
    "off": ({"settings": {"BZ-400": RuleSetting(off=True)}}, False),
}


@pytest.mark.parametrize("name", OPERATORS_WORD)
async def test_a_row_far_out_does_not_hide_those_beside_it(rig, name):
    """On it the model may break, and the answers to all rows with it."""
    policy, refused = OPERATORS_WORD[name]
    one = rig(failure_mode=FailureMode.ALLOW, **policy)
    broken = document([1, 1]).replace(b"[1, 1]", b"[NaN, 1]")
    visit = one.visit([1, 3e38], flagged=[1])
    await one.inspect(visit, response_of(broken, JSON))
    assert visit.refused is refused
    assert set(found(visit)) == {"BZ-490"} | ({"BZ-400"} if name != "off" else set())
    assert visit.record.fault == "BZ-490"
    visit = one.visit([1, 1])
    await one.inspect(visit, response_of(broken, JSON))
    assert not visit.refused and found(visit) == ["BZ-490"], "without one it is the model's fault"


async def test_a_detector_that_fails_on_a_row_far_out_does_not_hide_the_others(rig):
    detector = Distance(fault=ScoreFault("not finite"))
    one = rig(judge=scorer(detector=detector), failure_mode=FailureMode.ALLOW)
    visit = one.visit([1, 3e38], flagged=[1])
    await one.inspect(visit, response_of(document([1, 1]), JSON))
    assert visit.refused and found(visit) == ["BZ-400", "BZ-490"]


@pytest.mark.parametrize("name", [*UNFIT, *NEEDLESS])
async def test_monitor_mode_passes_what_cannot_be_judged(rig, name):
    one = rig(mode=Mode.MONITOR)
    body, *headers = UNFIT.get(name) or (NEEDLESS[name], JSON)
    visit = one.visit([1])
    assert await one.inspect(visit, response_of(body, *headers)) is None
    assert not visit.refused and visit.record.decision.would_block


async def test_what_nothing_needs_may_be_unreadable(rig):
    one = rig()
    visit = one.visit([1], judged=False)  # read for a sample of live traffic alone
    assert await one.inspect(visit, response_of(b"x", JSON)) is None
    assert not visit.refused and not found(visit)


@pytest.mark.parametrize("fault", [ScoreFault("not finite"), ValueError("bug"), MemoryError()])
@pytest.mark.parametrize("failure_mode", list(FailureMode))
async def test_a_detectors_fault_follows_the_failure_mode(rig, fault, failure_mode):
    one = rig(judge=scorer(detector=Distance(fault=fault)), failure_mode=failure_mode)
    visit = one.visit([1])
    assert await one.inspect(visit, response_of(document([1]), JSON)) is None
    assert visit.refused is (failure_mode is FailureMode.DENY)
    assert found(visit) == ["BZ-490"]


@pytest.mark.parametrize("failure_mode", list(FailureMode))
async def test_an_answer_that_is_too_large_can_still_be_relayed(rig, failure_mode):
    one = rig(failure_mode=failure_mode)
    one.endpoint.answer_limit = 40
    visit, response = one.visit([1]), response_of(document([1]), JSON)
    assert await one.inspect(visit, response) is None
    assert visit.refused is (failure_mode is FailureMode.DENY)
    assert found(visit) == ["BZ-490"]
    assert response.take() == document([1])


async def test_an_answer_that_broke_off_is_the_model_servers_fault(rig):
    one = rig(failure_mode=FailureMode.ALLOW)
    response = Response(None)
    response.status = 200
    response.add(document([1])[:20])
    response.fail(Refusal(UPSTREAM_INVALID, "closed in the middle"))
    with pytest.raises(Refusal) as refusal:
        await one.inspect(one.visit([1]), response)
    assert refusal.value.rule is UPSTREAM_INVALID


async def test_an_answer_byte_by_byte(rig):
    one = rig()
    visit, response = one.visit([30]), Response(None)
    response.status = 200
    response.headers = [JSON]
    asking = asyncio.create_task(one.inspect(visit, response))
    for byte in document([1]):
        await asyncio.sleep(0)
        assert not visit.record.answered
        response.add(bytes([byte]))
        response.notify()
    response.end()
    assert await asking is None
    assert visit.refused


@pytest.mark.parametrize("rows", [1, 1024, 1025])
async def test_what_would_hold_the_loop_is_judged_in_a_thread(rig, rows):
    one = rig()
    visit = one.visit([1] * rows)
    await one.inspect(visit, response_of(document([1] * rows), JSON))
    assert visit.record.answer_score == 0.0
    assert one.executor.calls == (rows > 1024)


CODERS = {b"gzip": gzip.compress, b"deflate": zlib.compress, b"zstd": zstandard.compress}


@pytest.mark.parametrize("name", CODERS)
async def test_a_compressed_answer_is_read_in_a_thread_and_sent_plain(rig, name):
    one = rig(shaped=True)
    visit = one.visit([1, 2], judged=False)
    coded = response_of(CODERS[name](scores()), JSON, (b"content-encoding", name))
    _, body = await one.inspect(visit, coded)
    assert json.loads(body)["outputs"][0]["data"] == [0.1, 0.9, 0.6, 0.5]
    assert one.executor.calls == 2


async def test_a_shaped_answer_is_coarse_and_keeps_what_belongs_to_it(rig):
    one = rig(shaped=True)
    visit = one.visit([1, 2], judged=False)
    lines, body = await one.inspect(visit, response_of(scores(), JSON))
    read = json.loads(body)
    assert (read["model_name"], read["id"]) == ("m", "i")
    assert read["outputs"][0]["data"] == [0.1, 0.9, 0.6, 0.5]  # the winner of the second is raised
    assert read["outputs"][1]["data"] == [7, 7]
    assert lines == b"Content-Type: application/json\r\n"
    assert visit.record.shaped and one.executor.calls == 0
    assert visit.response.tensors["y"].tolist() == SCORES, "what a sample is taken of"


async def test_a_binary_answer_stays_binary(rig):
    item = {
        "name": "y",
        "datatype": "FP32",
        "shape": [2, 2],
        "parameters": {"binary_data_size": 16},
    }
    text = json.dumps({"outputs": [item]}).encode()
    length = (b"inference-header-content-length", b"%d" % len(text))
    one = rig(shaped=True)
    answer = response_of(text + np.array(SCORES, "<f4").tobytes(), length)
    lines, body = await one.inspect(one.visit([1, 2], judged=False), answer)
    size = int(lines.split(b"Length: ")[1])
    assert np.frombuffer(body[size:], "<f4").tolist() == np.float32([0.1, 0.9, 0.6, 0.5]).tolist()


async def test_the_audit_log_holds_answers_only_where_it_is_asked(rig):
    for values in (False, True):
        one = rig(values=values)
        visit = one.visit([1, 2])
        await one.inspect(visit, response_of(document([1, 2]), JSON))
        notes = visit.record.notes
        assert notes == {} or {k: v.tolist() for k, v in notes["answers"].items()} == {
            "labels": [1, 2]
        }
        assert bool(notes) is values


async def test_a_suspicious_row_is_asked_about_again(rig):
    one = rig(ask=True)
    one.pool.answers = [response_of(document([1, 2]), JSON)]
    visit = one.visit([1, 7, 30])  # of no, some and too much distance: the last refuses alone
    await one.inspect(visit, response_of(document([1, 1, 30 % 3]), JSON))
    assert visit.refused and one.pool.sent == []

    visit = one.visit([1, 7])
    await one.inspect(visit, response_of(document([1, 1]), JSON))
    record = visit.record
    assert one.pool.asked() == [[[14, 0, 0, 0], [8, 1, 1, 1]]]
    [request] = one.pool.sent
    assert b'"id"' not in request.body, "the client's id is the client's"
    assert request.headers.lower() == (
        b"content-type: application/json\r\naccept-encoding: identity\r\nx-request-id: id\r\n"
    )
    assert visit.refused and found(visit) == ["BZ-400"], "one of two copies is called otherwise"
    assert (record.suspicious_rows, record.asked_rows, record.opinion_rows) == (1, 1, 2)
    assert record.opinion_fault == ""
    assert record.answer_row == 1 and record.answer_score == 56.0
    assert set(record.answer_signals) == {"distance", "doubled"}
    assert record.judged < record.reconsidered


async def test_what_a_second_opinion_finds_again_is_found_once(rig):
    one = rig(ask=True, on_disagreement=Action.ALLOW, on_outlier=Action.ALLOW)
    one.pool.answers = [response_of(document([1, 2]), JSON)]
    visit = one.visit([30, 7], findings=[Reason(rules.OUTLIER, "so")])
    one.endpoint.opinions.choose = lambda verdicts, answers: (np.array([1]), 1)
    await one.inspect(visit, response_of(document([1, 1]), JSON))
    assert sorted(found(visit)) == ["BZ-300", "BZ-400"]
    assert any("2 of 2 rows" in reason.detail for reason in visit.findings)


async def test_answers_that_nobody_takes_are_bounded(rig, monkeypatch):
    one = rig()
    padded = document([1]) + b" " * 40_000
    monkeypatch.setattr("proxy.answer.HELD_BYTES", 2 * len(padded))
    visits = [one.visit([1]) for _ in range(3)]
    small = one.visit([1])
    for visit in visits[:2]:
        assert await one.inspect(visit, response_of(padded, JSON)) is None
        assert not visit.refused
    with pytest.raises(Refusal) as caught:
        await one.inspect(visits[2], response_of(padded, JSON))
    assert caught.value.rule is rules.BUSY
    await one.inspect(small, response_of(document([1]), JSON))
    one.inspection.release(visits[2])
    one.inspection.release(visits[0])
    one.inspection.release(visits[0])
    await one.inspect(visits[2], response_of(padded, JSON))
    with pytest.raises(Refusal):
        await one.inspect(visits[0], response_of(padded, JSON))


async def test_answers_that_wait_for_a_thread_are_bounded(rig, monkeypatch):
    one = rig()
    padded = document([1]) + b" " * 40_000
    monkeypatch.setattr("proxy.answer.JUDGEMENTS", 0)
    with pytest.raises(Refusal) as caught:
        await one.inspect(one.visit([1]), response_of(padded, JSON))
    assert caught.value.rule is rules.BUSY
    await one.inspect(one.visit([1]), response_of(document([1]), JSON))
    monkeypatch.undo()
    for _ in range(3):
        await one.inspect(one.visit([1]), response_of(padded, JSON))
    assert one.inspection._waiting == 0, "a leak would show after 256 answers only"


async def test_a_second_opinion_that_agrees_lets_the_answer_pass(rig):
    one = rig(ask=True)
    one.pool.answers = [response_of(document([1, 1]), JSON)]
    visit = one.visit([1, 7])
    assert await one.inspect(visit, response_of(document([1, 1]), JSON)) is None
    assert not visit.refused
    assert visit.record.asked_rows == 1 and visit.record.answer_score == 6.0


async def test_a_row_that_was_not_asked_about_tells_no_opinion(rig):
    one = rig(ask=True)
    one.pool.answers = [response_of(document([1, 1]), JSON)]
    one.endpoint.opinions.budget.left = 0  # its two rows earn one row's copies
    visit = one.visit([8, 19])
    await one.inspect(visit, response_of(document([1, 1]), JSON))
    assert one.pool.asked() == [[[38, 0, 0, 0], [20, 1, 1, 1]]], "the more suspicious one"
    assert (visit.record.suspicious_rows, visit.record.asked_rows) == (2, 1)
    assert set(visit.record.answer_signals) == {"distance", "doubled"}
    visit = one.visit([19])
    one.endpoint.opinions.budget.left = 0
    await one.inspect(visit, response_of(document([1]), JSON))
    assert (visit.record.suspicious_rows, visit.record.asked_rows) == (1, 0)
    assert set(visit.record.answer_signals) == {"distance"}
    assert visit.record.reconsidered == 0.0


FAILURES = {
    "unreachable": lambda: Refusal(rules.UPSTREAM_UNREACHABLE, "down"),
    "an error": lambda: response_of(b"{}", JSON, status=500),
    "no JSON": lambda: response_of(b"x", JSON),
    "other rows": lambda: response_of(document([1]), JSON),
    "an unknown class": lambda: response_of(document([1, 9]), JSON),
    "a bug": lambda: ZeroDivisionError("bug"),
}


@pytest.mark.parametrize("name", FAILURES)
@pytest.mark.parametrize("failure_mode", list(FailureMode))
async def test_a_second_opinion_that_fails_changes_nothing(rig, name, failure_mode):
    one = rig(ask=True, failure_mode=failure_mode)
    one.pool.answers = [FAILURES[name]()]
    visit = one.visit([7])
    assert await one.inspect(visit, response_of(document([1]), JSON)) is None
    assert not visit.refused and not found(visit) and not visit.record.fault
    assert visit.record.opinion_fault
    assert (visit.record.asked_rows, visit.record.answer_score) == (1, 6.0)
    assert visit.record.reconsidered > visit.record.judged


async def test_a_second_opinion_that_is_late_changes_nothing(rig):
    one = rig(ask=True, seconds=0.001)
    silent = Response(Connection())
    silent.status = 200
    one.pool.answers = [silent]
    visit = one.visit([7])
    assert await one.inspect(visit, response_of(document([1]), JSON)) is None
    assert not visit.refused
    assert "0.001 s" in visit.record.opinion_fault


async def test_a_client_that_leaves_ends_the_second_opinion(rig):
    one = rig(ask=True)
    silent = Response(Connection())
    silent.status = 200
    asked = asyncio.Event()

    def answer():
        asked.set()
        return silent

    one.pool.answers = [answer]
    asking = asyncio.create_task(one.inspect(one.visit([7]), response_of(document([1]), JSON)))
    await asked.wait()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await asyncio.sleep(0)
    assert silent._connection is None


async def test_a_model_that_takes_one_row_is_asked_one_at_a_time(rig):
    fixed = Contract.from_config([{"name": "x", "datatype": "FP32", "shape": [1, 4]}])
    one = rig(ask=True, contract=fixed)
    one.pool.answers = [response_of(document([1]), JSON), response_of(document([2]), JSON)]
    visit = one.visit([7])
    await one.inspect(visit, response_of(document([1]), JSON))
    assert one.pool.asked() == [[[14, 0, 0, 0]], [[8, 1, 1, 1]]]
    assert visit.refused and visit.record.opinion_rows == 2


async def test_what_clients_send_pays_for_second_opinions(rig):
    one = rig(ask=True)
    budget = one.endpoint.opinions.budget
    budget.left, budget.share = 0.0, 0.5
    for _ in range(3):
        await one.inspect(one.visit([1]), response_of(document([1]), JSON))
    assert budget.left == 1.5
    visit = one.visit([7])
    one.pool.answers = [response_of(document([1, 1]), JSON)]
    await one.inspect(visit, response_of(document([1]), JSON))
    assert budget.left == 0.0 and visit.record.asked_rows == 1


def test_understood():
    response = response_of(scores(), JSON, (b"content-type", b"text/html"))
    read = understood(response, scores(), CODEC)
    assert read.tensors["y"].tolist() == SCORES
    assert read.n == 2


def test_the_limit_holds_before_and_after_decoding():
    body = scores()
    coded = gzip.compress(body)
    packed = response_of(coded, (b"content-encoding", b"gzip"))
    assert understood(packed, coded, CODEC, limit=len(body)).n == 2
    for how in ({"limit": len(body) - 1}, {"limit": len(body), "ratio": 1}):
        with pytest.raises(Refusal) as refusal:
            understood(packed, coded, CODEC, **how)
        assert refusal.value.rule is UPSTREAM_INVALID
