"""TLS of gRPC, which has its own: from PEM files to credentials."""

from __future__ import annotations

import ssl
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import grpc

from proxy.http.tls import client_context, server_context


class ServerTls:
    """A listener's certificate, which can be renewed while it listens.

    Args:
        certificate, key: paths of PEM files; the certificate's chain follows it.
        client_ca: path of the PEM authorities that a client's certificate must come from. With it,
            a client without a valid certificate is refused in the handshake.

    Raises:
        OSError: if a file cannot be read (``ssl.SSLError`` is one: not what it should be).
    """

    def __init__(self, certificate: Path, key: Path, client_ca: Path | None = None) -> None:
        self._mutual = client_ca is not None
        self._paths = certificate, key, client_ca
        self._configuration = self._read()
        self._renewed = False

    def renew(self) -> None:
        """Reads the files again: new connections get what they hold now.

        Raises:
            OSError: if they cannot be used; nothing has changed then.
        """
        self._configuration = self._read()
        self._renewed = True

    def credentials(self) -> grpc.ServerCredentials:
        """What a server is bound with."""
        return grpc.dynamic_ssl_server_credentials(
            self._configuration, self._fetch, require_client_authentication=self._mutual
        )

    def client(self, auth_context: Mapping[str, Sequence[bytes]]) -> bytes | None:
        """The verified certificate of a call's client in DER; None if none is asked for."""
        found = auth_context.get("x509_pem_cert") if self._mutual else None
        return _der(found[0]) if found else None

    def _fetch(self) -> grpc.ServerCertificateConfiguration | None:
        """The certificate if it is new: gRPC asks at every connection, in any thread."""
        if not self._renewed:
            return None
        self._renewed = False
        return self._configuration

    def _read(self) -> grpc.ServerCertificateConfiguration:
        certificate, key, client_ca = self._paths
        # It says what is wrong, which gRPC would not.
        server_context(str(certificate), str(key), str(client_ca) if client_ca else None)
        return grpc.ssl_server_certificate_configuration(
            [(key.read_bytes(), certificate.read_bytes())],
            root_certificates=client_ca.read_bytes() if client_ca else None,
        )


def channel_credentials(
    ca: Path | None = None, certificate: Path | None = None, key: Path | None = None
) -> grpc.ChannelCredentials:
    """The credentials of an upstream. Its name and certificate are always verified.

    Args:
        ca: path of the PEM authorities to trust; the system's if None.
        certificate, key: paths of PEM files, for an upstream that verifies its clients.

    Raises:
        OSError: if a file cannot be read (``ssl.SSLError`` is one: not what it should be).
    """
    # It says what is wrong, which gRPC would not.
    client_context(*(str(path) if path else None for path in (ca, certificate, key)))
    system = ssl.get_default_verify_paths().cafile
    roots = ca or (Path(system) if system else None)
    return grpc.ssl_channel_credentials(
        root_certificates=roots.read_bytes() if roots else None,
        private_key=key.read_bytes() if key else None,
        certificate_chain=certificate.read_bytes() if certificate else None,
    )


@lru_cache(maxsize=512)
def _der(pem: bytes) -> bytes:
    return ssl.PEM_cert_to_DER_cert(pem.decode())
