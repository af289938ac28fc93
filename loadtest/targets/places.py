"""Where the two sides of a target are, and what they speak: settings to plain values."""

from __future__ import annotations

import ssl
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from loadtest.evidence.results import Side
from loadtest.targets.settings import Target, Url
from proxy.build_codecs import Bounds, codec, grpc_codec, spoken
from proxy.http.address import Address
from proxy.http.tls import client_context
from proxy.protocols.base import Codec
from proxy.protocols.contract import Contract
from proxy.settings.answers import Answer
from proxy.settings.client_tls import UpstreamTls
from proxy.settings.contract import LearntContract
from proxy.settings.endpoint import Endpoint
from proxy.settings.fields import Address as Listening
from proxy.settings.fields import Origin
from proxy.settings.load import load
from proxy.settings.models import Settings
from proxy.settings.protocols import Protocol

GRPC_SERVICE: Final = "/inference.GRPCInferenceService"
BOUNDS: Final = Bounds(rows=65_536, body_bytes=256 * 2**20, answer_bytes=64 * 2**20)
"""What an attacker's own codec holds messages to: no less than any server does."""
_ANYWHERE: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - to be replaced


class NotAuthorised(ValueError):  # noqa: N818 - a property of the target
    """The target is not on this machine, and nobody said that it may be attacked."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where one side is asked.

    Attributes:
        side: ``direct`` or ``firewall``.
        address: the server, with its TLS context.
        tls: the files of that context; None: the system's, or no TLS.
        path: that the codec matches.
        rpc: whether it is asked by gRPC.
        protocol: what is spoken over HTTP.
    """

    side: Side
    address: Address
    path: str
    rpc: bool
    protocol: Protocol
    tls: UpstreamTls | None = None

    def codec(self, contract: Contract | None) -> Codec:
        """The codec of this side.

        Raises:
            ValueError: if the path is none of the protocol's, or gRPC is not installed.
        """
        if self.rpc:
            try:
                return grpc_codec(self.path, contract, BOUNDS)
            except ImportError as error:
                message = (
                    f"gRPC needs the extra grpc, pip install '.[grpc]' in a checkout ({error})"
                )
                raise ValueError(message) from None
        (one,) = spoken(self.protocol, self.path)
        return codec(one, contract, BOUNDS)


@dataclass(frozen=True, slots=True)
class Places:
    """Everything that is known of a target before it is asked.

    Attributes:
        sides: where each side that there is is asked.
        contract: as it is stated; None: it is learnt.
        answer: how answers are read.
        about: what was attacked, for the report.
        audit: the firewall's audit log, where its configuration says so.
    """

    sides: Mapping[Side, Place]
    contract: Contract | None
    answer: Answer
    about: Mapping[str, str]
    audit: Path | None = None


def check_authorised(host: str, authorised: Collection[str]) -> None:
    """Holds a host against what may be attacked: this machine, and what the operator vouches for.

    Names are not resolved: ``localhost`` is this machine, any other name must be listed.

    Args:
        host: of a URL, or "" for a unix socket.

    Raises:
        NotAuthorised: if it is neither.
    """
    if not host or host == "localhost" or host.lower() in authorised:
        return
    try:
        if ip_address(host).is_loopback:
            return
    except ValueError:
        pass
    raise NotAuthorised(
        f"{host} is not this machine: only what is yours may be attacked. If it is, say "
        f"--authorised-host {host}, or authorised_hosts in a scenario"
    )


def places(target: Target) -> Places:
    """Where a target's sides are. Asks nobody.

    Raises:
        SettingsError: if the firewall's configuration cannot be used.
        NotAuthorised: if a side is on another machine that is not listed.
        ValueError: if there is no such endpoint, or something does not go together.
    """
    found = _stated(target) if target.configuration is None else _configured(target)
    for place in found.sides.values():
        check_authorised(place.address.host, target.authorised_hosts)
        place.codec(found.contract)
    return found


def _stated(target: Target) -> Places:
    sides: dict[Side, Place] = {}
    given: tuple[tuple[Side, Url | None, str | None, UpstreamTls | None], ...] = (
        ("direct", target.direct, target.upstream_path or target.match, target.direct_tls),
        ("firewall", target.firewall, target.match, target.firewall_tls),
    )
    for side, url, path, tls in given:
        if url is not None:
            sides[side] = _at(side, url, url.path or path or "", target.protocol, tls)
    contract = target.contract
    declared = None if isinstance(contract, LearntContract) else contract.declared()
    one = next(iter(sides.values()))
    about = {
        "protocol": "grpc" if one.rpc else target.protocol.name,
        "endpoint": one.path,
        **_addresses(sides),
    }
    return Places(sides, declared, target.answer, about)


def _configured(target: Target) -> Places:
    assert target.configuration is not None  # the caller looked
    settings = load(target.configuration)
    endpoint = _endpoint(settings, target.endpoint)
    rpc = target.wire == "grpc" or (target.wire is None and not endpoint.upstream)
    if rpc and (endpoint.grpc is None or settings.grpc is None):
        raise ValueError(f"the endpoint {endpoint.name} is not asked by gRPC")
    if not rpc and not endpoint.upstream:
        raise ValueError(f"the endpoint {endpoint.name} is asked by gRPC only")
    sides: dict[Side, Place] = {}
    given = (
        _rpc_sides(settings, endpoint, target) if rpc else _http_sides(settings, endpoint, target)
    )
    for place in given:
        url = target.direct if place.side == "direct" else target.firewall
        if url is not None:
            tls = target.direct_tls if place.side == "direct" else target.firewall_tls
            if url.rpc != place.rpc:
                raise ValueError(f"{url.text}: the other side is asked otherwise")
            path = url.path or (place.path.removeprefix(GRPC_SERVICE) if rpc else place.path)
            place = _at(place.side, url, path, place.protocol, tls)  # noqa: PLW2901 - replaced
        sides[place.side] = place
    contract = endpoint.contract
    declared = None if isinstance(contract, LearntContract) else contract.declared()
    about = {
        "protocol": "grpc" if rpc else sides["direct"].protocol.name,
        "endpoint": endpoint.name,
        "mode": endpoint.mode.value,
        **_addresses(sides),
    }
    audit = None if settings.audit is None else settings.audit.path
    return Places(sides, declared, endpoint.answer, about, audit)


def _addresses(sides: Mapping[Side, Place]) -> dict[str, str]:
    return {str(side): str(place.address) for side, place in sides.items()}


def _endpoint(settings: Settings, name: str | None) -> Endpoint:
    names = [one.name for one in settings.endpoints]
    if name is None and len(names) == 1:
        return settings.endpoints[0]
    if name not in names:
        said = "say which endpoint" if name is None else f"no endpoint is called {name!r}"
        raise ValueError(f"{said}: there are {', '.join(names[:16])}")
    return settings.endpoints[names.index(name)]


def _http_sides(settings: Settings, endpoint: Endpoint, target: Target) -> list[Place]:
    ways = endpoint.spoken
    chosen = ways[0]
    if len(ways) > 1:
        chosen = next((way for way in ways if way.protocol.name == target.protocol.name), ways[0])
    origin = endpoint.upstream[0]
    tls = endpoint.upstream_tls
    direct = _address(origin, tls)
    return [
        Place("direct", direct, chosen.upstream_path or chosen.match, False, chosen.protocol, tls),
        Place(
            "firewall",
            _listening(settings.listen, target.firewall_tls, secure=settings.tls is not None),
            chosen.match,
            False,
            chosen.protocol,
            target.firewall_tls,
        ),
    ]


def _rpc_sides(settings: Settings, endpoint: Endpoint, target: Target) -> list[Place]:
    assert endpoint.grpc is not None and settings.grpc is not None  # the caller looked
    match = endpoint.grpc_match
    assert match is not None  # the settings were checked
    protocol = endpoint.protocol
    given = endpoint.grpc
    secure = settings.grpc.tls is not None
    return [
        Place(
            "direct",
            _address(given.upstream[0], given.upstream_tls),
            match,
            True,
            protocol,
            given.upstream_tls,
        ),
        Place(
            "firewall",
            _listening(settings.grpc.listen, target.firewall_tls, secure=secure),
            match,
            True,
            protocol,
            target.firewall_tls,
        ),
    ]


def _at(side: Side, url: Url, path: str, protocol: Protocol, tls: UpstreamTls | None) -> Place:
    if url.rpc:
        path = f"{GRPC_SERVICE}/{path.strip('/')}"
    return Place(side, _address(url.origin, tls), path, url.rpc, protocol, tls)


def _address(origin: Origin, tls: UpstreamTls | None) -> Address:
    """A server's address.

    Raises:
        ValueError: if a certificate cannot be used.
    """
    at = origin.address
    return Address(
        at.host,
        at.port,
        at.path,
        _context(tls) if origin.tls else None,
        origin.authority.encode(),
        (tls.server_name if tls else None) or "",
    )


def _listening(listen: Listening, tls: UpstreamTls | None, *, secure: bool) -> Address:
    """Where a listener is reached from this machine."""
    if not listen.path and not listen.port:
        raise ValueError("the firewall listens on a port of the system's choice: say firewall")
    host = _ANYWHERE.get(listen.host, listen.host)
    authority = Listening(host, listen.port).authority if host else "localhost"
    return Address(
        host,
        listen.port,
        listen.path,
        _context(tls) if secure else None,
        authority.encode(),
        (tls.server_name if tls else None) or "",
    )


def _context(tls: UpstreamTls | None) -> ssl.SSLContext:
    try:
        return client_context(
            *(path and str(path) for path in (tls.ca, tls.certificate, tls.key)) if tls else ()
        )
    except OSError as error:
        raise ValueError(f"TLS: {error}") from error
