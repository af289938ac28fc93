"""``bartizan fit``: honest rows, and the model's answers to them, to a calibrated bundle."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

if TYPE_CHECKING:
    from detectors.embedding import Embedding
    from detectors.training.fit import Written
    from proxy.cli.fit_data import Material

_FILE = click.Path(path_type=Path, dir_okay=False)
CLIENT_ALARM_BUDGET: Final = 0.001
_KINDS: Final = ("auto", "probabilities", "logits", "labels", "values")

_Command = TypeVar("_Command", bound=Callable[..., None])


def share(_: click.Context, __: click.Parameter, value: float | None) -> float | None:
    """An option that must lie strictly between 0 and 1 (a range lets NaN through)."""
    if value is not None and not 0 < value < 1:
        raise click.BadParameter("must lie strictly between 0 and 1")
    return value


def names(_: click.Context, __: click.Parameter, value: str | None) -> tuple[str, ...]:
    """An option of names with commas between them."""
    found = tuple(name.strip() for name in value.split(",")) if value else ()
    if "" in found or len(set(found)) != len(found):
        raise click.BadParameter("expected names with commas between them, each once")
    return found


def lengths(_: click.Context, __: click.Parameter, value: str | None) -> tuple[int, ...]:
    """An option of lengths with commas between them."""
    found = value.replace("x", ",").split(",") if value else []
    if not all(length.strip().isdecimal() and int(length) > 0 for length in found):
        raise click.BadParameter("expected lengths, such as 28,28")
    return tuple(int(length) for length in found)


def _together(*options: Callable[[_Command], _Command]) -> Callable[[_Command], _Command]:
    def decorate(command: _Command) -> _Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


answer_options = _together(
    click.option("--answers", type=_FILE, help="The model's answers to the rows, one a row."),
    click.option(
        "--model", metavar="URL", help="The model: http://HOST/v2/models/NAME; only v2 is asked."
    ),
    click.option("--output", help="Its output tensor.  [default: the one that fits]"),
    click.option(
        "--answer-kind",
        type=click.Choice(_KINDS),
        default="auto",
        show_default=True,
        help="What the answers are.",
    ),
    click.option(
        "--classes",
        callback=names,
        help="The classes in the order of the answers' columns.  [default: as sorted]",
    ),
)
"""Where the model's answers come from."""

_data_options = _together(
    click.option("--data", type=_FILE, help="Honest rows: .npy, .npz, .csv, .parquet."),
    click.option(
        "--labels",
        type=_FILE,
        help="One class label a row: the classes that the model tells apart. "
        "With --task values: the true values.",
    ),
    click.option(
        "--from-capture", "capture", type=_FILE, help="A sample of live traffic, instead."
    ),
    click.option(
        "--columns",
        type=_FILE,
        help="The columns as in the endpoint's contract, YAML: categories are encoded alike.",
    ),
    click.option("--row-shape", callback=lengths, help="Of one row, such as 28,28."),
    click.option(
        "--task",
        type=click.Choice(["classes", "values"]),
        default="classes",
        show_default=True,
        help="What the model answers with.",
    ),
    click.option("--seen", type=_FILE, help="For each row: was the model trained on it?"),
)
_budget_options = _together(
    click.option(
        "--false-positive-budget",
        "budget",
        type=float,
        callback=share,
        default=0.001,
        show_default=True,
        help="Share of honest rows that may be flagged.",
    ),
    click.option(
        "--confidence",
        type=float,
        callback=share,
        default=0.95,
        show_default=True,
        help="Confidence with which the budget holds.",
    ),
    click.option(
        "--client-alarm-budget",
        type=float,
        callback=share,
        help="Share of honest client-days that may raise an alarm.  [default: 0.001]",
    ),
)
_kind_options = _together(
    click.option("--no-patterns", is_flag=True, help="Do not learn what honest clients look like."),
    click.option(
        "--detectors",
        "kinds",
        callback=names,
        help="Comma-separated kinds, or classes of libraries; a measured default otherwise.",
    ),
    click.option(
        "--settings", type=_FILE, help="Arguments of the libraries' classes by name, YAML or JSON."
    ),
    click.option(
        "--agreement",
        callback=names,
        help="Comma-separated kinds; a measured default otherwise.",
    ),
    click.option("--no-agreement", is_flag=True, help="Leave the model's answers alone."),
    click.option(
        "--second-opinion",
        "opinions",
        callback=names,
        help="Comma-separated kinds that ask the model again; needs --model.",
    ),
    click.option("--embedding", type=_FILE, help="An ONNX model; its output is what is scored."),
    click.option(
        "--alibi-python", type=_FILE, help="Python of an environment with alibi-detect 0.11.4."
    ),
    click.option(
        "--alibi-licence-held",
        is_flag=True,
        help="A licence for alibi-detect 0.11.5 or later is held.",
    ),
)


@click.command()
@_data_options
@answer_options
@click.option("--out", type=_FILE, required=True, help="The bundle to write.")
@_budget_options
@_kind_options
@click.option(
    "--keep-examples",
    type=click.IntRange(0, 100_000),
    default=0,
    help="Honest rows to keep in the bundle, to explain refusals with. They are data.",
)
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True)
@click.option("--sign", "key", type=_FILE, help="Ed25519 private key, PEM, to sign with.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def fit(
    *,
    out: Path,
    budget: float,
    confidence: float,
    client_alarm_budget: float | None,
    no_patterns: bool,
    kinds: tuple[str, ...],
    settings: Path | None,
    agreement: tuple[str, ...],
    no_agreement: bool,
    opinions: tuple[str, ...],
    embedding: Path | None,
    alibi_python: Path | None,
    alibi_licence_held: bool,
    keep_examples: int,
    seed: int,
    key: Path | None,
    as_json: bool,
    task: str,
    **sources: Any,
) -> None:
    """Fit, merge and calibrate detectors on honest rows, and write them as one bundle.

    The rows are split three ways: to fit, to merge and to set the threshold. Duplicates are dropped
    first. Labels are the classes that the model tells apart, never marks of outliers: every row
    counts as honest.

    With the model's answers (--answers, or --model to ask for them) it also learns which answers
    such rows get, against which small perturbations stand out; --no-agreement leaves that out.

    From the same rows it learns the patterns of honest clients over time, against which theft and
    probing stand out; --no-patterns leaves them out.
    """
    try:
        from detectors.training.fit import DEFAULT_DETECTORS, write  # noqa: PLC0415 - an extra
        from detectors.training.fit import fit as fit_rows  # noqa: PLC0415
        from detectors.training.libraries import Libraries  # noqa: PLC0415
        from detectors.training.patterns import PatternRowsError  # noqa: PLC0415
        from detectors.training.splits import MIN_MERGE, MIN_TRAIN  # noqa: PLC0415
        from detectors.training.trainers import parse_settings  # noqa: PLC0415
        from proxy.cli.fit_data import Sources, gather  # noqa: PLC0415
    except ImportError as error:
        raise click.ClickException(
            f"fit needs the extra train, pip install '.[train]' in a checkout ({error})"
        ) from error
    given = Sources(regression=task == "values", **sources)
    given.check()
    if no_patterns and client_alarm_budget is not None:
        raise click.UsageError("--client-alarm-budget is for patterns: leave out --no-patterns")
    _check_agreement(sources, agreement, opinions, refused=no_agreement)
    if not out.parent.is_dir():
        raise click.BadParameter(f"{out.parent} is not a directory", param_hint="--out")
    libraries = Libraries.of(alibi_python, licence_held=alibi_licence_held)
    chosen = kinds or DEFAULT_DETECTORS
    try:
        arguments = parse_settings(settings.read_bytes()) if settings else {}
        libraries.check(chosen, opinions, arguments)
    except (ValueError, OSError) as error:
        hint = "--settings" if settings else "--detectors"
        raise click.BadParameter(str(error), param_hint=hint) from error
    try:
        signing_key = key.read_bytes() if key else None
        material = gather(given, answered=not no_agreement)
        table = material.table
        fitted = fit_rows(
            table.rows,
            kinds=chosen,
            settings=arguments,
            libraries=libraries,
            alpha=budget,
            delta=1 - confidence,
            seed=seed,
            labels=material.labels,
            answers=None if no_agreement else material.answers,
            classes=material.classes,
            targets=material.targets,
            seen=material.seen,
            clients=material.clients,
            row_shape=material.row_shape,
            agreement=() if no_agreement else agreement or None,
            opinions=opinions,
            ask=material.ask if opinions else None,
            embedding=_embedding(embedding, material),
            keep_examples=keep_examples,
            client_alarm_budget=None if no_patterns else client_alarm_budget or CLIENT_ALARM_BUDGET,
        )
        created = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        written = write(fitted, out, table, created=created, signing_key=signing_key)
    except PatternRowsError as error:
        raise click.ClickException(
            f"{error}, beside {MIN_TRAIN + MIN_MERGE} to fit and to merge; more rows or a larger "
            "budget would do, and --no-patterns goes on without"
        ) from error
    except (ValueError, OSError, ImportError) as error:  # every typed error is a ValueError
        raise click.ClickException(str(error)) from error
    _tell(written, material, out, signed=signing_key is not None, as_json=as_json)


def _check_agreement(
    sources: dict[str, Any],
    agreement: tuple[str, ...],
    opinions: tuple[str, ...],
    *,
    refused: bool,
) -> None:
    """Refuses options about answers where there are none."""
    from detectors.agreement import REGISTRY  # noqa: PLC0415

    if refused and (agreement or opinions):
        raise click.UsageError("--no-agreement excludes --agreement and --second-opinion")
    answered = sources["answers"] or sources["model"] or sources["capture"]
    if agreement and not answered:
        raise click.UsageError("--agreement needs the model's answers: --answers, or --model")
    for kind in agreement:
        if kind not in REGISTRY:
            raise click.BadParameter(
                f"{kind!r}: expected some of {', '.join(REGISTRY)}", param_hint="--agreement"
            )
    if opinions and not sources["model"]:
        raise click.UsageError("--second-opinion asks the model again: name it with --model")


def _embedding(path: Path | None, material: Material) -> Embedding | None:
    if path is None:
        return None
    import numpy as np  # noqa: PLC0415 - with the extra

    from detectors.embedding import Embedding  # noqa: PLC0415

    shape = material.row_shape or (material.table.rows.shape[1],)
    return Embedding(np.frombuffer(path.read_bytes(), np.uint8), shape)


def _tell(written: Written, material: Material, out: Path, *, signed: bool, as_json: bool) -> None:
    from proxy.cli.fit_report import few_rows, print_result, result_of  # noqa: PLC0415

    calibration = written.fitted.scorer.calibration
    notes = few_rows(
        calibration.rank, calibration.scores.size, calibration.alpha, calibration.delta
    )
    if written.fitted.agreement:
        notes += material.notes
    result = result_of(written, material.table, out, signed=signed) | {"notes": notes}
    if as_json:
        click.echo(json.dumps(result))
    else:
        print_result(result)
