"""Each peer forwards a request and its answer, where it can be had."""

import sys

import numpy as np
import pytest

from loadtest.echo import CANNED
from loadtest.payloads import infer_request, infer_target
from loadtest.peers import PEERS, Lab
from loadtest.process import Process
from loadtest.wire import Session, parse_response

ENVOY = ".venv-envoy/bin/envoy"
FORWARDERS = [peer for peer in PEERS if peer.name != "bartizan"]


@pytest.fixture(scope="module")
def lab(tmp_path_factory, pytestconfig):
    folder = tmp_path_factory.mktemp("peers")
    rows = np.random.default_rng(0).normal(size=(300, 4)).astype(np.float32)
    np.save(folder / "f4.npy", rows)
    command = [sys.executable, "-m", "loadtest.echo", "--model", "f4=4"]
    upstream = Process("upstream", command, folder / "upstream.log")
    try:
        yield Lab(
            upstream.wait_for_line(), folder, None, {"f4": folder / "f4.npy"}, {},
            str(pytestconfig.rootpath / ENVOY), "nginx",
        )  # fmt: skip
    finally:
        assert upstream.stop() == 0


@pytest.mark.parametrize("peer", FORWARDERS, ids=lambda peer: peer.name)
@pytest.mark.real
def test_a_peer_forwards(lab, peer):
    reason = peer.missing(lab)
    if reason:
        pytest.skip(reason)
    assert any(character.isdigit() for character in peer.version(lab))
    rows = np.load(lab.rows["f4"])
    process, address = peer.start(lab)
    try:
        with Session(address) as session:
            for binary in (False, True):
                request = infer_request(rows[:1], "t", infer_target("f4"), binary=binary)
                response = session.exchange(request)
                assert (response.status, response.body) == (200, parse_response(CANNED).body)
            if peer.name == "aiohttp-sklearn":
                outlier = infer_request(rows[:1] + 1e4, "t", infer_target("f4"))
                assert session.exchange(outlier).status == 403
    finally:
        process.stop()
    with pytest.raises(OSError, match=r".+"), Session(address) as session:
        session.exchange(request)
