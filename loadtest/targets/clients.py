"""As whom an endpoint is asked: names of clients, and what the firewall knows each of them by."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import Field, model_validator

from proxy.settings.fields import FilePath, Network
from proxy.settings.secret import Secret
from proxy.settings.section import Faults, Section
from proxy.settings.text import read_text

_MOST_BYTES: Final = 16 * 2**20
_NAME: Final = re.compile(r"[A-Za-z0-9._@/-]{1,128}")
_KEY: Final = re.compile(r"[!-~]{1,1024}")
_LOOPBACK: Final = IPv4Network("127.0.0.0/8")
_FORWARDED: Final = "x-forwarded-for"
HeaderName = Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{1,64}$")]


class Clients(Section):
    """Client identities."""

    by: Literal["none", "api_key", "source_address", "header"] = "none"
    """``none``: all are one client. ``api_key``: each has a key. ``source_address``: each comes
    from a loopback address of its own. ``header``: each is named by a header, as X-Forwarded-For is
    believed of a trusted proxy."""
    count: Annotated[int, Field(ge=1, le=65_536)] = 1
    """How many there are; with ``keys``, how many of its lines are used, if stated."""
    keys: FilePath | None = None
    """The file of API keys, ``NAME:KEY`` a line. None: keys are made of ``secret``."""
    secret: Secret | None = None
    """What the keys are made of where no file says them: the same secret gives the same keys. There
    is none unless it is said: whoever knew it could make the keys that a firewall lists."""
    header: HeaderName | None = None
    """The header that carries the key or the name; none: ``x-api-key``, or ``x-forwarded-for``.
    ``authorization`` carries a bearer token."""
    network: Network | None = None
    """Where addresses are taken from, one after the other; none: 127.64.0.0/16 for
    ``source_address``, 198.18.0.0/15 (RFC 2544) for ``x-forwarded-for``."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        faults = Faults()
        if self.by == "none" and self.count > 1:
            faults.add("without identities all are one client: say by", "count")
        if self.keys is not None and self.by != "api_key":
            faults.add("only with by: api_key there are keys", "keys")
        if self.secret is not None and (self.by != "api_key" or self.keys is not None):
            faults.add("only with by: api_key and no file of keys are keys made of it", "secret")
        if self.by == "api_key" and self.keys is None and self.secret is None:
            faults.add(
                "with by: api_key say the file of keys: `bartizan attack --write-keys` makes one",
                "keys",
            )
        if self.header is not None and self.by not in {"api_key", "header"}:
            faults.add(f"with by: {self.by} it would do nothing", "header")
        network = self.network
        local = isinstance(network, IPv4Network) and network.subnet_of(_LOOPBACK)
        if self.by == "source_address" and network is not None and not local:
            faults.add("only addresses in 127.0.0.0/8 are this machine's", "network")
        if network is not None and self.count > network.num_addresses - 2:
            faults.add(f"{network} has not {self.count} addresses", "network")
        faults.report()
        return self


@dataclass(frozen=True, slots=True)
class Identity:
    """How one client presents itself.

    Attributes:
        headers: names and values that its requests carry.
        source: the address that it connects from, or "".
    """

    headers: tuple[tuple[str, str], ...] = ()
    source: str = ""


def identities(settings: Clients) -> Mapping[str, Identity]:
    """The clients by name, in order.

    Raises:
        SettingsError: if the file of keys cannot be read.
        ValueError: if a line of it is no key.
    """
    count = settings.count
    if settings.by == "none":
        return {"client": Identity()}
    if settings.by == "source_address":
        network = settings.network or IPv4Network("127.64.0.0/16")
        return {
            str(network[number + 1]): Identity(source=str(network[number + 1]))
            for number in range(count)
        }
    if settings.by == "header":
        header = (settings.header or _FORWARDED).lower()
        if header == _FORWARDED or settings.network is not None:
            network = settings.network or IPv4Network("198.18.0.0/15")
            names = [str(network[number + 1]) for number in range(count)]
        else:
            names = [f"client-{number:05d}" for number in range(count)]
        return {name: Identity(((header, name),)) for name in names}
    header = (settings.header or "x-api-key").lower()
    prefix = "Bearer " if header == "authorization" else ""
    return {name: Identity(((header, prefix + key),)) for name, key in api_keys(settings).items()}


def api_keys(settings: Clients) -> dict[str, str]:
    """The keys of clients who have some, by name.

    Raises:
        SettingsError, ValueError: as :func:`identities`.
    """
    if settings.keys is not None:
        keys = _read(settings.keys)
        if "count" not in settings.model_fields_set:
            return keys
        if settings.count > len(keys):
            raise ValueError(f"{settings.keys} has {len(keys)} keys, not {settings.count}")
        return dict(list(keys.items())[: settings.count])
    assert settings.secret is not None  # the settings were checked
    secret = settings.secret.get_secret_value()
    return {
        f"client-{number:05d}": hashlib.blake2b(
            f"{secret}/{number}".encode(), digest_size=20
        ).hexdigest()
        for number in range(settings.count)
    }


def listing(keys: Mapping[str, str]) -> str:
    """The file that the firewall's ``client.api_keys`` names: ``NAME:SHA256`` a line."""
    return "".join(
        f"{name}:{hashlib.sha256(key.encode()).hexdigest()}\n" for name, key in keys.items()
    )


def _read(path: Path) -> dict[str, str]:
    keys: dict[str, str] = {}
    for number, line in enumerate(read_text(path, _MOST_BYTES).splitlines(), start=1):
        entry = line.strip()
        if not entry or entry.startswith("#"):
            continue
        name, _, key = entry.partition(":")
        # The line itself is not shown: it holds a secret.
        if not _NAME.fullmatch(name) or not _KEY.fullmatch(key):
            raise ValueError(f"{path}:{number}: must be NAME:KEY")
        if name in keys:
            raise ValueError(f"{path}:{number}: {name} is there twice")
        keys[name] = key
    if not keys:
        raise ValueError(f"{path} lists no key")
    return keys


def sources(names: Sequence[str], known: Mapping[str, Identity]) -> list[str]:
    """The addresses that these clients connect from; none if they have none of their own."""
    return [known[name].source for name in names if known[name].source]
