from __future__ import annotations

import ssl

import pytest

from proxy.http.address import Address
from proxy.http.tls import client_context


def parts(url):
    address = Address.parse(url, tls=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
    return (
        address.host,
        address.port,
        address.path,
        address.tls is not None,
        address.authority,
        str(address),
    )


ADDRESSES = {
    "http://a.example:8080": ("a.example", 8080, "", False, b"a.example:8080", "a.example:8080"),
    "http://a.example": ("a.example", 80, "", False, b"a.example", "a.example:80"),
    "https://a.example/": ("a.example", 443, "", True, b"a.example", "a.example:443"),
    "http://127.0.0.1:1": ("127.0.0.1", 1, "", False, b"127.0.0.1:1", "127.0.0.1:1"),
    "http://[::1]:80": ("::1", 80, "", False, b"[::1]:80", "[::1]:80"),
    "unix:/run/model.sock": ("", 0, "/run/model.sock", False, b"localhost", "unix:/run/model.sock"),
}


def test_addresses():
    tried = 0
    for url, expected in ADDRESSES.items():
        tried += 1
        assert parts(url) == expected
    assert tried == 6


@pytest.mark.parametrize(
    "url",
    [
        "",
        "a.example",
        "ftp://a",
        "http://",
        "http://:80",
        "http://a/b",
        "http://a?b",
        "http://a#b",
        "http://user@a",
        "http://a:99999",
        "http://a:x",
        "http://a b",
        "http://a\r\nX: y",
        "unix:relative",
    ],
)
def test_what_is_no_address(url):
    with pytest.raises(ValueError, match=r"."):
        Address.parse(url)


def test_https_is_verified_by_default():
    context = Address.parse("https://a").tls
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    assert client_context().verify_mode is ssl.CERT_REQUIRED
