"""``bartizan health``: what it asks, what it makes of the answer, and that it starts fast."""

import socket
import subprocess
import sys
import threading
from contextlib import contextmanager

import pytest
from click.testing import CliRunner

from proxy.cli import main
from proxy.cli.health import EXIT_CONFIGURATION, EXIT_FAILED, EXIT_UNREACHABLE, configured, reach

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n" + b'{"status":"ok"}'
WAITING = b'HTTP/1.1 503 Service Unavailable\r\n\r\n{"ready":false,"reasons":["draining"]}'


@contextmanager
def answering(reply, where=None):
    """A listener that takes one request and sends ``reply``; the address, and what it was asked."""
    kind = socket.AF_UNIX if where else socket.AF_INET
    with socket.socket(kind, socket.SOCK_STREAM) as listening:
        listening.bind(str(where) if where else ("127.0.0.1", 0))
        listening.listen()
        asked = []

        def serve():
            connection, _ = listening.accept()
            with connection:
                asked.append(connection.recv(4096))
                connection.sendall(reply)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        address = f"unix:{where}" if where else "{}:{}".format(*listening.getsockname())
        yield address, asked
        thread.join(10)


def health(*arguments, **environment):
    return CliRunner().invoke(main, ["health", *map(str, arguments)], env=environment)


def test_a_healthy_gateway():
    with answering(OK) as (address, asked):
        done = health("--admin", address)
    assert (done.exit_code, done.output) == (0, "ok\n")
    assert asked[0].startswith(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n")


def test_a_gateway_that_is_not_ready_says_why():
    with answering(WAITING) as (address, asked):
        done = health("--admin", address, "--ready", BARTIZAN_ADMIN_TOKEN="t" * 16)
    assert done.exit_code == EXIT_FAILED
    assert "draining" in done.stderr
    assert b"GET /readyz " in asked[0]
    assert b"\r\nAuthorization: Bearer tttttttttttttttt\r\n" in asked[0]


def test_a_token_that_no_header_can_hold_is_not_sent():
    with answering(OK) as (address, asked):
        assert health("--admin", address, BARTIZAN_ADMIN_TOKEN="a\r\nX: b").exit_code == 0
    assert b"X: b" not in asked[0]


def test_over_a_unix_socket_that_the_configuration_names(tmp_path):
    (tmp_path / "bartizan.yaml").write_text("admin: {listen: unix:admin.sock}\n")
    with answering(OK, tmp_path / "admin.sock"):
        assert health(tmp_path / "bartizan.yaml").exit_code == 0


@pytest.mark.parametrize("reply", [b"", b"SSH-2.0-server\r\n", b"HTTP/1.1 20", b"HTTP/2 200 \r\n"])
def test_who_speaks_no_http_is_unreachable(reply):
    with answering(reply) as (address, _):
        done = health("--admin", address)
    assert (done.exit_code, "does not speak HTTP" in done.stderr) == (EXIT_UNREACHABLE, True)


def test_nobody_there(free_port, tmp_path):
    assert health("--admin", f"127.0.0.1:{free_port()}").exit_code == EXIT_UNREACHABLE
    assert health("--admin", f"unix:{tmp_path}/none.sock").exit_code == EXIT_UNREACHABLE
    assert health("--admin", f"{'x' * 70}.invalid:80").exit_code == EXIT_UNREACHABLE


def test_a_listener_that_never_answers_is_given_up():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        done = health("--admin", "{}:{}".format(*silent.getsockname()), "--seconds", "0.05")
    assert (done.exit_code, "no answer within 0.05" in done.stderr) == (EXIT_UNREACHABLE, True)


def test_usage(tmp_path):
    assert health("--admin", "nowhere").exit_code == 2
    assert health("--admin", "host:99999").exit_code == 2
    assert health(tmp_path / "x.yaml", "--admin", "127.0.0.1:1").exit_code == 2


ADDRESSES = {
    "listen: 127.0.0.1:8080": "127.0.0.1:9090",
    "admin: {listen: 127.0.0.1:7}": "127.0.0.1:7",
    'admin: {listen: "${WHERE}"}': "10.0.0.1:70",
    'admin: {listen: "${NOWHERE:-[::]:9}"}': "[::]:9",
    "base: &a {listen: 127.0.0.1:5}\nadmin: *a": "127.0.0.1:5",
}


def test_addresses_that_configurations_name(tmp_path, monkeypatch):
    monkeypatch.setenv("WHERE", "10.0.0.1:70")
    ran = 0
    for text, address in ADDRESSES.items():
        (tmp_path / "bartizan.yaml").write_text(text)
        assert configured(tmp_path / "bartizan.yaml") == address
        ran += 1
    assert ran == len(ADDRESSES) == 5


def test_what_a_glance_does_not_understand_is_left_to_the_reader_of_settings(tmp_path):
    path = tmp_path / "bartizan.yaml"
    path.write_text(
        "endpoints: [{name: m, match: /v2/models/m, upstream: 'http://127.0.0.1:1'}]\n"
        "admin: {<<: {listen: '127.0.0.1:11'}}\n"
    )
    assert configured(path) == "127.0.0.1:11"


@pytest.mark.parametrize(
    "text", ["", "- a", "admin: {listen: 1", 'admin: {listen: "${UNSET_HERE}"}', "admin: 3"]
)
def test_a_configuration_that_cannot_be_read(tmp_path, text):
    (tmp_path / "bartizan.yaml").write_text(text)
    done = health(tmp_path / "bartizan.yaml")
    assert (done.exit_code, "error" in done.stderr) == (EXIT_CONFIGURATION, True)
    assert health(tmp_path / "missing.yaml").exit_code == EXIT_CONFIGURATION


def test_where_a_listener_on_every_interface_is_reached(tmp_path):
    assert reach("0.0.0.0:9090", tmp_path) == ("127.0.0.1", 9090)
    assert reach("[::]:9090", tmp_path) == ("::1", 9090)
    assert reach("[2001:db8::1]:9090", tmp_path) == ("2001:db8::1", 9090)
    assert reach("http://10.1.2.3:9090/", tmp_path) == ("10.1.2.3", 9090)
    with pytest.raises(ValueError, match="use --admin"):
        reach("127.0.0.1:0", tmp_path)


def test_it_imports_nothing_heavy(tmp_path):
    (tmp_path / "bartizan.yaml").write_text('admin: {listen: "${A_PORT:-127.0.0.1:1}"}\n')
    code = (
        "import sys\nfrom proxy.cli import main\n"
        "try: main(['health', sys.argv[1]])\n"
        "except SystemExit as end: assert end.code == 4, end.code\n"
        "heavy = {'numpy', 'pydantic', 'asyncio', 'http.client', 'ssl'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "bartizan.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
