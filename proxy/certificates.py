"""The certificates that the firewall shows, and when they end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from proxy.settings.client_tls import ClientTls
from proxy.settings.models import Settings

if TYPE_CHECKING:
    from cryptography.x509 import Certificate


@dataclass(frozen=True, slots=True)
class Shown:
    """A certificate chain of ours, with its key.

    Attributes:
        place: the section of the configuration that names it, as ``grpc.tls``.
        endpoint: the endpoint that the section is of, or "".
    """

    place: str
    endpoint: str
    certificate: Path
    key: Path | None


def shown(settings: Settings) -> Iterator[Shown]:
    """Every certificate that clients, model servers or the shared state are shown."""
    listeners = (
        ("tls", settings),
        ("grpc.tls", settings.grpc),
        ("ext_proc.tls", settings.ext_proc),
    )
    for place, section in listeners:
        tls = section.tls if section is not None else None
        if tls is not None:
            yield Shown(place, "", tls.certificate, tls.key)
    clients: list[tuple[str, str, ClientTls | None]] = [("sharing.tls", "", settings.sharing.tls)]
    for one in settings.endpoints:
        clients.append(("upstream_tls", one.name, one.upstream_tls))
        if one.grpc is not None:
            clients.append(("grpc.upstream_tls", one.name, one.grpc.upstream_tls))
    for place, endpoint, ours in clients:
        if ours is not None and ours.certificate is not None:
            yield Shown(place, endpoint, ours.certificate, ours.key)


def chain(path: Path) -> list[Certificate]:
    """The certificates of a PEM file.

    Raises:
        OSError, ValueError: if it cannot be read, or holds none.
    """
    from cryptography import x509  # noqa: PLC0415 - start-up does without where no TLS is set

    return x509.load_pem_x509_certificates(path.read_bytes())


def first_to_end(certificates: list[Certificate]) -> Certificate:
    """The one that ends first: with it, the whole chain is of no use."""
    return min(certificates, key=lambda one: one.not_valid_after_utc)


def lives(settings: Settings) -> dict[tuple[str, str], tuple[float, float]]:
    """From when until when each certificate that is shown is valid, as its file says now.

    Returns:
        By place and endpoint, seconds since the epoch; 0 for a file that cannot be read.
    """
    found = {}
    for one in shown(settings):
        life = 0.0, 0.0
        with suppress(OSError, ValueError):
            first = first_to_end(chain(one.certificate))
            life = first.not_valid_before_utc.timestamp(), first.not_valid_after_utc.timestamp()
        found[one.place, one.endpoint] = life
    return found
