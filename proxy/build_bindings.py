"""Settings to bindings: an endpoint's codecs, and the way to the servers that speak them."""

from __future__ import annotations

import math
from collections.abc import Callable
from importlib import import_module

from detectors.bundle import Bundle
from proxy.build_codecs import Bounds, codec, grpc_codec
from proxy.build_contracts import feature_names
from proxy.endpoint import Binding
from proxy.generation import Generation
from proxy.http.address import Address
from proxy.http.limits import PoolLimits
from proxy.http.tls import client_context
from proxy.http.upstream import Pool
from proxy.protocols.contract import Contract
from proxy.settings.endpoint import Endpoint
from proxy.settings.models import Settings
from proxy.transport import Transport


def bindings(
    settings: Settings,
    endpoint: Endpoint,
    contract: Contract | None,
    bundle: Bundle | None,
    *,
    clock: Callable[[], float],
    previous: Generation | None = None,
) -> tuple[Binding, ...]:
    """An endpoint's protocols, its own first. Opens no connection.

    Args:
        contract: of the model; None if it is to be learnt.
        clock: monotonic seconds.
        previous: a pool of this generation whose settings stay goes on.

    Raises:
        ValueError: if a certificate or a path cannot be used, or gRPC is not installed.
    """
    bounds = Bounds(
        endpoint.limits.rows_per_request, endpoint.limits.body_bytes, endpoint.answer.body_bytes
    )
    made: list[Binding] = []
    if endpoint.upstream:
        features = feature_names(bundle)
        pool = _kept(previous, endpoint, rpc=False) or _pool(endpoint, clock)
        made += [
            Binding(one.match, codec(one, contract, bounds, features), pool)
            for one in endpoint.spoken
        ]
    if endpoint.grpc_match is not None and endpoint.grpc is not None:
        try:
            channels = _kept(previous, endpoint, rpc=True) or _channels(settings, endpoint, clock)
            spoken = grpc_codec(
                endpoint.grpc_match,
                contract,
                bounds,
                stream=endpoint.grpc.stream == "inspect",
            )
        except ImportError as error:
            raise ValueError(
                f"grpc needs the extra grpc, pip install '.[grpc]' in a checkout ({error})"
            ) from None
        made.append(Binding(endpoint.grpc_match, spoken, channels, rpc=True))
    return tuple(made)


def pool_limits(endpoint: Endpoint) -> PoolLimits:
    """How long a model server may take, and how many requests it gets at once."""
    timeouts = endpoint.timeouts
    return PoolLimits(
        connections=endpoint.connections,
        slowdown=endpoint.slowdown or math.inf,
        connect_seconds=timeouts.connect_seconds,
        response_seconds=timeouts.response_seconds,
        total_seconds=timeouts.total_seconds,
        queue_seconds=timeouts.queue_seconds,
    )


def _kept(previous: Generation | None, endpoint: Endpoint, *, rpc: bool) -> Transport | None:
    """The way to the same servers as it was so far."""
    if previous is None:
        return None
    pairs = zip(previous.settings.endpoints, previous.pipeline.endpoints, strict=True)
    for given, served in pairs:
        if _reach(given, rpc=rpc) == _reach(endpoint, rpc=rpc):
            return next((one.pool for one in served.bindings if one.rpc == rpc), None)
    return None


def _reach(endpoint: Endpoint, *, rpc: bool) -> str:
    """What the way depends on: the same for two endpoints that one pool could serve in turn."""
    if rpc:
        return endpoint.model_dump_json(
            include={
                "name": True,
                "timeouts": True,
                "connections": True,
                "slowdown": True,
                "grpc": {"upstream", "upstream_tls"},
            }
        )
    return endpoint.model_dump_json(
        include={"name", "upstream", "upstream_tls", "timeouts", "connections", "slowdown"}
    )


def _pool(endpoint: Endpoint, clock: Callable[[], float]) -> Pool:
    tls = endpoint.upstream_tls
    try:
        context = client_context(
            *(path and str(path) for path in (tls.ca, tls.certificate, tls.key)) if tls else ()
        )
    except OSError as error:
        raise ValueError(f"upstream_tls: {error}") from error
    return Pool(
        [
            Address(
                origin.address.host,
                origin.address.port,
                origin.address.path,
                context if origin.tls else None,
                origin.authority.encode(),
                (tls.server_name if tls else None) or "",
            )
            for origin in endpoint.upstream
        ],
        pool_limits(endpoint),
        clock=clock,
    )


def _channels(settings: Settings, endpoint: Endpoint, clock: Callable[[], float]) -> Transport:
    # Imported where an endpoint asks for it: gRPC is an extra.
    made: Transport = import_module("proxy.build_grpc").channels(settings, endpoint, clock=clock)
    return made
