"""A scenario's file to a scenario, or to all that is wrong with it, each fault with its place."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel

from loadtest.drivers.base import Driver
from loadtest.drivers.registry import DRIVERS
from loadtest.evidence.bounds import Threshold
from loadtest.evidence.metrics import Given, missing, threshold
from loadtest.scenario.settings import TITLE, Scenario, canonical
from proxy.settings.document import Document, resolve
from proxy.settings.load import load_as
from proxy.settings.schema import schema as schema_of
from proxy.settings.section import Place

SHIPPED: Final = Path(__file__).parent.parent / "scenarios"
"""The folder of the scenarios that come with the program."""

_DATA_NEEDS: Final = ("labels", "image", "members")


class OverrideError(ValueError):
    """What ``--set`` says cannot be understood, or leads nowhere."""


def read(
    path: Path,
    *,
    overrides: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    drivers: Mapping[str, Driver] = DRIVERS,
) -> Scenario:
    """Reads a scenario, and checks what can be checked without asking anybody.

    Args:
        overrides: ``key=value``, as in ``load.steady.rate=50``: an item of a list is named by its
            number, or by its name or driver.
        drivers: the attacks that there are.

    Raises:
        SettingsError: if it cannot be used, with all that is wrong.
        OverrideError: if an override leads nowhere.
    """

    def amend(document: Document) -> None:
        for text in overrides:
            _override(document, text)

    def check_drivers(scenario: Scenario) -> Iterator[tuple[Place, str]]:
        yield from _drivers(scenario, drivers)

    def check_thresholds(scenario: Scenario) -> Iterator[tuple[Place, str]]:
        yield from _thresholds(scenario, drivers)

    return load_as(
        Scenario,
        path,
        environment=environment,
        amend=amend,
        checks=(_files, check_drivers, check_thresholds),
    )


def shipped(path: Path) -> Path:
    """The path, or that of the shipped scenario of this name where there is no such file."""
    known = SHIPPED / f"{path}.yaml"
    return known if not path.exists() and path.name == str(path) and known.is_file() else path


def schema() -> str:
    """The JSON Schema of a scenario, as indented text."""
    return schema_of(Scenario, TITLE)


def digest(scenario: Scenario) -> str:
    """SHA-256, in hex, of the scenario as it was understood."""
    return hashlib.sha256(canonical(scenario).encode()).hexdigest()


def bounds_of(scenario: Scenario) -> list[Threshold]:
    """The thresholds of a scenario that was read."""
    return [threshold(name, text) for name, text in scenario.thresholds.items()]


def given(scenario: Scenario, drivers: Mapping[str, Driver] = DRIVERS) -> Given:
    """What the scenario does, as far as metrics need it."""
    firewall = [load for load in scenario.load if "firewall" in load.sides]
    attacks = [one for one in scenario.attacks if "firewall" in one.sides]
    families = {}
    for one in attacks:
        if one.driver in drivers:
            families[one.title] = families[one.driver] = drivers[one.driver].family
    target = scenario.target
    return Given(
        open=frozenset(one.name for one in firewall if one.honest and one.arrivals != "ceiling"),
        closed=frozenset(one.name for one in firewall if one.honest and one.arrivals == "ceiling"),
        hostile=frozenset(one.name for one in firewall if one.hostile),
        beside=frozenset(
            word
            for one in attacks
            if one.during is not None
            for word in (one.during, one.title, one.driver)
        ),
        attacks=families,
        pairs=any("direct" in one.sides for one in firewall)
        or any("direct" in one.sides for one in attacks),
        audit=scenario.serve is not None
        or scenario.audit is not None
        or (target is not None and target.configuration is not None),
    )


def _override(document: Document, text: str) -> None:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise OverrideError(f"--set {text}: expected KEY=VALUE, as in load.0.rate=50")
    *above, last = key.split(".")
    holder: Any = document.value
    place: Place = ()
    for step in above:
        name = _step(holder, step, key)
        place = (*place, name)
        if isinstance(holder, dict) and name not in holder:
            holder[name] = {}
            _written(document, place)
        holder = holder[name]
    name = _step(holder, last, key)
    place = (*place, name)
    holder[name] = _value(value, key)
    _written(document, place)
    document.substituted.discard(place)


def _written(document: Document, place: Place) -> None:
    """Has what is wrong with a key be told where the file comes nearest to it."""
    _, position = document.find(place)
    document.values.setdefault(place, position)
    document.keys.setdefault(place, position)


def _step(holder: Any, step: str, key: str) -> str | int:
    if isinstance(holder, dict) and step:
        return step
    if not isinstance(holder, list):
        raise OverrideError(f"--set {key}: nothing stands below {step!r}")
    if step.isdecimal() and int(step) < len(holder):
        return int(step)
    for index, item in enumerate(holder):
        if isinstance(item, dict) and step in (item.get("name"), item.get("driver")):
            return index
    raise OverrideError(f"--set {key}: there is no {step!r}")


def _value(text: str, key: str) -> Any:
    try:
        return json.loads(text) if text[:1] in ("[", "{") else resolve(text)
    except ValueError as error:
        raise OverrideError(f"--set {key}: {error}") from None


def _files(scenario: Scenario) -> Iterator[tuple[Place, str]]:
    """Every file that is missing; the report's folder need not be there."""
    for place, path in _paths(scenario, ()):
        if place[0] == "report":
            continue
        if not path.exists():
            yield place, f"no such file: {path}"
        elif not os.access(path, os.R_OK):
            yield place, f"cannot be read: {path}"


def _paths(value: object, place: Place) -> Iterator[tuple[Place, Path]]:
    if isinstance(value, Path):
        yield place, value
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from _paths(getattr(value, name), (*place, name))
    elif isinstance(value, tuple):
        for index, item in enumerate(value):
            yield from _paths(item, (*place, index))


def _drivers(scenario: Scenario, drivers: Mapping[str, Driver]) -> Iterator[tuple[Place, str]]:
    for index, attack in enumerate(scenario.attacks):
        place: Place = ("attacks", index, "driver")
        yield from _driver(attack.driver, place, scenario, drivers)
    for number, load in enumerate(scenario.load):
        for index, part in enumerate(load.mix):
            if part.driver is not None:
                place = ("load", number, "mix", index, "driver")
                yield from _driver(part.driver, place, scenario, drivers)


def _driver(
    name: str, place: Place, scenario: Scenario, drivers: Mapping[str, Driver]
) -> Iterator[tuple[Place, str]]:
    if name not in drivers:
        yield place, f"there is no attack {name!r}{_close(name, drivers)}"
        return
    try:
        needs = drivers[name].needs
    except ImportError as error:
        yield place, f"{name} cannot be had: {error}"
        return
    for need in _DATA_NEEDS:
        data = scenario.data
        if need in needs and data is not None and getattr(data, need) is None:
            yield place, f"{name} needs {need}: say data.{need}"


def _thresholds(scenario: Scenario, drivers: Mapping[str, Driver]) -> Iterator[tuple[Place, str]]:
    known = given(scenario, drivers)
    for name, text in scenario.thresholds.items():
        try:
            fault = missing(threshold(name, text), known)
        except ValueError as error:
            yield ("thresholds", name), str(error)
            continue
        if fault:
            yield ("thresholds", name), f"it would never be measured: {fault}"


def _close(name: str, known: Iterable[str]) -> str:
    close = get_close_matches(name, list(known), n=1, cutoff=0.6)
    if close:
        return f"; did you mean {close[0]!r}?"
    return ": bartizan attack --list names them"
