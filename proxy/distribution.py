"""Whether the packages on the path are ours: other distributions ship the same top-level names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.metadata import packages_distributions
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
    found = packages_distributions() if owners is None else owners
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
