"""What TLS for clients takes."""

from __future__ import annotations

from proxy.settings.fields import FilePath
from proxy.settings.section import Section


class Tls(Section):
    """TLS for clients."""

    certificate: FilePath
    """The server's certificate chain (PEM)."""
    key: FilePath
    """Its private key (PEM)."""
    client_ca: FilePath | None = None
    """Certificates (PEM) that sign clients': with it, every client must present one."""
