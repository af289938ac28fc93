from __future__ import annotations

import shutil
import ssl
from pathlib import Path

import grpc
import pytest
from authority import Authority
from cryptography import x509
from grpc import StatusCode, aio
from grpc_ends import INFER, NAMED, Application, ModelServer, listening

from proxy.decision import ALLOWED, Permit, UpstreamRequest
from proxy.grpc.channels import Channels
from proxy.grpc.listener import Listener
from proxy.grpc.tls import ServerTls, channel_credentials
from proxy.http.address import Address
from proxy.rules import UPSTREAM_UNREACHABLE, Refusal


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path)


def issued(authority, name):
    """Paths of a certificate and its key."""
    return tuple(map(Path, authority.issue(name)))


async def asked(listener, authority, *own):
    """One call over TLS."""
    credentials = channel_credentials(Path(authority.path), *own)
    options = [("grpc.use_local_subchannel_pool", 1)]
    place = f"127.0.0.1:{listener.port}"
    async with aio.secure_channel(place, credentials, options) as channel:
        return await channel.unary_unary(INFER)(NAMED, timeout=10)


async def test_tls(authority):
    application = Application()
    async with listening(application, tls=ServerTls(*issued(authority, "server"))) as listener:
        assert await asked(listener, authority) == NAMED
        # A certificate that was not asked for is not looked at.
        assert await asked(listener, authority, *issued(authority, "client")) == NAMED
        async with aio.insecure_channel(f"127.0.0.1:{listener.port}") as plain:
            with pytest.raises(aio.AioRpcError):
                await plain.unary_unary(INFER)(NAMED, timeout=10)
    assert [(peer.tls, peer.certificate) for _, peer in application.opened] == [(True, None)] * 2


async def test_a_client_s_certificate_says_who_it_is(authority, tmp_path):
    application = Application()
    tls = ServerTls(*issued(authority, "server"), Path(authority.path))
    own = issued(authority, "client")
    (tmp_path / "others").mkdir()
    stranger = issued(Authority(tmp_path / "others"), "stranger")
    async with listening(application, tls=tls) as listener:
        assert await asked(listener, authority, *own) == NAMED
        for wrong in ((), stranger):
            with pytest.raises(aio.AioRpcError) as caught:
                await asked(listener, authority, *wrong)
            assert caught.value.code() is StatusCode.UNAVAILABLE
    ((_, peer),) = application.opened
    known = x509.load_der_x509_certificate(peer.certificate)
    assert known.subject.rfc4514_string() == "CN=client"


async def test_a_certificate_is_renewed_while_it_serves(authority, tmp_path):
    tls = ServerTls(*issued(authority, "server"))
    async with listening(Application(), tls=tls) as listener:
        assert await asked(listener, authority) == NAMED
        (tmp_path / "new").mkdir()
        other = Authority(tmp_path / "new")
        for fresh, old in zip(issued(other, "server"), ("server.pem", "server.key"), strict=True):
            shutil.copy(fresh, tmp_path / old)
        tls.renew()
        assert await asked(listener, other) == NAMED
        with pytest.raises(aio.AioRpcError):
            await asked(listener, authority)
        (tmp_path / "server.key").write_text("none")
        with pytest.raises(ssl.SSLError):
            tls.renew()
        assert await asked(listener, other) == NAMED


class Call:
    """What a listener looks at of a call."""

    def __init__(self, pem):
        self.pem = pem

    def peer(self):
        return "ipv4:192.0.2.1:5000"

    def auth_context(self):
        return {"x509_pem_cert": [self.pem]}


def test_two_clients_of_one_address_are_two(authority):
    tls = ServerTls(*issued(authority, "server"), Path(authority.path))
    listener = Listener(Application(), "", tls=tls, clock=lambda: 0.0)
    pems = [issued(authority, name)[0].read_bytes() for name in ("one", "two")]
    one, two, again = (listener._peer(Call(pem)) for pem in (*pems, pems[0]))
    assert one == again
    assert one.certificate != two.certificate
    assert one.address == two.address == "192.0.2.1"
    # A certificate that was not asked for is nobody's word.
    open_to_all = ServerTls(*issued(authority, "server"))
    listener = Listener(Application(), "", tls=open_to_all, clock=lambda: 0.0)
    assert listener._peer(Call(pems[0])).certificate is None


def test_files_that_are_no_certificates(authority, tmp_path):
    certificate, key = issued(authority, "server")
    with pytest.raises(FileNotFoundError):
        ServerTls(certificate, tmp_path / "none")
    with pytest.raises(ssl.SSLError):
        ServerTls(certificate, certificate)
    with pytest.raises(ssl.SSLError):
        channel_credentials(key)
    channel_credentials()  # the system's authorities


async def upstream_answer(server, credentials, name=""):
    address = Address(
        "127.0.0.1", server.port, authority=f"127.0.0.1:{server.port}".encode(), server_name=name
    )
    upstream = Channels([address], credentials=[credentials], clock=lambda: 0.0)
    target = b"/inference.GRPCInferenceService/digits/ModelInfer"
    try:
        permit = Permit(ALLOWED, UpstreamRequest(b"RPC", target, b"", b"message"))
        return (await upstream.send(permit)).status
    finally:
        await upstream.close()


@pytest.fixture
def careful(authority):
    """The credentials of a model server that verifies its clients."""
    certificate, key = issued(authority, "model")
    return grpc.ssl_server_credentials(
        [(key.read_bytes(), certificate.read_bytes())],
        Path(authority.path).read_bytes(),
        require_client_auth=True,
    )


async def test_an_upstream_must_be_the_one_that_is_named(authority, careful, tmp_path):
    client = issued(authority, "client")
    async with ModelServer().running(careful) as server:
        trusted = channel_credentials(Path(authority.path), *client)
        assert await upstream_answer(server, trusted) == 200
        (tmp_path / "others").mkdir()
        stranger = channel_credentials(Path(Authority(tmp_path / "others").path), *client)
        anonymous = channel_credentials(Path(authority.path))
        for credentials, name in (
            (trusted, "another.example"),
            (stranger, ""),
            (anonymous, ""),
            (None, ""),
        ):
            with pytest.raises(Refusal) as caught:
                await upstream_answer(server, credentials, name)
            assert caught.value.rule is UPSTREAM_UNREACHABLE
    assert len(server.calls) == 1
