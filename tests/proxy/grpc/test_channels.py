from __future__ import annotations

import asyncio

import grpc
import pytest
from grpc import StatusCode, aio
from grpc_ends import INFER, SERVICE, ModelServer

from loadtest.process import free_port
from proxy.decision import ALLOWED, Permit, UpstreamRequest
from proxy.grpc.channels import Channels
from proxy.grpc.metadata import passed_on
from proxy.http.address import Address
from proxy.http.limits import PoolLimits
from proxy.rules import (
    UPSTREAM_INVALID,
    UPSTREAM_QUEUE,
    UPSTREAM_TIMEOUT,
    UPSTREAM_UNREACHABLE,
    Refusal,
)

TARGET = f"{SERVICE}/digits/ModelInfer".encode()


def permit(body=b"message", target=TARGET, headers=b""):
    return Permit(ALLOWED, UpstreamRequest(b"RPC", target, headers, body))


def channels(*ports, clock=lambda: 0.0, message_bytes=2**20, **limits):
    addresses = [
        Address("127.0.0.1", port, authority=f"127.0.0.1:{port}".encode()) for port in ports
    ]
    return Channels(addresses, PoolLimits(**limits), clock=clock, message_bytes=message_bytes)


@pytest.fixture(autouse=True)
def proxied(monkeypatch):
    """An environment whose proxy nobody is to be asked by."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)


@pytest.fixture
async def server():
    async with ModelServer().running() as running:
        yield running


@pytest.fixture
async def upstream(server):
    made = channels(server.port)
    yield made
    await made.close()


async def test_a_call_as_it_was_permitted(server, upstream):
    async def answer(method, message, context):
        await context.send_initial_metadata(
            (("a", "1"), ("grpc-internal-x", "2"), ("x-request-id", "theirs"))
        )
        context.set_trailing_metadata(
            (("b", "2"), ("c-bin", b"\0"), ("content-x", "3"), ("x-request-id", "theirs"))
        )
        return b"answer"

    server.answer = answer
    lines = b"x-request-id: id\r\nauthorization: Bearer a\r\naccept-encoding: identity\r\n"
    answer = await upstream.send(permit(headers=lines))
    assert (answer.status, answer.complete, answer.get(b"content-encoding")) == (200, True, None)
    assert await answer.whole(6) == b"answer"
    assert await answer.gathered(5) is None
    assert answer.buffered == 6
    assert answer.initial == (("a", "1"),)
    assert answer.trailing == (("b", "2"), ("c-bin", b"\0"))
    assert answer.take() == b"answer"
    ((method, message, context),) = server.calls
    assert (method, message) == (INFER, b"message")
    told = dict(context.invocation_metadata())
    assert told.pop("user-agent").startswith("grpc")
    assert told == {"x-request-id": "id", "authorization": "Bearer a"}
    assert upstream.state().addresses[0].in_flight == 0


async def test_a_call_that_asks_for_no_inference_names_its_model(server, upstream):
    for target in ("digits/ModelReady", "digits/2/ModelMetadata", "ServerLive"):
        await upstream.send(permit(b"", f"{SERVICE}/{target}".encode()))
    assert [call[:2] for call in server.calls] == [
        (f"{SERVICE}/ModelReady", b"\x0a\x06digits"),
        (f"{SERVICE}/ModelMetadata", b"\x0a\x06digits\x12\x012"),
        (f"{SERVICE}/ServerLive", b""),
    ]


@pytest.mark.parametrize("code", [code for code in StatusCode if code is not StatusCode.OK])
async def test_a_status_of_the_server_is_passed_on(server, upstream, code):
    async def answer(method, message, context):
        await context.abort(code, "the server's words", (("k", "v"),))

    server.answer = answer
    answer = await upstream.send(permit())
    assert (answer.code, answer.details) == (code, "the server's words")
    assert answer.trailing == (("k", "v"),)
    assert answer.status >= 400
    assert await answer.body(10) == b""
    failed = answer.status >= 500 and code is not StatusCode.UNIMPLEMENTED
    assert upstream.state().addresses[0].errors == failed


async def test_words_that_only_look_like_grpc_s_own_are_passed_on(server, upstream):
    async def answer(method, message, context):
        await context.abort(StatusCode.INVALID_ARGUMENT, "transport: ipv4: keepalive")

    server.answer = answer
    answer = await upstream.send(permit())
    assert (answer.code, answer.details) == (
        StatusCode.INVALID_ARGUMENT,
        "transport: ipv4: keepalive",
    )


async def test_nothing_but_a_permit_is_sent(server, upstream):
    with pytest.raises(TypeError):
        await upstream.send(permit().request)
    assert not server.calls


async def test_a_server_that_is_not_there():
    upstream = channels(free_port())
    with pytest.raises(Refusal) as caught:
        await upstream.send(permit())
    assert caught.value.rule is UPSTREAM_UNREACHABLE
    assert "127.0.0.1" not in caught.value.message
    assert upstream.state().addresses[0].errors == 1
    await upstream.close()


async def test_a_server_that_comes_back_is_found_again():
    port = free_port()
    upstream = channels(port)
    with pytest.raises(Refusal):
        await upstream.send(permit())
    model = ModelServer()
    model.wanted = port
    async with model.running():
        for _ in range(200):
            try:
                answer = await upstream.send(permit())
                break
            except Refusal:
                await asyncio.sleep(0.05)
        assert answer.status == 200
    await upstream.close()


async def test_deadlines(server, upstream):
    left = []

    async def answer(method, message, context):
        left.append(context.time_remaining())
        if message == b"slow":
            await asyncio.Event().wait()
        return b""

    server.answer = answer
    await upstream.send(permit())
    await upstream.send(permit(headers=b"grpc-timeout: 5000m\r\n"))
    await upstream.send(permit(headers=b"grpc-timeout: 99999999H\r\n"))
    # gRPC rounds a deadline up, by some hundredths.
    assert [round(seconds) for seconds in left] == [30, 5, 30]
    with pytest.raises(Refusal) as caught:
        await upstream.send(permit(b"slow", headers=b"grpc-timeout: 50m\r\n"))
    assert caught.value.rule is UPSTREAM_TIMEOUT
    # It was the client's hurry: the server did not fail.
    assert upstream.state().addresses[0].errors == 0
    hasty = channels(server.port, response_seconds=0.05)
    with pytest.raises(Refusal):
        await hasty.send(permit(b"slow", headers=b"grpc-timeout: 9S\r\n"))
    assert hasty.state().addresses[0].errors == 1
    await hasty.close()


async def test_a_deadline_that_the_server_s_end_was_first_to_notice(server, upstream):
    async def answer(method, message, context):
        await context.abort(StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")

    server.answer = answer
    with pytest.raises(Refusal) as caught:
        await upstream.send(permit())
    assert caught.value.rule is UPSTREAM_TIMEOUT


async def test_a_client_that_leaves_cancels_the_call(server, upstream):
    begun, cancelled = asyncio.Event(), asyncio.Event()

    async def answer(method, message, context):
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    server.answer = answer
    sending = asyncio.ensure_future(upstream.send(permit()))
    await begun.wait()
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    await cancelled.wait()
    assert upstream.state().addresses[0].in_flight == 0


async def test_channels_that_close_refuse_what_is_under_way(server):
    upstream, begun = channels(server.port), asyncio.Event()

    async def answer(method, message, context):
        begun.set()
        await asyncio.Event().wait()

    server.answer = answer
    sending = asyncio.ensure_future(upstream.send(permit()))
    await begun.wait()
    await upstream.close()
    with pytest.raises(Refusal) as caught:
        await sending
    assert caught.value.rule is UPSTREAM_UNREACHABLE


async def test_an_answer_beyond_the_bound_is_invalid(server):
    upstream = channels(server.port, message_bytes=1000)

    async def answer(method, message, context):
        return b"x" * 2000

    server.answer = answer
    with pytest.raises(Refusal) as caught:
        await upstream.send(permit())
    assert caught.value.rule is UPSTREAM_INVALID
    await upstream.close()


async def test_a_status_of_ok_without_a_message_is_invalid():
    async def nothing(message, context):
        return
        yield b""

    class Silent(grpc.GenericRpcHandler):
        def service(self, _):
            return grpc.unary_stream_rpc_method_handler(nothing)

    server = aio.server(handlers=[Silent()])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    upstream = channels(port)
    for _ in range(2):
        with pytest.raises(Refusal) as caught:
            await upstream.send(permit())
        assert caught.value.rule is UPSTREAM_INVALID
    assert upstream.state().addresses[0].errors == 2
    await upstream.close()
    await server.stop(None)


async def test_a_server_s_metadata_beyond_ascii_is_left_out():
    said = (("a", "\xff"), ("b", "plain"), ("c-bin", b"\xff"), ("d", "line\nbreak"))
    assert passed_on(said) == (("b", "plain"), ("c-bin", b"\xff"))


async def test_a_connection_that_breaks_in_the_middle(server):
    begun, connected = asyncio.Event(), []

    async def answer(method, message, context):
        begun.set()
        await asyncio.Event().wait()

    async def pass_on(reader, writer):
        connected.append(writer)
        while piece := await reader.read(65536):
            writer.write(piece)

    async def relay(reader, writer):
        onward, back = await asyncio.open_connection("127.0.0.1", server.port)
        await asyncio.gather(pass_on(reader, back), pass_on(onward, writer), return_exceptions=True)

    server.answer = answer
    async with await asyncio.start_server(relay, "127.0.0.1", 0) as between:
        upstream = channels(between.sockets[0].getsockname()[1])
        sending = asyncio.ensure_future(upstream.send(permit()))
        await begun.wait()
        for writer in connected:
            writer.transport.abort()
        with pytest.raises(Refusal) as caught:
            await sending
        assert caught.value.rule is UPSTREAM_UNREACHABLE
        await upstream.close()
    assert len(server.calls) == 1  # it is not asked again


async def test_calls_wait_for_room(server):
    upstream, begun, release = (
        channels(server.port, connections=1),
        asyncio.Event(),
        asyncio.Event(),
    )

    async def answer(method, message, context):
        begun.set()
        await release.wait()
        return message

    server.answer = answer
    first = asyncio.ensure_future(upstream.send(permit(b"1")))
    await begun.wait()
    second = asyncio.ensure_future(upstream.send(permit(b"2")))
    await asyncio.sleep(0)
    assert upstream.state().waiting == 1
    release.set()
    assert [await (await one).body(1) for one in (first, second)] == [b"1", b"2"]
    assert upstream.state().waiting == 0
    await upstream.close()


async def test_calls_do_not_wait_for_ever(server):
    upstream, begun = channels(server.port, connections=1, queue_seconds=0.01), asyncio.Event()

    async def answer(method, message, context):
        begun.set()
        await asyncio.Event().wait()

    server.answer = answer
    first = asyncio.ensure_future(upstream.send(permit()))
    await begun.wait()
    with pytest.raises(Refusal) as caught:
        await upstream.send(permit())
    assert (caught.value.rule, caught.value.retry_after) == (UPSTREAM_QUEUE, 1)
    assert upstream.state().queue_timeouts == 1
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    await upstream.close()


async def test_a_server_that_fails_is_left_alone(server):
    now = [0.0]
    upstream = channels(server.port, free_port(), clock=lambda: now[0], failures=2)
    failed = 0
    for _ in range(20):
        try:
            await upstream.send(permit())
        except Refusal:
            failed += 1
    assert failed == 2
    good, bad = upstream.state().addresses
    assert (good.ejected, bad.ejected, bad.ejections, bad.errors) == (False, True, 1, 2)
    now[0] = 31.0
    assert not upstream.state().addresses[1].ejected
    await upstream.close()


async def test_a_proxy_of_the_environment_is_not_asked(server, monkeypatch):
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    upstream = channels(server.port)
    assert (await upstream.send(permit())).status == 200
    await upstream.close()
