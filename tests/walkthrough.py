"""A page of the documentation, followed word for word: ``walkthrough.py PAGE FOLDER [--install]``.

What a page must keep to. A fenced ``console`` block holds commands after ``$`` and, below each, all
that it prints. ``…`` stands for any text in a line, and on a line of its own for any lines. Numbers
with a decimal point, and ids, match any other such. A command below which nothing is shown prints
nothing and succeeds. ``Save as `NAME`:`` before another block makes it a file. The block below
``<!-- install -->`` is run only where it is asked for. All is done by one shell, in order.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

_FENCE = re.compile(r"(?P<before>[^\n]*)\n+```(?P<kind>\w*)\n(?P<body>.*?)^```$", re.S | re.M)
_SAVED = re.compile(r"[Ss]ave as `([^`]+)`:$")
INSTALL = "<!-- install -->"


class Strayed(Exception):  # noqa: N818 - what the page says, and what happened
    """Something went otherwise than the page says."""


@dataclass(frozen=True)
class File:
    """A file that the reader saves."""

    name: str
    text: str


@dataclass(frozen=True)
class Step:
    """A command and what it should print."""

    command: str
    expected: str
    install: bool = False


def steps(page: str) -> Iterator[File | Step]:
    """What a reader does, in order.

    Raises:
        Strayed: if a block belongs to nothing: it would not be checked.
    """
    for fence in _FENCE.finditer(page):
        saved = _SAVED.search(fence["before"])
        if saved:
            yield File(saved[1], fence["body"])
        elif fence["kind"] == "console":
            yield from _commands(fence["body"], fence["before"] == INSTALL)
        else:
            raise Strayed(f"a block that is neither saved nor run:\n{fence['body']}")


def _commands(body: str, install: bool) -> Iterator[Step]:
    if not body.startswith("$ "):
        raise Strayed(f"a block without a command:\n{body}")
    for part in re.split(r"^\$ ", body, flags=re.M)[1:]:
        lines = part.splitlines()
        count = next(n for n, line in enumerate(lines, 1) if not line.endswith("\\"))
        yield Step("\n".join(lines[:count]), "\n".join(lines[count:]), install)


def matches(expected: str, printed: str) -> bool:
    """Whether a program printed what the page shows."""
    wanted = ""
    for line in expected.splitlines():
        if line.strip() == "…":
            wanted += r"(?:.*\n)*?"
            continue
        pattern = re.escape(" ".join(line.split())).replace(r"\ ", r"\s+")
        pattern = re.sub(r"\d+\\\.\d+", r"\\d+\\.\\d+", pattern)
        pattern = re.sub(r"\b[0-9a-f]{32}\b", "[0-9a-f]{32}", pattern)
        wanted += rf"\s*{pattern.replace('…', '.*')}\s*\n"
    if expected.endswith("…"):
        wanted += r"(?s:.*)"
    if printed and not printed.endswith("\n"):
        printed += "\n"
    return re.fullmatch(wanted, printed) is not None


def follow(
    page: Path,
    folder: Path,
    *,
    install: bool = False,
    environment: Mapping[str, str] | None = None,
    shell: tuple[str, ...] = ("bash",),
) -> int:
    """Does what a page says; how many commands ran.

    Args:
        folder: where the reader stands at the beginning.
        install: whether they install first.
        environment: variables on top of the present ones.
        shell: the program that reads the commands.

    Raises:
        Strayed: at the first command that did not do what the page says.
    """
    output = folder.resolve() / ".printed"
    ran = 0
    variables = {**os.environ, "COLUMNS": "80", **(environment or {})}
    reader = subprocess.Popen(
        shell, cwd=folder, env=variables, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )

    def run(command: str) -> tuple[int, str]:
        reader.stdin.write(f'{{ {command}\n}} > "{output}" 2>&1 < /dev/null\necho $? "$PWD"\n')
        reader.stdin.flush()
        said = reader.stdout.readline()
        if not said:
            raise Strayed(f"$ {command}\nended the shell:\n{output.read_text()}")
        status, place = said.rstrip("\n").split(" ", 1)
        nonlocal folder
        folder = Path(place)
        return int(status), output.read_text(errors="replace")

    try:
        for step in steps(page.read_text()):
            if isinstance(step, File):
                (folder / step.name).write_text(step.text)
            elif install or not step.install:
                status, printed = run(step.command)
                ran += 1
                if (not step.expected and status) or not matches(step.expected, printed):
                    raise Strayed(
                        f"$ {step.command}\nexit status {status}, printed:\n{printed}\n"
                        f"the page shows:\n{step.expected}"
                    )
    finally:
        # The page ends what it started, unless it was left halfway.
        with contextlib.suppress(BrokenPipeError):  # it may have ended already
            reader.stdin.write("kill $(jobs -p) 2> /dev/null; wait\n")
            reader.stdin.flush()
        with contextlib.suppress(BrokenPipeError):
            reader.stdin.close()
        reader.stdout.close()
        reader.wait(60)
    return ran


def main() -> int:
    """The command line: 0 all as the page says, 1 not."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("page", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--install", action="store_true")
    options = parser.parse_args()
    try:
        ran = follow(options.page, options.folder, install=options.install)
    except Strayed as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"{ran} commands, all as {options.page} says\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
