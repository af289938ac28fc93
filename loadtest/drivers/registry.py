"""Every driver by its name. Each is imported when it is asked for: some need extras."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from types import MappingProxyType
from typing import Final

from loadtest.drivers.base import Driver

# Name: module below loadtest.drivers, and what makes the driver when it is called.
_TABLE: Final[Mapping[str, tuple[str, str]]] = MappingProxyType(
    {
        "hopskipjump": ("evasion", "HopSkipJump"),
        "boundary": ("evasion", "Boundary"),
        "signopt": ("evasion", "SignOpt"),
        "zoo": ("evasion", "Zoo"),
        "simba": ("evasion", "SimBa"),
        "square": ("evasion", "Square"),
        "transfer": ("transfer", "Transfer"),
        "extraction-random": ("extraction", "Random"),
        "extraction-ood": ("extraction", "OutOfDistribution"),
        "extraction-jacobian": ("extraction", "Jacobian"),
        "extraction-knockoff": ("extraction", "Knockoff"),
        "extraction-copycat": ("extraction", "Copycat"),
        "extraction-active": ("extraction", "Active"),
        "membership": ("membership", "Membership"),
        "inversion": ("inversion", "Inversion"),
        "adaptive-decisions": ("adaptive", "Decisions"),
        "adaptive-scores": ("adaptive", "Scores"),
        "sybils": ("sybils", "Sybils"),
        "interleaving": ("interleaving", "Interleaving"),
        "abuse-malformed": ("abuse_malformed", "Malformed"),
        "abuse-oversized": ("abuse_oversized", "Oversized"),
        "abuse-slow": ("abuse_slow", "Slow"),
    }
)


class _Drivers(Mapping[str, Driver]):
    def __getitem__(self, name: str) -> Driver:
        module, kind = _TABLE[name]
        made: Driver = getattr(import_module(f"loadtest.drivers.{module}"), kind)()
        return made

    def __iter__(self) -> Iterator[str]:
        return iter(_TABLE)

    def __len__(self) -> int:
        return len(_TABLE)

    def __contains__(self, name: object) -> bool:
        return name in _TABLE


DRIVERS: Final[Mapping[str, Driver]] = _Drivers()
"""The drivers: looked up, one is made. Its module is imported then."""
