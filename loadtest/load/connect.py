"""Connections made as a plan says: over TCP, TLS or a unix socket, from a given address."""

from __future__ import annotations

import asyncio
import ssl

from loadtest.load.http import Connection, HttpConnection, Owner
from loadtest.load.plan import Tls
from loadtest.load.pool import Opener
from loadtest.load.share import Share


def opener(share: Share) -> Opener:
    """What opens the connections of a process.

    Raises:
        OSError: if a certificate cannot be read.
    """
    if share.wire == "grpc":
        from loadtest.load.rpc import grpc_opener  # noqa: PLC0415 - gRPC is an extra

        return grpc_opener(share)
    return http_opener(share)


def http_opener(share: Share) -> Opener:
    """Over HTTP/1.1."""
    context = None if share.tls is None else tls_context(share.tls)
    address = share.address

    async def connect(owner: Owner, source: str) -> Connection:
        loop = asyncio.get_running_loop()
        name = None
        if share.tls is not None:
            name = share.tls.name or ("localhost" if isinstance(address, str) else address[0])

        def make() -> HttpConnection:
            return HttpConnection(owner)

        try:
            async with asyncio.timeout(share.timeout):
                if isinstance(address, str):
                    _, made = await loop.create_unix_connection(
                        make, address, ssl=context, server_hostname=name
                    )
                else:
                    _, made = await loop.create_connection(
                        make, *address, ssl=context, server_hostname=name,
                        local_addr=(source, 0) if source else None,
                    )  # fmt: skip
        except TimeoutError:
            raise OSError(f"no connection to {address} in {share.timeout:g} s") from None
        return made

    return connect


def tls_context(tls: Tls) -> ssl.SSLContext:
    """As a client's.

    Raises:
        OSError: if a certificate cannot be read.
    """
    context = ssl.create_default_context(cafile=tls.authority)
    if not tls.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if tls.certificate is not None:
        context.load_cert_chain(tls.certificate, tls.key)
    return context
