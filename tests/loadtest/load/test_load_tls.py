"""Loads over TLS: the certificate is verified, and ours is shown where it is asked for."""

import ssl
from pathlib import Path

import pytest
from authority import Authority
from scripted_http import CLOSING, OK, forever, plan_of, sent, serving

from loadtest.load.plan import Tls


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path)


def served(authority, *, mutual=False):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.issue("server"))
    if mutual:
        context.load_verify_locations(authority.path)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


async def test_a_verified_server_answers_and_is_met_again(authority):
    tls = Tls(authority=Path(authority.path))
    async with serving(forever(OK, CLOSING), tls=served(authority)) as server:
        (one,) = await sent(plan_of(server.address, [0.0] * 4, tls=tls))
    assert one.said == {"answered": 2, "refused": 2}
    assert server.connections == 2


async def test_a_stranger_is_not_talked_to_unless_told_so(authority):
    async with serving(forever(OK), tls=served(authority)) as server:
        with pytest.raises(OSError, match="CERTIFICATE_VERIFY_FAILED"):
            await sent(plan_of(server.address, [0.0], tls=Tls()))
        with pytest.raises(OSError, match=r"mismatch|not valid"):
            named = Tls(authority=Path(authority.path), name="elsewhere")
            await sent(plan_of(server.address, [0.0], tls=named))
        (one,) = await sent(plan_of(server.address, [0.0], tls=Tls(verify=False)))
    assert one.good == 1


async def test_our_own_certificate_is_shown(authority):
    certificate, key = map(Path, authority.issue("client"))
    tls = Tls(authority=Path(authority.path), certificate=certificate, key=key)
    async with serving(forever(OK), tls=served(authority, mutual=True)) as server:
        (one,) = await sent(plan_of(server.address, [0.0], tls=tls))
    assert one.good == 1
