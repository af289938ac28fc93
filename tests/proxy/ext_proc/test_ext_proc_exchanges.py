"""Exchanges that are let in: what the model server gets, and what the client does."""

from __future__ import annotations

import asyncio

import pytest
from envoy_ends import (
    NONE,
    PATH,
    Answer,
    Application,
    Talk,
    answer_message,
    envoy,
    head_message,
    listening,
    permit,
    pseudo,
    trailers_message,
    until,
)
from envoy_ends import body_message as body_of

from proxy.ext_proc.limits import ExtProcLimits
from proxy.http.messages import Reply
from proxy.rules import UPSTREAM_INVALID, UPSTREAM_TIMEOUT, Refusal

CLIENTS = [
    ("content-type", b"text/evil"),
    ("x-evil", b"1"),
    ("transfer-encoding", b"chunked"),
    ("x-forwarded-proto", b"http"),
    ("x-envoy-external-address", b"192.0.2.7"),
    ("x-request-id", b"theirs"),
    ("te", b"trailers"),
]


async def test_the_model_gets_what_is_permitted_and_nothing_else():
    application = Application()
    application.answer = sends(
        b"canonical", b"content-type: application/json\r\nx-request-id: 7\r\n"
    )
    async with listening(application) as listener, envoy(listener) as filter_:
        given = [pair for pair in CLIENTS if pair[0] != "transfer-encoding"]
        seen = await filter_.exchange(headers=given, body=b"theirs")
    head, body = seen.forwarded
    assert body == b"canonical"
    assert head == {
        ":authority": b"model.example",
        ":path": PATH.encode(),
        ":method": b"POST",
        ":scheme": b"http",
        "content-type": b"application/json",
        "x-request-id": b"7",
        "content-length": b"9",
    }
    assert (seen.status, seen.body) == (200, b'{"ok": 1}')
    assert seen.headers["x-request-id"] == b"id"
    ((asked, peer),) = application.opened
    assert (asked.method, asked.target, peer.address) == ("POST", PATH, "192.0.2.7")
    assert asked.headers[b"host"] == b"model.example"
    (exchange,) = application.handled
    assert (exchange.body, exchange.context, exchange.status) == (b"theirs", "context", 200)
    assert exchange.answered
    assert listener.calls == 0


async def test_a_chunked_body_gets_a_length():
    application = Application()
    async with listening(application) as listener, Talk(listener) as talk:
        told = await talk.tell(head_message([*pseudo(), ("transfer-encoding", b"chunked")]))
        assert list(told.request_headers.response.header_mutation.remove_headers) == [
            "transfer-encoding"
        ]
        told = await talk.tell(body_of(b"[1]"))
        set_headers = told.request_body.response.header_mutation.set_headers
        assert {one.header.key: one.header.raw_value for one in set_headers}[
            "content-length"
        ] == b"3"


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_requests_without_a_body(method):
    application = Application()
    application.answer = sends(b"", b"accept: */*\r\n", method.encode())
    model = Answer(body=b"" if method == "HEAD" else b"{}")
    async with listening(application) as listener, envoy(listener, model) as filter_:
        seen = await filter_.exchange(method, CLIENTS[:2], body=None)
    head, body = seen.forwarded
    assert body is None
    assert set(head) == {":authority", ":path", ":method", ":scheme", "accept"}
    assert seen.status == 200
    assert seen.told == ["request_headers", "response_headers"]


async def test_a_body_that_is_not_permitted_is_dropped():
    application = Application()
    application.answer = sends(b"", b"", b"GET")
    async with listening(application) as listener, envoy(listener) as filter_:
        head, body = (await filter_.exchange("GET", body=b"smuggled")).forwarded
    assert (body, "content-length" in head) == (b"", False)


async def test_a_body_where_there_was_none_replaces_the_whole():
    application = Application()
    application.answer = sends(b"[]", b"")
    async with listening(application) as listener, envoy(listener) as filter_:
        head, body = (await filter_.exchange("PUT", body=None)).forwarded
    assert (body, head[":method"], head["content-length"]) == (b"[]", b"POST", b"2")


async def test_an_answer_that_nobody_reads_is_not_asked_for():
    application = Application()
    async with listening(application) as listener, envoy(listener) as filter_:
        seen = await filter_.exchange()
        assert seen.told == ["request_headers", "request_body", "response_headers"]
    assert (seen.status, seen.body) == (200, b'{"ok": 1}')


async def test_a_stream_ends_with_its_verdict():
    """Where the operator forgot to allow it that bodies are left out, they pass all the same."""
    async with listening(Application()) as listener, Talk(listener) as talk:
        await talk.tell(head_message(pseudo()))
        await talk.tell(body_of(b"{}"))
        assert (await talk.tell(answer_message())).mode_override.response_body_mode == NONE
        assert await talk.hear() is None
    assert talk.code == "OK"


@pytest.mark.parametrize("override", [True, False])
async def test_a_tap_sees_what_passes(override):
    application, seen_by_tap = Application(), []

    async def answer(exchange):
        response = await exchange.upstream.send(permit(exchange.body))
        application.sent = await exchange.relay(
            response, b"x-request-id: id\r\n", seen_by_tap.append
        )

    application.answer = answer
    model = Answer(pieces=(b"data: 1\n\n", b"data: 2\n\n", b"data: [DONE]\n\n"))
    async with listening(application) as at, envoy(at, model, override=override) as filter_:
        seen = await filter_.exchange()
    assert seen_by_tap == (list(model.pieces) if override else [b"".join(model.pieces)])
    assert application.sent == len(seen.body) == 32
    assert seen.headers["x-request-id"] == b"id"
    assert application.handled[0].answered


async def test_what_an_answer_says_of_the_hop_or_of_us_stays_there():
    headers = [
        ("server", b"triton"),
        ("connection", b"close, X-Private"),
        ("x-private", b"1"),
        ("keep-alive", b"timeout=5"),
        ("proxy-authenticate", b"Basic"),
        ("x-request-id", b"theirs"),
        ("set-cookie", b"a=1"),
    ]
    async with (
        listening(Application()) as listener,
        envoy(listener, Answer(headers=headers)) as one,
    ):
        seen = await one.exchange()
    assert set(seen.headers) == {"server", "connection", "set-cookie", "x-request-id"}
    assert seen.headers["x-request-id"] == b"id"


@pytest.mark.parametrize("body", [b'{"long": "answer"}', b""])
async def test_an_answer_is_replaced(body):
    application = Application()

    async def answer(exchange):
        response = await exchange.upstream.send(permit(exchange.body))
        assert await response.gathered(100) == body
        sent = exchange.replace(
            response, b"content-type: a/b\r\n", b"coarse", b"x-request-id: 1\r\n"
        )
        assert sent == 6

    application.answer = answer
    headers = [
        ("content-type", b"c/d"),
        ("etag", b'"1"'),
        ("content-length", b"%d" % len(body)),
        ("x-model", b"1"),
    ]
    model = Answer(headers=headers, body=body)
    async with listening(application) as listener, envoy(listener, model) as filter_:
        seen = await filter_.exchange()
    assert seen.body == b"coarse"
    assert seen.headers == {
        "content-type": b"a/b",
        "content-length": b"6",
        "x-model": b"1",
        "x-request-id": b"1",
    }


async def test_an_answer_that_was_read_passes_as_it_came():
    application, tapped = Application(), []

    async def answer(exchange):
        response = await exchange.upstream.send(permit(exchange.body))
        assert await response.gathered(100) == b'{"ok": 1}'
        assert response.complete
        application.sent = await exchange.relay(response, b"x-request-id: 1\r\n", tapped.append)

    application.answer = answer
    async with listening(application) as listener, envoy(listener) as filter_:
        seen = await filter_.exchange()
    assert (seen.body, seen.headers["x-request-id"]) == (b'{"ok": 1}', b"1")
    assert (application.sent, tapped) == (9, [b'{"ok": 1}'])


async def test_an_answer_that_is_too_large_to_be_read_passes():
    application = Application()

    async def answer(exchange):
        response = await exchange.upstream.send(permit(exchange.body))
        assert await response.gathered(4) is None
        await exchange.relay(response)

    application.answer = answer
    async with listening(application) as listener, envoy(listener) as filter_:
        assert (await filter_.exchange()).body == b'{"ok": 1}'
        filter_.model.headers = [("content-length", b"9")]
        assert (await filter_.exchange()).body == b'{"ok": 1}'


@pytest.mark.parametrize("read", [True, False])
async def test_an_answer_is_refused_once_it_is_there(read):
    application = Application()

    async def answer(exchange):
        response = await exchange.upstream.send(permit(exchange.body))
        if read:
            await response.gathered(100)
        exchange.reply(Reply(403, b"refused", b"text/plain", ((b"x-request-id", b"1"),)))

    application.answer = answer
    async with listening(application) as listener, envoy(listener) as filter_:
        seen = await filter_.exchange()
    assert (seen.status, seen.body, seen.immediate) == (403, b"refused", True)
    assert seen.headers == {"content-type": b"text/plain", "x-request-id": b"1"}


async def test_an_answer_with_trailers_and_no_body():
    application = Application()

    async def answer(exchange):
        response = await exchange.upstream.send(permit(exchange.body))
        assert await response.gathered(4) == b""
        if exchange.head.get(b"x-replace"):
            exchange.replace(response, b"", b"new")
        await exchange.relay(response)

    application.answer = answer
    async with listening(application) as listener:
        for more, kind in (
            ([], "response_trailers"),
            ([("x-replace", b"1")], "immediate_response"),
        ):
            async with Talk(listener) as talk:
                await talk.tell(head_message([*pseudo(), *more]))
                await talk.tell(body_of(b"{}"))
                assert (await talk.tell(answer_message())).WhichOneof("response") == (
                    "response_headers"
                )
                told = await talk.tell(trailers_message("response"))
                assert told.WhichOneof("response") == kind


WRONG = {
    "no status": [("x", b"1")],
    "two statuses": [(":status", b"200"), (":status", b"500")],
    "a status of words": [(":status", b"abc")],
    "an interim status": [(":status", b"101")],
    "a length of words": [(":status", b"200"), ("content-length", b"+1")],
    "too many": [(":status", b"200"), *[("x", b"1")] * 101],
    "too large": [(":status", b"200"), ("x", b"1" * 20_000)],
}


@pytest.mark.parametrize("case", WRONG)
async def test_answers_that_are_none(case):
    assert len(WRONG) == 7
    application, caught = Application(), []

    async def answer(exchange):
        try:
            await exchange.upstream.send(permit(exchange.body))
        except Refusal as refusal:
            caught.append(refusal.rule)
            exchange.reply(Reply(502, b""))

    application.answer = answer
    message = answer_message()
    del message.response_headers.headers.headers[:]
    for name, value in WRONG[case]:
        message.response_headers.headers.headers.add(key=name, raw_value=value)
    async with listening(application) as listener, Talk(listener) as talk:
        await talk.tell(head_message(pseudo()))
        await talk.tell(body_of(b"{}"))
        told = await talk.tell(message)
    assert told.immediate_response.status.code == 502
    assert caught == [UPSTREAM_INVALID]


@pytest.mark.parametrize("body", [b"", b"the answer"])
@pytest.mark.parametrize("status", [204, 304])
async def test_no_body_passes_unread_where_none_belongs(status, body):
    """A model server that speaks HTTP/2 may send one after a 204: nobody had read it."""
    application, caught = Application(), []

    async def answer(exchange):
        try:
            response = await exchange.upstream.send(permit(exchange.body))
        except Refusal as refusal:
            caught.append(refusal.rule)
            return exchange.reply(Reply(502, b""))
        return await exchange.relay(response, b"x-request-id: id\r\n")

    application.answer = answer
    async with listening(application) as listener, Talk(listener) as talk:
        await talk.tell(head_message(pseudo()))
        await talk.tell(body_of(b"{}"))
        told = await talk.tell(answer_message(status))
        assert told.WhichOneof("response") == "response_headers"
        assert not told.HasField("mode_override")
        told = await talk.tell(body_of(body, of="response"))
        assert await talk.hear() is None
    assert caught == ([UPSTREAM_INVALID] if body else [])
    if body:
        assert told.immediate_response.status.code == 502
    else:
        [line] = told.response_body.response.header_mutation.set_headers
        assert (line.header.key, line.header.raw_value) == ("x-request-id", b"id")


@pytest.mark.parametrize("when", ["before", "after"])
async def test_what_is_awaited_and_cancelled_leaves_no_stream_open(when):
    """As a future of a pool that is closed: nobody has cancelled the exchange itself."""
    application = Application()

    async def answer(exchange):
        if when == "after":
            await exchange.relay(await exchange.upstream.send(permit(exchange.body)))
        raise asyncio.CancelledError

    application.answer = answer
    async with listening(application) as listener, envoy(listener) as filter_:
        async with asyncio.timeout(10):
            seen = await filter_.exchange()
        assert (seen.status, seen.stream) == (503, "INTERNAL")
        await until(lambda: listener.calls == 0)


async def test_a_model_that_never_answers():
    application, caught = Application(), []

    async def answer(exchange):
        try:
            await exchange.upstream.send(permit(exchange.body))
        except Refusal as refusal:
            caught.append(refusal.rule)
            exchange.reply(Reply(504, b"late"))

    application.answer = answer
    limits = ExtProcLimits(answer_seconds=0.01)
    async with listening(application, limits) as listener, Talk(listener) as talk:
        await talk.tell(head_message(pseudo()))
        assert (await talk.tell(body_of(b"{}"))).HasField("request_body")
        assert (await talk.hear()).immediate_response.status.code == 504
        assert await talk.hear() is None
    assert (caught, talk.code) == ([UPSTREAM_TIMEOUT], "OK")


PHASES = {
    "request_body": [],
    "response_headers": [body_of(b"{}")],
    "response_body": [body_of(b"{}"), answer_message()],
}


@pytest.mark.parametrize("half", [True, False])
@pytest.mark.parametrize("phase", PHASES)
async def test_envoy_leaves(phase, half):
    assert len(PHASES) == 3
    application = Application()

    async def answer(exchange):
        response = await exchange.upstream.send(permit(exchange.body))
        await response.gathered(100)
        await exchange.relay(response)

    application.answer = answer
    async with listening(application) as listener, Talk(listener) as talk:
        await talk.tell(head_message(pseudo()))
        for message in PHASES[phase]:
            await talk.tell(message)
        if half:
            await talk.call.done_writing()
            assert await talk.hear() is None
            assert talk.code == "CANCELLED"
        else:
            talk.call.cancel()
        await until(lambda: listener.calls == 0)
    if phase == "request_body":
        assert not application.handled
    else:
        assert application.cancelled
        assert not application.handled[0].status
    assert not application.refused


async def test_a_watched_answer_that_breaks_off_is_no_whole():
    application, tapped = Application(), []

    async def answer(exchange):
        response = await exchange.upstream.send(permit(exchange.body))
        await exchange.relay(response, b"", tapped.append)

    application.answer = answer
    async with listening(application) as listener, Talk(listener) as talk:
        for message in (head_message(pseudo()), body_of(b"{}"), answer_message()):
            await talk.tell(message)
        await talk.tell(body_of(b"1", end=False, of="response"))
        assert await talk.tell(answer_message()) is None  # nothing foreseen
    assert talk.code == "INTERNAL"
    assert tapped == [b"1"]
    exchange = application.handled[0]
    assert (exchange.status, exchange.answered) == (200, False)


async def test_the_application_that_opened_an_exchange_handles_it():
    first, second = Application(), Application()
    async with listening(first) as listener, Talk(listener) as talk:
        await talk.tell(head_message(pseudo()))
        listener.application = second
        await talk.tell(body_of(b"{}"))
        await talk.tell(answer_message(end=True))
        async with envoy(listener) as filter_:
            assert (await filter_.exchange()).status == 200
    assert (len(first.handled), len(second.handled)) == (1, 1)


async def test_a_drain_lets_streams_end():
    application = Application()
    async with listening(application) as listener, Talk(listener) as talk:
        await talk.tell(head_message(pseudo()))
        draining = asyncio.create_task(listener.drain(30))
        await talk.tell(body_of(b"{}"))
        assert (await talk.tell(answer_message())).HasField("response_headers")
        await draining
        assert await talk.hear() is None
    assert talk.code == "OK"
    assert application.handled[0].answered


def sends(body, lines, method=b"POST"):
    """An application that sends this, and lets the answer pass."""

    async def answer(exchange):
        response = await exchange.upstream.send(permit(body, lines, method))
        await exchange.relay(response, b"x-request-id: id\r\n")

    return answer
