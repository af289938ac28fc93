"""The operator's hand on a client: what the command line says is what the gateway does."""

import json
import subprocess

import pytest
from traffic import ask, request_of

from loadtest.process import BARTIZAN


@pytest.fixture
def guard(recorder, gateway):
    return gateway([recorder.endpoint()])


def clients(guard, *arguments):
    """``bartizan clients`` on a gateway: its exit status and its standard output."""
    command = [*BARTIZAN, "clients", *arguments, "--config", str(guard.configuration)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout


def known(guard):
    """The only client so far, as the audit log has it."""
    guard.process.wait_until(lambda: len(guard.records()) > 0, 10)
    return guard.records()[0]["client"]


def test_a_ban_takes_effect_and_can_be_lifted(guard):
    assert ask(guard.address, request_of()).status == 200
    client = known(guard)
    assert clients(guard, "ban", client, "--for", "1h")[0] == 0
    refused = ask(guard.address, request_of())
    assert refused.status == 403
    assert json.loads(refused.body) == {"error": "request refused"}
    status, told = clients(guard, "list", "--json")
    (entry,) = json.loads(told)["clients"]
    assert (status, entry["client"]) == (0, client)
    assert 3000 < entry["banned_seconds"] <= 3600
    assert clients(guard, "show", client)[0] == 0
    assert clients(guard, "unban", client)[0] == 0
    assert ask(guard.address, request_of()).status == 200
    assert clients(guard, "show", client)[0] == 1


def test_forgiving_lifts_a_ban_too(guard):
    ask(guard.address, request_of())
    client = known(guard)
    assert clients(guard, "ban", client)[0] == 0
    assert ask(guard.address, request_of()).status == 403
    assert clients(guard, "forgive", client)[0] == 0
    assert ask(guard.address, request_of()).status == 200
