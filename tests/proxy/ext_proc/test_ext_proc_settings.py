"""The section ``ext_proc``, and the command that serves it."""

from __future__ import annotations

import asyncio
import re
from importlib import import_module

import pytest
from click.testing import CliRunner
from envoy.service.ext_proc.v3.external_processor_pb2 import ProcessingResponse
from envoy.type.v3.http_status_pb2 import StatusCode

from proxy import build
from proxy.build_ext_proc import listener
from proxy.cli import main
from proxy.ext_proc import messages
from proxy.http.messages import Reply
from proxy.reload import ReloadRefused, refuse_fixed
from proxy.rules import RULES
from proxy.settings.fields import Address
from proxy.settings.load import load, load_for_envoy, load_like
from proxy.settings.problems import SettingsError

ENDPOINT = """
endpoints:
- {name: m, match: /v2/models/m, upstream: "http://127.0.0.1:1", protocol: v2, limits: {%s}}
"""


@pytest.fixture
def written(tmp_path):
    def write(text, limits=""):
        path = tmp_path / "bartizan.yaml"
        path.write_text(text + ENDPOINT % limits)
        return path

    return write


def test_the_section_and_its_defaults(written):
    path = written("")
    assert load(path).ext_proc is None
    for settings in (load_for_envoy(path), load(written("ext_proc: {}"))):
        assert str(settings.ext_proc.listen) == "127.0.0.1:9002"
        assert load_like(settings, written("")).ext_proc == settings.ext_proc
    assert load_like(load(written("")), path).ext_proc is None


FAULTS = {
    "listen": ("listen: 127.0.0.1:1\next_proc: {}", "", "it would do nothing"),
    "tls": ("tls: {certificate: a, key: b}\next_proc: {}", "", "it would do nothing"),
    "grpc": ("grpc: {}\next_proc: {}", "", "it would do nothing"),
    "admin": ("ext_proc: {listen: 127.0.0.1:9090}", "", "taken by another"),
    "unix": ("ext_proc: {listen: unix:/s, tls: {certificate: a, key: b}}", "", "unix socket"),
    "keys": (
        "ext_proc: {listen: 192.0.2.1:9002}\nclient: {api_keys: keys}",
        "",
        "in clear: 192.0.2.1:9002 needs ext_proc.tls",
    ),
    "body": ("ext_proc: {message_bytes: 1MiB}", "body_bytes: 1MiB", "does not fit"),
    "workers": (
        "ext_proc: {listen: unix:/s}\nworkers: 2\nstate: redis://localhost\n"
        "client: {secret: 0123456789abcdef}",
        "",
        "share a port",
    ),
}


@pytest.mark.parametrize("case", FAULTS)
def test_what_contradicts(written, case):
    assert len(FAULTS) == 8
    text, limits, words = FAULTS[case]
    with pytest.raises(SettingsError, match=re.escape(words)):
        load(written(text, limits))


def test_a_reload_cannot_change_it(written):
    old = load(written("ext_proc: {}"))
    refuse_fixed(old, load(written("ext_proc: {}", "body_bytes: 1MiB")))
    for text in ("", "ext_proc: {exchanges: 7}"):
        with pytest.raises(ReloadRefused, match="ext_proc"):
            refuse_fixed(old, load(written(text)))


def test_run_names_the_other_command(written):
    result = CliRunner().invoke(main, ["run", str(written("ext_proc: {}"))])
    assert result.exit_code == 3
    assert "bartizan ext-proc" in result.output
    assert CliRunner().invoke(main, ["validate", str(written("ext_proc: {}"))]).exit_code == 0


def test_the_command(written):
    result = CliRunner().invoke(main, ["ext-proc", "--help"])
    assert "Envoy" in result.output
    result = CliRunner().invoke(main, ["ext-proc", str(written("ext_proc: {a: 1}"))])
    assert (result.exit_code, "unknown key ext_proc.a" in result.output) == (3, True)


def test_without_the_extra(written, monkeypatch):
    def fails(name):
        if name == "proxy.build_ext_proc":
            raise ModuleNotFoundError("No module named 'envoy'")
        return import_module(name)

    monkeypatch.setattr(build, "import_module", fails)
    settings = load(written("ext_proc: {}"))
    with pytest.raises(build.BuildError, match=re.escape("pip install '.[ext-proc]'")):
        build.ext_proc_listener(settings, None, clock=lambda: 0.0, reuse_port=False)


async def test_the_listener_is_as_configured(written):
    settings = load(
        written(
            "ext_proc: {listen: 127.0.0.1:0, exchanges: 7, answer_seconds: 9, message_bytes: 16MiB}"
            "\n"
            "http: {body_seconds: 5, head_bytes: 2KiB, header_count: 9}"
        )
    )
    made = listener(settings, None, clock=lambda: 0.0)
    assert (made.limits.streams, made.limits.message_bytes) == (14, 2**24)
    limits = made._exchanges
    assert (limits.exchanges, limits.answer_seconds, limits.body_seconds) == (7, 9, 5)
    assert (limits.head_bytes, limits.header_count) == (2048, 9)
    await made.start()
    with pytest.raises(OSError, match="cannot be listened on"):
        await listener(
            settings.model_copy(
                update={"ext_proc": settings.ext_proc.model_copy(update={"listen": _at(made.port)})}
            ),
            None,
            clock=lambda: 0.0,
        ).start()
    await asyncio.wait_for(made.close(), 10)


def _at(port):
    return Address("127.0.0.1", port)


def test_envoy_knows_the_status_of_every_rule():
    statuses = {rule.status for rule in RULES.values()}
    assert len(statuses) == 13
    assert statuses <= set(StatusCode.values())
    for status in statuses:
        told = ProcessingResponse.FromString(messages.immediate(Reply(status, b"\xff")))
        assert told.immediate_response.status.code == status
        assert told.immediate_response.body == b"\xff"
