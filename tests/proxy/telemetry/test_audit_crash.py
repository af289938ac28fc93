"""kill -9, over and over: every released answer has its record, and the log goes on."""

import os
import random
import subprocess
import sys
from pathlib import Path

import orjson
from audit_logs import lines

from proxy.telemetry.audit_chain import rotated
from proxy.telemetry.audit_verify import verify

CRASHES = int(os.environ.get("BARTIZAN_CRASHES", "30"))


def test_every_released_answer_survives_kill_9(tmp_path):
    path = tmp_path / "audit.jsonl"
    draw = random.Random(11)
    released = set()
    for crash in range(CRASHES):
        program = subprocess.Popen(
            [
                sys.executable,
                str(Path(__file__).with_name("audit_crash.py")),
                path,
                str(crash * 10**6),
            ],
            stdout=subprocess.PIPE,
        )
        for _ in range(draw.randrange(1, 400)):
            released.add(program.stdout.readline().strip().decode())
        program.kill()
        released.update(program.stdout.read().decode().split("\n")[:-1])
        assert program.wait() == -9
        program.stdout.close()
        report = verify(path)
        assert report.ok, report.findings
    told = {orjson.loads(line).get("id") for line in lines(path)}
    assert "" not in released
    assert released - told == set()
    assert len(released) > CRASHES
    assert len(rotated(path)) > 1
    kinds = [orjson.loads(line)["type"] for line in lines(path)]
    assert kinds.count("started") == CRASHES
