"""Where the work folder holds what: sets, figures, bundles."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path
from typing import Final

import detectors
from loadtest.adversarial.datasets import DEVELOPMENT

WORK: Final = Path(tempfile.gettempdir()) / "bartizan-adversarial"


def set_of(work: Path, name: str, seed: int) -> Path:
    """A crafted set."""
    return work / (f"dev-{name}.npz" if seed == DEVELOPMENT else f"report-{name}-{seed}.npz")


def kept_in(work: Path) -> Path:
    """The folder of what was measured with the present detectors; made if it is not there."""
    folder = work / f"results-{digest()}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def bundle_of(kept: Path, name: str, seed: int, *, attackers: bool = False) -> Path:
    """The bundle that is served, or the attacker's own."""
    return kept / f"{name}-{seed}{'-attackers' if attackers else ''}.bundle"


def adaptive_of(kept: Path, name: str, seed: int) -> Path:
    """What the attacks that know the defence reached."""
    return kept / f"{name}-{seed}-adaptive.json"


def digest() -> str:
    """Of the detectors' sources: what is under test."""
    total = hashlib.sha256()
    root = Path(detectors.__path__[0])
    for path in sorted(root.rglob("*.py")):
        total.update(path.relative_to(root).as_posix().encode())
        total.update(path.read_bytes())
    return total.hexdigest()[:12]
