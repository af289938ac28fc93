"""A configuration file to settings, or to all that is wrong with it, each fault with its place."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final, TypeVar

import orjson
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from proxy.settings.document import Document, read, resolve
from proxy.settings.models import Settings
from proxy.settings.problems import SettingsError, Source, path_text
from proxy.settings.schema import keys_at
from proxy.settings.section import CONTRADICTION, Place, Section, placed
from proxy.settings.text import read_text

MAX_BYTES: Final = 512 * 2**10

_SCALAR_ERRORS: Final = frozenset({"int_type", "float_type", "bool_type", "none_required"})

Root = TypeVar("Root", bound=Section)
CheckOf = Callable[[Root], Iterable[tuple[Place, str]]]
Check = CheckOf[Settings]
"""A further check of sound settings: yields the place of a key, and what is wrong with it; raises
SettingsError for what is wrong with another file."""


def load(
    path: Path | str,
    *,
    environment: Mapping[str, str] | None = None,
    checks: Iterable[Check] = (),
) -> Settings:
    """Reads a configuration file: see :func:`load_as`."""
    return load_as(Settings, path, environment=environment, checks=checks)


def load_for_envoy(path: Path | str, *, environment: Mapping[str, str] | None = None) -> Settings:
    """Reads a configuration file for ``bartizan ext-proc``: one without a section ``ext_proc`` has
    that of the defaults. See :func:`load_as`."""

    def amend(document: Document) -> None:
        document.value.setdefault("ext_proc", {})

    return load_as(Settings, path, environment=environment, amend=amend)


def load_like(served: Settings, path: Path | str) -> Settings:
    """Reads a configuration file anew, as the one that is served was. See :func:`load_as`."""
    return load(path) if served.ext_proc is None else load_for_envoy(path)


def load_as(
    model: type[Root],
    path: Path | str,
    *,
    environment: Mapping[str, str] | None = None,
    amend: Callable[[Document], None] | None = None,
    checks: Iterable[CheckOf[Root]] = (),
) -> Root:
    """Reads a file of settings.

    Args:
        model: of the whole file.
        path: the file; relative paths within it start from its directory.
        environment: what ``${NAME}`` refers to; none: the process's environment.
        amend: changes what was read before it is validated, as the command line may ask.
        checks: further checks, run if the settings are otherwise sound.

    Raises:
        SettingsError: if it cannot be used, with all that is wrong.
    """
    source = Source(str(path), read_text(Path(path), MAX_BYTES))
    document = read(source, os.environ if environment is None else environment, model)
    if not isinstance(document.value, dict):
        if not document.problems:
            first = next(iter(model.model_fields))
            document.complain(
                (1, 1), f"must be a mapping, which begins with a key such as {first}:"
            )
        raise SettingsError(document.problems)
    if amend is not None:
        amend(document)
    context = {"directory": Path(path).absolute().parent}
    settings, errors = _validate(model, document, context)
    for error in errors:
        _complain(document, error, model)
    if settings is not None:
        for check in checks:
            try:
                for place, message in check(settings):
                    _complain_at(document, place, message)
            except SettingsError as error:
                document.problems.extend(error.problems)
    if settings is None or document.problems:
        raise SettingsError(document.problems)
    return settings


def digest(settings: Section) -> str:
    """SHA-256, in hex, of the effective configuration: defaults filled in, secrets left out."""
    values = settings.model_dump(mode="json")
    return hashlib.sha256(orjson.dumps(values, option=orjson.OPT_SORT_KEYS)).hexdigest()


def _validate(
    model: type[Root], document: Document, context: dict[str, Any]
) -> tuple[Root | None, list[ErrorDetails]]:
    for attempt in (1, 2):
        try:
            # Strict, yet as JSON: a path or a tuple is what JSON can say of one, "1" is no number.
            text = orjson.dumps(document.value)
            return model.model_validate_json(text, strict=True, context=context), []
        except ValidationError as error:
            errors = error.errors(include_url=False, include_input=False)
        if attempt == 2 or not _retype(document, errors):
            break
    return None, errors


def _retype(document: Document, errors: list[ErrorDetails]) -> bool:
    """Reads substituted words as numbers, but only where a number is wanted.

    A secret of digits stays the string that it is, and one that reads ``null`` is not nothing.
    """
    changed = False
    for error in errors:
        place, _ = document.find(error["loc"])
        if place not in document.substituted or error["type"] not in _SCALAR_ERRORS:
            continue
        holder = document.value
        for step in place[:-1]:
            holder = holder[step]
        document.substituted.discard(place)
        try:
            holder[place[-1]] = resolve(holder[place[-1]])
        except ValueError:
            continue
        changed = True
    return changed


def _complain(document: Document, error: ErrorDetails, model: type[Section]) -> None:
    kind = error["type"]
    place, _ = document.find(error["loc"])
    context = error.get("ctx", {})
    if kind == CONTRADICTION:
        for below, message in placed(context.get("faults")):
            _complain_at(document, (*place, *below), message)
    elif kind == "missing":
        position = document.find(place)[1]
        name = error["loc"][-1]
        prefix = f"{path_text(place)}: " if place else ""
        document.complain(position, f"{prefix}the key {name!r} is missing")
    elif kind == "extra_forbidden":
        position = document.find(place, key=True)[1]
        document.complain(position, _unknown(document, place, model))
    elif kind == "default_factory_not_called" or _is_echo(document, kind, place):
        return
    else:
        _complain_at(document, place, _message(error))


def _is_echo(document: Document, kind: str, place: Place) -> bool:
    """Pydantic counts only the sound items of a list, after it has reported the others."""
    return kind == "too_short" and bool(_value(document, place))


def _value(document: Document, place: Place) -> Any:
    value = document.value
    for step in place:
        value = value[step]
    return value


def _complain_at(document: Document, place: Place, message: str) -> None:
    here, position = document.find(place)
    if any(here[: len(broken)] == broken for broken in document.broken):
        return  # its value could not even be read, which was reported
    name = path_text(here)
    text = f"{name}: {message}" if name else message
    document.complain(position, text)


def _message(error: ErrorDetails) -> str:
    if error["type"] == "too_short":
        least = error["ctx"]["min_length"]
        return f"must hold at least {least} item{'s' if least != 1 else ''}"
    message = error["msg"].removeprefix("Value error, ")
    for theirs, ours in (
        ("Input should be ", "must be "),
        ("Input should ", "must "),
        ("Object should be ", "must be "),
    ):
        if message.startswith(theirs):
            return ours + message.removeprefix(theirs)
    return message[:1].lower() + message[1:]


def _unknown(document: Document, place: Place, model: type[Section]) -> str:
    *above, name = place
    close = get_close_matches(str(name), keys_at(tuple(above), model), n=1, cutoff=0.7)
    if close and close[0] != name:  # a key of another kind of section at this place
        return f"unknown key {path_text(place)}; did you mean {close[0]!r}?"
    if _value(document, place) is None:
        # {token: a,b}: what stands as a key without a value may be the rest of a secret.
        where = f" in {path_text(tuple(above))}" if above else ""
        return f"unknown key without a value{where}"
    return f"unknown key {path_text(place)}"
