"""Where Redis is, as an operator writes it. Knows no client library."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Final
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

_PORT: Final = 6379
_SENTINEL_PORT: Final = 26379


class Topology(Enum):
    """How the servers hang together."""

    STANDALONE = "one server"
    SENTINEL = "a primary that sentinels elect"
    CLUSTER = "a cluster"


@dataclass(frozen=True, slots=True)
class Address:
    """Where Redis is. Its text never holds the password.

    Attributes:
        hosts: (host, port) of the server, of the sentinels, or of some nodes of the cluster.
        path: of the unix socket, or "".
        service: what the sentinels call the primary, or "".
        tls: whether the connection is encrypted.
    """

    topology: Topology
    hosts: tuple[tuple[str, int], ...] = ()
    path: str = ""
    service: str = ""
    database: int = 0
    tls: bool = False
    username: str | None = None
    password: str | None = field(default=None, repr=False)

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        return ",".join(f"{host}:{port}" for host, port in self.hosts)


_SCHEMES: Final = {
    "redis": (Topology.STANDALONE, False),
    "rediss": (Topology.STANDALONE, True),
    "unix": (Topology.STANDALONE, False),
    "redis+sentinel": (Topology.SENTINEL, False),
    "rediss+sentinel": (Topology.SENTINEL, True),
    "redis+cluster": (Topology.CLUSTER, False),
    "rediss+cluster": (Topology.CLUSTER, True),
}


def parse(url: str) -> Address:
    """The address that a URL names.

    ``redis://host:port/db``, ``rediss://…`` (TLS), ``unix:///path?db=0``,
    ``redis+sentinel://host:port,host:port/SERVICE?db=0``, ``redis+cluster://host:port,host:port``,
    and the last two as ``rediss+…``; each may hold ``user:password@``.

    Raises:
        ValueError: if it is not one of these. The message holds no password.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        raise ValueError("the address of Redis is not a URL") from None
    if parts.scheme not in _SCHEMES:
        raise ValueError(f"the address of Redis begins with one of {', '.join(_SCHEMES)}")
    topology, tls = _SCHEMES[parts.scheme]
    query = _query(parts)
    credentials, _, where = parts.netloc.rpartition("@")
    username, _, password = credentials.partition(":")
    path = unquote(parts.path)
    service = ""
    database = query
    if parts.scheme == "unix":
        if where or not path.startswith("/") or path == "/":
            raise ValueError("a unix socket of Redis is unix:///path/of/the/socket")
    elif topology is Topology.SENTINEL:
        service = path.strip("/")
        if not service or "/" in service:
            raise ValueError("sentinels need the primary's name: redis+sentinel://host:port/NAME")
    elif path.strip("/"):
        if database is not None:
            raise ValueError("the address of Redis names its database twice")
        database = _database(path.strip("/"))
    if topology is Topology.CLUSTER and database:
        raise ValueError("a cluster of Redis has database 0 alone")
    hosts = () if parts.scheme == "unix" else _hosts(where, topology)
    return Address(
        topology,
        hosts=hosts,
        path=path if parts.scheme == "unix" else "",
        service=service,
        database=database or 0,
        tls=tls,
        username=unquote(username) or None,
        password=unquote(password) or None,
    )


def _query(parts: SplitResult) -> int | None:
    """The database that the query names, if any."""
    if parts.fragment:
        raise ValueError("the address of Redis has no fragment (a # in a password is %23)")
    database = None
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        if name != "db" or database is not None:
            raise ValueError("the address of Redis has one parameter at most, db")
        database = _database(value)
    return database


def _database(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or len(text) > 5:
        raise ValueError("the database of Redis is a number")
    return int(text)


def _hosts(where: str, topology: Topology) -> tuple[tuple[str, int], ...]:
    hosts = tuple(_host(text, topology) for text in where.split(","))
    if topology is Topology.STANDALONE and len(hosts) != 1:
        raise ValueError("several hosts are redis+sentinel:// or redis+cluster://")
    return hosts


def _host(text: str, topology: Topology) -> tuple[str, int]:
    try:
        parts = urlsplit(f"//{text}")
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ValueError("the address of Redis has a port that is none") from None
    if not host:
        raise ValueError("the address of Redis lacks a host")
    return host, port or (_SENTINEL_PORT if topology is Topology.SENTINEL else _PORT)
