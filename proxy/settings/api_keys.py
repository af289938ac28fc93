"""The file of known API keys. It holds their digests: who reads it learns no key."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from proxy.settings.problems import Problem, SettingsError, Source
from proxy.settings.text import read_text

MAX_BYTES: Final = 16 * 2**20

_NAME: Final = re.compile(r"[A-Za-z0-9._@/-]{1,128}")
_DIGEST: Final = re.compile(r"[0-9a-fA-F]{64}")


def read_api_keys(path: Path) -> dict[bytes, str]:
    """Reads lines of ``NAME:SHA256``; blank lines and those that begin with ``#`` are passed over.

    A name may stand in several lines, so that a key can be replaced while the old one still works.

    Returns:
        the name by the key's SHA-256 (32 bytes).

    Raises:
        SettingsError: with every faulty line. What the lines hold is not shown: a raw key may have
            been put there by mistake.
    """
    source = Source(str(path), read_text(path, MAX_BYTES))
    keys: dict[bytes, str] = {}
    problems: list[Problem] = []

    def complain(line: int, message: str) -> None:
        problems.append(source.problem((line, 1), message))

    for number, line in enumerate(source.text.splitlines(), start=1):
        entry = line.strip()
        if not entry or entry.startswith("#"):
            continue
        name, _, digest = entry.partition(":")
        if not _NAME.fullmatch(name):
            complain(number, "must be NAME:SHA256, the name of letters, digits and ._@/-")
        elif not _DIGEST.fullmatch(digest):
            complain(number, "must be NAME:SHA256, the key's SHA-256 in 64 hex digits, not the key")
        elif bytes.fromhex(digest) in keys:
            complain(number, f"{name}: this key is listed already")
        else:
            keys[bytes.fromhex(digest)] = name
    if not keys and not problems:
        complain(0, "lists no key: nobody could be identified by one")
    if problems:
        raise SettingsError(problems)
    return keys
