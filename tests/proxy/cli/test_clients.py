"""``bartizan clients`` against a real admin listener: its words, its JSON, its exit codes."""

import asyncio
import json
import socket
import threading

import pytest
from click.testing import CliRunner
from pydantic import SecretStr

from proxy.admin.listener import AdminListener
from proxy.cli.admin import origin_of
from proxy.cli.clients import clients, seconds_of
from proxy.settings.fields import Address
from proxy.settings.models import Admin
from proxy.state.base import StateUnavailable

ONE, OTHER = "0" * 31 + "a", "f" * 32
TOKEN = "a-token-of-some-length"


def told(client, **more):
    return {
        "endpoint": "digits",
        "client": client,
        "evidence": {"probing": 3.52, "extraction": 11.0},
        "thresholds": {"probing": 9.25, "extraction": 9.25},
        "queries": 7,
        "coverage": 0.125,
        "level": "throttle",
        "banned_seconds": 5400.0,
        "seen_seconds_ago": 12.0,
    } | more


BARE = {"queries": None, "coverage": None, "banned_seconds": None, "seen_seconds_ago": None}


class Source:
    """What an admin listener asks; it notes what it was asked."""

    def __init__(self):
        self.calls = []
        self.failure = None
        self.known = [told(ONE), told(OTHER, evidence={}, thresholds={}, level="allow", **BARE)]

    async def ready(self):
        return []

    async def render(self, openmetrics=False):
        return b""

    async def endpoints(self):
        return []

    async def clients(self, endpoint, most):
        self._asked("clients", endpoint, most)
        return self.known[:most]

    async def client(self, client, endpoint):
        self._asked("client", endpoint, client)
        return [entry for entry in self.known if entry["client"] == client]

    async def forgive(self, client, endpoint):
        self._asked("forgive", endpoint, client)

    async def ban(self, client, seconds, endpoint):
        self._asked("ban", endpoint, client, seconds)

    def _asked(self, what, endpoint, *more):
        if self.failure is not None:
            raise self.failure
        if endpoint not in {None, "digits"}:
            raise LookupError(endpoint)
        self.calls.append((what, endpoint, *more))


class Served:
    """An admin listener in a thread of its own."""

    def __init__(self, address, token):
        self.source = Source()
        settings = Admin.model_construct(
            listen=address, token=None if token is None else SecretStr(token)
        )
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._listener = AdminListener(settings, self.source)
        self._run(self._listener.start())
        self.url = f"unix:{address.path}" if address.path else self.http

    @property
    def port(self):
        return self._listener.port

    @property
    def http(self):
        return f"http://127.0.0.1:{self.port}"

    def close(self):
        self._run(self._listener.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, coroutine):
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(30)


@pytest.fixture
def serve():
    started = []

    def start(address=None, token=None):
        started.append(Served(address or Address("127.0.0.1", 0), token))
        return started[-1]

    yield start
    for one in started:
        one.close()


@pytest.fixture
def served(serve):
    return serve()


def run(*arguments, admin=None, **environment):
    at = [] if admin is None else ["--admin", admin]
    unset = {"BARTIZAN_ADMIN_TOKEN": None}
    return CliRunner().invoke(clients, [*map(str, arguments), *at], env=unset | environment)


def test_the_list(served):
    result = run("list", admin=served.url)
    assert (result.exit_code, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    (one,) = [line for line in lines if ONE in line]
    for words in ("digits", "throttle", "extraction 11.0", "7", "12.5 %", "for 1.5h", "12s ago"):
        assert words in one
    assert any(OTHER in line and "allow" in line for line in lines)
    assert any("probing 3.5" in line for line in lines)
    assert "label" not in result.stdout
    assert served.source.calls == [("clients", None, 50)]


def test_the_list_as_json(served):
    result = run("list", "--json", "--endpoint", "digits", "--limit", 1, admin=served.url)
    assert result.exit_code == 0
    assert json.loads(result.stdout) == {"clients": [told(ONE)]}
    assert served.source.calls == [("clients", "digits", 1)]


def test_no_clients(served):
    served.source.known = []
    result = run("list", admin=served.url)
    assert (result.exit_code, result.stdout) == (0, "no client is known\n")


def test_one_client(served):
    served.source.known = [told(ONE, label="team-a"), told(ONE, endpoint="other", **BARE)]
    result = run("show", ONE, admin=served.url)
    assert result.exit_code == 0
    first, second = result.stdout.split(f"{ONE} at ")[1:]
    assert first.splitlines() == [
        "digits",
        "  label: team-a",
        "  level: throttle",
        "  queries: 7",
        "  coverage: 12.5 %",
        "  banned: for 1.5h",
        "  seen: 12s ago",
        "  evidence of extraction: 11.0 nats; alarms at 9.2",
        "  evidence of probing: 3.5 nats; alarms at 9.2",
    ]
    assert second.startswith("other\n")
    assert "  seen: -\n" in second
    as_json = run("show", ONE, "--json", admin=served.url)
    assert json.loads(as_json.stdout) == {"clients": served.source.known}


def test_a_client_that_is_not_known(served):
    result = run("show", "b" * 32, "--json", admin=served.url)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "nothing is known of this client" in result.stderr


def test_forgive_ban_and_unban(served):
    for arguments in [
        ("forgive", ONE),
        ("forgive", ONE, "--endpoint", "digits"),
        ("ban", ONE),
        ("ban", ONE, "--for", "7d", "--endpoint", "digits"),
        ("unban", ONE),
    ]:
        result = run(*arguments, admin=served.url)
        assert (result.exit_code, result.stderr) == (0, "")
        assert result.stdout.startswith(f"{ONE}: ")
    assert served.source.calls == [
        ("forgive", None, ONE),
        ("forgive", "digits", ONE),
        ("ban", None, ONE, 3600.0),
        ("ban", "digits", ONE, 604_800.0),
        ("ban", None, ONE, 0.0),
    ]
    as_json = run("ban", ONE, "--for", "90s", "--json", admin=served.url)
    assert json.loads(as_json.stdout) == {"client": ONE, "endpoint": None, "banned_seconds": 90.0}


def test_a_refusal_is_exit_status_1(served):
    result = run("list", "--endpoint", "a&b=ü", admin=served.url)
    assert result.exit_code == 1
    assert result.stderr == "bartizan: no such endpoint\n"
    served.source.failure = StateUnavailable("refused\x1b[31m")
    result = run("forgive", ONE, admin=served.url)
    assert result.exit_code == 1
    assert "shared state" in result.stderr
    assert "\x1b" not in result.stderr
    served.source.failure = RuntimeError("secret")
    result = run("list", admin=served.url)
    assert result.exit_code == 1
    assert "500" in result.stderr


def test_nothing_of_an_answer_is_obeyed_by_the_terminal(served):
    odd = "\x1b[b]\n"
    served.source.known = [told(ONE, label=odd, evidence={odd: 1.0}, endpoint=odd)]
    for arguments in (("list",), ("show", ONE)):
        result = run(*arguments, admin=served.url)
        assert result.exit_code == 0
        assert "\x1b" not in result.stdout
        assert "?[b]?" in result.stdout
    assert len(result.stdout.splitlines()) == 8


def test_a_narrow_terminal_still_shows_whole_clients(served):
    result = run("list", admin=served.url, COLUMNS="40")
    assert ONE in result.stdout
    assert OTHER in result.stdout


def test_nobody_there_is_exit_status_4(free_port, tmp_path):
    for url in (f"http://127.0.0.1:{free_port()}", f"unix:{tmp_path / 'none.sock'}"):
        result = run("list", admin=url)
        assert result.exit_code == 4
        assert url in result.stderr
        assert result.stdout == ""


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (b"", 4),
        (b"not HTTP\r\n\r\n", 4),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{}", 4),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n", 4),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]", 1),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n\xff\xfe", 1),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", 1),
        (b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 2\r\n\r\n{}", 1),
    ],
)
def test_somebody_else_there(answer, status):
    with socket.create_server(("127.0.0.1", 0)) as server:

        def once():
            peer, _ = server.accept()
            with peer:
                peer.recv(65_536)
                peer.sendall(answer)

        thread = threading.Thread(target=once)
        thread.start()
        result = run("list", admin=f"http://127.0.0.1:{server.getsockname()[1]}")
        thread.join()
    assert result.exit_code == status
    assert result.stderr.startswith("bartizan: ")
    assert result.stdout == ""


def test_a_unix_socket(serve, tmp_path):
    served = serve(Address(path=str(tmp_path / "admin.sock")))
    assert run("ban", ONE, admin=served.url).exit_code == 0
    assert served.source.calls == [("ban", None, ONE, 3600.0)]


def test_the_token(serve):
    served = serve(token=TOKEN)
    for result in (run("list", admin=served.url), run("list", "--token", "x", admin=served.url)):
        assert result.exit_code == 1
        assert "BARTIZAN_ADMIN_TOKEN" in result.stderr
    assert run("list", "--token", TOKEN, admin=served.url).exit_code == 0
    assert run("list", admin=served.url, BARTIZAN_ADMIN_TOKEN=TOKEN).exit_code == 0
    result = run("list", "--token", "a\nb", admin=served.url)
    assert result.exit_code == 2
    assert len(served.source.calls) == 2


CONFIGURATION = """\
admin: {{listen: "{listen}", token: "{token}"}}
endpoints:
  - {{name: digits, match: /v2/models/digits, upstream: "http://127.0.0.1:1"}}
"""


def test_address_and_token_from_the_configuration(serve, tmp_path):
    served = serve(token=TOKEN)
    file = tmp_path / "bartizan.yaml"
    for listen in (f"127.0.0.1:{served.port}", f"0.0.0.0:{served.port}"):
        file.write_text(CONFIGURATION.format(listen=listen, token=TOKEN))
        assert run("list", "--config", file).exit_code == 0
    path = serve(Address(path=str(tmp_path / "admin.sock")), TOKEN).url
    file.write_text(CONFIGURATION.format(listen="unix:admin.sock", token=TOKEN))
    assert run("list", "--config", file).exit_code == 0
    assert run("list", "--config", file, admin=path).exit_code == 2
    file.write_text(CONFIGURATION.format(listen="127.0.0.1:0", token=TOKEN))
    assert run("list", "--config", file).exit_code == 2
    file.write_text("admin: {listens: here}")
    result = run("list", "--config", file)
    assert result.exit_code == 3
    assert "bartizan.yaml:1:9" in result.stderr
    assert run("list", "--config", tmp_path / "none.yaml").exit_code == 3


def test_where_a_listener_is_reached():
    assert str(origin_of(Address("::", 9090))) == "http://[::1]:9090"
    assert str(origin_of(Address("0.0.0.0", 9090))) == "http://127.0.0.1:9090"
    assert str(origin_of(Address("gateway.example", 1))) == "http://gateway.example:1"
    assert str(origin_of(Address(path="/a"))) == "unix:/a"


DURATIONS = {
    "90s": 90,
    "30m": 1800,
    "1h": 3600,
    " 7d ": 604_800,
    "2w": 1_209_600,
    "365d": 31_536_000,
}
NONE = [
    "",
    "h",
    "1",
    "0s",
    "-1h",
    "1.5h",
    "1 h",
    "1H",
    "1y",
    "366d",
    "53w",
    "9999999999s",
    "1h1m",
    "²s",
]


@pytest.mark.parametrize("text", DURATIONS)
def test_durations(text):
    assert seconds_of(text) == DURATIONS[text]


@pytest.mark.parametrize("text", NONE)
def test_what_is_no_duration(text, served):
    result = run("ban", ONE, f"--for={text}", admin=served.url)
    assert result.exit_code == 2
    assert served.source.calls == []


USAGE = [
    (),
    ("list", "more"),
    ("list", "--limit", "0"),
    ("list", "--limit", "1001"),
    ("show",),
    ("show", "a" * 31),
    ("show", "A" * 32),
    ("forgive", "a" * 32 + "\n"),
    ("ban", "../" + "a" * 29),
    ("list", "--admin", "127.0.0.1:9090"),
    ("list", "--admin", "ftp://127.0.0.1"),
    ("list", "--admin", "http://127.0.0.1:9090/api"),
    ("list", "--admin", "http://user@127.0.0.1:9090"),
    ("list", "--admin", "unix:"),
]


@pytest.mark.parametrize("arguments", USAGE, ids=str)
def test_usage(arguments):
    result = run(*arguments)
    assert result.exit_code == 2
    assert "Usage" in result.stderr
