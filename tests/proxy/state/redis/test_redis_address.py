"""Addresses of Redis, as operators write them."""

import pytest

from proxy.state.redis.address import Address, Topology, parse

ALONE, SENTINEL, CLUSTER = Topology.STANDALONE, Topology.SENTINEL, Topology.CLUSTER
GOOD = {
    "redis://redis": Address(ALONE, (("redis", 6379),)),
    "redis://127.0.0.1:7000/3": Address(ALONE, (("127.0.0.1", 7000),), database=3),
    "redis://127.0.0.1:7000?db=3": Address(ALONE, (("127.0.0.1", 7000),), database=3),
    "redis://[::1]:7000/": Address(ALONE, (("::1", 7000),)),
    "redis://:p%40ss@h": Address(ALONE, (("h", 6379),), password="p@ss"),
    "redis://u:p@h": Address(ALONE, (("h", 6379),), username="u", password="p"),
    "rediss://h:1": Address(ALONE, (("h", 1),), tls=True),
    "unix:///run/r.sock": Address(ALONE, path="/run/r.sock"),
    "unix:///run/r.sock?db=2": Address(ALONE, path="/run/r.sock", database=2),
    "redis+sentinel://a,b:1/main?db=1": Address(
        SENTINEL, (("a", 26379), ("b", 1)), service="main", database=1
    ),
    "rediss+sentinel://a/main": Address(SENTINEL, (("a", 26379),), service="main", tls=True),
    "redis+cluster://:p@a:1,b:2": Address(CLUSTER, (("a", 1), ("b", 2)), password="p"),
    "rediss+cluster://a/0": Address(CLUSTER, (("a", 6379),), tls=True),
}
BAD = [
    "", "redis", "http://h", "redis://", "redis://h:port", "redis://h:99999", "redis://a,b",
    "redis://h/x", "redis://h/1?db=1", "redis://h?db=1&db=2", "redis://h?timeout=1", "redis://h#x",
    "redis://h/-1", "redis://h/999999", "unix://", "unix:///", "unix://host/path",
    "redis+sentinel://a", "redis+sentinel://a/x/y", "redis+cluster://a/1", "redis+cluster://a,,b",
    "redis://[::1",
]  # fmt: skip


@pytest.mark.parametrize("url", GOOD)
def test_what_an_address_says(url):
    assert parse(url) == GOOD[url]


@pytest.mark.parametrize("url", BAD)
def test_what_is_no_address(url):
    with pytest.raises(ValueError, match=r"Redis|sentinel|cluster"):
        parse(url)


def test_no_password_is_shown():
    address = parse("redis://user:sesame@host")
    assert "sesame" not in repr(address) + str(address)
    for url in BAD:
        scheme, _, rest = url.partition("://")
        with pytest.raises(ValueError, match=r"Redis|sentinel|cluster") as caught:
            parse(f"{scheme}://:sesame@{rest}#")
        assert "sesame" not in str(caught.value)
        assert caught.value.__suppress_context__ or caught.value.__context__ is None
