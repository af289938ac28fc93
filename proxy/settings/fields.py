"""The scalar types of the configuration: what is written as one string and means more than that."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    PlainSerializer,
    PlainValidator,
    ValidationInfo,
    WithJsonSchema,
)
from pydantic_core import CoreSchema, core_schema

_UNITS: Final = {
    "": 1, "B": 1,
    "KB": 10**3, "MB": 10**6, "GB": 10**9,
    "KiB": 2**10, "MiB": 2**20, "GiB": 2**30,
}  # fmt: skip
_SIZE: Final = re.compile(r"([0-9]+)\s*([A-Za-z]*)")
_SIZE_PATTERN: Final = r"^[0-9]+\s*(B|[KMG]i?B)?$"
_HOST: Final = re.compile(r"(?!.*\.\.)[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?")
_SEGMENT: Final = re.compile(r"[A-Za-z0-9._~-]+")
_UNIX_PATH_BYTES: Final = 107  # sockaddr_un holds 108 with the closing NUL


def _directory(info: ValidationInfo) -> Path:
    """The directory that relative paths start from: the configuration file's."""
    context = info.context
    return context["directory"] if isinstance(context, dict) else Path()


def _resolved(value: Path, info: ValidationInfo) -> Path:
    if value == Path():
        raise ValueError("must not be empty")
    return _directory(info) / value


FilePath = Annotated[
    Path, AfterValidator(_resolved), WithJsonSchema({"type": "string", "minLength": 1})
]
"""A file; a relative path starts from the directory of the configuration file."""


def _size(value: object) -> object:
    if not isinstance(value, str):
        return value
    parts = _SIZE.fullmatch(value.strip())
    if parts is None or parts[2] not in _UNITS:
        raise ValueError("must be a number of bytes, such as 65536, 64KiB, 10MiB or 1GB")
    return int(parts[1]) * _UNITS[parts[2]]


Bytes = Annotated[
    int,
    BeforeValidator(_size),
    Field(gt=0, le=2**40),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "exclusiveMinimum": 0},
                {"type": "string", "pattern": _SIZE_PATTERN},
            ]
        }
    ),
]
"""A number of bytes, written as an integer or with a unit: 10MiB."""

Seconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]
"""A duration in seconds, above 0 and at most a day."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen or connect: a host and port, or the path of a unix socket.

    Attributes:
        host: name or IP address without brackets; "" for a unix socket.
        port: 1 to 65535 (0, when listening, lets the system choose); 0 for a unix socket.
        path: the unix socket's path, or "".
    """

    host: str = ""
    port: int = 0
    path: str = ""

    @property
    def is_local(self) -> bool:
        """True if only this machine can reach it: a loopback address or a unix socket."""
        if self.path or self.host == "localhost":
            return True
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def authority(self) -> str:
        """``host:port`` with an IPv6 host in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def __str__(self) -> str:
        return f"unix:{self.path}" if self.path else self.authority


def _unix(path: str, info: ValidationInfo) -> Address:
    if not path or "\0" in path:
        raise ValueError("a unix socket needs a path, as in unix:/run/bartizan.sock")
    full = str(_directory(info) / path)
    if len(full.encode()) > _UNIX_PATH_BYTES:
        raise ValueError(f"the path of a unix socket holds at most {_UNIX_PATH_BYTES} bytes")
    return Address(path=full)


def _host(text: str) -> str:
    """A host without brackets, checked.

    Raises:
        ValueError: if it is neither an IP address nor a name.
    """
    try:
        address = ip_address(text)
    except ValueError:
        if not _HOST.fullmatch(text) or re.fullmatch(r"[0-9.]+", text):
            raise ValueError(f"{text!r} is neither an IP address nor a host name") from None
        return text
    if getattr(address, "scope_id", None):
        raise ValueError("an IPv6 zone id is not supported")
    return str(address)


def _host_name(text: str) -> str:
    if not _HOST.fullmatch(text) or re.fullmatch(r"[0-9.]+", text):
        raise ValueError("must be a DNS name, without scheme and port")
    return text.lower()


HostName = Annotated[
    str,
    AfterValidator(_host_name),
    WithJsonSchema({"type": "string", "pattern": "^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$"}),
]
"""A DNS name, in lower case."""


def _host_and_port(text: str, *, least: int = 1) -> Address:
    host, colon, port = text.rpartition(":")
    if not colon or not re.fullmatch(r"[0-9]{1,5}", port) or not least <= int(port) <= 65535:
        raise ValueError("must be host:port, [ipv6]:port or unix:/path")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        if ":" not in host:
            raise ValueError(f"{host!r} in brackets is not an IPv6 address")
    elif ":" in host:
        raise ValueError("an IPv6 address is written in brackets, as in [::1]:8080")
    return Address(_host(host), int(port))


def _listen(value: object, info: ValidationInfo) -> Address:
    if isinstance(value, Address):
        return value
    if not isinstance(value, str):
        raise ValueError("must be host:port or unix:/path")  # noqa: TRY004 - pydantic collects ValueErrors only
    if value.startswith("unix:"):
        return _unix(value.removeprefix("unix:"), info)
    return _host_and_port(value, least=0)


Listen = Annotated[
    Address,
    PlainValidator(_listen),
    PlainSerializer(str),
    WithJsonSchema({"type": "string", "pattern": r"^(unix:.+|.+:[0-9]{1,5})$"}),
]
"""An address to listen on: host:port, [ipv6]:port or unix:/path."""


@dataclass(frozen=True, slots=True)
class Origin:
    """A model server: where it is, and whether TLS leads there.

    Attributes:
        address: where to connect.
        tls: whether the connection is encrypted.
        authority: the Host header's value: as configured, without a default port.
    """

    address: Address
    tls: bool
    authority: str

    def __str__(self) -> str:
        if self.address.path:
            return str(self.address)
        return f"{'https' if self.tls else 'http'}://{self.authority}"


def origin_of(value: object, info: ValidationInfo) -> Origin:
    """The model server that a URL names.

    Raises:
        ValueError: if it is not such a URL.
    """
    if isinstance(value, Origin):
        return value
    if not isinstance(value, str):
        raise ValueError("must be http://host:port, https://host or unix:/path")  # noqa: TRY004 - as above
    if value.startswith("unix:"):
        return Origin(_unix(value.removeprefix("unix:"), info), False, "localhost")
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise ValueError("must be http://host:port, https://host or unix:/path")
    if "@" in parts.netloc:
        raise ValueError("a user name or password in the URL is not supported")
    if parts.path not in ("", "/") or "?" in value or "#" in value:
        raise ValueError(
            "must end after the host and port: the path comes from the client's request"
        )
    tls = parts.scheme == "https"
    netloc = parts.netloc
    default = 443 if tls else 80
    if not re.search(r":[0-9]*$", netloc) or netloc.endswith("]"):
        netloc = f"{netloc}:{default}"
    address = _host_and_port(netloc)
    authority = address.authority
    if address.port == default:
        authority = authority.removesuffix(f":{default}")
    return Origin(address, tls, authority)


Upstream = Annotated[
    Origin,
    PlainValidator(origin_of),
    PlainSerializer(str),
    WithJsonSchema({"type": "string", "pattern": r"^(https?://[^/?#]+/?|unix:.+)$"}),
]
"""A model server: http://host:port, https://host:port or unix:/path."""


def _network(value: object) -> IPv4Network | IPv6Network:
    if isinstance(value, IPv4Network | IPv6Network):
        return value
    if not isinstance(value, str):
        raise ValueError("must be a range of addresses, as in 10.0.0.0/8")  # noqa: TRY004 - as above
    network = ip_network(value)  # strict: host bits that are set are an error
    if network.prefixlen == 0:
        raise ValueError("trusting every address would let any client choose its identity")
    return network


Network = Annotated[
    IPv4Network | IPv6Network,
    PlainValidator(_network),
    PlainSerializer(str),
    WithJsonSchema({"type": "string"}),
]
"""A range of addresses in CIDR notation: 10.0.0.0/8, 2001:db8::/32."""


def _path_prefix(value: str) -> str:
    segments = value.split("/")
    if len(segments) < 2 or segments[0] or not all(map(_SEGMENT.fullmatch, segments[1:])):
        raise ValueError(
            "must be an absolute path of plain segments, without a slash at its end, "
            "a query or percent-encoding"
        )
    if any(set(segment) == {"."} for segment in segments[1:]):
        raise ValueError("must not hold . or .. segments")
    return value


PathPrefix = Annotated[
    str,
    AfterValidator(_path_prefix),
    WithJsonSchema({"type": "string", "pattern": r"^(/[A-Za-z0-9._~-]+)+$"}),
]
"""A canonical URL path; it matches itself and everything below it."""


def _path_or_root(value: str) -> str:
    return value if value == "/" else _path_prefix(value)


PathOrRoot = Annotated[
    str,
    AfterValidator(_path_or_root),
    WithJsonSchema({"type": "string", "pattern": r"^(/|(/[A-Za-z0-9._~-]+)+)$"}),
]
"""A canonical URL path, or ``/``: everything."""


@dataclass(frozen=True, slots=True)
class Matching:
    """Makes a string match ``pattern`` as a whole; ``words`` say to people what that is."""

    pattern: str
    words: str

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {**handler(schema), "pattern": f"^{self.pattern}$"}

    def _check(self, value: str) -> str:
        if not re.fullmatch(self.pattern, value):
            raise ValueError(f"must be {self.words}")
        return value


def _moment(value: object) -> datetime:
    moment = value
    if isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            moment = None
        if moment is not None and re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", value):
            return moment.replace(tzinfo=UTC)
    if not isinstance(moment, datetime):
        raise ValueError("must be a date (2030-01-31) or a time with its zone (2030-01-31T12:00Z)")  # noqa: TRY004 - as above
    if moment.tzinfo is None:
        raise ValueError("needs a time zone, as in 2030-01-31T12:00Z")
    return moment


Moment = Annotated[
    datetime,
    PlainValidator(_moment),
    PlainSerializer(datetime.isoformat, return_type=str),
    WithJsonSchema({"type": "string", "pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2}([Tt ].+)?$"}),
]
"""A point in time with its zone; a bare date is its first moment in UTC."""


def one_or_more(value: Any) -> Any:
    """Lets a list of one be written without the list."""
    return tuple(value) if isinstance(value, list | tuple) else (value,)
