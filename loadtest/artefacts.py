"""What takes long to make is made once: kept under the digest of everything it was made from."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

import detectors
import proxy
from loadtest.process import BARTIZAN

_FORGET_SECONDS: Final = 24 * 3600.0


class FitError(Exception):
    """``bartizan fit`` refused; holds what it said."""


def cache_root() -> Path:
    """``$XDG_CACHE_HOME/bartizan``, by default ``~/.cache/bartizan``."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "bartizan"


def code_digest(*extra: str) -> str:
    """Of our own sources that fit and store bundles, the libraries they call, and ``extra``."""
    digest = hashlib.sha256()
    for root in (detectors.__path__[0], proxy.__path__[0], Path(__file__).parent):
        for path in sorted(Path(root).rglob("*.py")):
            digest.update(str(path.relative_to(root)).encode() + b"\0")
            digest.update(path.read_bytes() + b"\0")
    for package in ("numpy", "scikit-learn"):
        digest.update(f"{package} {importlib.metadata.version(package)}\0".encode())
    for text in extra:
        digest.update(text.encode() + b"\0")
    return digest.hexdigest()


def kept(kind: str, key: str, make: Callable[[Path], None]) -> tuple[Path, bool]:
    """The folder of an artefact, made by ``make`` unless it is there; and whether it was there.

    A folder appears whole or not at all. Folders of the same kind that nobody used for a day go.
    """
    root = cache_root()
    root.mkdir(parents=True, exist_ok=True)
    folder = root / f"{kind}-{key[:32]}"
    if folder.is_dir():
        os.utime(folder)
        return folder, True
    with tempfile.TemporaryDirectory(dir=root, prefix=".making-") as parent:
        made = Path(parent) / "artefact"
        made.mkdir()
        make(made)
        try:
            made.rename(folder)
        except OSError:
            if not folder.is_dir():  # otherwise another process was faster, with the same result
                raise
    _forget(root.glob(f"{kind}-*"))
    return folder, False


def _forget(folders: Iterable[Path]) -> None:
    now = time.time()
    for folder in folders:
        if now - folder.stat().st_mtime > _FORGET_SECONDS:
            shutil.rmtree(folder, ignore_errors=True)


def fit_bundle(data: Path, out: Path, *, budget: float, options: Sequence[str] = ()) -> None:
    """Runs ``bartizan fit`` as a user would.

    Raises:
        FitError: if it does not succeed.
    """
    command = [
        *BARTIZAN, "fit", "--data", str(data), "--out", str(out),
        "--false-positive-budget", repr(budget), "--confidence", "0.95", "--seed", "0", *options,
    ]  # fmt: skip
    done = subprocess.run(  # noqa: S603 - our own program
        command, capture_output=True, text=True, timeout=600, check=False
    )
    if done.returncode:
        raise FitError(f"bartizan fit ended with status {done.returncode}:\n{done.stderr.strip()}")
