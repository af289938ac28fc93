"""Clients over the admin listener: what may be asked, and what is done."""

import contextlib
import gzip
import json

import aiohttp
import pytest
from pydantic import SecretStr

from proxy.admin.clients import MAX_BAN_SECONDS
from proxy.admin.listener import AdminListener
from proxy.settings.fields import Address
from proxy.settings.models import Admin
from proxy.state.base import StateUnavailable

ONE, OTHER = "0" * 31 + "a", "f" * 32
TOKEN = "a-token-of-some-length"
JSON = {"Content-Type": "application/json"}


def told(client, endpoint="digits", nats=3.5):
    return {
        "endpoint": endpoint,
        "client": client,
        "evidence": {"probing": nats},
        "thresholds": {"probing": 9.25},
        "queries": 7,
        "coverage": 0.125,
        "level": "allow",
        "banned_seconds": None,
        "seen_seconds_ago": 1.5,
    }


class Source:
    """Two clients of one endpoint."""

    def __init__(self):
        self.calls = []
        self.failure = None

    async def ready(self):
        return []

    async def render(self, openmetrics=False):
        return b""

    async def endpoints(self):
        return []

    async def clients(self, endpoint, most):
        self._asked("clients", endpoint, most)
        return [told(ONE), told(OTHER, nats=1.0)][:most]

    async def client(self, client, endpoint):
        self._asked("client", endpoint, client)
        return [told(client)] if client == ONE else []

    async def forgive(self, client, endpoint):
        self._asked("forgive", endpoint, client)

    async def ban(self, client, seconds, endpoint):
        self._asked("ban", endpoint, client, seconds)

    def _asked(self, what, endpoint, *more):
        if self.failure is not None:
            raise self.failure
        if endpoint not in {None, "digits"}:
            raise LookupError(f"secret {endpoint}")
        self.calls.append((what, endpoint, *more))


@contextlib.asynccontextmanager
async def served(source, token=None):
    settings = Admin.model_construct(
        listen=Address("127.0.0.1", 0), token=None if token is None else SecretStr(token)
    )
    listener = AdminListener(settings, source)
    await listener.start()
    try:
        yield f"http://127.0.0.1:{listener.port}/api/v1/clients"
    finally:
        await listener.close()


async def ask(url, method="GET", body=None, headers=None):
    """Status and JSON."""
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, url, data=body, headers=headers) as answer,
    ):
        assert answer.content_type == "application/json"
        return answer.status, json.loads(await answer.read())


async def test_the_list():
    source = Source()
    async with served(source) as url:
        assert await ask(url) == (200, {"clients": [told(ONE), told(OTHER, nats=1.0)]})
        assert await ask(f"{url}?endpoint=digits&limit=1") == (200, {"clients": [told(ONE)]})
        await ask(f"{url}?limit=1000")
    assert source.calls == [
        ("clients", None, 50),
        ("clients", "digits", 1),
        ("clients", None, 1000),
    ]


async def test_one_client():
    source = Source()
    async with served(source) as url:
        assert await ask(f"{url}/{ONE}?endpoint=digits") == (200, {"clients": [told(ONE)]})
        status, body = await ask(f"{url}/{OTHER}")
        assert (status, body) == (404, {"error": "nothing is known of this client"})
    assert source.calls == [("client", "digits", ONE), ("client", None, OTHER)]


async def test_forgive_ban_and_unban():
    source = Source()
    async with served(source) as url:
        at = {"client": ONE, "endpoint": None}
        forgiven = await ask(f"{url}/{ONE}/forgive", "POST", b"", JSON)
        assert forgiven == (200, at | {"forgiven": True})
        await ask(f"{url}/{ONE}/forgive?endpoint=digits", "POST", b"{}", JSON)
        banned = await ask(f"{url}/{ONE}/ban", "POST", b'{"seconds": 3600}', JSON)
        assert banned == (200, at | {"banned_seconds": 3600.0})
        typed = {"Content-Type": "application/json; charset=utf-8"}
        await ask(f"{url}/{ONE}/ban?endpoint=digits", "POST", b'{"seconds": 0.5}', typed)
        longest = json.dumps({"seconds": MAX_BAN_SECONDS})
        assert (await ask(f"{url}/{ONE}/ban", "POST", longest, JSON))[0] == 200
        assert (await ask(f"{url}/{ONE}/ban", "DELETE"))[0] == 200
    assert source.calls == [
        ("forgive", None, ONE),
        ("forgive", "digits", ONE),
        ("ban", None, ONE, 3600.0),
        ("ban", "digits", ONE, 0.5),
        ("ban", None, ONE, MAX_BAN_SECONDS),
        ("ban", None, ONE, 0.0),
    ]


BODIES = [
    b"",
    b"{}",
    b"[]",
    b"3600",
    b"null",
    b'{"seconds": 3600',
    b'{"seconds": 3600, "more": 1}',
    b'{"second": 3600}',
    b'{"seconds": "3600"}',
    b'{"seconds": null}',
    b'{"seconds": true}',
    b'{"seconds": [1]}',
    b'{"seconds": 0}',
    b'{"seconds": -0.0}',
    b'{"seconds": -1}',
    b'{"seconds": NaN}',
    b'{"seconds": Infinity}',
    b'{"seconds": 1e400}',
    b'{"seconds": 31536000.5}',
    b'{"seconds": 31536001}',
    b'{"seconds": %d}' % 10**300,
    b"\xff",
]


@pytest.mark.parametrize("body", BODIES)
async def test_a_ban_of_no_sense_is_refused(body):
    source = Source()
    async with served(source) as url:
        status, answer = await ask(f"{url}/{ONE}/ban", "POST", body, JSON)
    assert status == 400
    assert answer["error"]
    assert source.calls == []


@pytest.mark.parametrize(
    "client", ["a" * 31, "a" * 33, "A" * 32, "g" * 32, "a" * 31 + "%0a", "%2e%2e", "\u0661" * 32]
)
@pytest.mark.parametrize(
    ("method", "below"), [("GET", ""), ("POST", "/forgive"), ("POST", "/ban"), ("DELETE", "/ban")]
)
async def test_what_is_no_client_is_refused(client, method, below):
    source = Source()
    async with served(source) as url:
        status, _ = await ask(f"{url}/{client}{below}", method, b'{"seconds":1}', JSON)
    assert status in {400, 404}
    assert source.calls == []


QUERIES = [
    "limit=0",
    "limit=1001",
    "limit=-1",
    "limit=1.5",
    "limit=",
    "limit=%C2%B2",
    "limit=1&limit=2",
    "endpoint=digits&endpoint=digits",
    "endpoints=digits",
    "seconds=1",
]


@pytest.mark.parametrize("query", QUERIES)
async def test_an_unfit_query_is_refused(query):
    source = Source()
    async with served(source) as url:
        status, answer = await ask(f"{url}?{query}")
    assert (status, source.calls) == (400, [])
    assert answer["error"]


CALLS = [
    ("GET", ""),
    ("GET", f"/{ONE}"),
    ("POST", f"/{ONE}/forgive"),
    ("POST", f"/{ONE}/ban"),
    ("DELETE", f"/{ONE}/ban"),
]


def body_of(method, below):
    """What a call of ``CALLS`` needs as its body."""
    return b'{"seconds":1}' if (method, below[-4:]) == ("POST", "/ban") else b""


@pytest.mark.parametrize(("method", "below"), CALLS)
async def test_an_unknown_endpoint_is_not_found(method, below):
    async with served(Source()) as url:
        sent = f"{url}{below}?endpoint=other", method, body_of(method, below), JSON
        assert await ask(*sent) == (404, {"error": "no such endpoint"})


@pytest.mark.parametrize(("method", "below"), CALLS)
async def test_a_state_that_is_away_is_503_and_says_so(method, below):
    source = Source()
    source.failure = StateUnavailable("connection refused")
    async with served(source) as url:
        status, answer = await ask(f"{url}{below}", method, body_of(method, below), JSON)
    assert status == 503
    assert "shared state" in answer["error"]
    assert "connection refused" in answer["error"]


async def test_a_defect_does_not_pass_for_an_unknown_endpoint():
    source = Source()
    source.failure = KeyError("secret")
    async with served(source) as url, aiohttp.ClientSession() as session, session.get(url) as got:
        assert got.status == 500
        assert b"secret" not in await got.read()


@pytest.mark.parametrize("below", ["forgive", "ban"])
@pytest.mark.parametrize(
    "kind",
    [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/octet-stream",
        "text/plain; application/json",
    ],
)
async def test_what_a_form_could_send_is_refused(below, kind):
    source = Source()
    async with served(source) as url:
        headers = {"Content-Type": kind}
        status, _ = await ask(f"{url}/{ONE}/{below}", "POST", b'{"seconds":1}', headers)
    assert (status, source.calls) == (415, [])


async def test_a_coded_body_is_refused():
    source = Source()
    async with served(source) as url:
        headers = JSON | {"Content-Encoding": "gzip"}
        body = gzip.compress(b'{"seconds":1}')
        status, _ = await ask(f"{url}/{ONE}/ban", "POST", body, headers)
    assert (status, source.calls) == (415, [])


@pytest.mark.parametrize(("method", "below"), CALLS[2:])
async def test_pages_of_other_sites_change_nothing(method, below):
    source = Source()
    async with served(source) as url:
        for header in ({"Origin": "http://attacker.example"}, {"Sec-Fetch-Site": "cross-site"}):
            sent = f"{url}{below}", method, body_of(method, below), JSON | header
            assert (await ask(*sent))[0] == 403
    assert source.calls == []


@pytest.mark.parametrize(("method", "below"), CALLS)
async def test_the_token_is_needed(method, below):
    source = Source()
    async with served(source, TOKEN) as url:
        sent = f"{url}{below}", method, body_of(method, below)
        assert (await ask(*sent, JSON))[0] == 401
        assert source.calls == []
        assert (await ask(*sent, JSON | {"Authorization": f"Bearer {TOKEN}"}))[0] == 200
    assert len(source.calls) == 1


async def test_a_body_that_is_too_large():
    async with served(Source()) as url:
        status, answer = await ask(f"{url}/{ONE}/ban", "POST", b" " * 100_000, JSON)
    assert status == 413
    assert answer["error"]
