from __future__ import annotations

import pytest

from proxy.http import heads
from proxy.rules import EXPECTATION, FRAMING, HEAD_TOO_LARGE, MALFORMED, METHOD, Refusal


def read(method=b"POST", target=b"/a", version="1.1", guarded=frozenset(), **headers):
    fields = {b"host": b"a"}
    fields.update({name.replace("_", "-").encode(): value for name, value in headers.items()})
    return heads.request_head(method, target, fields, version, True, guarded=guarded)


def refusal(*args, **kwargs):
    with pytest.raises(Refusal) as caught:
        read(*args, **kwargs)
    return caught.value.rule


def test_a_plain_head():
    head = read(content_length=b"3", content_type=b"application/json")
    assert (head.method, head.target, head.keep_alive, head.http10) == ("POST", "/a", True, False)
    assert head.get(b"content-type") == b"application/json"
    assert head.get(b"absent") is None


TARGETS = {
    b"/": True,
    b"/v2/models/digits/versions/1/infer": True,
    b"/v2/models/a.b-c_d~e:1@x/infer": True,
    b"/a/": True,
    b"/a/...": True,
    b"/a/.b": True,
    b"": False,
    b"a": False,
    b"*": False,
    b"http://a/b": False,
    b"//a": False,
    b"/a//b": False,
    b"/a?b": False,
    b"/a#b": False,
    b"/a%2fb": False,
    b"/a%": False,
    b"/a\\b": False,
    b"/.": False,
    b"/..": False,
    b"/a/../b": False,
    b"/a/./b": False,
    b"/a/..": False,
    b"/a/..;/b": False,
    b"/a;b": False,
    b"/a b": False,
    b"/a\tb": False,
    b"/a\x00": False,
    b"/a\n": False,
    b"/\xc3\xa9": False,
    b'/a"b': False,
    b"/a<b": False,
}


def test_targets():
    tried = 0
    for target, good in TARGETS.items():
        tried += 1
        if good:
            assert read(target=target).target == target.decode()
        else:
            assert refusal(target=target) is MALFORMED, target
    assert tried == 31


HOSTS = {
    b"a": True,
    b"a.example:80": True,
    b"127.0.0.1:8080": True,
    b"[::1]:80": True,
    b"[::ffff:1.2.3.4]": True,
    b"a%20b": True,
    b"": False,
    b":80": False,
    b"a:": False,
    b"a:x": False,
    b"a:99999": False,
    b"a:123456": False,
    b"a b": False,
    b"a/b": False,
    b"a@b": False,
    b"a,b": True,  # a sub-delimiter of RFC 3986, and no way to say two hosts: see repeats
    b"a?b": False,
    b"a%zz": False,
    b"[::1": False,
    b"[:::]": False,
    b"[v1.x]": False,
    b"\xffa": False,
    b"a\\b": False,
}


def test_hosts():
    tried = 0
    for host, good in HOSTS.items():
        tried += 1
        if good:
            read(host=host)
        else:
            assert refusal(host=host) is MALFORMED, host
    assert tried == 23


def test_host_is_needed_in_1_1_only():
    with pytest.raises(Refusal) as caught:
        heads.request_head(b"GET", b"/", {}, "1.1", True)
    assert caught.value.rule is MALFORMED
    assert heads.request_head(b"GET", b"/", {}, "1.0", False).http10


@pytest.mark.parametrize("version", ["0.9", "2.0", "3.0", "1.2", ""])
def test_versions(version):
    assert refusal(version=version) is MALFORMED


@pytest.mark.parametrize("method", [b"CONNECT", b"TRACE", b"PRI", b"M-SEARCH", b"get", b"SOURCE"])
def test_methods(method):
    assert refusal(method=method) is METHOD


@pytest.mark.parametrize(
    "value", [b"+3", b"-1", b"03", b"3 ", b"3,3", b"3, 3", b"0x3", b"3.0", b"", b"1" * 19, b"\xb2"]
)
def test_content_length(value):
    assert refusal(content_length=value) is FRAMING


@pytest.mark.parametrize("value", [b"0", b"3", b"1234567890"])
def test_content_length_that_is_one(value):
    read(content_length=value)


@pytest.mark.parametrize(
    "value",
    [b"gzip", b"gzip, chunked", b"chunked, chunked", b"identity", b"", b"xchunked"],
)
def test_transfer_encoding(value):
    assert refusal(transfer_encoding=value) is FRAMING


def test_transfer_encoding_that_is_one():
    read(transfer_encoding=b"Chunked")


def test_framing_that_is_told_twice_or_to_the_wrong_version():
    assert refusal(transfer_encoding=b"chunked", content_length=b"3") is FRAMING
    assert refusal(transfer_encoding=b"chunked", version="1.0") is FRAMING


@pytest.mark.parametrize("name", [b"upgrade", b"trailer"])
def test_headers_that_change_the_protocol(name):
    assert refusal(**{name.decode(): b"x"}) is FRAMING


@pytest.mark.parametrize(
    "value",
    [
        b"content-type",
        b"close, Content-Encoding",
        b"content-length",
        b"Authorization",
        b"keep-alive,x-api-key",
        b"host",
        b"transfer-encoding",
        b"X-Forwarded-For",
        b"traceparent",
        b"upgrade",
        b"x-company-key",
    ],
)
def test_connection_may_not_name(value):
    assert refusal(connection=value, guarded=frozenset({b"x-company-key"})) is FRAMING


def test_what_connection_names_ends_here():
    head = read(connection=b"keep-alive, X-Hop ,", x_hop=b"1", x_stays=b"2")
    assert head.get(b"x-hop") is None
    assert head.get(b"x-stays") == b"2"


@pytest.mark.parametrize(
    "name",
    [
        b"content_length",
        b"content_type",
        b"content-md5_x",
        b"transfer_encoding",
        b"x_api_key",
        b"x_forwarded-for",
        b"x_company_key",
    ],
)
def test_look_alikes(name):
    with pytest.raises(Refusal) as caught:
        heads.refuse_look_alike(name, frozenset({b"x-company-key"}))
    assert caught.value.rule is FRAMING


def test_other_underscores_are_harmless():
    heads.refuse_look_alike(b"my_header", frozenset())
    heads.refuse_look_alike(b"transfer-encoding_", frozenset())


def test_expect():
    read(expect=b"100-Continue")
    assert refusal(expect=b"200-ok") is EXPECTATION
    assert refusal(expect=b"100-continue, x") is EXPECTATION


SINGLE = [b"host", b"content-type", b"content-encoding", b"content-anything", b"authorization"]
SINGLE += [b"expect", b"x-api-key", b"transfer-encoding", b"inference-header-content-length"]


def test_repeats():
    for name in SINGLE:
        with pytest.raises(Refusal) as caught:
            heads.add_repeated({name: b"1"}, name, b"1")
        assert caught.value.rule is FRAMING
    assert len(SINGLE) == 9
    headers = {b"accept": b"a"}
    heads.add_repeated(headers, b"accept", b"b")
    assert headers == {b"accept": b"a, b"}


def test_size():
    heads.check_size(b"/", {b"a": b"b"}, 7)
    with pytest.raises(Refusal) as caught:
        heads.check_size(b"/", {b"a": b"b"}, 6)
    assert caught.value.rule is HEAD_TOO_LARGE
