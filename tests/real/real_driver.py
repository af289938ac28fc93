"""A real client's program in its own environment, over a pipe."""

import json
import subprocess
from contextlib import suppress
from pathlib import Path

PROGRAMS = Path(__file__).resolve().parent / "programs"


class Driver:
    """Calls cross as they would in a program that uses the library; its exceptions are answers:
    ``{"exception": class, "status": …, "message": …}``.

    Args:
        python: of the client's own environment.
        program: one of ``programs``.
        log: where what it writes to stderr goes.
    """

    def __init__(self, python, program, log):
        with log.open("wb") as sink:
            self._process = subprocess.Popen(
                [python, PROGRAMS / program],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=sink,
                text=True,
            )
        self._log = log

    def ask(self, **call):
        """One call: ``{"result": …}``, or the client's own exception."""
        self._process.stdin.write(json.dumps(call) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, f"the client program ended:\n{self._log.read_text()[-2000:]}"
        return json.loads(line)

    def close(self):
        """Ends the program."""
        with suppress(BrokenPipeError):  # it may have ended by itself
            self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(10)
