"""Settings to the listener for Envoy's external processing."""

from __future__ import annotations

from collections.abc import Callable

from proxy.ext_proc.application import Application
from proxy.ext_proc.limits import ExtProcLimits
from proxy.ext_proc.listener import Listener
from proxy.grpc.limits import GrpcLimits
from proxy.grpc.tls import ServerTls
from proxy.settings.models import Settings


def listener(
    settings: Settings,
    application: Application,
    *,
    clock: Callable[[], float],
    reuse_port: bool = False,
) -> Listener:
    """The listener for Envoy. Does not listen yet.

    Args:
        clock: monotonic seconds.
        reuse_port: whether other processes listen on the same port.

    Raises:
        OSError: if the certificate or its key cannot be used.
    """
    given, http, client = settings.ext_proc, settings.http, settings.client
    assert given is not None  # the caller looked
    tls = given.tls
    return Listener(
        application,
        str(given.listen),
        ExtProcLimits(
            head_bytes=http.head_bytes,
            header_count=http.header_count,
            exchanges=given.exchanges,
            body_seconds=http.body_seconds,
            answer_seconds=given.answer_seconds,
        ),
        GrpcLimits(
            message_bytes=given.message_bytes,
            connections=given.connections,
            streams=2 * given.exchanges,  # more are refused, rather than made to wait
            grace_seconds=http.drain_seconds,
        ),
        tls=ServerTls(tls.certificate, tls.key, tls.client_ca) if tls else None,
        clock=clock,
        guarded=[client.api_key_header.encode()],
        forwarded=bool(client.trusted_proxies),
        reuse_port=reuse_port,
    )
