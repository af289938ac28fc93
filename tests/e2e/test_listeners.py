"""TCP, TLS with client certificates and unix sockets; clients that are slow, halved or gone."""

import socket
import ssl
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from traffic import ask, exchange, request_of

from loadtest.wire import parse_response

DAY = timedelta(days=1)


class Authority:
    """A certificate authority that lives as long as a test."""

    def __init__(self, folder, name):
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.certificate = folder / f"{name}.pem"
        built = (
            self._builder(self._name, self._key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.certificate.write_bytes(built.public_bytes(serialization.Encoding.PEM))

    def _builder(self, subject, public_key):
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - DAY)
            .not_valid_after(now + DAY)
        )

    def issue(self, name, alternative):
        """Paths of a certificate and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        built = (
            self._builder(subject, key.public_key())
            .add_extension(x509.SubjectAlternativeName([alternative]), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        paths = self._folder / f"{name}.crt", self._folder / f"{name}.key"
        paths[0].write_bytes(built.public_bytes(serialization.Encoding.PEM))
        paths[1].write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return paths


def connect(guard, authority, identity=None):
    """A TLS connection, with a client certificate or without."""
    context = ssl.create_default_context(cafile=str(authority.certificate))
    if identity is not None:
        context.load_cert_chain(*identity)
    plain = socket.create_connection(guard.address, 10)
    return context.wrap_socket(plain, server_hostname="localhost")


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path, "authority")


@pytest.fixture
def mutual(recorder, gateway, authority):
    """A firewall that admits only clients with a certificate."""
    certificate, key = authority.issue("server", x509.DNSName("localhost"))
    files = {"certificate": certificate, "key": key, "client_ca": authority.certificate}
    return gateway(
        [recorder.endpoint()],
        tls={name: str(path) for name, path in files.items()},
        client={"identify": ["mtls", "ip"]},
    )


def spiffe(name):
    return x509.UniformResourceIdentifier(f"spiffe://example.org/{name}")


def test_mutual_tls_tells_clients_apart(mutual, authority):
    for name in ("alice", "bob", "alice"):
        with connect(mutual, authority, authority.issue(name, spiffe(name))) as connection:
            assert exchange(connection, request_of(name)).status == 200
            assert exchange(connection, request_of(name)).status == 200
    assert mutual.stop() == 0
    clients = [record["client"] for record in mutual.records() if record["method"] == "POST"]
    assert len(clients) == 6
    alice, bob = clients[0], clients[2]
    assert clients == [alice, alice, bob, bob, alice, alice]
    assert alice != bob
    assert "spiffe" not in mutual.audit.read_text()


def test_no_certificate_no_answer(mutual, authority, recorder):
    # TLS 1.3 tells the client only when it reads.
    with (
        pytest.raises((ssl.SSLError, OSError)),
        connect(mutual, authority) as connection,
    ):
        exchange(connection, request_of("nobody"))
    assert recorder.seen() == []


def test_a_certificate_of_another_authority(mutual, authority, tmp_path, recorder):
    (tmp_path / "other").mkdir()
    stranger = Authority(tmp_path / "other", "authority").issue("alice", spiffe("alice"))
    with (
        pytest.raises((ssl.SSLError, OSError)),
        connect(mutual, authority, stranger) as connection,
    ):
        exchange(connection, request_of("alice"))
    assert recorder.seen() == []


def test_plain_http_to_a_tls_port(mutual, recorder):
    with socket.create_connection(mutual.address, 10) as connection, pytest.raises(OSError):
        exchange(connection, request_of("plain"))
    assert recorder.seen() == []


def test_unix_socket(recorder, gateway, tmp_path):
    path = tmp_path / "b.sock"
    guard = gateway([recorder.endpoint()], listen=f"unix:{path}")
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(str(path))
        for number in range(3):
            assert exchange(connection, request_of(f"n{number}")).status == 200
    assert guard.stop() == 0
    # It starts again where its socket's file was left behind, as after a kill.
    guard.start()
    guard.kill()
    guard.start()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(str(path))
        assert exchange(connection, request_of("again")).status == 200


def read_to_the_end(connection):
    data = b""
    while got := connection.recv(1 << 16):
        data += got
    return data


def test_a_half_closed_client_gets_its_answer(recorder, gateway):
    guard = gateway([recorder.endpoint()])
    with socket.create_connection(guard.address, 10) as connection:
        connection.sendall(request_of("delay:0.2"))
        connection.shutdown(socket.SHUT_WR)
        answer = parse_response(read_to_the_end(connection))
    assert answer.status == 200


def test_a_client_that_leaves_takes_nobody_with_it(recorder, gateway):
    guard = gateway([recorder.endpoint()])
    for number in range(20):
        with socket.create_connection(guard.address, 10) as connection:
            connection.sendall(request_of(f"delay:0.{number % 3}"))
    assert ask(guard.address, request_of("stays")).status == 200
    guard.process.wait_until(lambda: guard.metric("bartizan_upstream_in_flight") == 0)


def test_byte_by_byte(recorder, gateway):
    guard = gateway([recorder.endpoint()])
    with socket.create_connection(guard.address, 10) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        request = request_of("slow")
        for at in range(len(request) - 1):
            connection.sendall(request[at : at + 1])
        assert exchange(connection, request[-1:]).status == 200


def test_pipelined_requests_are_answered_in_order(recorder, gateway):
    guard = gateway([recorder.endpoint()])
    with socket.create_connection(guard.address, 10) as connection:
        connection.sendall(b"".join(request_of(f"delay:0.{n}") for n in (3, 2, 1, 0)))
        connection.shutdown(socket.SHUT_WR)
        data = read_to_the_end(connection)
    positions = [data.index(f'"delay:0.{n}"'.encode()) for n in (3, 2, 1, 0)]
    assert positions == sorted(positions)
    assert data.count(b"HTTP/1.1 200") == 4
