"""Whether the audit log can be written, will be kept, and is as it was written."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Final

from proxy.doctor.finding import Finding, ok, untried, warning, wrong
from proxy.doctor.host import Host
from proxy.settings.models import Audit, Settings
from proxy.telemetry.audit_chain import chain_paths, rotated
from proxy.telemetry.audit_verify import verify_chains

_WRITTEN: Final = "audit.written"
_PLACE: Final = "audit.place"
_ROOM: Final = "audit.room"
_CHAIN: Final = "audit.chain"
_SEAL: Final = "audit.seal"
_READ_BYTES: Final = 256 * 2**20
"""What is verified here takes some seconds at most."""
_PASSING: Final = frozenset({"tmpfs", "ramfs", "overlay", "overlayfs", "aufs"})
_REMOTE: Final = frozenset({"nfs", "nfs4", "cifs", "smb3", "fuse", "9p"})


def audit(settings: Settings, host: Host) -> list[Finding]:
    """What is found of the audit log."""
    given = settings.audit
    if given is None:
        advice = "set audit.path: without it nobody can say later what was decided, and why"
        return [warning(_WRITTEN, "there is no audit log", advice)]
    path = given.path.absolute()
    written = _written(path)
    if written.level.value == "wrong":
        return [written]
    return [
        written,
        place(path, host.file_system(path.resolve().parent)),
        room(given, settings.workers, shutil.disk_usage(path.parent).free, _kept(path)),
        _seal(given),
        _chain(given, path),
    ]


def _written(path: Path) -> Finding:
    if not path.parent.is_dir():
        return wrong(_WRITTEN, f"{path.parent}: no such directory", "create it, or mount it")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        advice = "let the gateway's user write there: it makes files, and rotates them"
        return wrong(_WRITTEN, f"{path.parent} cannot be written by this user", advice)
    for chain in chain_paths(path).values():
        if chain.exists() and not os.access(chain, os.R_OK | os.W_OK):
            words = f"{chain} cannot be written by this user"
            return wrong(_WRITTEN, words, f"chown it and the files beside it to uid {os.geteuid()}")
    return ok(_WRITTEN, f"{path} can be written")


def place(path: Path, kind: str) -> Finding:
    """The file system that the log lies on."""
    if not kind:
        return untried(_PLACE, f"{path}: its file system is not told")
    if kind in _PASSING:
        words = f"{path} is on {kind}: it ends with the container, or the machine's next start"
        return warning(_PLACE, words, "put it on a volume, or ship it as it is written")
    if kind.split(".", maxsplit=1)[0] in _REMOTE:
        words = f"{path} is on {kind}: records wait for the network, and locks are unsure"
        return warning(_PLACE, words, "put it on a local disk")
    return ok(_PLACE, f"{path} is on {kind}")


def room(given: Audit, workers: int, free: int, kept: int) -> Finding:
    """Free space against what rotation will let it grow to."""
    chains = workers if workers > 1 else 1
    most = chains * given.rotate_bytes * (given.keep + 1)
    words = (
        f"{free / 2**30:.1f} GiB free; it keeps up to {most / 2**30:.1f} GiB "
        f"({chains} chain(s) of {given.keep + 1} files), {kept / 2**30:.1f} GiB of it so far"
    )
    if free < given.rotate_bytes // 8 and kept < most:
        return wrong(_ROOM, words, "make room: what cannot be written is dropped, or not answered")
    if free + kept < most:
        return warning(_ROOM, words, "make room, or lower audit.keep or .rotate_bytes")
    return ok(_ROOM, words)


def _seal(given: Audit) -> Finding:
    if given.key is None:
        words = "its head is not sealed: whoever can write it can rewrite all of it unnoticed"
        return warning(_SEAL, words, "set audit.key, or ship the log elsewhere")
    return ok(_SEAL, "its head is sealed with a key")


def _chain(given: Audit, path: Path) -> Finding:
    if not chain_paths(path):
        return ok(_CHAIN, "it is not begun yet")
    kept = _kept(path)
    if kept > _READ_BYTES:
        words = f"{kept / 2**30:.1f} GiB would take long to verify"
        return untried(_CHAIN, words, f"bartizan audit verify {path}")
    key = given.key.get_secret_value().encode() if given.key else None
    reports = verify_chains(path, key=key)
    found = sum(report.found for report in reports.values())
    if found:
        first = next(one for report in reports.values() for one in report.findings)
        return wrong(
            _CHAIN,
            f"it is not as it was written, in {found} place(s), first {first.file}:{first.line}: "
            f"{first.message}",
            f"bartizan audit verify {path}, and find out who did it",
        )
    records = sum(report.records for report in reports.values())
    dropped = sum(report.dropped for report in reports.values())
    if dropped:
        words = f"{records} records are intact, and {dropped} exchanges were never recorded"
        return warning(_CHAIN, words, "find out why: a full or slow disk")
    return ok(_CHAIN, f"{records} records are intact")


def _kept(path: Path) -> int:
    """Bytes of all chains, rotated files included."""
    files = [
        file for chain in chain_paths(path).values() for file in (chain, *rotated(chain).values())
    ]
    return sum(file.stat().st_size for file in files if file.exists())
