"""What TLS to a server of ours takes."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import model_validator

from proxy.settings.fields import FilePath, Matching
from proxy.settings.section import Faults, Section

ServerName = Annotated[str, Matching("[A-Za-z0-9.-]{1,253}", "a host name")]


class ClientTls(Section):
    """TLS to a server."""

    ca: FilePath | None = None
    """Certificates (PEM) that may sign the server's; none: the system's."""
    certificate: FilePath | None = None
    """Our client certificate chain (PEM)."""
    key: FilePath | None = None
    """Our client certificate's private key (PEM)."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        faults = Faults()
        if (self.certificate is None) is not (self.key is None):
            given, lacking = ("certificate", "key") if self.certificate else ("key", "certificate")
            faults.add(f"{given} needs a {lacking} beside it", given)
        faults.report()
        return self


class UpstreamTls(ClientTls):
    """TLS to the model server."""

    server_name: ServerName | None = None
    """The name that the server's certificate must carry; none: the upstream's host."""
