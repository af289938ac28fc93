"""The load over gRPC: what is answered, refused, shed and broken, told apart."""

import asyncio
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from authority import Authority
from scripted_http import plan_of, sent

grpc = pytest.importorskip("grpc")

from loadtest.load.plan import Part, Tls  # noqa: E402 - what needs the extra is below

CALLS = [((("x-client", str(i)),), bytes([i])) for i in range(4)]


@pytest.fixture(autouse=True)
def proxied(monkeypatch):
    """An environment whose proxy nobody is to be asked by."""
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    for name in ("no_proxy", "no_grpc_proxy"):
        monkeypatch.delenv(name, raising=False)


@asynccontextmanager
async def serving(answer, *, start=True):
    """A server whose every call is ``answer(message, context)``."""

    class Handler(grpc.GenericRpcHandler):
        def service(self, details):
            return grpc.unary_unary_rpc_method_handler(answer)

    server = grpc.aio.server()
    server.add_generic_rpc_handlers((Handler(),))
    port = server.add_insecure_port("127.0.0.1:0")
    if start:
        await server.start()
    try:
        yield ("127.0.0.1", port), server
    finally:
        await server.stop(None)


def calls_of(address, times, **others):
    parts = [Part("part", "honest", CALLS)]
    return plan_of(address, times, parts=parts, wire="grpc", **others)


async def test_statuses_are_told_by_name():
    seen = []

    async def answer(message, context):
        seen.append((message, dict(context.invocation_metadata())["x-client"]))
        codes = [None, grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.RESOURCE_EXHAUSTED,
                 grpc.StatusCode.UNAVAILABLE]  # fmt: skip
        if code := codes[message[0]]:
            await context.abort(code, "no")
        return b"yes"

    async with serving(answer) as (address, _):
        (one,) = await sent(calls_of(address, [0.0] * 8))
    assert seen == [(bytes([i]), str(i)) for i in (0, 1, 2, 3)] * 2
    assert one.said == {"answered": 2, "refused": 2, "limited": 2, "shed": 2}
    assert one.statuses == {
        "OK": 2, "PERMISSION_DENIED": 2, "RESOURCE_EXHAUSTED": 2, "UNAVAILABLE": 2,
    }  # fmt: skip
    assert not one.errors
    assert one.good == 2


async def test_what_is_never_answered_is_an_error():
    async def answer(message, context):
        await asyncio.Event().wait()

    async with serving(answer) as (address, _):
        (one,) = await sent(calls_of(address, [0.0] * 2, connections=2, timeout=0.05))
    assert one.errors == {"timeout": 2}


async def test_a_server_that_breaks_is_no_server_that_sheds():
    listening = None

    async def cut(reader, writer):
        await reader.readexactly(24)
        writer.write(b"\0\0\0\4\0\0\0\0\0")  # SETTINGS
        while b"\0\0\0\0\1" not in await reader.read(1 << 16):  # DATA or HEADERS of stream 1
            pass
        writer.transport.abort()

    listening = await asyncio.start_server(cut, "127.0.0.1", 0)
    async with listening:
        address = listening.sockets[0].getsockname()
        (one,) = await sent(calls_of(address, [0.0] * 2))
    assert one.errors == {"reset": 2}
    assert not one.said


async def test_no_server_at_the_beginning_is_said():
    with pytest.raises(OSError, match="no gRPC"):
        await sent(calls_of(("127.0.0.1", 1), [0.0], timeout=0.1))


def issued(authority):
    return tuple(Path(path).read_bytes() for path in authority.issue("server"))


async def test_unix_sockets_and_tls(tmp_path):
    authority = Authority(tmp_path)
    certificate, key = issued(authority)

    async def answer(message, context):
        return b"yes"

    async with serving(answer, start=False) as (_, server):
        path = str(tmp_path / "socket")
        server.add_insecure_port(f"unix:{path}")
        credentials = grpc.ssl_server_credentials([(key, certificate)])
        port = server.add_secure_port("127.0.0.1:0", credentials)
        tls = Tls(authority=Path(authority.path))
        await server.start()
        (over_unix,) = await sent(calls_of(path, [0.0] * 2))
        (over_tls,) = await sent(calls_of(("127.0.0.1", port), [0.0] * 2, tls=tls))
    assert (over_unix.good, over_tls.good) == (2, 2)
    with pytest.raises(ValueError, match="verifies"):
        await sent(calls_of(("127.0.0.1", port), [0.0], tls=Tls(verify=False)))
