"""Who the client is: a verified certificate, a listed API key, or the address it comes from.

A bare header never identifies anybody: a key counts only if its digest is listed, and
X-Forwarded-For only as far as configured proxies wrote it. What leaves this module is a keyed
pseudonym: neither keys nor addresses reach logs, metrics or the state.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b, sha256
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final, Protocol, TypeVar

from cryptography import x509

from proxy.http.messages import Peer
from proxy.settings.api_keys import read_api_keys
from proxy.settings.models import Client

# Results that are remembered. They only save work: a full memory is emptied, nothing depends on it.
_REMEMBERED: Final = 8192
_CERTIFICATES: Final = 512
_FORWARDED_BYTES: Final = 256  # a longer header is not remembered, so that memory stays bounded
_FORWARDED_HOPS: Final = 32
_KEY_BYTES: Final = 1024
# The SPIFFE ID standard, 2: a trust domain and a path of segments, no query, port or user.
_SPIFFE: Final = re.compile(r"spiffe://[a-z0-9._-]{1,255}(/[A-Za-z0-9._-]+)+")
_SPIFFE_BYTES: Final = 2048

Address = IPv4Address | IPv6Address
_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


class Headers(Protocol):
    """The part of a request's head that is read here."""

    def get(self, name: bytes) -> bytes | None:
        """The value of the header with this lower-case name, or None."""


@dataclass(frozen=True, slots=True)
class Identity:
    """A client.

    Attributes:
        client: its pseudonym, 32 hex digits. Stable while the configured secret is.
        kind: how it was identified: mtls, api_key, ip, local (a unix socket) or anonymous.
        subnet: the pseudonym of the subnet that it comes from; "" on a unix socket.
        label: for the operator: the key's configured name or the certificate's subject; never an
            address or a key.
    """

    client: str
    kind: str
    subnet: str = ""
    label: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class _Place:
    """An address that clients come from: as an identity of its own, and whether it is a proxy."""

    identity: Identity
    trusted: bool


def parse_address(text: str) -> Address | None:
    """An IP address, IPv4 where it is IPv4 mapped into IPv6; None for anything else.

    A zone id is refused: it names an interface of one machine, not an address.
    """
    try:
        address = ip_address(text)
    except ValueError:
        return None
    if isinstance(address, IPv6Address):
        if address.scope_id is not None:
            return None
        return address.ipv4_mapped or address
    return address


class Identifier:
    """Tells clients apart. Call it with a request's head and its peer.

    Args:
        settings: the section ``client``.
        random: gives that many random bytes, for the pseudonyms' key if none is configured.

    Raises:
        SettingsError: if the file of API keys cannot be used.
    """

    def __init__(
        self, settings: Client, *, random: Callable[[int], bytes] = secrets.token_bytes
    ) -> None:
        secret = settings.secret.get_secret_value().encode() if settings.secret else random(32)
        self._secret = blake2b(secret, digest_size=32, person=b"bartizan.id").digest()
        self._settings = settings
        self._proxies = settings.trusted_proxies
        self._key_header = settings.api_key_header.encode()
        self._bearer = self._key_header == b"authorization"
        self._keys: Mapping[bytes, str] = (
            read_api_keys(settings.api_keys) if settings.api_keys is not None else {}
        )
        self._by_address = "ip" in settings.identify
        # Steps that can identify nobody are not taken.
        steps = {"mtls": self._certificate, "api_key": self._api_key}
        self._steps = tuple(
            steps[kind]
            for kind in settings.identify
            if kind in steps and (kind != "api_key" or self._keys)
        )
        self._places: dict[str, _Place] = {}
        self._forwarded: dict[bytes, str] = {}
        self._subjects: dict[bytes, str] = {}
        self._named: dict[tuple[str, str, str], Identity] = {}

    def __call__(self, head: Headers, peer: Peer) -> Identity:
        """The client behind a request. It never fails: who is not known is anonymous."""
        place = self._places.get(peer.address)
        if place is None:
            place = self._place(peer.address)
        if place.trusted:
            place = self._behind(head, place)
        for step in self._steps:
            identity = step(head, peer, place)
            if identity is not None:
                return identity
        return place.identity

    def pseudonym(self, client: str) -> str:
        """The pseudonym of a client that the configuration names.

        Args:
            client: ``kind:name``, as in ``ip:192.0.2.1``, or a pseudonym already.
        """
        kind, colon, name = client.partition(":")
        if not colon:
            return client
        if kind == "ip":
            address = parse_address(name)
            return self._hash(kind, name if address is None else self._aggregate(address))
        return self._hash(kind, name)

    def _hash(self, kind: str, name: str) -> str:
        data = f"{kind}:{name}".encode(errors="surrogateescape")
        return blake2b(data, digest_size=16, key=self._secret).hexdigest()

    def _aggregate(self, address: Address) -> str:
        settings = self._settings
        four = isinstance(address, IPv4Address)
        return _network(address, settings.ipv4_prefix if four else settings.ipv6_prefix)

    def _subnet(self, address: Address) -> str:
        settings = self._settings
        four = isinstance(address, IPv4Address)
        return _network(address, settings.ipv4_subnet if four else settings.ipv6_subnet)

    def _place(self, text: str) -> _Place:
        address = parse_address(text)
        if address is None:
            # A unix socket has no address; one that cannot be read identifies nobody.
            kind = "anonymous" if text else "local"
            place = _Place(Identity(self._hash(kind, ""), kind), trusted=False)
        else:
            subnet = self._hash("subnet", self._subnet(address))
            if self._by_address:
                identity = Identity(self._hash("ip", self._aggregate(address)), "ip", subnet)
            else:
                identity = Identity(self._hash("anonymous", ""), "anonymous", subnet)
            place = _Place(identity, self._is_proxy(address))
        _remember(self._places, text, place, _REMEMBERED)
        return place

    def _is_proxy(self, address: Address) -> bool:
        return any(
            address.version == network.version and address in network for network in self._proxies
        )

    def _behind(self, head: Headers, proxy: _Place) -> _Place:
        """The place from which a trusted proxy took the request."""
        value = head.get(b"x-forwarded-for")
        if value is None or head.get(b"forwarded") is not None:
            # Two headers may tell two stories: neither is believed.
            return proxy
        text = self._forwarded.get(value)
        if text is None:
            text = self._walk(value)
            if len(value) <= _FORWARDED_BYTES:
                _remember(self._forwarded, value, text, _REMEMBERED)
        if not text:
            return proxy
        return self._places.get(text) or self._place(text)

    def _walk(self, value: bytes) -> str:
        """The right-most address that is no trusted proxy, or the left-most of all; "" if unclear.

        What stands to the left of it is the client's own invention, and is not looked at.
        """
        text = ""
        for hop, element in enumerate(reversed(value.split(b","))):
            address = parse_address(element.strip(b" \t").decode("latin-1"))
            if address is None or hop == _FORWARDED_HOPS:
                return ""
            text = str(address)
            if not self._is_proxy(address):
                break
        return text

    def _certificate(self, _: Headers, peer: Peer, place: _Place) -> Identity | None:
        if peer.subject:
            subject = _told_subject(peer.subject)
            return self._name("mtls", subject, place.identity.subnet) if subject else None
        certificate = peer.certificate
        if certificate is None:
            return None
        known = self._subjects.get(certificate)
        if known is None:
            known = certificate_subject(certificate)
            _remember(self._subjects, certificate, known, _CERTIFICATES)
        return self._name("mtls", known, place.identity.subnet) if known else None

    def _api_key(self, head: Headers, _: Peer, place: _Place) -> Identity | None:
        key = head.get(self._key_header)
        if key is None:
            return None
        if self._bearer:
            if key[:7].lower() != b"bearer ":
                return None
            key = key[7:].strip(b" ")
        if len(key) > _KEY_BYTES:
            return None
        # What is looked up is a digest: how long it takes tells nothing about the keys.
        name = self._keys.get(sha256(key).digest())
        return None if name is None else self._name("api_key", name, place.identity.subnet)

    def _name(self, kind: str, name: str, subnet: str) -> Identity:
        identity = self._named.get((kind, name, subnet))
        if identity is None:
            identity = Identity(self._hash(kind, name), kind, subnet, f"{kind}:{name}")
            _remember(self._named, (kind, name, subnet), identity, _REMEMBERED)
        return identity


def certificate_subject(der: bytes) -> str:
    """What a verified client certificate (DER) stands for, or "" for nobody.

    Its SPIFFE ID, which must be the only URI among its subject alternative names (X.509-SVID, 2);
    without any URI, its subject's distinguished name (RFC 4514).
    """
    try:
        certificate = x509.load_der_x509_certificate(der)
        try:
            names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
            uris = names.value.get_values_for_type(x509.UniformResourceIdentifier)
        except x509.ExtensionNotFound:
            uris = []
        if not uris:
            return certificate.subject.rfc4514_string()
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
        # What OpenSSL let through and the stricter parser does not.
        return ""
    if len(uris) != 1 or len(uris[0]) > _SPIFFE_BYTES or not _SPIFFE.fullmatch(uris[0]):
        return ""
    return uris[0]


def _told_subject(name: str) -> str:
    """What a proxy says that a certificate stands for: a SPIFFE ID or a distinguished name."""
    if len(name) > _SPIFFE_BYTES:
        return ""
    if name.startswith("spiffe:"):
        return name if _SPIFFE.fullmatch(name) else ""
    return name


def _network(address: Address, prefix: int) -> str:
    """The network of an address: its first ``prefix`` bits, as text that no other network has."""
    return f"{address.version}/{prefix}/{int(address) >> (address.max_prefixlen - prefix):x}"


def _remember(memory: dict[_Key, _Value], key: _Key, value: _Value, most: int) -> None:
    if len(memory) >= most:
        memory.clear()
    memory[key] = value
