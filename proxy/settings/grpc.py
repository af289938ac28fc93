"""The configuration of gRPC: the listener, and where an endpoint's model server speaks it."""

from __future__ import annotations

from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

from pydantic import (
    BeforeValidator,
    Field,
    PlainSerializer,
    PlainValidator,
    ValidationInfo,
    WithJsonSchema,
    model_validator,
)

from proxy.settings.client_tls import UpstreamTls
from proxy.settings.fields import Address, Bytes, Listen, Origin, Seconds, one_or_more, origin_of
from proxy.settings.protocols import ModelName
from proxy.settings.section import Faults, Section
from proxy.settings.server_tls import Tls

_SCHEMES: Final = {"grpc": "http", "grpcs": "https"}


def _target(value: object, info: ValidationInfo) -> Origin:
    if isinstance(value, Origin):
        return value
    words = "must be grpc://host:port, grpcs://host:port or unix:/path"
    if not isinstance(value, str):
        raise ValueError(words)  # noqa: TRY004 - pydantic collects ValueErrors only
    if value.startswith("unix:"):
        return origin_of(value, info)
    parts = urlsplit(value)
    if parts.scheme not in _SCHEMES or parts.port is None:
        raise ValueError(words)
    return origin_of(f"{_SCHEMES[parts.scheme]}{value[len(parts.scheme) :]}", info)


def _shown(origin: Origin) -> str:
    if origin.address.path:
        return str(origin.address)
    return f"{'grpcs' if origin.tls else 'grpc'}://{origin.address}"


GrpcUpstream = Annotated[
    Origin,
    PlainValidator(_target),
    PlainSerializer(_shown),
    WithJsonSchema({"type": "string", "pattern": r"^(grpcs?://[^/?#]+:[0-9]+/?|unix:.+)$"}),
]
"""A model server's gRPC: grpc://host:port, grpcs://host:port or unix:/path."""


class Grpc(Section):
    """The listener for clients that speak gRPC."""

    listen: Listen = Address("127.0.0.1", 8001)
    """Where they connect: host:port, or unix:/path."""
    tls: Tls | None = None
    """TLS for them; none: plain HTTP/2."""
    message_bytes: Annotated[Bytes, Field(ge=1024, le=2**31 - 1)] = 4 * 2**20
    """The size of a message, either way. An endpoint's ``body_bytes`` holds as well. Times
    ``calls``, it is what clients can take of memory."""
    message_seconds: Seconds = 10.0
    """How long a client may take to send a message."""
    send_seconds: Seconds = 30.0
    """How long a client may take to receive an answer."""
    metadata_bytes: Annotated[Bytes, Field(ge=1024, le=2**20)] = 16 * 2**10
    """The size of a call's metadata."""
    connections: Annotated[int, Field(gt=0, le=1_000_000)] = 1024
    """Client connections at once; beyond it, a connection is closed as it is accepted."""
    streams: Annotated[int, Field(gt=0, le=100_000)] = 32
    """Calls at once on one connection; beyond it, the client waits."""
    calls: Annotated[int, Field(gt=0, le=1_000_000)] = 256
    """Calls at once, over all connections, from their begin until their answers were taken; a
    stream is one. Beyond it, the call that has waited for a message longest is given up for a new
    one; if none waits, the new one ends with UNAVAILABLE."""
    idle_seconds: Seconds = 300.0
    """How long a connection may rest without calls, and a stream without messages."""
    age_seconds: Seconds = 3600.0
    """After which a connection takes no more calls, so that clients spread over new ones; those
    under way have ``http.drain_seconds``."""
    ping_seconds: Seconds = 20.0
    """The least time between a client's keepalive pings; a client that sends more is cut off."""


class EndpointGrpc(Section):
    """The same model, asked by gRPC: Open Inference Protocol, version 2."""

    upstream: Annotated[
        tuple[GrpcUpstream, ...],
        BeforeValidator(
            one_or_more, json_schema_input_type=GrpcUpstream | tuple[GrpcUpstream, ...]
        ),
        Field(min_length=1, max_length=64),
    ]
    """The model server's gRPC, or a list of servers that hold the same model:
    ``grpc://host:port``, ``grpcs://host:port`` or ``unix:/path``."""
    upstream_tls: UpstreamTls | None = None
    """TLS to ``grpcs://`` upstreams, where the system's certificates do not suffice."""
    model: ModelName | None = None
    """The model's name in their calls; none: the one in ``match``, where the protocol's paths name
    it (v2, v1, torchserve, auto)."""
    stream: Literal["inspect", "refuse"] = "inspect"
    """``ModelStreamInfer``: each message is inspected and forwarded as a call of its own, or the
    stream is refused."""

    @model_validator(mode="after")
    def _check(self) -> EndpointGrpc:
        faults = Faults()
        for index, origin in enumerate(self.upstream):
            if origin in self.upstream[:index]:
                faults.add(f"the upstream {_shown(origin)} is listed twice", "upstream", index)
        if self.upstream_tls is not None and not any(origin.tls for origin in self.upstream):
            faults.add("no upstream is grpcs://: it would do nothing", "upstream_tls")
        faults.report()
        return self
