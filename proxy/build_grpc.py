"""Settings to gRPC's objects: the listener, and the channels to model servers."""

from __future__ import annotations

from collections.abc import Callable

from proxy.build_bindings import pool_limits
from proxy.grpc.application import Application
from proxy.grpc.channels import Channels
from proxy.grpc.limits import GrpcLimits
from proxy.grpc.listener import Listener
from proxy.grpc.tls import ServerTls, channel_credentials
from proxy.http.address import Address
from proxy.settings.endpoint import Endpoint
from proxy.settings.models import Settings


def channels(settings: Settings, endpoint: Endpoint, *, clock: Callable[[], float]) -> Channels:
    """The way to an endpoint's model servers. Opens no connection.

    Raises:
        ValueError: if a certificate cannot be used.
    """
    given = endpoint.grpc
    assert settings.grpc is not None and given is not None  # the settings were checked
    tls = given.upstream_tls
    credentials = None
    if any(origin.tls for origin in given.upstream):
        try:
            credentials = (
                channel_credentials(tls.ca, tls.certificate, tls.key)
                if tls
                else channel_credentials()
            )
        except OSError as error:
            raise ValueError(f"grpc.upstream_tls: {error}") from error
    return Channels(
        [
            Address(
                origin.address.host,
                origin.address.port,
                origin.address.path,
                authority=(str(origin.address) if origin.address.host else "localhost").encode(),
                server_name=(tls.server_name if tls else None) or "",
            )
            for origin in given.upstream
        ],
        pool_limits(endpoint),
        credentials=[credentials if origin.tls else None for origin in given.upstream],
        message_bytes=settings.grpc.message_bytes,
        clock=clock,
    )


def listener(
    settings: Settings,
    application: Application,
    *,
    clock: Callable[[], float],
    reuse_port: bool = False,
) -> Listener:
    """The listener for clients that speak gRPC. Does not listen yet.

    Args:
        clock: monotonic seconds.
        reuse_port: whether other processes listen on the same port.

    Raises:
        OSError: if the certificate or its key cannot be used.
    """
    given, http = settings.grpc, settings.http
    assert given is not None  # the caller looked
    address, tls = given.listen, given.tls
    return Listener(
        application,
        str(address),
        GrpcLimits(
            message_bytes=given.message_bytes,
            metadata_bytes=given.metadata_bytes,
            connections=given.connections,
            streams=given.streams,
            calls=given.calls,
            message_seconds=given.message_seconds,
            send_seconds=given.send_seconds,
            idle_seconds=given.idle_seconds,
            age_seconds=given.age_seconds,
            grace_seconds=http.drain_seconds,
            ping_seconds=given.ping_seconds,
        ),
        tls=ServerTls(tls.certificate, tls.key, tls.client_ca) if tls else None,
        clock=clock,
        guarded=[settings.client.api_key_header],
        reuse_port=reuse_port,
    )
