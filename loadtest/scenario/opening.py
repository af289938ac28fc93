"""From a scenario to the ground that it is carried out on: data read, endpoint opened, servers of
the demonstration started."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

from pydantic import SecretStr

from loadtest.artefacts import FitError
from loadtest.demo.site import MODEL, Site, Stage, prepare
from loadtest.drivers.base import Driver
from loadtest.drivers.registry import DRIVERS
from loadtest.evidence.results import Side
from loadtest.process import ProcessError
from loadtest.scenario.data import Material, read, shared
from loadtest.scenario.data_settings import Data
from loadtest.scenario.ground import GroundError, UnreachableError
from loadtest.scenario.means import allotted, means_of
from loadtest.scenario.rehearsal import objection, queries
from loadtest.scenario.settings import Attack, Scenario
from loadtest.scenario.standing import Standing
from loadtest.scenario.traffic import Recorded, recorded_times
from loadtest.targets.base import Rows
from loadtest.targets.clients import Clients, api_keys
from loadtest.targets.open import Endpoint, Unreachable
from loadtest.targets.settings import Target
from proxy.settings.load import digest
from proxy.settings.load import load as load_configuration

_OWN_KEY: Final = "you"
"""The client by which the demonstration finds out whether its firewall serves."""


class ScenarioError(ValueError):
    """The scenario does not go with its data or its target. Says what, a line each."""


@contextlib.contextmanager
def opened(
    scenario: Scenario, folder: Path, drivers: Mapping[str, Driver] = DRIVERS
) -> Iterator[Standing]:
    """The ground of a scenario; what it starts ends with the context.

    Args:
        folder: where the demonstration's configuration, logs and audit log are kept.
        drivers: the attacks that there are.

    Raises:
        ScenarioError: if something does not go together.
        UnreachableError: if a server does not say what it takes.
        GroundError: if the demonstration does not start.
        SettingsError: if the target's configuration cannot be used.
    """
    with contextlib.ExitStack() as stack:
        try:
            if scenario.serve is not None:
                ground = _served(scenario, folder, drivers, stack)
            else:
                ground = _standing(scenario, drivers)
        except Unreachable as error:
            raise UnreachableError(str(error)) from error
        except (ProcessError, FitError, OSError) as error:
            raise GroundError(str(error)) from error
        except ModuleNotFoundError as error:
            raise GroundError(f"{error}: the demonstration needs the extra `train`") from error
        except ScenarioError:
            raise
        except ValueError as error:  # DataError, NotAuthorised, FormError, ContractError
            raise ScenarioError(str(error)) from error
        yield ground


def _served(
    scenario: Scenario, folder: Path, drivers: Mapping[str, Driver], stack: contextlib.ExitStack
) -> Standing:
    stage = prepare()
    folder.mkdir(parents=True, exist_ok=True)
    clients = Clients(
        by="api_key", count=scenario.accounts, secret=SecretStr(secrets.token_urlsafe(24))
    )
    served = scenario.served
    site = Site(
        folder,
        stage,
        keys={**api_keys(clients), _OWN_KEY: secrets.token_urlsafe(24)},
        rate=served.rows_per_second,
        burst=served.burst_rows,
        secret=secrets.token_urlsafe(24),
    )
    stack.enter_context(site.running())
    if scenario.data is not None:
        material = read(scenario.data, stage.images.shape[1], scenario.seed)
    else:
        material = _demonstrated(stage, scenario.seed)
    target = Target(configuration=site.configuration, endpoint=MODEL, clients=clients)
    return _ground(
        scenario,
        target,
        material,
        drivers,
        audit=site.audit,
        renew=_grounded(site.renew) if served.anew else None,
        alive=_grounded(site.check),
    )


def _demonstrated(stage: Stage, seed: int) -> Material:
    """The demonstration's rows. A stolen model is judged by rows that the firewall was calibrated
    with; only membership inference asks them of the firewall."""
    return shared(
        stage.images,
        seed,
        attackers=Data.model_fields["attackers"].default,
        labels=stage.labels,
        test=stage.fitted,
        members=stage.members,
        image=(8, 8),
        low=0.0,
        high=1.0,
    )


def _standing(scenario: Scenario, drivers: Mapping[str, Driver]) -> Standing:
    target, data = scenario.target, scenario.data
    assert target is not None and data is not None  # the settings were checked
    features = None
    if data.generate is not None:
        features = Endpoint.open(target).features
    material = read(data, features, scenario.seed)
    audit = scenario.audit
    if audit is None and target.configuration is not None:
        settings = load_configuration(target.configuration)
        if settings.audit is not None and settings.audit.path.exists():
            audit = settings.audit.path
    return _ground(scenario, target, material, drivers, audit=audit)


def _ground(
    scenario: Scenario,
    target: Target,
    material: Material,
    drivers: Mapping[str, Driver],
    *,
    audit: Path | None,
    renew: Callable[[], None] | None = None,
    alive: Callable[[], None] | None = None,
) -> Standing:
    classes = None if material.labels is None else int(material.labels.max()) + 1
    endpoint = Endpoint.open(target, features=material.features, classes=classes)
    asked = _asked_for(scenario, drivers)
    _check(scenario, material, endpoint, asked)
    return Standing(
        scenario,
        endpoint,
        material,
        drivers=asked,
        queries=_queries(scenario, material, endpoint, asked),
        audit=audit,
        about=_about(target),
        renew=renew,
        alive=alive,
    )


def _asked_for(scenario: Scenario, drivers: Mapping[str, Driver]) -> dict[str, Driver]:
    names = {one.driver for one in scenario.attacks}
    names |= {part.driver for load in scenario.load for part in load.mix if part.driver}
    return {name: drivers[name] for name in sorted(names)}


def _check(
    scenario: Scenario, material: Material, endpoint: Endpoint, drivers: Mapping[str, Driver]
) -> None:
    """What would otherwise be found out minutes later.

    Raises:
        ScenarioError: with all that is wrong.
    """
    faults = []
    missing = _sides(scenario) - set(endpoint.sides)
    faults += [f"target has no {side}" for side in sorted(missing)]
    _, accounts = allotted(scenario, endpoint.clients)
    for index, attack in enumerate(scenario.attacks):
        means = means_of(scenario, attack, material, accounts[attack.title])
        driver = drivers[attack.driver]
        fault = objection(driver, means, endpoint.features, endpoint.classes)
        if fault:
            faults.append(f"attacks[{index}] ({attack.title}): {fault}")
    for load in scenario.load:
        if load.recorded is not None:
            recorded_times(load.recorded)
        for core in sorted(set(load.cores) - os.sched_getaffinity(0)):
            faults.append(f"load {load.name}: core {core} is not this process's to use")
    if faults:
        raise ScenarioError("\n".join(faults))


def _sides(scenario: Scenario) -> set[Side]:
    return {
        *(side for load in scenario.load for side in load.sides),
        *(side for attack in scenario.attacks for side in attack.sides),
    }


def _queries(
    scenario: Scenario, material: Material, endpoint: Endpoint, drivers: Mapping[str, Driver]
) -> Recorded:
    """What the drivers ask whose queries are part of a load."""
    found: dict[str, Rows] = {}
    for load in scenario.load:
        for part in load.mix:
            if part.driver is None:
                continue
            rehearsed = Attack(driver=part.driver, budget=part.queries, tries=1)
            means = means_of(scenario, rehearsed, material, endpoint.clients[:1])
            found[part.driver] = queries(drivers[part.driver], endpoint, means)
    return found


def _about(target: Target) -> dict[str, str]:
    """Digests of what the firewall was set up with, where that is known."""
    if target.configuration is None:
        return {}
    settings = load_configuration(target.configuration)
    about = {"configuration": digest(settings)}
    for endpoint in settings.endpoints:
        meant = endpoint.name == target.endpoint or len(settings.endpoints) == 1
        if meant and endpoint.bundle is not None and endpoint.bundle.is_file():
            about["bundle"] = hashlib.sha256(endpoint.bundle.read_bytes()).hexdigest()
    return about


def _grounded(function: Callable[[], None]) -> Callable[[], None]:
    """The same, whose fault is the ground's."""

    def called() -> None:
        try:
            function()
        except ProcessError as error:
            raise GroundError(str(error)) from error

    return called
