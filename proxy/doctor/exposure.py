"""Whether the model server can be reached around the firewall."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Iterable
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from proxy.doctor.dial import dial
from proxy.doctor.finding import Finding, ok, untried, warning, wrong
from proxy.doctor.host import IP, Host
from proxy.settings.fields import Address
from proxy.settings.models import Settings

_PORT: Final = "exposure.port"
_SOCKET: Final = "exposure.socket"
_OUTSIDE: Final = "exposure.outside"
_BIND: Final = (
    "bind the model server to 127.0.0.1 or a unix socket, and let a packet filter or a "
    "NetworkPolicy admit the firewall's port alone"
)


def model_addresses(settings: Settings) -> list[tuple[str, Address]]:
    """Every model server's address, once, with the endpoint that names it first."""
    found: dict[Address, str] = {}
    for endpoint in settings.endpoints:
        over_grpc = endpoint.grpc.upstream if endpoint.grpc is not None else ()
        for origin in (*endpoint.upstream, *over_grpc):
            found.setdefault(origin.address, endpoint.name)
    return [(name, address) for address, name in found.items()]


def own_addresses(settings: Settings) -> list[Address]:
    """Where the firewall itself listens."""
    if settings.ext_proc is not None:
        return [settings.admin.listen, settings.ext_proc.listen]
    return [settings.admin.listen, *_client_addresses(settings)]


def _client_addresses(settings: Settings) -> list[Address]:
    """Where clients reach the firewall itself: nowhere, if Envoy stands in front."""
    if settings.ext_proc is not None:
        return []
    return [settings.listen, *([settings.grpc.listen] if settings.grpc is not None else [])]


async def inside(settings: Settings, host: Host, seconds: float) -> list[Finding]:
    """From the firewall's host: does the model's port answer elsewhere than on loopback?"""
    findings = []
    for name, address in model_addresses(settings):
        if address.path:
            findings.append(socket_finding(name, Path(address.path)))
        elif address.is_local:
            findings.append(await _port(name, address, settings, host, seconds))
        else:
            findings.append(
                untried(
                    _PORT,
                    f"{name}: the model server {address} is on the network: who else reaches it "
                    "cannot be tried from here",
                    f"let its network admit the firewall alone, and try it from where clients are: "
                    f"bartizan doctor CONFIG --outside {address.host}",
                )
            )
    return findings


async def outside(
    settings: Settings, hosts: Iterable[str], seconds: float, control: int | None = None
) -> list[Finding]:
    """From a client's place: does a host answer at the ports that are not for clients?

    That a port for clients answers there shows that a silence means something.

    Args:
        control: that port; the firewall's own for None, of which ``ext_proc`` has none.
    """
    findings = []
    closed = _closed_ports(settings)
    served = f"port {control}" if control else "the firewall"
    ports = [control] if control else [one.port for one in _client_addresses(settings) if one.port]
    for given in hosts:
        where = given.removeprefix("[").removesuffix("]")
        answers = await asyncio.gather(*(dial(where, port, seconds) for port in ports))
        reached = any(one.accepted for one in answers)
        tried = await asyncio.gather(*(dial(where, port, seconds) for port in closed))
        for (port, (what, advice)), one in zip(closed.items(), tried, strict=True):
            if one.accepted:
                findings.append(
                    wrong(_OUTSIDE, f"{given}: {what} {port} answers, past the firewall", advice)
                )
            elif not one.known:
                findings.append(untried(_OUTSIDE, f"{given}: {one.why}"))
            elif not ports:
                findings.append(
                    untried(
                        _OUTSIDE,
                        f"{given}: {what} {port} does not answer ({one.why}), but it could not be "
                        "tried whether silence means closed: clients reach Envoy, whose port is "
                        "not in the configuration",
                        "give the port at which Envoy serves clients there: --control PORT",
                    )
                )
            elif not reached:
                findings.append(
                    untried(
                        _OUTSIDE,
                        f"{given}: {what} {port} does not answer ({one.why}), but neither does "
                        f"{served} there, so it says nothing",
                        f"start {served}, or name the host that clients reach it by",
                    )
                )
            else:
                words = f"{given}: {what} {port} does not answer ({one.why}), {served} does"
                findings.append(ok(_OUTSIDE, words))
    if not any(address.port for _, address in model_addresses(settings)):
        findings.append(untried(_OUTSIDE, "no model server has a TCP port"))
    return findings


def _closed_ports(settings: Settings) -> dict[int, tuple[str, str]]:
    """The ports that clients must not reach: what each is, and what to do if one answers."""
    closed = {
        port: ("the model's port", _BIND)
        for port in sorted({address.port for _, address in model_addresses(settings)})
        if port
    }
    external, admin = settings.ext_proc, settings.admin.listen
    if external is not None and external.listen.port:
        advice = "keep ext_proc.listen on 127.0.0.1 or a unix socket, or admit Envoy alone"
        closed.setdefault(external.listen.port, ("the external processor's port", advice))
    if admin.is_local and admin.port:
        closed.setdefault(admin.port, ("the admin port", "keep admin.listen on 127.0.0.1"))
    return closed


async def _port(
    name: str, address: Address, settings: Settings, host: Host, seconds: float
) -> Finding:
    """A model server on loopback: is its port open on other addresses as well?"""
    port = address.port
    ours = [one for one in own_addresses(settings) if one.port == port]
    listeners = host.listeners()
    bound = [
        where
        for where, number in listeners or ()
        if number == port and not where.is_loopback and not _is_ours(where, ours)
    ]
    places = [
        f"{where}%{interface}" if interface else str(where)
        for where, interface in host.addresses()
        if not _is_ours(where, ours)
    ]
    tried = await asyncio.gather(*(dial(place, port, seconds) for place in places))
    open_at = [place for place, one in zip(places, tried, strict=True) if one.accepted]
    if open_at:
        words = f"{name}: port {port}, the model's, answers at {', '.join(open_at)}"
        return wrong(_PORT, f"{words}: whoever reaches this host can ask past the firewall", _BIND)
    if bound:
        return warning(
            _PORT,
            f"{name}: port {port}, the model's, is bound to {_listed(bound)}, and only a packet "
            "filter, or the lack of a network, keeps others out",
            _BIND,
        )
    if listeners is None and not places:
        return untried(_PORT, f"{name}: this host's addresses are not told")
    if not any(number == port for _, number in listeners or ()):
        return untried(
            _PORT,
            f"{name}: nothing listens on {address}: where it will be bound is not known",
            "start the model server first",
        )
    beside = f", and at none of {len(places)} other addresses of this host" if places else ""
    return ok(_PORT, f"{name}: port {port} listens on loopback alone{beside}")


def socket_finding(name: str, path: Path) -> Finding:
    """A model server's unix socket: who may connect."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        words = f"{name}: {path}: {(error.strerror or str(error)).lower()}"
        return untried(_SOCKET, words, "start the model server first")
    if not stat.S_ISSOCK(mode):
        return wrong(_SOCKET, f"{name}: {path} is no socket", "correct endpoints.upstream")
    if not os.access(path, os.W_OK):
        advice = "give the socket a group that the firewall's user is in"
        return wrong(_SOCKET, f"{name}: {path}: this user may not connect", advice)
    if mode & stat.S_IWOTH and all(_open_to_all(folder) for folder in path.absolute().parents):
        return warning(
            _SOCKET,
            f"{name}: every user of this host may connect to {path}, past the firewall",
            "chmod 0660 the socket, or keep it in a directory of the firewall's group alone",
        )
    return ok(_SOCKET, f"{name}: {path} is not for every user")


def _open_to_all(folder: Path) -> bool:
    try:
        return bool(folder.stat().st_mode & stat.S_IXOTH)
    except OSError:
        return False


def _is_ours(where: IP, ours: Iterable[Address]) -> bool:
    """Whether the firewall itself listens there."""
    for address in ours:
        try:
            own = ip_address(address.host)
        except ValueError:
            continue
        if own == where:
            return True
    return False


def _listed(addresses: Iterable[IP]) -> str:
    every = {"0.0.0.0": "every address", "::": "every address"}  # noqa: S104 - named, not bound
    return ", ".join(sorted({every.get(str(one), str(one)) for one in addresses}))
