"""Detectors by name: our own kinds, and classes of the libraries that people already use."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
import yaml

from detectors.arrays import Singles
from detectors.outlier import OutlierDetector
from detectors.training import estimators, pyod_estimators, sklearn_estimators
from detectors.training.compile import CompileError, Trainer, compile_fitted

Value: TypeAlias = int | float | str | bool | None
Settings: TypeAlias = Mapping[str, Mapping[str, Value]]

TRAINERS: Final[dict[str, Trainer]] = sklearn_estimators.TRAINERS | pyod_estimators.TRAINERS
"""Every class of a library that can be compiled, by its full name."""
MAX_ROWS: Final = "max_rows"
"""The one setting that is ours: rows that the estimator is fitted on, at most."""
_EXPECTED: Final = (
    f"{', '.join(estimators.KINDS)}, or a class of a library, such as {next(iter(TRAINERS))} "
    "or pyod.ECOD (docs/fitting.md lists them)"
)
_SETTINGS_CAP: Final = 1 << 16
_LEAST_ROWS: Final = 10


class SettingsError(ValueError):
    """A detector or a setting is unknown, or its value cannot be used."""


@dataclass(frozen=True, slots=True)
class Trained:
    """A detector, and what it was fitted with, for the manifest.

    Attributes:
        detector: compiled.
        fitted_with: the estimator, its library and its settings.
    """

    detector: OutlierDetector
    fitted_with: dict[str, int | float | str]


def names() -> tuple[str, ...]:
    """Every name that a detector may be asked for by."""
    return (*estimators.KINDS, *TRAINERS, *pyod_estimators.ALIASES)


def canonical(name: str) -> str:
    """The full name of a short one; any other as it is."""
    return pyod_estimators.ALIASES.get(name, name)


def parse_settings(data: bytes) -> dict[str, dict[str, Value]]:
    """Reads settings, YAML or JSON: ``{name: {argument: value}}``, values without structure.

    Raises:
        SettingsError: and nothing else, whatever the bytes.
    """
    if len(data) > _SETTINGS_CAP:
        raise SettingsError(f"settings are at most {_SETTINGS_CAP >> 10} KiB")
    try:
        value = yaml.load(data.decode(), _UniqueKeys)  # noqa: S506 - a SafeLoader
    except Exception as error:  # what a tag's constructor raises is anybody's guess
        raise SettingsError(f"settings: {error}") from error
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise SettingsError("settings: expected a mapping from names of detectors")
    parsed: dict[str, dict[str, Value]] = {}
    for name, arguments in value.items():
        if not isinstance(name, str) or not isinstance(arguments, dict):
            raise SettingsError(f"settings: {name!r}: expected a mapping of arguments")
        for argument, given in arguments.items():
            if not isinstance(argument, str) or not isinstance(
                given, int | float | str | bool | None
            ):
                raise SettingsError(f"settings: {name}: {argument!r}: expected a plain value")
        parsed[name] = arguments
    return parsed


def check(wanted: Sequence[str], settings: Settings | None = None) -> dict[str, dict[str, Value]]:
    """The full names of the detectors and the settings of each, if all can be fitted.

    Raises:
        SettingsError: if a name is unknown or occurs twice, a setting is for none of them, or an
            argument is not one of the estimator's.
        CompileError: if a library is not installed.
    """
    if not wanted:
        raise SettingsError("name at least one detector")
    chosen: dict[str, dict[str, Value]] = {}
    for name in map(canonical, wanted):
        if name not in TRAINERS and name not in estimators.KINDS:
            raise SettingsError(f"unknown detector {name!r}: {_suggest(name, names(), _EXPECTED)}")
        if name in chosen:
            raise SettingsError(f"{name} is named twice")
        chosen[name] = {}
    for given, arguments in (settings or {}).items():
        name = canonical(given)
        if name not in chosen:
            raise SettingsError(
                f"settings for {given!r}, which is not fitted: {_suggest(name, tuple(chosen))}"
            )
        if chosen[name]:
            raise SettingsError(f"settings for {name} are given twice")
        chosen[name] = dict(arguments)
    for name, arguments in chosen.items():
        _check_arguments(name, arguments)
    return chosen


def fit_detectors(
    rows: Singles, wanted: Sequence[str], seed: int, settings: Settings | None = None
) -> list[Trained]:
    """Fits each detector on (n, d) float32 training rows; deterministic under ``seed``.

    Our own kinds share one projection. A class of a library is fitted on the rows as they come, in
    double precision.

    Raises:
        SettingsError: as :func:`check`; or an estimator refuses its settings or the rows.
        CompileError: if a fitted estimator cannot be compiled, or two come to the same kind.
    """
    chosen = check(wanted, settings)
    own = [name for name in chosen if name in estimators.KINDS]
    fitted = dict(zip(own, estimators.fit_detectors(rows, own, seed), strict=True))
    trained: list[Trained] = []
    by_kind: dict[str, str] = {}
    for name, arguments in chosen.items():
        if name in fitted:
            trained.append(Trained(fitted[name], dict(estimators.SETTINGS[name])))
        else:
            trained.append(_fit(TRAINERS[name], rows, seed, arguments))
        kind = trained[-1].detector.name
        if kind in by_kind:
            raise CompileError(
                f"{by_kind[kind]} and {name} both come to the kind {kind}, which a bundle holds "
                "once: choose one of them"
            )
        by_kind[kind] = name
    return trained


def trainer_of(fitted: Any) -> Trainer:
    """The trainer of exactly this estimator's class.

    Raises:
        CompileError: if there is none.
    """
    kind = type(fitted)
    library = kind.__module__.split(".", 1)[0]
    for trainer in TRAINERS.values():
        # A module of another library is not imported to find that out.
        if trainer.library != library or trainer.attribute != kind.__name__:
            continue
        if trainer.estimator() is kind:
            return trainer
    full = f"{kind.__module__}.{kind.__qualname__}"
    above = {(base.__module__.split(".", 1)[0], base.__name__) for base in kind.__mro__[1:]}
    near = [t.name for t in TRAINERS.values() if (t.library, t.attribute) in above]
    hint = f"a subclass of {near[0]} may score otherwise; " if near else ""
    raise CompileError(f"{full} cannot be compiled: {hint}expected one of {', '.join(TRAINERS)}")


def compile_estimator(fitted: Any, reference_rows: npt.ArrayLike) -> OutlierDetector:
    """Compiles an estimator that was fitted elsewhere, and compares it with the library.

    Args:
        fitted: an estimator of exactly one of the classes in :data:`TRAINERS`. It is asked for
            its attributes and scores; nothing of it is kept.
        reference_rows: (n, d) rows like those that it was fitted on, which it and the compiled
            detector must score alike.

    Raises:
        CompileError: if it cannot be compiled; says why.
    """
    return compile_fitted(trainer_of(fitted), fitted, reference_rows)


def _fit(trainer: Trainer, rows: Singles, seed: int, arguments: Mapping[str, Value]) -> Trained:
    given = dict(arguments)
    most = given.pop(MAX_ROWS, trainer.max_rows)
    accepted = _arguments(trainer)
    if "random_state" in accepted:
        given.setdefault("random_state", seed)
    for argument, value in (trainer.defaults or {}).items():
        given.setdefault(argument, value)
    if isinstance(most, int) and len(rows) > most:
        rows = rows[np.random.default_rng(seed).permutation(len(rows))[:most]]
    try:
        estimator = trainer.estimator()(**given).fit(rows.astype(np.float64))
    except Exception as error:  # what a library makes of a senseless setting is anybody's guess
        raise SettingsError(f"{trainer.name}: {error}") from error
    detector = compile_fitted(trainer, estimator, rows)
    told = {argument: _told(value) for argument, value in given.items()}
    source: dict[str, int | float | str] = {
        "estimator": trainer.name,
        "library": trainer.version(),
        "rows": len(rows),
    }
    return Trained(detector, source | told)


def _check_arguments(name: str, arguments: Mapping[str, Value]) -> None:
    if name in estimators.KINDS:
        if arguments:
            raise SettingsError(f"{name} takes no settings: a class of a library does")
        return
    trainer = TRAINERS[name]
    accepted = _arguments(trainer)
    for argument, value in arguments.items():
        if argument == MAX_ROWS:
            if isinstance(value, bool) or not isinstance(value, int) or value < _LEAST_ROWS:
                raise SettingsError(
                    f"{name}: {MAX_ROWS} must be a whole number from {_LEAST_ROWS}, got {value!r}"
                )
        elif argument not in accepted:
            raise SettingsError(
                f"{name} takes no {argument!r}: {_suggest(argument, (*accepted, MAX_ROWS))}"
            )


def _arguments(trainer: Trainer) -> tuple[str, ...]:
    parameters = inspect.signature(trainer.estimator().__init__).parameters.values()
    plain = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return tuple(p.name for p in parameters if p.kind in plain and p.name != "self")


def _told(value: Value) -> int | float | str:
    if value is None or isinstance(value, bool):
        return str(value)
    return value


def _suggest(name: str, known: Sequence[str], otherwise: str = "") -> str:
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if close:
        return f"did you mean {' or '.join(close)}?"
    return f"expected one of {otherwise or ', '.join(known)}"


class _UniqueKeys(yaml.SafeLoader):
    """YAML's safe subset, without keys that occur twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        if len(set(map(str, keys))) != len(keys):
            raise yaml.YAMLError(f"a key occurs twice{node.start_mark}")
        return super().construct_mapping(node, deep)
