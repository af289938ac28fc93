"""The admin listener: what it answers, and to whom."""

import asyncio
import contextlib
import json
import socket
import stat

import aiohttp
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as parse_text
from pydantic import SecretStr

from proxy.admin.app import make_app
from proxy.admin.guard import Guard
from proxy.admin.listener import AdminListener
from proxy.settings.fields import Address
from proxy.settings.models import Admin
from proxy.telemetry.metrics import Metrics, Watched

TOKEN = "a-token-of-some-length"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


class Source:
    """A server of which everything can be said."""

    def __init__(self):
        self.reasons = []
        self.metrics = Metrics(wall=lambda: 0.0, registry=CollectorRegistry())
        self.metrics.bind([Watched("digits")])

    async def ready(self):
        return self.reasons

    async def render(self, openmetrics=False):
        return self.metrics.render(openmetrics)

    async def endpoints(self):
        return [{"name": "digits", "mode": "enforce", "alert_rate": 0.001}]


@contextlib.asynccontextmanager
async def served(source=None, token=None, hosts=(), address=None):
    settings = Admin.model_construct(
        listen=address or Address("127.0.0.1", 0),
        token=None if token is None else SecretStr(token),
    )
    listener = AdminListener(settings, source or Source(), hosts)
    await listener.start()
    try:
        yield listener
    finally:
        await listener.close()


async def ask(listener, path, method="GET", **headers):
    """Status, headers and body."""
    url = f"http://127.0.0.1:{listener.port}{path}"
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, url, headers=names) as answer,
    ):
        return answer.status, answer.headers, await answer.read()


async def send(port, request):
    """The status line of the answer to these very bytes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    line = await reader.readline()
    writer.close()
    await writer.wait_closed()
    return line


async def test_health_is_alive_and_ready():
    source = Source()
    async with served(source) as listener:
        assert (await ask(listener, "/healthz"))[0] == 200
        status, _, body = await ask(listener, "/readyz")
        assert (status, body) == (200, b'{"ready":true}')
        source.reasons = ["digits: upstream not seen yet"]
        status, _, body = await ask(listener, "/readyz")
        assert status == 503
        assert body == b'{"ready":false,"reasons":["digits: upstream not seen yet"]}'
        assert (await ask(listener, "/healthz"))[0] == 200


async def test_metrics_in_the_form_that_is_accepted():
    async with served() as listener:
        status, headers, body = await ask(listener, "/metrics")
        assert status == 200
        assert headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        assert {"bartizan_build_info"} <= {family.name for family in parse_text(body.decode())}
        accept = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;q=0.1"
        status, headers, body = await ask(listener, "/metrics", Accept=accept)
        assert status == 200
        assert headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
        assert {"bartizan_build"} <= {family.name for family in parse_openmetrics(body.decode())}


async def test_endpoints_and_version():
    async with served() as listener:
        _, headers, body = await ask(listener, "/api/v1/endpoints")
        assert headers["Content-Type"] == "application/json"
        assert body == b'{"endpoints":[{"name":"digits","mode":"enforce","alert_rate":0.001}]}'
        assert b'"name":"bartizan"' in (await ask(listener, "/version"))[2]


OPEN = ["/healthz", "/readyz"]
CLOSED = [
    "/metrics",
    "/api/v1/endpoints",
    "/version",
    "/api/v1/clients",
    "/api/v1/explanations/some",
    "/api/v1/captures/some",
    "/nothing",
    "/",
    "/healthz/",
    "//healthz",
]


@pytest.mark.parametrize("path", CLOSED)
@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Bearer wrong",
        f"Bearer {TOKEN}x",
        f"Bearer {TOKEN[:-1]}",
        f"Basic {TOKEN}",
        TOKEN,
        "Bearer \xff\xfe",
    ],
)
async def test_without_the_token_nothing_is_told(path, authorization):
    async with served(token=TOKEN) as listener:
        line = (
            b"" if authorization is None else b"Authorization: " + authorization.encode() + b"\r\n"
        )
        request = b"GET %b HTTP/1.1\r\nHost: localhost\r\n%b\r\n" % (path.encode(), line)
        assert (await send(listener.port, request)).split()[1] == b"401"


async def test_with_the_token_everything_is():
    async with served(token=TOKEN) as listener:
        for path in CLOSED[:3]:
            assert (await ask(listener, path, **BEARER))[0] == 200
            assert (await ask(listener, path, Authorization=f"bearer {TOKEN}"))[0] == 200


async def test_probes_need_no_token_and_learn_one_bit():
    source = Source()
    source.reasons = ["digits: secret of the operator"]
    async with served(source, token=TOKEN) as listener:
        for path in OPEN:
            assert (await ask(listener, path))[0] in {200, 503}
        assert (await ask(listener, "/readyz"))[2] == b'{"ready":false}'
        assert b"secret" in (await ask(listener, "/readyz", **BEARER))[2]


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "::", "gateway.example"])
def test_an_address_that_others_reach_needs_a_token(host):
    settings = Admin.model_construct(listen=Address(host, 9090), token=None)
    with pytest.raises(ValueError, match="token"):
        AdminListener(settings, Source())


HOSTS = [
    (b"localhost", 200),
    (b"LOCALHOST:9090", 200),
    (b"127.0.0.1", 200),
    (b"10.1.2.3:9090", 200),
    (b"[::1]:9090", 200),
    (b"bartizan.internal", 200),
    (b"attacker.example", 421),
    (b"attacker.example:9090", 421),
    (b"localhost.attacker.example", 421),
    (b"127.0.0.1.attacker.example", 421),
    (b"127.0.0.1@attacker.example", 421),
    (b"127.1", 421),
    (b"0x7f000001", 421),
    (b"", 421),
    (b"[::1", 421),
    (b"localhost:", 421),
    (b"localhost:x", 421),
]


@pytest.mark.parametrize(("host", "status"), HOSTS)
@pytest.mark.parametrize("path", [b"/metrics", b"/healthz"])
async def test_only_names_that_are_ours_are_answered(host, status, path):
    async with served(hosts=("bartizan.internal",)) as listener:
        request = b"GET %b HTTP/1.1\r\nHost: %b\r\nConnection: close\r\n\r\n" % (path, host)
        assert int((await send(listener.port, request)).split()[1]) == status


async def test_no_host_or_two_are_refused():
    async with served() as listener:
        twice = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n"
        assert (await send(listener.port, twice)).split()[1] in {b"421", b"400"}
        assert (await send(listener.port, b"GET /healthz HTTP/1.0\r\n\r\n")).split()[1] == b"421"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 405),
        ({"Origin": "http://127.0.0.1:{port}"}, 405),
        ({"Origin": "http://127.0.0.1:1"}, 403),
        ({"Origin": "https://127.0.0.1:{port}"}, 403),
        ({"Origin": "http://attacker.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec_Fetch_Site": "cross-site"}, 403),
        ({"Sec_Fetch_Site": "same-site"}, 403),
        ({"Sec_Fetch_Site": "same-origin"}, 405),
    ],
)
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
async def test_what_could_change_something_must_come_from_here(method, headers, status):
    async with served() as listener:
        given = {name: value.format(port=listener.port) for name, value in headers.items()}
        assert (await ask(listener, "/metrics", method, **given))[0] == status


async def test_every_answer_is_safe_in_a_browser():
    async with served(token=TOKEN) as listener:
        answers = [
            await ask(listener, "/healthz"),
            await ask(listener, "/metrics"),
            await ask(listener, "/nothing", **BEARER),
            await ask(listener, "/metrics", "POST", **BEARER),
        ]
        assert [status for status, _, _ in answers] == [200, 401, 404, 405]
        for _, headers, _ in answers:
            assert headers["X-Content-Type-Options"] == "nosniff"
            assert headers["Cache-Control"] == "no-store"
            assert "default-src 'none'" in headers["Content-Security-Policy"]
            assert headers["X-Frame-Options"] == "DENY"
            assert headers["Server"] == "bartizan"
        assert answers[1][1]["WWW-Authenticate"] == "Bearer"


async def test_head_has_no_body():
    async with served() as listener:
        status, headers, body = await ask(listener, "/metrics", "HEAD")
        assert (status, body) == (200, b"")
        assert int(headers["Content-Length"]) > 0


async def test_a_unix_socket_for_its_owner_and_group(tmp_path):
    path = tmp_path / "admin.sock"
    async with served(address=Address(path=str(path))):
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        connector = aiohttp.UnixConnector(str(path))
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.get("http://localhost/healthz") as answer,
        ):
            assert answer.status == 200
    assert not path.exists()


async def test_a_socket_that_was_left_is_replaced_one_that_lives_is_not(tmp_path):
    path = tmp_path / "admin.sock"
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(path))
    left.close()
    address = Address(path=str(path))
    async with served(address=address):
        with pytest.raises(OSError, match="in use"):
            async with served(address=address):
                pass
        assert path.exists()


async def test_a_port_that_is_taken_is_an_os_error():
    async with served() as listener:
        with pytest.raises(OSError, match="in use"):
            async with served(address=Address("127.0.0.1", listener.port)):
                pass


async def test_a_source_that_fails_is_a_500_that_tells_nothing():
    class Broken(Source):
        async def endpoints(self):
            raise ValueError("secret")

    async with served(Broken()) as listener:
        status, _, body = await ask(listener, "/api/v1/endpoints")
        assert status == 500
        assert b"secret" not in body


def test_every_route_is_in_the_table():
    paths = {route.resource.canonical for route in make_app(Source(), Guard(None)).router.routes()}
    assert paths == {
        "/healthz",
        "/readyz",
        "/version",
        "/metrics",
        "/api/v1/endpoints",
        "/api/v1/clients",
        "/api/v1/clients/{client}",
        "/api/v1/clients/{client}/forgive",
        "/api/v1/clients/{client}/ban",
        "/api/v1/explanations/{exchange}",
        "/api/v1/captures/{endpoint}",
    }


async def test_every_refusal_is_json():
    async with served() as listener:
        for path, method, status in [
            ("/nothing", "GET", 404),
            ("/metrics", "POST", 405),
            ("/api/v1/clients/" + "a" * 32 + "/ban", "GET", 405),
        ]:
            got, headers, body = await ask(listener, path, method)
            assert got == status
            assert headers["Content-Type"] == "application/json"
            assert json.loads(body)["error"]
        assert headers["Allow"] == "DELETE,POST"
