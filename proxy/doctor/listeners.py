"""Whether the gateway can listen where it is told to, and what it shows there."""

from __future__ import annotations

import errno
import os
import socket
import stat
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)

from proxy.certificates import chain, first_to_end, shown
from proxy.doctor.finding import Finding, ok, untried, warning, wrong
from proxy.doctor.host import Host
from proxy.settings.client_tls import ClientTls
from proxy.settings.ext_proc import ExtProc
from proxy.settings.fields import Address
from proxy.settings.models import Settings

_ADDRESS: Final = "listeners.address"
_ADMIN: Final = "listeners.admin"
_PROCESSOR: Final = "listeners.ext-proc"
_CERTIFICATE: Final = "listeners.certificate"
_KEY: Final = "listeners.key"
_BIND_SERVICE: Final = 10  # CAP_NET_BIND_SERVICE
_RENEW_DAYS: Final = 14
_DAY: Final = 86_400.0


def listeners(settings: Settings, host: Host, now: float) -> list[Finding]:
    """What is found of the listeners, and of the files of TLS.

    Args:
        now: seconds since the epoch.
    """
    named = [("admin.listen", settings.admin.listen)]
    if settings.ext_proc is not None:
        named.append(("ext_proc.listen", settings.ext_proc.listen))
    else:
        named.append(("listen", settings.listen))
        if settings.grpc is not None:
            named.append(("grpc.listen", settings.grpc.listen))
    findings = [address(name, where, host) for name, where in named]
    findings.append(_admin(settings))
    if settings.ext_proc is not None:
        findings.append(_processor(settings.ext_proc))
    for name, certificate, key in _files(settings):
        findings.append(certificate_finding(name, certificate, now))
        if key is not None:
            findings.append(key_finding(name, certificate, key))
    return findings


def address(name: str, where: Address, host: Host) -> Finding:
    """Whether an address could be listened on: it is bound for a moment, and not listened on."""
    if where.path:
        return _unix(name, Path(where.path))
    if not where.port:
        return ok(_ADDRESS, f"{name} {where}: the system chooses the port")
    if where.port < _first_free_port(host) and not host.capable(_BIND_SERVICE):
        return wrong(
            _ADDRESS,
            f"{name} {where}: this user may not listen on ports below {_first_free_port(host)}",
            "choose a higher port, or grant CAP_NET_BIND_SERVICE",
        )
    try:
        number = _bound(where)
    except OSError as error:  # the name does not resolve
        words = f"{name} {where}: {(error.strerror or str(error)).lower()}"
        return wrong(_ADDRESS, words, "name an address of this host")
    if number == errno.EADDRINUSE:
        return warning(
            _ADDRESS,
            f"{name} {where}: something listens there: a gateway that runs, or a stranger",
            "bartizan health CONFIG tells a gateway; else free the port",
        )
    if number:
        words = f"{name} {where}: {os.strerror(number).lower()}"
        return wrong(_ADDRESS, words, "name an address of this host")
    return ok(_ADDRESS, f"{name} {where} is free")


def _bound(where: Address) -> int:
    """0 if it can be bound, else why not: its errno."""
    infos = socket.getaddrinfo(
        where.host, where.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    for family, kind, protocol, _, place in infos:
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                probe.bind(place)
            except OSError as error:
                return error.errno or errno.EINVAL
    return 0


def _unix(name: str, path: Path) -> Finding:
    if not path.parent.is_dir():
        words = f"{name}: {path.parent}: no such directory"
        return wrong(_ADDRESS, words, "create it: RuntimeDirectory= of a unit does")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        return wrong(
            _ADDRESS, f"{name}: {path.parent} cannot be written", "let the user write there"
        )
    if path.is_socket():
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(1.0)
            with suppress(OSError):
                probe.connect(str(path))
                words = f"{name}: {path}: something listens there"
                return warning(_ADDRESS, words, "bartizan health CONFIG tells a gateway")
    elif path.exists():
        return wrong(_ADDRESS, f"{name}: {path} is no socket, and in the way", "move it away")
    return ok(_ADDRESS, f"{name}: {path} is free")


def _admin(settings: Settings) -> Finding:
    where, token = settings.admin.listen, settings.admin.token
    if where.is_local:
        return ok(_ADMIN, f"{where} is reached from this host alone")
    # Without a token it is an error of the configuration.
    assert token is not None
    return warning(
        _ADMIN,
        f"{where} can be reached from other machines: the token is all that keeps them out",
        "let the network admit Prometheus and probes alone",
    )


def _processor(given: ExtProc) -> Finding:
    """Who may connect as Envoy: it is believed whatever it says of clients."""
    where = given.listen
    if where.is_local:
        return ok(_PROCESSOR, f"{where} is reached from this host alone")
    if given.tls is not None and given.tls.client_ca is not None:
        return ok(_PROCESSOR, f"{where} asks for a certificate of ext_proc.tls.client_ca")
    return warning(
        _PROCESSOR,
        f"{where} can be reached from other machines: whoever connects is believed to be Envoy, "
        "and can name any client",
        "set ext_proc.tls with client_ca, or let the network admit Envoy alone",
    )


def _files(settings: Settings) -> list[tuple[str, Path, Path | None]]:
    """The files of TLS: what they are, certificates, and the key that belongs to them."""
    found: list[tuple[str, Path, Path | None]] = []
    for one in shown(settings):
        name = f"{one.endpoint}: {one.place}" if one.endpoint else one.place
        found.append((f"{name}.certificate", one.certificate, one.key))
    sections = (("tls", settings), ("grpc.tls", settings.grpc), ("ext_proc.tls", settings.ext_proc))
    for name, section in sections:
        tls = section.tls if section is not None else None
        if tls is not None and tls.client_ca is not None:
            found.append((f"{name}.client_ca", tls.client_ca, None))
    clients: list[tuple[str, ClientTls | None]] = [("sharing.tls", settings.sharing.tls)]
    for endpoint in settings.endpoints:
        clients.append((f"{endpoint.name}: upstream_tls", endpoint.upstream_tls))
        if endpoint.grpc is not None:
            clients.append((f"{endpoint.name}: grpc.upstream_tls", endpoint.grpc.upstream_tls))
    for name, ours in clients:
        if ours is not None and ours.ca is not None:
            found.append((f"{name}.ca", ours.ca, None))
    return found


def certificate_finding(name: str, path: Path, now: float) -> Finding:
    """The certificates of a file against the clock; the one that ends first is told."""
    try:
        certificates = chain(path)
    except (OSError, ValueError) as error:
        words = f"{name} {path}: {getattr(error, 'strerror', None) or error}"
        return wrong(_CERTIFICATE, words, "it must hold certificates in PEM")
    moment = datetime.fromtimestamp(now, UTC)
    first = first_to_end(certificates)
    ends = f"{first.not_valid_after_utc:%Y-%m-%d}"
    left = (first.not_valid_after_utc - moment).total_seconds() / _DAY
    if left < 0:
        return wrong(_CERTIFICATE, f"{name} {path}: expired on {ends}", "renew it, then SIGHUP")
    if any(one.not_valid_before_utc > moment for one in certificates):
        advice = "set the clock right, or wait"
        return wrong(_CERTIFICATE, f"{name} {path}: not valid yet", advice)
    words = f"{name} {path}: good until {ends}, {left:.0f} days"
    if left < _RENEW_DAYS:
        return warning(_CERTIFICATE, words, "renew it, then SIGHUP")
    return ok(_CERTIFICATE, words)


def key_finding(name: str, certificate: Path, key: Path) -> Finding:
    """A private key: is it the certificate's, and who may read it?"""
    try:
        private = load_pem_private_key(key.read_bytes(), None)
        first = chain(certificate)[0]
        mode = key.stat().st_mode
    except TypeError:
        return wrong(_KEY, f"{name}: {key} is encrypted", "give it without a passphrase, mode 0400")
    except (OSError, ValueError) as error:
        return untried(
            _KEY, f"{name}: {key}: {getattr(error, 'strerror', None) or 'not a key in PEM'}"
        )
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if private.public_key().public_bytes(*form) != first.public_key().public_bytes(*form):
        return wrong(_KEY, f"{name}: {key} is not the certificate's", "pair them")
    if mode & stat.S_IROTH:
        return warning(_KEY, f"{name}: every user may read {key}", f"chmod o= {key}")
    return ok(_KEY, f"{name}: {key} is the certificate's, and not every user's to read")


def _first_free_port(host: Host) -> int:
    told = host.read("proc/sys/net/ipv4/ip_unprivileged_port_start").strip()
    return int(told) if told.isdigit() else 1024
