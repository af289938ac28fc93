from __future__ import annotations

import asyncio
import contextlib
import gzip

import grpc
import pytest
from grpc import StatusCode, aio
from grpc_ends import (
    INFER,
    NAMED,
    SERVICE,
    STREAM,
    Application,
    RawClient,
    client,
    listening,
    until,
)

from proxy import protobuf
from proxy.grpc.exchange import Outcome
from proxy.grpc.limits import GrpcLimits
from proxy.grpc.listener import Listener
from proxy.http.messages import Reply
from proxy.rules import (
    BODY_TOO_LARGE,
    CLIENT_RATE,
    FRAMING,
    INTERNAL,
    NO_ROUTE,
    OUTLIER,
    OVERLOADED,
    SYNTAX,
    Refusal,
)


async def fails(call):
    """The status of a call that has to fail."""
    with pytest.raises(aio.AioRpcError) as caught:
        await call
    return caught.value


async def test_a_call_comes_to_its_endpoint_and_back():
    application = Application()
    async with listening(application) as listener, client(listener) as channel:
        call = channel.unary_unary(INFER)(NAMED, metadata=(("x-api-key", "k"), ("a-bin", b"\0")))
        assert await call == NAMED
        assert dict(await call.trailing_metadata())["x-request-id"] == "id"
    ((head, peer),) = application.opened
    assert (head.method, head.target) == ("RPC", f"{SERVICE}/digits/ModelInfer")
    assert head.headers[b"x-api-key"] == b"k"
    assert set(head.headers) == {b"x-api-key", b"user-agent"}
    assert (peer.address, peer.tls, peer.certificate) == ("127.0.0.1", False, None)
    (exchange,) = application.handled
    assert (exchange.body, exchange.context) == (NAMED, "context")
    assert listener.calls == 0


@pytest.mark.parametrize(
    ("method", "message", "target"),
    [
        ("ModelInfer", b"\x0a\x01m\x12\x013", "m/3/ModelInfer"),
        ("ModelReady", b"\x0a\x01m", "m/ModelReady"),
        ("ModelMetadata", b"\x0a\x01m\x12\x01v", "m/v/ModelMetadata"),
        ("ServerLive", b"", "ServerLive"),
        ("RepositoryModelLoad", b"\x12\x01m", "RepositoryModelLoad"),
    ],
)
async def test_targets(method, message, target):
    application = Application()
    async with listening(application) as listener, client(listener) as channel:
        await channel.unary_unary(f"{SERVICE}/{method}")(message)
    assert application.opened[0][0].target == f"{SERVICE}/{target}"


async def test_a_method_that_is_not_served():
    application = Application()
    application.refuses = Refusal(NO_ROUTE)
    async with listening(application) as listener, client(listener) as channel:
        for method in (f"{SERVICE}/Whatever", "/grpc.health.v1.Health/Check", '/a"b/c d', INFER):
            error = await fails(channel.unary_unary(method)(NAMED))
            known = method == INFER
            wanted = StatusCode.NOT_FOUND if known else StatusCode.UNIMPLEMENTED
            assert error.code() is wanted
    targets = [head.target for head, _ in application.opened]
    assert targets == ["/", "/", "/", f"{SERVICE}/digits/ModelInfer"]


@pytest.mark.parametrize(
    "odd",
    [
        {"path": b"/\xff\xfe"},
        {"path": INFER.encode() + b"\xc0"},
        {"metadata": ((b"x-foo", b"\xff\xfe"),)},
        {"metadata": ((b"authorization", b"\xff"),)},
        {"metadata": ((b"\xff", b"a"),)},
    ],
)
async def test_bytes_that_are_no_text_harm_nobody_else(odd):
    application = Application()
    async with listening(application) as listener, client(listener) as channel:
        async with RawClient(listener.port) as raw:
            raw.call(NAMED, **odd)
            await raw.answered()
        assert await channel.unary_unary(INFER)(NAMED) == NAMED


async def test_an_answer_that_is_not_taken_is_given_up():
    application, begun = Application(), asyncio.Event()

    async def answer(exchange):
        exchange._end(200, Outcome(StatusCode.OK, "", b"x" * 2**20, (), ()))
        begun.set()

    application.answer = answer
    limits = GrpcLimits(send_seconds=0.2)
    async with listening(application, limits) as listener:
        for path in (INFER, STREAM):
            begun.clear()
            async with RawClient(listener.port, window=0) as raw:
                raw.call(NAMED, path=path.encode())
                await begun.wait()
                assert listener.calls == 1
                await raw.answered()  # by a reset
                await until(lambda: not listener.calls)


async def test_a_call_counts_from_its_begin():
    application, begun, release = Application(), asyncio.Event(), asyncio.Event()
    echo = application.answer

    async def answer(exchange):
        begun.set()
        await release.wait()
        await echo(exchange)

    application.answer = answer
    async with listening(application, GrpcLimits(calls=1)) as listener, client(listener) as channel:
        infer = channel.unary_unary(INFER)
        first = infer(NAMED)
        await begun.wait()
        error = await fails(infer(NAMED))
        assert (error.code(), listener.counts()[1]) == (StatusCode.UNAVAILABLE, 1)
        stream = channel.stream_stream(STREAM)()
        assert await stream.code() is StatusCode.UNAVAILABLE
        release.set()
        assert await first == NAMED
        await until(lambda: not listener.calls)
        assert await infer(NAMED) == NAMED


async def test_calls_that_send_nothing_keep_nobody_out():
    application = Application()
    async with listening(application, GrpcLimits(calls=2)) as listener, client(listener) as channel:
        async with RawClient(listener.port) as half, RawClient(listener.port) as idle:
            half.call(NAMED, whole=False)
            await until(lambda: len(listener._silent) == 1)
            idle.call(NAMED, path=STREAM.encode(), whole=False)
            await until(lambda: len(listener._silent) == 2)
            infer = channel.unary_unary(INFER)
            assert await infer(NAMED) == NAMED
            await half.answered()  # by a reset: it had waited longest
            await until(lambda: listener.calls == 1)
            assert await infer(NAMED) == NAMED
            assert listener.shed == 1
        await until(lambda: not listener.calls)


async def test_a_server_that_ended_unasked_is_started_anew():
    reported = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, told: reported.append(told))
    async with listening(Application()) as listener, client(listener) as channel:
        before, infer = listener._server, channel.unary_unary(INFER)
        assert await infer(NAMED) == NAMED
        before._request_call = before._request_registered_call = None
        with contextlib.suppress(aio.AioRpcError):  # the last that it accepts, and it may be late
            await infer(NAMED)
        await until(lambda: listener._server is not before)
        assert await infer(NAMED, wait_for_ready=True, timeout=20) == NAMED
    assert "started anew" in str(reported[0]["exception"])


@pytest.mark.parametrize(
    ("refusal", "code", "trailers"),
    [
        (Refusal(OUTLIER), StatusCode.PERMISSION_DENIED, {}),
        (Refusal(CLIENT_RATE, retry_after=7), StatusCode.RESOURCE_EXHAUSTED, {"retry-after": "7"}),
        (Refusal(NO_ROUTE), StatusCode.NOT_FOUND, {}),
        (Refusal(SYNTAX, "why"), StatusCode.INVALID_ARGUMENT, {}),
        (Refusal(OVERLOADED), StatusCode.UNAVAILABLE, {}),
    ],
)
async def test_a_refusal_is_a_status(refusal, code, trailers):
    application = Application()
    application.refuses = refusal
    async with listening(application) as listener, client(listener) as channel:
        error = await fails(channel.unary_unary(INFER)(NAMED))
    assert (error.code(), error.details()) == (code, refusal.message)
    assert {"x-request-id": "id", **trailers}.items() <= dict(error.trailing_metadata()).items()


async def test_a_local_reply_is_a_status():
    application = Application()

    async def answer(exchange):
        exchange.reply(Reply(403, b"request refused", b"text/plain", ((b"x-request-id", b"1"),)))

    application.answer = answer
    async with listening(application) as listener, client(listener) as channel:
        error = await fails(channel.unary_unary(INFER)(NAMED))
    assert (error.code(), error.details()) == (StatusCode.PERMISSION_DENIED, "request refused")


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\x0a",
        b"\x0a\x7f",
        b"\xff" * 40,
        b"\x08\x01",
        NAMED + NAMED,
        b"\x0a\x02\xff\xff",
        b"\x0a\x03a/b",
        b"\x0a\x02..",
        NAMED + b"\x12\x03a b",
        b"\x0a\x00" + NAMED,
        b"\x3a\0" * 2000,
    ],
)
async def test_a_message_that_names_no_model_is_refused(message):
    application = Application()
    async with listening(application) as listener, client(listener) as channel:
        error = await fails(channel.unary_unary(INFER)(message))
    assert error.code() in {StatusCode.INVALID_ARGUMENT, StatusCode.NOT_FOUND}
    ((refusal, head, _),) = application.refused
    assert refusal.rule in {SYNTAX, NO_ROUTE}
    assert head.target == INFER
    assert not application.opened


async def test_a_fault_of_the_application_is_answered_and_reported(recwarn):
    application, reported = Application(), []

    async def answer(exchange):
        raise ZeroDivisionError

    application.answer = answer
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: reported.append(context))
    async with listening(application) as listener, client(listener) as channel:
        error = await fails(channel.unary_unary(INFER)(NAMED))
        assert error.code() is StatusCode.UNAVAILABLE
        assert "Zero" not in error.details()
        application.refuse = None
        error = await fails(channel.unary_unary(INFER)(NAMED))
        assert (error.code(), error.details()) == (StatusCode.UNAVAILABLE, "internal fault")
    assert len(reported) == 3
    assert application.refused[0][0].rule is INTERNAL


async def test_metadata_that_decides_is_there_once():
    application = Application()
    async with listening(application, guarded=["x-key"]) as listener, client(listener) as channel:
        for name in ("authorization", "x-key"):
            twice = ((name, "a"), (name, "b"))
            error = await fails(channel.unary_unary(INFER)(NAMED, metadata=twice))
            assert error.code() is StatusCode.INVALID_ARGUMENT
        await channel.unary_unary(INFER)(NAMED, metadata=(("x", "a"), ("x", "b")))
        for name in ("content-encoding", "te", "host", "accept-encoding", "grpc-foo"):
            await channel.unary_unary(INFER)(NAMED, metadata=((name, "gzip"),))
    assert [refusal.rule for refusal, *_ in application.refused] == [FRAMING] * 2
    assert application.opened[0][0].headers[b"x"] == b"a, b"
    for head, _ in application.opened[1:]:
        assert set(head.headers) == {b"user-agent"}


async def test_a_deadline_is_told_and_ends_the_exchange():
    application = Application()

    async def answer(exchange):
        await asyncio.Event().wait()

    application.answer = answer
    async with listening(application) as listener, client(listener) as channel:
        error = await fails(channel.unary_unary(INFER)(NAMED, timeout=0.2))
        assert error.code() is StatusCode.DEADLINE_EXCEEDED
        await application.ended.wait()
    told = application.opened[0][0].headers[b"grpc-timeout"]
    assert 0 < int(told[:-1]) <= 200
    assert told.endswith(b"m")


async def test_a_client_that_leaves_cancels_the_exchange():
    application, begun, cancelled = Application(), asyncio.Event(), asyncio.Event()

    async def answer(exchange):
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    application.answer = answer
    async with listening(application) as listener, client(listener) as channel:
        call = channel.unary_unary(INFER)(NAMED)
        await begun.wait()
        call.cancel()
        await cancelled.wait()
        await application.ended.wait()
    assert application.handled[0].status == 0
    assert listener.calls == 0


async def test_bounds_of_messages():
    application = Application()
    application.body_limit = 1000
    limits = GrpcLimits(message_bytes=4096)
    async with listening(application, limits) as listener, client(listener) as channel:
        infer = channel.unary_unary(INFER)
        large = NAMED + protobuf.span(7, b"x" * 1000)
        error = await fails(infer(large))
        assert error.code() is StatusCode.INVALID_ARGUMENT
        assert application.refused[0][0].rule is BODY_TOO_LARGE
        huge = NAMED + protobuf.span(7, b"x" * 5000)
        error = await fails(infer(huge))
        assert error.code() is StatusCode.RESOURCE_EXHAUSTED
        # A message that is small only as it is sent.
        bomb = NAMED + protobuf.span(7, b"x" * 10**6)
        assert len(gzip.compress(bomb)) < 4096
        error = await fails(infer(bomb, compression=grpc.Compression.Gzip))
        assert error.code() is StatusCode.RESOURCE_EXHAUSTED
        # Given up while it was undone: gRPC before 1.85 undid all of it first.
        assert "Decompressed message" in error.details()
        small = NAMED + protobuf.span(7, b"x" * 900)
        assert await infer(small, compression=grpc.Compression.Gzip) == small
        error = await fails(infer(NAMED, metadata=(("a", "b" * 40_000),)))
        assert error.code() is StatusCode.RESOURCE_EXHAUSTED
    assert [exchange.body for exchange in application.handled] == [small]


async def test_a_message_that_does_not_come_is_not_waited_for():
    application = Application()
    limits = GrpcLimits(message_seconds=0.05)
    async with listening(application, limits) as listener, client(listener) as channel:
        call = channel.stream_unary(INFER)()
        assert await call.code() is StatusCode.DEADLINE_EXCEEDED
        silent = channel.stream_stream(STREAM)()
        assert await silent.code() is StatusCode.DEADLINE_EXCEEDED
        nothing = channel.stream_unary(INFER)(iter(()))
        assert await nothing.code() is StatusCode.INVALID_ARGUMENT
        idle = channel.stream_stream(STREAM)()
        await idle.write(NAMED)
        assert await idle.read() == protobuf.span(2, NAMED)
        await idle.done_writing()
        assert await idle.read() is aio.EOF
    limits = GrpcLimits(idle_seconds=0.05)
    async with listening(application, limits) as listener, client(listener) as channel:
        idle = channel.stream_stream(STREAM)()
        await idle.write(NAMED)
        assert await idle.read() == protobuf.span(2, NAMED)
        assert await idle.code() in {StatusCode.DEADLINE_EXCEEDED, StatusCode.UNAVAILABLE}


async def test_only_the_first_message_of_a_call_counts():
    application = Application()
    async with listening(application) as listener, client(listener) as channel:
        assert await channel.stream_unary(INFER)(iter([NAMED, b"second"])) == NAMED
    assert [exchange.body for exchange in application.handled] == [NAMED]


async def test_too_many_calls_are_shed():
    application, both, release = Application(), asyncio.Barrier(3), asyncio.Event()
    echo = application.answer

    async def answer(exchange):
        await both.wait()
        await release.wait()
        await echo(exchange)

    application.answer = answer
    limits = GrpcLimits(calls=2)
    async with listening(application, limits) as listener, client(listener) as channel:
        infer = channel.unary_unary(INFER)
        calls = [infer(NAMED) for _ in range(2)]
        await both.wait()
        error = await fails(infer(NAMED))
        assert (error.code(), listener.shed) == (StatusCode.UNAVAILABLE, 1)
        release.set()
        assert [await call for call in calls] == [NAMED, NAMED]


async def test_connections_beyond_the_limit_are_closed():
    async with (
        listening(Application(), GrpcLimits(connections=1)) as listener,
        client(listener) as one,
        client(listener) as other,
    ):
        assert await one.unary_unary(INFER)(NAMED) == NAMED
        error = await fails(other.unary_unary(INFER)(NAMED, timeout=5))
        assert error.code() is StatusCode.UNAVAILABLE


async def test_each_message_of_a_stream_is_an_exchange_of_its_own():
    application = Application()
    async with listening(application) as listener, client(listener) as channel:
        stream = channel.stream_stream(STREAM)()
        for message in (NAMED, b"\xff", b"\x0a\x05other"):
            await stream.write(message)
        await stream.done_writing()
        answers = [answer async for answer in stream]
        assert await stream.code() is StatusCode.OK
    assert answers[0] == protobuf.span(2, NAMED)
    assert answers[1].startswith(b"\x0a")
    assert b"cannot be read" in answers[1]
    assert answers[2] == protobuf.span(2, b"\x0a\x05other")
    assert [head.target for head, _ in application.opened] == [
        f"{SERVICE}/digits/ModelStreamInfer",
        f"{SERVICE}/other/ModelStreamInfer",
    ]


async def test_a_drain_lets_what_is_under_way_be_answered():
    application, begun, release = Application(), asyncio.Event(), asyncio.Event()
    echo = application.answer

    async def answer(exchange):
        begun.set()
        await release.wait()
        await echo(exchange)

    application.answer = answer
    async with listening(application) as listener, client(listener) as channel:
        call = asyncio.ensure_future(_answer_of(channel.unary_unary(INFER)(NAMED)))
        await begun.wait()
        draining = asyncio.ensure_future(listener.drain(30))
        release.set()
        assert await call == NAMED
        await draining
        error = await fails(channel.unary_unary(INFER)(NAMED))
        assert error.code() is StatusCode.UNAVAILABLE
        await listener.drain(1)  # a second time: nothing is left to do


async def test_what_a_drain_does_not_wait_for_is_cut_off():
    application, begun = Application(), asyncio.Event()

    async def answer(exchange):
        begun.set()
        await asyncio.Event().wait()

    application.answer = answer
    async with listening(application) as listener, client(listener) as channel:
        call = asyncio.ensure_future(fails(channel.unary_unary(INFER)(NAMED)))
        await begun.wait()
        await listener.drain(0)
        assert (await call).code() in {StatusCode.UNAVAILABLE, StatusCode.CANCELLED}
        await application.ended.wait()


async def _answer_of(call):
    return await call


async def test_an_address_that_is_taken():
    async with listening(Application()) as listener:
        with pytest.raises(OSError, match=str(listener.port)):
            async with listening(Application()) as other:
                other._target = f"127.0.0.1:{listener.port}"
                await other.start()


async def test_a_unix_socket_has_no_address(tmp_path):
    application, place = Application(), f"unix:{tmp_path / 'grpc.sock'}"
    listener = Listener(application, place, clock=lambda: 0.0)
    await listener.start()
    assert listener.port == 0
    async with aio.insecure_channel(place) as channel:
        await channel.unary_unary(INFER)(NAMED)
    await listener.close()
    assert application.opened[0][1].address == ""
