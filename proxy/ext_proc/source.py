"""Who is at the other end of Envoy's connection, as Envoy tells.

Source: Envoy's attributes (https://www.envoyproxy.io/docs/envoy/latest/intro/arch_overview/
advanced/attributes), of which the filter's ``request_attributes`` names those that are sent.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from ipaddress import IPv6Address, ip_address
from typing import Any, Final

from envoy.service.ext_proc.v3.external_processor_pb2 import ProcessingRequest

from proxy.http.messages import Peer
from proxy.rules import INTERNAL, Refusal

UNKNOWN: Final = Peer("?")
"""A peer of whom nothing is known: an address that is none."""

_FILTER: Final = "envoy.filters.http.ext_proc"
_ADDRESS: Final = "source.address"
_MTLS: Final = "connection.mtls"
_URI: Final = "connection.uri_san_peer_certificate"
_SUBJECT: Final = "connection.subject_peer_certificate"


def peer_of(message: ProcessingRequest, *, forwarded: bool) -> Peer | Refusal:
    """The client, from the attributes of a stream's first message; INTERNAL if it is not told who
    that is. Nobody may be taken for another.

    Args:
        forwarded: whether proxies in front are configured to be believed. Otherwise, an address
            without a port is not: Envoy writes port 0 where it took the address from
            X-Forwarded-For.
    """
    fields: Mapping[str, Any] = message.attributes[_FILTER].fields
    if _ADDRESS not in fields:
        return _fault(f"the filter's request_attributes do not name {_ADDRESS}")
    told = fields[_ADDRESS].string_value
    host, _, port = told.rpartition(":")
    address = _plain(host)
    if not address or not (port.isascii() and port.isdigit()):
        return _fault(f"{_ADDRESS} is no address and port")
    if port == "0" and not forwarded:
        return _fault(
            "Envoy took the client's address from X-Forwarded-For: set use_remote_address, "
            "or name the proxies in front in client.trusted_proxies"
        )
    if _MTLS in fields and fields[_MTLS].bool_value:
        name = fields[_URI].string_value if _URI in fields else ""
        if not name and _SUBJECT in fields:
            name = fields[_SUBJECT].string_value
        elif not name.startswith("spiffe://"):
            name = ""  # a name that stands for nobody
        return Peer(address, True, subject=name)
    return Peer(address)


@lru_cache(maxsize=4096)
def _plain(host: str) -> str:
    """An address as ``http.downstream`` writes it; "" for anything else."""
    try:
        address = ip_address(host.removeprefix("[").removesuffix("]").partition("%")[0])
    except ValueError:
        return ""
    if isinstance(address, IPv6Address):
        return str(address.ipv4_mapped or address)
    return str(address)


def _fault(words: str) -> Refusal:
    return Refusal(INTERNAL, words)
