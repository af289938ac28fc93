"""The configuration of ``bartizan ext-proc``."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import Field

from proxy.settings.fields import Address, Bytes, Listen, Seconds
from proxy.settings.section import Section
from proxy.settings.server_tls import Tls

MESSAGE_SLACK: Final = 64 * 2**10
"""Bytes of a message beside the body that it holds."""


class ExtProc(Section):
    """The listener for Envoy's external processing, of ``bartizan ext-proc``: it serves instead of
    those for clients, which are Envoy's then."""

    listen: Listen = Address("127.0.0.1", 9002)
    """Where Envoy connects: host:port, or unix:/path."""
    tls: Tls | None = None
    """TLS for Envoy; none: plain HTTP/2. Whoever can connect is believed whatever it says of
    clients: off loopback, have ``client_ca``."""
    message_bytes: Annotated[Bytes, Field(ge=2**16, le=2**31 - 1)] = 32 * 2**20
    """The size of a message of Envoy's, which holds a whole body: at least 64 KiB more than any
    endpoint's ``limits.body_bytes`` and ``answer.body_bytes``."""
    exchanges: Annotated[int, Field(gt=0, le=1_000_000)] = 1024
    """Exchanges at once, from a request's head to the verdict on its answer; beyond it, the request
    whose body has been coming longest is given up for a new one; if none is incomplete, the new one
    is refused."""
    connections: Annotated[int, Field(gt=0, le=1_000_000)] = 1024
    """Envoy's connections at once: each of its worker threads has some."""
    answer_seconds: Seconds = 300.0
    """How long Envoy may take for the model server's answer: the timeout of its route should be
    shorter."""
