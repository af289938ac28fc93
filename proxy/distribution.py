"""Whether the packages on the path are ours: other distributions ship the same top-level names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.metadata import distributions
from typing import Final

PACKAGES: Final = ("proxy", "detectors", "loadtest")
_OURS: Final = "bartizan"


class ClashError(Exception):
    """Another distribution has put its files where ours belong."""


def check_packages(owners: Mapping[str, Iterable[str]] | None = None) -> None:
    """Refuses to go on where another distribution ships one of our packages.

    Installed after ours, it has replaced files such as ``proxy/__init__.py`` without a word.

    Args:
        owners: distributions by top-level package; none: those of this environment.

    Raises:
        ClashError: with every such distribution.
    """
    found = _owners() if owners is None else owners
    clashes = [
        f"the distribution {owner!r} also ships the package {package!r}"
        for package in PACKAGES
        for owner in sorted(set(found.get(package, ())) - {_OURS})
    ]
    if clashes:
        raise ClashError(
            "bartizan: "
            + "; ".join(clashes)
            + ": uninstall it, or give Bartizan an environment of its own"
        )


def _owners() -> Mapping[str, Iterable[str]]:
    # As importlib.metadata.packages_distributions, which parses the list of every file of every
    # distribution, in a tenth of its time.
    found: dict[str, list[str]] = {package: [] for package in PACKAGES}
    for distribution in distributions():
        # A wheel lists its files; what setuptools installed without one lists its packages.
        files = "\n" + (distribution.read_text("RECORD") or "")
        tops = (distribution.read_text("top_level.txt") or "").split()
        for package, owners in found.items():
            if package in tops or f"\n{package}/" in files or f"\n{package}.py," in files:
                owners.append(distribution.metadata["Name"])
    return found
