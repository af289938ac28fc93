"""What is refused before the application handles it, and what ends a stream."""

from __future__ import annotations

import asyncio

import pytest
from envoy.service.ext_proc.v3.external_processor_pb2 import ProcessingRequest
from envoy_ends import (
    Application,
    Filter,
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
from grpc import aio
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy import rules
from proxy.ext_proc.limits import ExtProcLimits
from proxy.ext_proc.messages import NOWHERE
from proxy.http.application import Shed
from proxy.http.messages import Reply
from proxy.rules import Refusal

ME = "source.address"


def head(*more, without=(), **given):
    """The head of a request, and these headers."""
    return head_message([*(p for p in pseudo() if p[0] not in without), *more], **given)


def values():
    """One header with a value in either field."""
    message = head(("x-a", b"1"))
    message.request_headers.headers.headers[-1].value = "2"
    return message


def config(**fields):
    message = head()
    for name, value in fields.items():
        setattr(message.protocol_config, name, value)
    return message


HEADS = {
    # Who asks.
    "no attributes": (head(attributes={}), rules.INTERNAL),
    "no address": (head(attributes={"source.port": "1"}), rules.INTERNAL),
    "an address without a port": (head(attributes={ME: "192.0.2.7"}), rules.INTERNAL),
    "a name": (head(attributes={ME: "client.example:1"}), rules.INTERNAL),
    "an internal listener": (head(attributes={ME: "envoy://waypoint/x"}), rules.INTERNAL),
    "an address out of a header": (head(attributes={ME: "192.0.2.7:0"}), rules.INTERNAL),
    "no text": (head(attributes={ME: True}), rules.INTERNAL),
    # How the filter is configured.
    "modes not told": (head(modes=None), rules.INTERNAL),
    **{f"request mode {m}": (head(modes=(m, 2)), rules.INTERNAL) for m in (0, 1, 3, 4, 5, 99)},
    **{f"answer mode {m}": (head(modes=(2, m)), rules.INTERNAL) for m in (0, 1, 3, 4, 5, 99)},
    "bodies unasked": (
        config(send_body_without_waiting_for_header_response=True),
        rules.INTERNAL,
    ),
    # Pseudo headers.
    "two paths": (head((":path", b"/x")), rules.FRAMING),
    "two methods": (head((":method", b"GET")), rules.FRAMING),
    "extended connect": (head((":protocol", b"websocket")), rules.FRAMING),
    "no path": (head(without=[":path"]), rules.MALFORMED),
    "no method": (head(without=[":method"]), rules.METHOD),
    "no authority": (head(without=[":authority"]), rules.MALFORMED),
    "authority and host": (head(("host", b"other")), rules.MALFORMED),
    "a wrong authority": (head((":authority", b"a b"), without=[":authority"]), rules.MALFORMED),
    "a method that is none": (head((":method", b"BREW"), without=[":method"]), rules.METHOD),
    **{
        f"path {path!r}": (head((":path", path), without=[":path"]), rules.MALFORMED)
        for path in (b"", b"*", b"x", b"/a?b", b"/a//b", b"/a/../b", b"/a/%2e", b"/\xff", b"/a#b")
    },
    # Headers.
    "an empty name": (head(("", b"1")), rules.MALFORMED),
    "upper case": (head(("X-Api-Key", b"1")), rules.MALFORMED),
    "a name with a space": (head(("x y", b"1")), rules.MALFORMED),
    "a name beyond ASCII": (head(("\u00e4", b"1")), rules.MALFORMED),
    "a line in a value": (head(("x", b"1\r\ny: 2")), rules.MALFORMED),
    "a NUL in a value": (head(("x", b"\0")), rules.MALFORMED),
    "two fields of a value": (values(), rules.FRAMING),
    "two keys": (head(("x-api-key", b"1"), ("x-api-key", b"1")), rules.FRAMING),
    "two authorizations": (head(("authorization", b"a"), ("authorization", b"b")), rules.FRAMING),
    "two types": (head(("content-type", b"a/b"), ("content-type", b"a/b")), rules.FRAMING),
    "two codings": (
        head(("content-encoding", b"gzip"), ("content-encoding", b"gzip")),
        rules.FRAMING,
    ),
    "two lengths": (head(("content-length", b"1"), ("content-length", b"1")), rules.FRAMING),
    "a look-alike": (head(("x_api_key", b"1")), rules.FRAMING),
    "a look-alike of a guarded one": (head(("my_key", b"1")), rules.FRAMING),
    "a length of words": (head(("content-length", b"+1")), rules.FRAMING),
    "length and chunks": (
        head(("content-length", b"1"), ("transfer-encoding", b"chunked")),
        rules.FRAMING,
    ),
    "another transfer coding": (head(("transfer-encoding", b"gzip, chunked")), rules.FRAMING),
    "an upgrade": (head(("upgrade", b"h2c")), rules.FRAMING),
    "a trailer": (head(("trailer", b"x")), rules.FRAMING),
    "a key that ends at the hop": (head(("connection", b"x-api-key")), rules.FRAMING),
    "an expectation": (head(("expect", b"200-ok")), rules.EXPECTATION),
    "gRPC": (head(("content-type", b"application/grpc+proto")), rules.MEDIA_TYPE),
    "too many headers": (head(*[(f"x{i}", b"1") for i in range(101)]), rules.HEAD_TOO_LARGE),
    "too large a head": (head(("x", b"1" * 17_000)), rules.HEAD_TOO_LARGE),
    # What is no head.
    "garbage": (b"\xff\xff\xff", rules.INTERNAL),
    "nothing": (ProcessingRequest(), rules.INTERNAL),
    "an empty message": (b"", rules.INTERNAL),
    "an unknown kind": (b"\xa2\x06\x00", rules.INTERNAL),
    "a body first": (body_of(b"{}"), rules.INTERNAL),
    "trailers first": (trailers_message(), rules.INTERNAL),
    "an answer's body first": (body_of(b"{}", of="response"), rules.INTERNAL),
    "an answer to what was not seen": (answer_message(200, modes=(2, 2)), rules.INTERNAL),
    "an answer without a status": (answer_message(0, modes=(2, 2)), rules.INTERNAL),
    "the body is too large by its length": (
        head(("content-length", b"1000001")),
        rules.BODY_TOO_LARGE,
    ),
}


@pytest.mark.parametrize("case", HEADS)
async def test_heads_that_are_refused(case):
    assert len(HEADS) == 73
    message, rule = HEADS[case]
    application = Application()
    async with listening(application, guarded=[b"my-key"]) as listener, Talk(listener) as talk:
        told = await talk.tell(message)
        assert told.immediate_response.status.code == rule.status
        assert told.immediate_response.grpc_status.status == 12
        assert await talk.hear() is None
    ((refusal, head_, peer),) = application.refused
    assert refusal.rule is rule
    assert not application.handled
    if rule is rules.INTERNAL:
        assert refusal.detail
        assert peer.address != "192.0.2.7" or "mode" in case or "bodies" in case
    assert head_ is None or head_.method


async def test_a_filter_that_only_observes_is_told_off():
    application = Application()
    async with listening(application) as listener, Talk(listener) as talk:
        assert await talk.tell(head(modes=None, observability=True)) is None
    assert talk.code == "INTERNAL"
    assert "observability" in application.refused[0][0].detail


BODIES = {
    "a part": (body_of(b"{}", end=False), rules.FRAMING),
    "trailers": (trailers_message(), rules.FRAMING),
    "too large": (body_of(b"1" * (10**6 + 1)), rules.BODY_TOO_LARGE),
    "refused by Envoy for its size": (answer_message(413), rules.BODY_TOO_LARGE),
    "refused by Envoy for its pace": (answer_message(408), rules.BODY_DEADLINE),
    "answered by a model that it never reached": (answer_message(404), rules.FRAMING),
    "an answer of Envoy's": (answer_message(503), rules.BUSY),
    "a second head": (head(), rules.INTERNAL),
    "an answer's body": (body_of(b"", of="response"), rules.INTERNAL),
    "an answer's trailers": (trailers_message("response"), rules.INTERNAL),
    "garbage": (b"\x0a", rules.INTERNAL),
    "nothing": (b"", rules.INTERNAL),
}


@pytest.mark.parametrize("case", BODIES)
async def test_bodies_that_are_refused(case):
    assert len(BODIES) == 12
    message, rule = BODIES[case]
    application = Application()
    async with listening(application) as listener, Talk(listener) as talk:
        told = await talk.tell(head())
        (path,) = told.request_headers.response.header_mutation.set_headers
        assert (path.header.key, path.header.raw_value) == (":path", NOWHERE)
        told = await talk.tell(message)
        assert told.immediate_response.status.code == rule.status
        assert await talk.hear() is None
    ((refusal, seen, peer),) = application.refused
    assert (refusal.rule, seen.target, peer.address) == (rule, "/v2/models/m/infer", "192.0.2.7")
    assert not application.handled


ANSWERS = {
    "a second body": body_of(b"{}"),
    "a second head": head(),
    "an answer's body": body_of(b"{}", of="response"),
    "trailers": trailers_message(),
    "garbage": b"\xff",
}


@pytest.mark.parametrize("case", ANSWERS)
async def test_what_is_no_answer_is_refused(case):
    assert len(ANSWERS) == 5
    application = Application()
    async with listening(application) as listener, Talk(listener) as talk:
        await talk.tell(head())
        await talk.tell(body_of(b"{}"))
        told = await talk.tell(ANSWERS[case])
        assert told.immediate_response.status.code == 503
    assert application.refused[0][0].rule is rules.INTERNAL


@pytest.mark.parametrize("status", [400, 403, 503])
async def test_an_error_of_envoys_own_passes(status):
    application = Application()
    async with listening(application) as listener, Talk(listener) as talk:
        told = await talk.tell(answer_message(status, modes=(2, 2)))
        assert not told.response_headers.response.HasField("header_mutation")
        assert await talk.hear() is None
    assert talk.code == "OK"
    assert not application.refused


async def test_an_address_out_of_a_header_counts_behind_configured_proxies():
    application = Application()
    async with listening(application, forwarded=True) as listener, Talk(listener) as talk:
        await talk.tell(head(attributes={ME: "192.0.2.7:0"}))
    assert application.opened[0][1].address == "192.0.2.7"


@pytest.mark.parametrize(
    ("told", "address", "subject"),
    [
        ({ME: "[2001:db8::1]:9"}, "2001:db8::1", ""),
        ({ME: "[::ffff:192.0.2.1]:9"}, "192.0.2.1", ""),
        ({ME: "192.0.2.1:9", "connection.subject_peer_certificate": "CN=a"}, "192.0.2.1", ""),
        (
            {
                ME: "192.0.2.1:9",
                "connection.mtls": True,
                "connection.uri_san_peer_certificate": "spiffe://example.org/a",
                "connection.subject_peer_certificate": "CN=a",
            },
            "192.0.2.1",
            "spiffe://example.org/a",
        ),
        (
            {
                ME: "192.0.2.1:9",
                "connection.mtls": True,
                "connection.uri_san_peer_certificate": "https://example.org/a",
                "connection.subject_peer_certificate": "CN=a",
            },
            "192.0.2.1",
            "",
        ),
        (
            {
                ME: "192.0.2.1:9",
                "connection.mtls": True,
                "connection.subject_peer_certificate": "CN=a",
            },
            "192.0.2.1",
            "CN=a",
        ),
    ],
)
async def test_who_asks(told, address, subject):
    application = Application()
    async with listening(application) as listener, Talk(listener) as talk:
        await talk.tell(head(attributes=told))
    ((_, peer),) = application.opened
    assert (peer.address, peer.subject) == (address, subject)


async def test_a_method_that_is_not_served():
    async with listening(Application()) as listener, envoy(listener) as filter_:
        assert isinstance(filter_, Filter)
        async with aio.insecure_channel(f"127.0.0.1:{listener.port}") as channel:
            with pytest.raises(aio.AioRpcError) as caught:
                await channel.unary_unary("/grpc.health.v1.Health/Check")(b"")
    assert caught.value.code().name == "UNIMPLEMENTED"


@pytest.mark.parametrize(("limit", "rule"), [("message", 104), ("body", 105)])
async def test_envoy_is_slow(limit, rule):
    application = Application()
    limits = ExtProcLimits(**{f"{limit}_seconds": 0.01})
    async with listening(application, limits) as listener, Talk(listener) as talk:
        if limit == "body":
            await talk.tell(head())
        await talk.call.wait_for_connection()
        assert (await talk.hear()).immediate_response.status.code == 408
    assert application.refused[0][0].rule.id == f"BZ-{rule}"


async def test_too_many_exchanges():
    application = Application()
    application.sheds = Reply(503, b"busy", headers=((b"retry-after", b"1"),))
    waiting = asyncio.Event()

    async def answer(exchange):
        await waiting.wait()
        exchange.reply(Reply(200, b"late"))

    application.answer = answer
    limits = ExtProcLimits(exchanges=1)
    async with listening(application, limits) as listener, Talk(listener) as first:
        await first.tell(head())
        await first.call.write(body_of(b"{}").SerializeToString())
        await until(lambda: application.handled)
        async with Talk(listener) as second:
            told = (await second.tell(head())).immediate_response
            assert (told.status.code, told.body) == (503, b"busy")
            assert "retry-after" in [one.header.key for one in told.headers.set_headers]
        await until(lambda: listener.counts() == (1, 1))
        waiting.set()
        assert (await first.hear()).immediate_response.body == b"late"
    assert len(application.opened) == 1


async def test_whoever_keeps_others_waiting_for_his_body_is_given_up():
    application = Application()
    limits = ExtProcLimits(exchanges=1)
    async with listening(application, limits) as listener, Talk(listener) as slow:
        await slow.tell(head())
        async with Talk(listener) as second:
            assert (await second.tell(head())).HasField("request_headers")
            assert (await slow.hear()).immediate_response.status.code == 408
    assert application.refused[0][0].rule is rules.BODY_DEADLINE
    assert listener.shed == 1


async def test_what_the_application_refuses_as_it_opens():
    application = Application()
    async with listening(application) as listener, envoy(listener) as filter_:
        application.refuses = Refusal(rules.NO_ROUTE)
        assert (await filter_.exchange()).status == 404
        application.refuses = Shed(rules.BUSY, Reply(503, b"shed"))
        seen = await filter_.exchange()
        assert (seen.status, seen.body) == (503, b"shed")
    assert [one.rule for one, *_ in application.refused] == [rules.NO_ROUTE]


class Broken(Application):
    """One that fails in one of its methods."""

    def __init__(self, where):
        super().__init__()
        self.where = where

    def open(self, head, peer):
        if self.where == "open":
            raise ZeroDivisionError
        return super().open(head, peer)

    def refuse(self, *given):
        if self.where == "refuse":
            raise ZeroDivisionError
        return super().refuse(*given)

    async def answer(self, exchange):
        if self.where == "handle":
            raise ZeroDivisionError


@pytest.mark.parametrize("where", ["open", "handle", "refuse", "answer"])
async def test_a_defect_lets_nothing_pass(where):
    caught = []
    asyncio.get_running_loop().set_exception_handler(lambda _, told: caught.append(told))
    application = Broken(where)
    async with listening(application) as listener, envoy(listener) as filter_:
        if where == "refuse":
            application.refuses = Refusal(rules.NO_ROUTE)
        seen = await filter_.exchange()
    assert seen.status == 503
    assert seen.immediate
    assert seen.forwarded is None
    assert seen.stream == ("INTERNAL" if where == "answer" else "")
    assert len(caught) == (where != "answer")


def any_message():
    """Any message, in any state of its own."""
    texts = st.sampled_from([b"", b"{}", b"\xff" * 9])
    return st.one_of(
        st.builds(lambda end: head(end=end), st.booleans()),
        st.builds(lambda body, end: body_of(body, end=end), texts, st.booleans()),
        st.builds(lambda body, end: body_of(body, end=end, of="response"), texts, st.booleans()),
        st.builds(
            lambda s, e: answer_message(s, end=e), st.sampled_from([200, 404]), st.booleans()
        ),
        st.sampled_from([trailers_message(), trailers_message("response"), ProcessingRequest()]),
        st.binary(max_size=40),
    )


def orders():
    """Messages in an order that begins as it should, more often than not."""
    begin = [head(), body_of(b"{}"), answer_message()]
    return st.builds(
        lambda good, rest: [*begin[:good], *rest],
        st.integers(0, 3),
        st.lists(any_message(), max_size=4),
    )


@settings(max_examples=150)
@given(messages=orders(), reads=st.booleans())
def test_whatever_order_messages_come_in(messages, reads):
    """A stream ends well only after a verdict; a request goes on only if it was handled."""

    async def run():
        application = Application()
        application.permitted = False

        async def answer(exchange):
            response = await exchange.upstream.send(permit(b"[]", target="/permitted"))
            if reads:
                await response.gathered(100)
            await exchange.relay(response)
            application.permitted = True

        application.answer = answer
        told = []
        async with listening(application) as listener, Talk(listener) as talk:
            for message in messages:
                response = await talk.tell(message)
                if response is None:
                    break
                told.append(response)
                if response.HasField("immediate_response") or application.permitted:
                    break  # the verdict: whatever was written now would meet a stream that ends
            if not talk.code:
                await talk.call.done_writing()
                while (response := await talk.hear()) is not None:
                    told.append(response)
        kinds = [one.WhichOneof("response") for one in told]
        if talk.code == "OK":
            assert kinds[-1] == "immediate_response" or application.handled[0].answered
        else:
            assert "immediate_response" not in kinds
            assert not application.permitted
        for kind, response in zip(kinds, told, strict=True):
            if kind.startswith("request"):
                common = getattr(response, kind).response
                paths = [
                    one.header.raw_value
                    for one in common.header_mutation.set_headers
                    if one.header.key == ":path"
                ]
                assert paths == ([b"/permitted"] if kind == "request_body" else paths)
                assert paths[0] == NOWHERE or application.handled

    asyncio.run(run())


async def test_streams_that_say_nothing_yet_keep_nobody_out():
    """A burst is admitted as far as there is room, however many of it wait to be looked at."""
    application = Application()
    application.sheds = Reply(429, b"")
    limits = ExtProcLimits(exchanges=1)
    async with (
        listening(application, limits) as listener,
        Talk(listener) as first,
        Talk(listener) as second,
    ):
        for talk in (first, second):
            await talk.call.wait_for_connection()
        await until(lambda: listener.calls == 2)
        told = await first.tell(head_message(pseudo()))
        assert told.WhichOneof("response") == "request_headers"
        assert listener.shed == 0
