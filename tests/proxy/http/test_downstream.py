"""The listening side on real sockets: TCP, unix, TLS and mutual TLS."""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
import ssl

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from in_memory import echo, permit, post
from on_loopback import PATIENCE, echo_body, site

from proxy.http.address import Address
from proxy.http.downstream import Listener
from proxy.http.limits import ListenerLimits
from proxy.http.messages import Reply
from proxy.http.tls import client_context, server_context


async def test_tcp():
    async with site() as running:
        read = await running.talk(post(b"1") + post(b"2"))
        assert [part[-1:] for part in read.split(b"HTTP/1.1 200 OK")[1:]] == [b"1", b"2"]
        assert running.application.handled[0].peer.address == "127.0.0.1"
        assert b"connection: close" in read


async def test_both_sides_do_not_wait_for_more_to_send():
    async with site() as running:
        await running.talk(post(b"1"))
        _, writer = await running.connect()
        await asyncio.sleep(0)
        (pooled,) = running.application.pool._balance.upstreams[0].connections
        sides = [pooled._transport]
        async with asyncio.timeout(PATIENCE):
            while not running.listener.connections:  # noqa: ASYNC110 - until it is accepted
                await asyncio.sleep(0)
        sides += [each._transport for each in running.listener.connections]
        for transport in sides:
            sock = transport.get_extra_info("socket")
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        writer.close()


async def test_unix_sockets_on_both_sides(tmp_path):
    listen = Address(path=str(tmp_path / "listen.sock"))
    async with site(listen=listen, upstream_path=str(tmp_path / "model.sock")) as running:
        read = await running.talk(post(b"abc"))
        assert read.endswith(b"\r\n\r\nabc")
        assert running.upstream.requests[0].startswith(
            b"POST /model HTTP/1.1\r\nhost: localhost\r\n"
        )
        assert running.application.handled[0].peer.address == ""


async def test_a_stale_unix_socket_is_replaced_one_in_use_is_not(tmp_path):
    path = str(tmp_path / "listen.sock")
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(path)
    async with site(listen=Address(path=path)) as running:
        assert (await running.talk(post(b"abc"))).endswith(b"abc")
        second = Listener(running.application, Address(path=path))
        with pytest.raises(OSError, match="in use"):
            await second.start()
        assert (await running.talk(post(b"def"))).endswith(b"def")


async def test_a_bound_socket_may_be_given():
    async with site() as running:
        sock = socket.create_server(("127.0.0.1", 0))
        listener = Listener(running.application, Address("127.0.0.1", 0), sock=sock)
        await listener.start()
        assert listener.port == sock.getsockname()[1]
        await listener.close()


async def test_tls_and_mutual_tls_on_both_sides(authority):
    server = server_context(*authority.issue("server"), client_ca=authority.path)
    certificate, key = authority.issue("client")
    trusted = client_context(authority.path, certificate, key)
    stranger = client_context(authority.path)
    listen = Address("127.0.0.1", 0, tls=server)
    async with site(listen=listen, upstream_tls=(server, trusted)) as running:
        read = await running.talk(post(b"abc", b"Connection: close"), ssl=trusted)
        assert read.endswith(b"\r\n\r\nabc")
        peer = running.application.handled[0].peer
        assert peer.tls
        with open(certificate, "rb") as file:  # noqa: ASYNC230, PTH123 - a few bytes
            known = x509.load_pem_x509_certificate(file.read())
        assert peer.certificate == known.public_bytes(serialization.Encoding.DER)
        again = await running.talk(post(b"def", b"Connection: close"), ssl=trusted)
        assert again.endswith(b"\r\n\r\ndef")
        assert len(running.upstream.connections) == 1  # kept alive under TLS too
        read = b""
        with contextlib.suppress(OSError):
            read = await running.talk(post(b"x", b"Connection: close"), ssl=stranger)
        assert read == b""
        assert len(running.application.handled) == 2


async def test_what_comes_late_over_tls_is_for_nobody(authority):
    """The bytes are there, but the event loop has not read them: it is busy until they are."""
    connections = []

    def answer(connection, request):
        connections.append(connection)
        echo_body(connection, request)

    tls = server_context(*authority.issue("server")), client_context(authority.path)
    async with site(answer, upstream_tls=tls) as running:
        pool = running.application.pool
        for nonce in (b"first", b"second"):
            response = await pool.send(permit(nonce))
            assert await response.body(100) == nonce
        assert len(running.upstream.connections) == 1  # kept alive
        (pooled,) = pool._balance.upstreams[0].connections
        connections[0].transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
        arrived = select.poll()
        arrived.register(pooled._transport.get_extra_info("socket").fileno(), select.POLLIN)
        assert arrived.poll(PATIENCE * 1000)
        response = await pool.send(permit(b"third"))
        assert await response.body(100) == b"third"
        assert len(running.upstream.connections) == 2


async def test_silent_handshakes_count_as_connections(authority):
    listen = Address("127.0.0.1", 0, tls=server_context(*authority.issue("server")))
    async with site(listen=listen, limits=ListenerLimits(connections=4)) as running:
        listener = running.listener
        async with asyncio.timeout(PATIENCE):
            silent = [await running.connect() for _ in range(5)]
            reader, writer = await running.connect()
            with contextlib.suppress(ConnectionResetError):
                assert await reader.read() == b""  # one too many
            writer.close()
            assert (len(listener.handshakes), listener.shed) == (5, 1)
            silent[0][1].close()
            silent[1][1].write(b"GET / HTTP/1.1\r\n\r\n")  # no handshake
            while len(listener.handshakes) > 3:  # noqa: ASYNC110 - until it is noticed
                await asyncio.sleep(0)
            trusted = client_context(authority.path)
            read = await running.talk(post(b"abc", b"Connection: close"), ssl=trusted)
            assert read.endswith(b"abc")
        assert listener.shed == 1
        await listener.close()
        assert listener.handshakes == set()
        for _, writer in silent:
            writer.close()


async def test_a_handshake_has_a_deadline(authority):
    listen = Address("127.0.0.1", 0, tls=server_context(*authority.issue("server")))
    async with site(listen=listen, limits=ListenerLimits(head_seconds=0.005)) as running:
        assert await running.talk(b"", shut=False) == b""
        async with asyncio.timeout(PATIENCE):
            while running.listener.handshakes:  # noqa: ASYNC110 - until it is noticed
                await asyncio.sleep(0)


async def test_a_refusal_under_tls_is_readable(authority):
    listen = Address("127.0.0.1", 0, tls=server_context(*authority.issue("server")))
    async with site(listen=listen) as running:
        running.application.body_limit = 10
        reader, writer = await running.connect(ssl=client_context(authority.path))
        writer.write(post(b"", length=b"1000000"))
        async with asyncio.timeout(PATIENCE):
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 413 ")
            assert await reader.readexactly(6) == b"BZ-103"
            writer.write(b"x" * 1000)
        writer.close()


async def test_old_tls_is_refused(authority):
    context = server_context(*authority.issue("server"))
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    with pytest.raises(OSError):
        server_context(authority.path, authority.path)


async def test_the_refusal_of_a_large_body_survives_its_sending():
    async with site() as running:
        running.application.body_limit = 1000
        body = b"x" * 3_000_000
        read = await running.talk(post(body), shut=False)
        assert read.startswith(b"HTTP/1.1 413 ")
        assert read.endswith(b"BZ-103")


async def test_a_large_body_goes_through_and_comes_back():
    async with site() as running:
        running.application.body_limit = 1 << 24
        body = bytes(range(256)) * 40_000
        read = await running.talk(post(body))
        assert read.endswith(b"\r\n\r\n" + body)
        assert running.upstream.requests[0].endswith(b"\r\n\r\n" + body)


async def test_a_client_that_resets_cancels_its_upstream_request():
    arrived = asyncio.Event()
    async with site(lambda connection, request: arrived.set()) as running:
        _, writer = await running.connect()
        writer.write(post(b"abc"))
        async with asyncio.timeout(PATIENCE):
            await arrived.wait()
            sock = writer.get_extra_info("socket")
            linger = b"\1\0\0\0\0\0\0\0"
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.transport.abort()
            while not running.upstream.lost:  # noqa: ASYNC110 - until the upstream sees it
                await asyncio.sleep(0)
        assert isinstance(running.application.raised[0], asyncio.CancelledError)


async def test_a_slow_reader_holds_the_upstream_back():
    size = 30_000_000
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size
    async with site(
        lambda connection, _: connection.transport.write(head + b"x" * size)
    ) as running:
        reader, writer = await running.connect()
        writer.transport.pause_reading()
        writer.write(post(b"abc"))
        async with asyncio.timeout(PATIENCE):
            while not (upstreams := running.upstream.connections):  # noqa: ASYNC110
                await asyncio.sleep(0)
            unsent = -1
            for _ in range(1000):  # until nothing moves any more
                await asyncio.sleep(0)
                unsent = upstreams[0].transport.get_write_buffer_size()
            (connection,) = running.listener.connections
            assert unsent > size // 4
            assert connection._transport.get_write_buffer_size() < 2_000_000
            writer.transport.resume_reading()
            await reader.readuntil(b"\r\n\r\n")
            assert len(await reader.readexactly(size)) == size
        writer.close()


async def test_shedding_is_readable():
    async with site(limits=ListenerLimits(connections=1)) as running:
        _, writer = await running.connect()
        async with asyncio.timeout(PATIENCE):
            while not running.listener.connections:  # noqa: ASYNC110 - until it is accepted
                await asyncio.sleep(0)
        read = await running.talk(b"")
        assert read.startswith(b"HTTP/1.1 503 ")
        assert read.endswith(b"BZ-106")
        writer.close()


async def test_draining_stops_accepting_and_ends():
    async with site() as running:
        reader, writer = await running.connect()
        writer.write(post(b"1"))
        async with asyncio.timeout(PATIENCE):
            await reader.readuntil(b"\r\n\r\n1")
            port = running.listener.port
            draining = asyncio.create_task(running.listener.drain(10))
            await asyncio.sleep(0)
            with pytest.raises(OSError):
                await asyncio.open_connection("127.0.0.1", port)
            writer.write(post(b"2"))
            last = await reader.read()
            assert b"connection: close" in last
            assert last.endswith(b"2")
            writer.close()
            await draining
        assert running.listener.connections == set()


async def test_closing_cancels_what_is_under_way():
    async with site(lambda connection, request: None) as running:
        _, writer = await running.connect()
        writer.write(post(b"1"))
        async with asyncio.timeout(PATIENCE):
            while not running.upstream.requests:  # noqa: ASYNC110 - until it is there
                await asyncio.sleep(0)
            await running.listener.close()
        assert isinstance(running.application.raised[0], asyncio.CancelledError)
        writer.close()


async def test_sweeps_come_by_themselves():
    limits = ListenerLimits(sweep_seconds=0.001, head_seconds=0.005)
    async with site(limits=limits) as running:
        read = await running.talk(b"GET", shut=False)
        assert read.startswith(b"HTTP/1.1 408 ")


async def test_a_task_and_the_thread_pool_may_be_awaited_in_an_exchange():
    async with site() as running:

        async def handle(exchange):
            body = await asyncio.to_thread(exchange.body.upper)
            exchange.reply(Reply(200, body))

        running.application.handler = handle
        assert (await running.talk(post(b"abc"))).endswith(b"ABC")


async def test_many_clients_at_once():
    async with site() as running:
        running.application.handler = None
        reads = await asyncio.gather(*[running.talk(post(b"%05d" % i) * 5) for i in range(100)])
        for index, read in enumerate(reads):
            assert read.count(b"\r\n\r\n%05d" % index) == 5
        running.application.handler = echo
