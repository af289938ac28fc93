"""TLS contexts: 1.2 or newer, HTTP/1.1 only."""

from __future__ import annotations

import ssl


def server_context(certificate: str, key: str, client_ca: str | None = None) -> ssl.SSLContext:
    """The context of a listener.

    Args:
        certificate, key: paths of PEM files; the certificate's chain follows it.
        client_ca: path of the PEM authorities that a client's certificate must come from. With it,
            a client without a valid certificate is refused in the handshake.

    Raises:
        OSError: if a file cannot be read (``ssl.SSLError`` is one: not what it should be).
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    context.load_cert_chain(certificate, key)
    if client_ca is not None:
        context.load_verify_locations(client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_context(
    ca: str | None = None, certificate: str | None = None, key: str | None = None
) -> ssl.SSLContext:
    """The context of an upstream. Its name and certificate are always verified.

    Args:
        ca: path of the PEM authorities to trust; the system's if None.
        certificate, key: paths of PEM files, for an upstream that verifies its clients.

    Raises:
        OSError: if a file cannot be read (``ssl.SSLError`` is one: not what it should be).
    """
    context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=ca)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    if certificate is not None:
        context.load_cert_chain(certificate, key)
    return context
