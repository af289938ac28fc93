"""External processing with the real pipeline behind it: what by HTTP is refused, shaped, charged
and recorded is so here."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest
from envoy_ends import (
    Answer,
    Talk,
    answer_message,
    envoy,
    head_message,
    listening,
    pseudo,
    until,
)
from envoy_ends import body_message as body_of
from openai_stub import chunk, usage
from prometheus_client import CollectorRegistry

import proxy.inspection
from detectors.scorer import ScoreFault
from proxy.build import Shared, build
from proxy.decision import Action
from proxy.explanations import Explanations
from proxy.protocols.contract import Contract
from proxy.protocols.openai import OpenAI
from proxy.settings.load import load
from proxy.state.memory import MemoryState
from proxy.telemetry.audit import NoAudit
from proxy.telemetry.metrics import Metrics

JSON = [("content-type", b"application/json")]
CLIENT = "client: {trusted_proxies: [10.0.0.0/8], secret: 0123456789abcdef}\n"
CONFIGURATION = """
ext_proc: {{}}
{more}
endpoints:
- name: m
  match: /v2/models/m
  upstream: http://127.0.0.1:1
  protocol: v2
  contract: {{inputs: [{{name: x, datatype: FP32, shape: [-1, 2]}}]}}
  limits: {{rows_per_second: 0.001, burst_rows: 4, rows_per_request: 4, body_bytes: 1KiB}}
  {endpoint}
- name: chat
  match: /v1
  upstream: http://127.0.0.1:1
  protocol: {{name: openai, unit: tokens}}
"""
SAID = (
    b'{"model_name":"m","outputs":'
    b'[{"name":"y","shape":[1,3],"datatype":"FP64","data":[0.11,0.7,0.19]}]}'
)


class Audit(NoAudit):
    """Keeps the records."""

    def __init__(self):
        self.records = []

    def append(self, record):
        self.records.append(record)
        return 0


def rows(*values):
    data = [value for row in values for value in row]
    tensor = {"name": "x", "shape": [len(values), 2], "datatype": "FP32", "data": data}
    return json.dumps({"inputs": [tensor]}).encode()


@asynccontextmanager
async def serving(tmp_path, endpoint="", more=""):
    """A listener whose exchanges go through a pipeline; what that records."""
    path = tmp_path / "bartizan.yaml"
    path.write_text(CONFIGURATION.format(endpoint=endpoint, more=more))
    audit = Audit()
    ids = iter(range(10**6))
    with ThreadPoolExecutor(1) as executor:
        shared = Shared(
            clock=time.perf_counter,
            wall=time.time,
            executor=executor,
            request_id=lambda: f"id-{next(ids)}",
            metrics=Metrics(wall=time.time, registry=CollectorRegistry()),
            state=MemoryState(1000, time.time),
            audit=audit,
            pseudonym_key=bytes(32),
            explanations=Explanations(0, wall=time.time),
        )
        generation = build(load(path, environment={}), shared, {})
        (chat,) = generation.pipeline.endpoints[1].bindings
        chat.codec = OpenAI("/v1", Contract(), unit="tokens")  # whose server was asked
        forwarded = bool(more)
        async with listening(
            generation.pipeline, clock=time.perf_counter, forwarded=forwarded
        ) as listener:
            yield listener, audit.records


async def test_honest_traffic_is_answered(tmp_path):
    async with serving(tmp_path) as (listener, records):
        model = Answer(body=SAID, headers=[*JSON, ("content-length", b"%d" % len(SAID))])
        async with envoy(listener, model) as filter_:
            seen = await filter_.exchange(
                headers=[*JSON, ("authorization", b"Bearer x"), ("x-evil", b"1")],
                body=rows([1, 2]),
            )
    head, body = seen.forwarded
    assert json.loads(body) == json.loads(rows([1.0, 2.0]))
    assert set(head) == {
        *(name for name, _ in pseudo()),
        *("authorization", "content-type", "content-length", "x-request-id"),
    }
    assert head["x-request-id"] == seen.headers["x-request-id"] == b"id-0"
    assert (seen.status, seen.body) == (200, SAID)
    (record,) = records
    assert (record.status, record.rows, record.response_bytes) == (200, 1, len(SAID))
    assert (record.endpoint, record.decision.enforced) == ("m", Action.ALLOW)
    assert 0 < record.received <= record.read <= record.decided <= record.answered


HOSTILE = {
    "a word for a number": (rows([1, "a"]), JSON, "BZ-203"),
    "three columns": (rows([1, 2]).replace(b"[1, 2]", b"[1, 3]"), JSON, "BZ-202"),
    "a duplicate key": (b'{"id":"1","id":"1",' + rows([1, 2])[1:], JSON, "BZ-121"),
    "no JSON": (b"{", JSON, "BZ-120"),
    "another type": (rows([1, 2]), [("content-type", b"text/plain")], "BZ-113"),
    "a coding": (rows([1, 2]), [*JSON, ("content-encoding", b"br")], "BZ-107"),
    "a broken coding": (rows([1, 2]), [*JSON, ("content-encoding", b"gzip")], "BZ-108"),
    "too many rows": (rows(*[[1, 2]] * 5), JSON, "BZ-600"),
    "too large": (b" " * 1025, JSON, "BZ-103"),
}


@pytest.mark.parametrize("case", HOSTILE)
async def test_hostile_traffic_is_refused(tmp_path, case):
    assert len(HOSTILE) == 9
    body, headers, rule = HOSTILE[case]
    async with serving(tmp_path) as (listener, records), envoy(listener) as filter_:
        seen = await filter_.exchange(headers=headers, body=body)
    assert seen.forwarded is None
    assert seen.immediate
    assert "error" in json.loads(seen.body)
    assert seen.headers["content-type"] == b"application/json"
    (record,) = records
    assert record.decision.reasons[0].rule.id == rule
    assert record.status == seen.status == record.decision.reasons[0].rule.status
    assert seen.headers["x-request-id"] == record.id.encode()


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("POST", "/v2/repository/index", 403), ("GET", "/nowhere", 404), ("DELETE", "/v1/x", 403)],
)
async def test_paths_that_are_refused(tmp_path, method, path, status):
    async with serving(tmp_path) as (listener, records), envoy(listener) as filter_:
        seen = await filter_.exchange(method, JSON, path=path)
    assert (seen.status, seen.told) == (status, ["request_headers"])
    assert len(records) == 1


async def test_each_client_has_its_quota(tmp_path):
    async with serving(tmp_path) as (listener, records), envoy(listener) as filter_:
        statuses = [
            (
                await filter_.exchange(
                    headers=JSON,
                    body=rows(*[[1, 2]] * 4),
                    attributes={"source.address": f"192.0.{subnet}.7:{port}"},
                )
            ).status
            for port, subnet in enumerate((1, 2, 1), start=1)
        ]
    assert statuses == [200, 200, 429]
    assert len({record.client for record in records}) == 2


async def test_who_asks_behind_proxies_and_with_a_certificate(tmp_path):
    async with serving(tmp_path, more=CLIENT) as (listener, records), envoy(listener) as filter_:
        for address, forwarded, more in (
            ("192.0.2.7:9", b"", {}),
            ("10.0.0.1:9", b"6.6.6.6, 192.0.2.7, 10.0.0.1", {}),
            ("192.0.2.7:9", b"6.6.6.6", {}),
            ("192.0.2.7:0", b"", {}),
            ("10.0.0.1:9", b"", {"uri_san": "spiffe://a/b"}),
            ("192.0.2.7:9", b"", {"uri_san": "spiffe://a/b"}),
            ("192.0.2.7:9", b"", {"uri_san": "spiffe://a?b"}),
        ):
            given = {"source.address": address}
            if more:
                given["connection.mtls"] = True
                given["connection.uri_san_peer_certificate"] = more["uri_san"]
            headers = [("x-forwarded-for", forwarded)] if forwarded else []
            await filter_.exchange("GET", headers, body=None, path="/v2/models/m", attributes=given)
    clients = [record.client for record in records]
    assert len(clients) == 7
    assert len(set(clients[:4])) == 1
    assert clients[4] == clients[5] != clients[0]
    assert clients[6] == clients[0]


async def test_an_answer_is_shaped(tmp_path):
    async with serving(tmp_path, "shaping: {when: always}") as (listener, records):
        model = Answer(body=SAID, headers=[*JSON, ("etag", b"1"), ("server", b"x")])
        async with envoy(listener, model) as filter_:
            seen = await filter_.exchange(headers=JSON, body=rows([1, 2]))
    assert seen.told[-1] == "response_body"
    assert [round(one, 6) for one in json.loads(seen.body)["outputs"][0]["data"]] == [0.1, 0.7, 0.2]
    assert set(seen.headers) == {"content-type", "content-length", "server", "x-request-id"}
    assert records[0].shaped


async def test_an_answer_that_cannot_be_shaped_is_refused(tmp_path):
    async with (
        serving(tmp_path, "shaping: {when: always}") as (listener, records),
        envoy(listener, Answer(body=b"{")) as filter_,
    ):
        seen = await filter_.exchange(headers=JSON, body=rows([1, 2]))
    assert (seen.status, seen.immediate) == (502, True)
    assert records[0].decision.reasons[0].rule.id == "BZ-135"


async def test_an_error_of_the_models_passes(tmp_path):
    async with (
        serving(tmp_path, "shaping: {when: always}") as (listener, records),
        envoy(listener, Answer(503, body=b"no healthy upstream")) as filter_,
    ):
        seen = await filter_.exchange(headers=JSON, body=rows([1, 2]))
    assert (seen.status, seen.body) == (503, b"no healthy upstream")
    assert records[0].status == 503


async def test_tokens_are_charged_as_they_pass(tmp_path):
    asked = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True}
    pieces = (chunk("a"), chunk(usage=usage(507)), b"data: [DONE]\n\n")
    model = Answer(headers=[("content-type", b"text/event-stream")], pieces=pieces)
    async with serving(tmp_path) as (listener, records), envoy(listener, model) as filter_:
        seen = await filter_.exchange(
            headers=JSON, body=json.dumps(asked).encode(), path="/v1/chat/completions"
        )
    assert seen.told[3:] == ["response_body"] * 3
    assert records[0].status == 200
    assert records[0].rows >= 500
    assert records[0].response_bytes == len(b"".join(pieces))


async def test_a_client_that_leaves_is_recorded(tmp_path):
    async with serving(tmp_path) as (listener, records), Talk(listener) as talk:
        await talk.tell(head_message([*pseudo(), *JSON]))
        assert (await talk.tell(body_of(rows([1, 2])))).HasField("request_body")
        await talk.call.done_writing()
        assert await talk.hear() is None
        await until(lambda: records)
    assert (talk.code, records[0].status, records[0].rows) == ("CANCELLED", 0, 1)


async def test_what_is_no_answer_is_refused_and_recorded(tmp_path):
    async with serving(tmp_path) as (listener, records), Talk(listener) as talk:
        await talk.tell(head_message([*pseudo(), *JSON]))
        await talk.tell(body_of(rows([1, 2])))
        told = await talk.tell(body_of(b"again"))
        assert told.immediate_response.status.code == 503
    assert records[0].decision.reasons[0].rule.id == "BZ-900"


async def test_a_filter_that_is_misconfigured_is_recorded(tmp_path):
    async with serving(tmp_path) as (listener, records), Talk(listener) as talk:
        told = await talk.tell(head_message(pseudo(), modes=(1, 2)))
        assert json.loads(told.immediate_response.body) == {"error": "internal fault"}
    (record,) = records
    assert record.decision.reasons[0].detail == (
        "the filter's processing_mode.request_body_mode is not BUFFERED"
    )
    assert record.endpoint == ""


async def test_a_monitored_endpoint_lets_pass_what_it_does_not_understand(tmp_path):
    async with (
        serving(tmp_path, "mode: monitor") as (listener, records),
        envoy(listener) as filter_,
    ):
        seen = await filter_.exchange(headers=[*JSON, ("x-evil", b"1")], body=b"{]")
    head, body = seen.forwarded
    assert (seen.status, body, "x-evil" in head) == (200, b"{]", False)
    assert records[0].decision.would_block


FAULTS = {
    "a detector fails": (ScoreFault("infinite"), "BZ-390"),
    "a defect": (RuntimeError("a defect"), "BZ-900"),
    "no memory": (MemoryError(), "BZ-900"),
}


@pytest.mark.parametrize("mode", ["deny", "allow"])
@pytest.mark.parametrize("case", FAULTS)
async def test_a_fault_inside_follows_the_endpoints_failure_mode(tmp_path, monkeypatch, case, mode):
    assert len(FAULTS) == 3
    fault, rule = FAULTS[case]

    def found_in(*_):
        raise fault

    monkeypatch.setattr(proxy.inspection, "found_in", found_in)
    async with (
        serving(tmp_path, f"failure_mode: {mode}") as (listener, records),
        envoy(listener) as filter_,
    ):
        listener.application.endpoints[0].bundle = SimpleNamespace(digest="d", agreement=None)
        seen = await filter_.exchange(headers=[*JSON, ("x-evil", b"1")], body=rows([1, 2]))
    (record,) = records
    assert [reason.rule.id for reason in record.decision.reasons] == [rule]
    assert record.status == seen.status == (200 if mode == "allow" else 503)
    if mode == "deny":
        assert (seen.forwarded, seen.immediate) == (None, True)
        return
    head, body = seen.forwarded
    assert "x-evil" not in head
    assert json.loads(body) == json.loads(rows([1.0, 2.0])), "what was decoded"
    assert (record.decision.action, record.decision.enforced) == (Action.BLOCK, Action.ALLOW)


async def test_the_head_of_an_answer_alone(tmp_path):
    async with serving(tmp_path) as (listener, records), Talk(listener) as talk:
        await talk.tell(head_message(pseudo("GET", "/v2/models/m"), end=True))
        told = await talk.tell(answer_message(304, end=True))
        assert told.HasField("response_headers")
    await until(lambda: records)
    assert records[0].status == 304
