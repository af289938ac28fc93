"""Where a socket is: a TCP or unix address, with or without TLS."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True)
class Address:
    """One address to listen on or to connect to.

    Attributes:
        host, port: of a TCP socket; host without the brackets of an IPv6 literal.
        path: of a unix socket, else "".
        tls: None for plain text.
        authority: the Host header of requests sent there.
        server_name: what the certificate of an upstream must name; its host if "".
    """

    host: str = ""
    port: int = 0
    path: str = ""
    tls: ssl.SSLContext | None = field(default=None, repr=False)
    authority: bytes = b""
    server_name: str = ""

    @classmethod
    def parse(cls, url: str, *, tls: ssl.SSLContext | None = None) -> Address:
        """Reads ``http://host[:port]``, ``https://host[:port]`` or ``unix:/path``.

        Args:
            tls: the context of an ``https`` address; the system's authorities if None.

        Raises:
            ValueError: if it is anything else.
        """
        if url.startswith("unix:"):
            path = url.removeprefix("unix:")
            if not path.startswith("/"):
                raise ValueError(f"{url!r}: a unix socket needs an absolute path")
            return cls(path=path, authority=b"localhost")
        parts = urlsplit(url)
        if not url.isprintable() or " " in url:
            raise ValueError(f"{url!r} has a character that no address has")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url!r}: neither http(s)://host[:port] nor unix:/path")
        if parts.path not in ("", "/") or parts.query or parts.fragment or parts.username:
            raise ValueError(f"{url!r}: only scheme, host and port belong here")
        secure = parts.scheme == "https"
        port = parts.port if parts.port is not None else (443 if secure else 80)
        host = parts.hostname
        literal = f"[{host}]" if ":" in host else host
        authority = literal if parts.port is None else f"{literal}:{port}"
        if secure and tls is None:
            tls = ssl.create_default_context()
        return cls(host, port, "", tls if secure else None, authority.encode("idna"))

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"
