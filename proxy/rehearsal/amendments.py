"""A configuration with some of its keys changed, as the command line asks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from proxy.settings.document import Document, read, resolve
from proxy.settings.endpoint import Endpoint
from proxy.settings.load import MAX_BYTES, load_as
from proxy.settings.models import Settings
from proxy.settings.problems import SettingsError, Source
from proxy.settings.section import Place
from proxy.settings.text import read_text


class NoSuchEndpointError(ValueError):
    """It is not said which endpoint is meant, or there is none of this name."""


@dataclass(frozen=True, slots=True)
class Amendments:
    """What is to be otherwise.

    Attributes:
        endpoint: the one that ``bundle`` and ``policy`` are of; None: the only one.
        bundle: its bundle.
        changes: ``KEY=VALUE``, the steps of the key joined by dots, an endpoint by its name.
        policy: a file of an endpoint's keys.
    """

    endpoint: str | None = None
    bundle: Path | None = None
    changes: tuple[str, ...] = ()
    policy: Path | None = None

    def __bool__(self) -> bool:
        return self.bundle is not None or bool(self.changes) or self.policy is not None

    def load(self, path: Path) -> Settings:
        """The configuration at ``path``, changed.

        Raises:
            SettingsError: if it cannot be used so.
            NoSuchEndpointError: as it says.
        """
        return load_as(Settings, path, amend=self._amend)

    def words(self) -> list[str]:
        """What is changed, for people."""
        said = [f"--bundle {self.bundle}"] if self.bundle else []
        said += [f"--set {change}" for change in self.changes]
        return said + ([f"--policy {self.policy}"] if self.policy else [])

    def _amend(self, document: Document) -> None:
        whole = document.value
        if self.bundle is not None or self.policy is not None:
            index = _endpoint(whole, self.endpoint)
            keys = _keys(self.policy) if self.policy is not None else {}
            if self.bundle is not None:
                keys = {"bundle": str(self.bundle.absolute())} | keys
            _merge(document, ("endpoints", index), whole["endpoints"][index], keys)
        for change in self.changes:
            key, equals, text = change.partition("=")
            if not equals or not key:
                raise NoSuchEndpointError(f"--set {change}: must read KEY=VALUE")
            _put(document, key.split("."), resolve(text), change)


def _endpoint(whole: dict[str, Any], name: str | None) -> int:
    """Where in the list it stands."""
    given = whole.get("endpoints")
    every = [one for one in given if isinstance(one, dict)] if isinstance(given, list) else []
    found = [one for one in every if name is None or one.get("name") == name]
    if name is None and len(found) > 1:
        names = ", ".join(str(one.get("name")) for one in found)
        raise NoSuchEndpointError(f"there are several endpoints: say --endpoint, one of {names}")
    if not found:
        names = ", ".join(str(one.get("name")) for one in every)
        raise NoSuchEndpointError(f"no endpoint is named {name!r}; there are: {names}")
    return next(i for i, one in enumerate(whole["endpoints"]) if one is found[0])


def _put(document: Document, steps: list[str], value: Any, change: str) -> None:
    holder: Any = document.value
    place: Place = ()
    if steps[0] == "endpoints" and len(steps) > 2:
        index = _endpoint(holder, steps[1])
        holder, steps, place = holder["endpoints"][index], steps[2:], ("endpoints", index)
    for step in steps[:-1]:
        if isinstance(holder, dict) and holder.get(step) is None:
            holder[step] = {}
            _written(document, (*place, step))
        if not isinstance(holder, dict):
            raise NoSuchEndpointError(f"--set {change}: {step} stands in no section")
        holder, place = holder[step], (*place, step)
    if not isinstance(holder, dict):
        raise NoSuchEndpointError(f"--set {change}: {steps[-1]} stands in no section")
    holder[steps[-1]] = value
    _written(document, (*place, steps[-1]))


def _keys(path: Path) -> dict[str, Any]:
    """A file of an endpoint's keys.

    Raises:
        SettingsError: if it is none.
    """
    source = Source(str(path), read_text(path, MAX_BYTES))
    document = read(source, {}, Endpoint)
    if not isinstance(document.value, dict) and not document.problems:
        document.complain((1, 1), "must be a mapping of an endpoint's keys")
    if document.problems:
        raise SettingsError(document.problems)
    keys: dict[str, Any] = document.value
    return keys


def _merge(document: Document, place: Place, below: dict[str, Any], above: dict[str, Any]) -> None:
    """Puts keys in place of others; sections are merged, lists are not."""
    for name, value in above.items():
        held = below.get(name)
        if isinstance(held, dict) and isinstance(value, dict):
            _merge(document, (*place, name), held, value)
        else:
            below[name] = value
            _written(document, (*place, name))


def _written(document: Document, place: Place) -> None:
    """Has what is wrong with a changed key be told by its name, at the section that it is put in:
    the file's own value of it is not the one that is wrong."""
    _, position = document.find(place[:-1])
    document.values[place] = document.keys[place] = position
    document.substituted.discard(place)
