import datetime
from types import SimpleNamespace

import pytest
from authority import Authority
from cryptography import x509

from proxy.certificates import first_to_end, lives, shown
from proxy.settings.load import load

ENDPOINT = """
  - name: digits
    match: /v2/models/digits
    upstream: https://127.0.0.1:9
    upstream_tls: {certificate: %(client)s, key: %(client_key)s}
"""
GRPC = "    grpc: {upstream: 'grpc://127.0.0.1:9'}\n"


@pytest.fixture
def files(tmp_path):
    authority, found = Authority(tmp_path), {"ca": tmp_path / "ca.pem"}
    for name, days in (("server", 30), ("client", 3)):
        found[name], found[f"{name}_key"] = authority.issue(name, days=days)
    return SimpleNamespace(folder=tmp_path, **found)


def settings_of(files, text):
    path = files.folder / "bartizan.yaml"
    endpoint = ENDPOINT + (GRPC if "grpc" in text else "")
    path.write_text(text % vars(files) + "endpoints:" + endpoint % vars(files))
    return load(path)


TLS = "{certificate: %(server)s, key: %(server_key)s}"
SECTIONS = {
    "none of ours": ("", set()),
    "both listeners": (
        f"tls: {TLS}\ngrpc: {{listen: '127.0.0.1:0', tls: {TLS}}}\n",
        {("tls", ""), ("grpc.tls", "")},
    ),
    "behind Envoy": (
        f"ext_proc: {{listen: '127.0.0.1:0', tls: {TLS}}}\n",
        {("ext_proc.tls", "")},
    ),
    "shared state": (
        "state: rediss://127.0.0.1:1\nclient: {secret: 0123456789abcdef0123456789abcdef}\n"
        "sharing: {tls: {certificate: %(client)s, key: %(client_key)s}}\n",
        {("sharing.tls", "")},
    ),
}


@pytest.mark.parametrize(("text", "places"), SECTIONS.values(), ids=SECTIONS)
def test_each_certificate_that_is_shown_is_told_with_its_life(files, text, places):
    found = lives(settings_of(files, text))
    assert set(found) == places | {("upstream_tls", "digits")}
    now = datetime.datetime.now(datetime.UTC).timestamp()
    for (place, _), (start, end) in found.items():
        days = 3 if place in {"upstream_tls", "sharing.tls"} else 30
        assert start == pytest.approx(now - 10 * 86400, abs=600)
        assert end == pytest.approx(now + days * 86400, abs=600)


def test_all_sections_were_tried():
    assert len(SECTIONS) == 4


def test_of_a_chain_the_first_to_end_counts(files):
    chain = files.folder / "server.pem"
    chain.write_bytes(chain.read_bytes() + (files.folder / "client.pem").read_bytes())
    client = x509.load_pem_x509_certificate((files.folder / "client.pem").read_bytes())
    settings = settings_of(files, f"tls: {TLS}\n")
    assert lives(settings)["tls", ""][1] == client.not_valid_after_utc.timestamp()
    assert first_to_end(x509.load_pem_x509_certificates(chain.read_bytes())) == client


@pytest.mark.parametrize("content", [b"", b"-----BEGIN CERTIFICATE-----\nAA==\n", None])
def test_a_file_that_cannot_be_read_has_ended_long_ago(files, content):
    settings = settings_of(files, "")
    (one,) = shown(settings)
    if content is None:
        one.certificate.unlink()
    else:
        one.certificate.write_bytes(content)
    assert lives(settings) == {("upstream_tls", "digits"): (0.0, 0.0)}
