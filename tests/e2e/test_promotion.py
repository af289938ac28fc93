"""A real gateway's audit log is read as evidence, and a changed mode is served."""

import json
import subprocess

from traffic import ask, request_of

from loadtest.process import BARTIZAN


def promote(guard, *options):
    command = [*BARTIZAN, "promote", "digits", "--configuration", str(guard.configuration)]
    done = subprocess.run([*command, "--json", *options], capture_output=True, check=False)
    return done.returncode, json.loads(done.stdout)


def test_from_monitor_to_enforce_and_back(recorder, gateway):
    guard = gateway([recorder.endpoint(mode="monitor")])
    for number in range(5):
        assert ask(guard.address, request_of(f"n{number}")).status == 200
    bad = request_of("bad").replace(b"FP32", b"FP99")
    assert ask(guard.address, bad).status == 200  # the recorder takes all

    status, found = promote(guard, "--apply")
    assert status == 1
    assert found["requests"] == 6
    assert found["left out"] == {}
    assert found["would refuse"]["by kind"]["contract"] == 1
    missing = {one["name"] for one in found["requirements"] if not one["met"]}
    assert missing == {"hours", "clients", "largest client", "contract"}

    # Enforced by hand, which needs no evidence, and taken back as it is served.
    guard.settings["endpoints"][0]["mode"] = "enforce"
    guard.stop()
    guard.start()
    assert ask(guard.address, bad).status == 400
    status, done = promote(guard, "--demote", "--apply", "--reload", str(guard.process.pid))
    assert (status, done["verdict"]) == (0, "served")
    assert ask(guard.address, bad).status == 200
    assert promote(guard)[1]["left out"] == {"while it enforced": 1}
