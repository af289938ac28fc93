"""``bartizan attack``: one published attack on one endpoint, with and without the firewall."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from proxy.cli.attack_target import EXIT_CONFIGURATION, end_with, plain, target_of, write_keys
from proxy.settings.problems import SettingsError

if TYPE_CHECKING:
    from loadtest.drivers.base import Driver, Means
    from loadtest.evidence.results import AttackResult, Side
    from loadtest.targets.open import Endpoint
    from loadtest.targets.settings import Target

EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
EXIT_UNREACHABLE: Final = 4
EXIT_INTERRUPTED: Final = 130

_FILE: Final = click.Path(path_type=Path, dir_okay=False, exists=True)
_NEW: Final = click.Path(path_type=Path, dir_okay=False)
_OWN: Final = 0.8
"""The share of the rows that is the attacker's; the others judge stolen models."""


def _pairs(_context: click.Context, _option: click.Parameter, values: tuple[str, ...]) -> Any:
    """``NAME=VALUE``, the value as JSON where it is some."""
    made = {}
    for text in values:
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise click.BadParameter(f"{text!r}: expected NAME=VALUE")
        made[name.replace("-", "_")] = plain(value)
    return made


def _image(_context: click.Context, _option: click.Parameter, value: str | None) -> Any:
    if value is None:
        return None
    height, _, width = value.lower().partition("x")
    if not (height.isdecimal() and width.isdecimal() and int(height) and int(width)):
        raise click.BadParameter("expected HEIGHTxWIDTH, as 8x8")
    return int(height), int(width)


@click.command()
@click.argument("driver", required=False, metavar="[DRIVER]")
@click.option("--list", "listed", is_flag=True, help="List the drivers, with their sources.")
@click.option("--url", "firewall", metavar="URL", help="The model behind the firewall.")
@click.option("--direct-url", "direct", metavar="URL", help="The model server alone.")
@click.option("--configuration", type=_FILE, help="The firewall's configuration, for both.")
@click.option("--endpoint", metavar="NAME", help="Its endpoint, if it has several.")
@click.option("--target", type=_FILE, help="A file of all that a scenario's target may say.")
@click.option(
    "--side",
    type=click.Choice(["direct", "firewall", "both"]),
    help="What is attacked; without it: all there is, the model server alone first.",
)
@click.option("--protocol", metavar="NAME|JSON", help="As in an endpoint's settings; else v2.")
@click.option("--contract", metavar="JSON", help="As in an endpoint's settings; else it is learnt.")
@click.option("--wire", type=click.Choice(["http", "grpc"]), help="Where an endpoint has both.")
@click.option("--example", type=_FILE, help="A request's body, which shows its form.")
@click.option("--binary", is_flag=True, help="v2 with tensors as bytes.")
@click.option("--classes", type=click.IntRange(2), help="How many there are, if labels are all.")
@click.option("--data", type=_FILE, help="The attacker's own honest rows: .npy, .npz, .csv …")
@click.option("--labels", type=_FILE, help="What they truly are.")
@click.option("--members", type=_FILE, help="Rows that the model was trained on (membership).")
@click.option("--test", type=_FILE, help="Rows that judge a stolen model; else some of --data.")
@click.option("--image", callback=_image, metavar="HxW", help="Where a row is a picture.")
@click.option("--low", type=float, help="The least value of a feature; else as in --data.")
@click.option("--high", type=float, help="The largest value of a feature; else as in --data.")
@click.option("--budget", type=click.IntRange(1), default=2000, show_default=True, help="A try's.")
@click.option("--tries", type=click.IntRange(1), default=5, show_default=True)
@click.option("--seed", type=click.IntRange(0, 2**31), default=0, show_default=True)
@click.option("--knob", "knobs", callback=_pairs, multiple=True, metavar="NAME=VALUE")
@click.option(
    "--client",
    "by",
    type=click.Choice(["none", "api_key", "source_address", "header"]),
    default="none",
    show_default=True,
    help="As whom it asks. Each try asks as clients of its own, if there are enough.",
)
@click.option("--accounts", type=click.IntRange(1), default=1, show_default=True, help="A try's.")
@click.option("--keys", type=_FILE, help="The attacker's API keys, NAME:KEY a line.")
@click.option("--client-header", "header", help="The header that carries the key or the name.")
@click.option(
    "--write-keys",
    type=_NEW,
    help="Write the firewall's list of keys, and new keys beside it as FILE.keys, and end.",
)
@click.option("--audit", type=_FILE, help="The firewall's audit log; else as configured.")
@click.option("--journal", type=_NEW, help="Keeps the answers, so that a broken run goes on.")
@click.option("--resume", is_flag=True, help="Go on where the journal ends.")
@click.option("--timeout", type=click.FloatRange(0, min_open=True), default=10.0, help="Seconds.")
@click.option(
    "--authorised-host",
    "authorised",
    multiple=True,
    metavar="HOST",
    help="A host beside this machine that is yours to attack.",
)
@click.option(
    "--fail-above",
    type=click.FloatRange(0, 1),
    metavar="SHARE",
    help="End with status 1 if a larger share of tries succeeds: through the firewall, if it is "
    "attacked.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON.")
def attack(driver: str | None, **given: Any) -> None:
    """Attack an endpoint with DRIVER, with and without the firewall.

    Only endpoints of this machine are attacked, unless --authorised-host says that another is
    yours. Success is judged by the model server alone, where it is known.

    Exit status: 0 the attack was carried out, 1 it failed, or succeeded beyond --fail-above, 2
    usage, 3 configuration, 4 unreachable.
    """
    if given["listed"]:
        _list(given["as_json"])
        return
    if given["write_keys"] is not None:
        write_keys(given)
        return
    chosen = _driver(driver)
    target = target_of(given)
    if given["data"] is None:
        raise click.UsageError("name the attacker's own rows: --data")
    if given["resume"] and given["journal"] is None:
        raise click.UsageError("--resume goes on where a --journal ends")
    results = _carried_out(chosen, target, given)
    if as_json := given["as_json"]:
        click.echo(json.dumps([dataclasses.asdict(one) for one in results]))
    else:
        from proxy.cli.attack_report import show  # noqa: PLC0415 - rich is slow to import

        show(results)
    raise SystemExit(_status(results, given["fail_above"], quiet=as_json))


def _status(results: list[AttackResult], most: float | None, *, quiet: bool) -> int:
    """The exit status: a fault, or a success beyond what is borne."""
    if any(one.fault for one in results):
        return EXIT_FAILED
    if most is None:
        return 0
    last = results[-1].success
    if last.total and last.count <= most * last.total:
        return 0
    if not quiet:
        click.echo(f"{last.count} of {last.total} tries succeeded: more than {most:g}", err=True)
    return EXIT_FAILED


def _carried_out(driver: Driver, target: Target, given: Mapping[str, Any]) -> list[AttackResult]:
    from detectors.training.readers import DataError  # noqa: PLC0415 - here and below: slow
    from loadtest.drivers.run import check  # noqa: PLC0415
    from loadtest.targets.open import Endpoint, Unreachable  # noqa: PLC0415

    try:
        rows, means = _means(given)
        endpoint = Endpoint.open(target, features=rows, classes=_classes(given, means))
        means = dataclasses.replace(means, accounts=endpoint.clients)
        check(driver, means)
    except (SettingsError, DataError) as error:
        end_with(str(error), EXIT_CONFIGURATION)
    except Unreachable as error:
        end_with(f"unreachable: {error}", EXIT_UNREACHABLE)
    except (ValueError, OSError) as error:
        end_with(str(error), EXIT_CONFIGURATION)
    wanted = given["side"]
    sides = [side for side in endpoint.sides if wanted in {None, "both", side}]
    missing = {"both": 2, None: 1}.get(wanted, 1) - len(sides)
    if missing > 0:
        have = ", ".join(endpoint.sides)
        raise click.UsageError(f"--side {wanted}: only {have} is known; name the other")
    return [_one(driver, endpoint, side, means, given, several=len(sides) > 1) for side in sides]


def _one(
    driver: Driver,
    endpoint: Endpoint,
    side: Side,
    means: Means,
    given: Mapping[str, Any],
    *,
    several: bool,
) -> AttackResult:
    """One side, with what is under way on standard error."""
    from rich.console import Console  # noqa: PLC0415 - slow to import

    from loadtest.drivers.run import attack as carry_out  # noqa: PLC0415
    from loadtest.targets.open import reachable  # noqa: PLC0415

    if not reachable(endpoint, side):
        end_with(f"unreachable: nobody answers at {endpoint.place(side).address}", EXIT_UNREACHABLE)
    journal: Path | None = given["journal"]
    if journal is not None and several:
        journal = journal.with_name(f"{journal.name}.{side}")
    audit = given["audit"] or endpoint.audit
    console = Console(stderr=True, highlight=False, markup=False)
    title = f"{driver.name}, {side}"
    with console.status(title) as status:

        def progress(queries: int, said: Mapping[str, int]) -> None:
            told = ", ".join(f"{count} {word}" for word, count in sorted(said.items()))
            status.update(f"{title}: {queries} queries ({told})")

        try:
            return carry_out(
                driver,
                endpoint,
                side,
                means,
                journal=journal,
                resume=given["resume"],
                audit=audit if audit is not None and audit.exists() else None,
                about=endpoint.about,
                progress=progress,
            )
        except KeyboardInterrupt:
            hint = "" if journal is None else f"; {journal} and --resume go on with it"
            end_with(f"interrupted{hint}", EXIT_INTERRUPTED)
        except (ValueError, OSError) as error:
            end_with(str(error), EXIT_CONFIGURATION)


def _means(given: Mapping[str, Any]) -> tuple[int, Means]:
    """The width of a row, and what the attacker has.

    Raises:
        DataError: if a file cannot be read, or does not go with the others.
        ValueError: if the box is empty.
    """
    import numpy as np  # noqa: PLC0415 - slow, and not always needed

    from loadtest.drivers.base import Means  # noqa: PLC0415
    from loadtest.scenario.data import read  # noqa: PLC0415
    from loadtest.scenario.data_settings import Data  # noqa: PLC0415

    stated = {
        name: given[name]
        for name in ("labels", "members", "test", "image", "low", "high")
        if given[name] is not None
    }
    data = Data.model_validate({"rows": given["data"], "attackers": _OWN, **stated})
    material = read(data, None, given["seed"])
    own = np.concatenate([material.own, material.honest])
    labels = material.labels
    if labels is not None:
        own = material.own
    return material.features, Means(
        own=own,
        labels=labels,
        low=material.low,
        high=material.high,
        test=material.test,
        accounts=(),
        budget=given["budget"],
        tries=given["tries"],
        seed=given["seed"],
        image=material.image,
        members=material.members,
        knobs=given["knobs"],
    )


def _classes(given: Mapping[str, Any], means: Means) -> int | None:
    if given["classes"] is not None:
        return int(given["classes"])
    return None if means.labels is None else max(2, int(means.labels.max()) + 1)


def _driver(name: str | None) -> Driver:
    from difflib import get_close_matches  # noqa: PLC0415 - for this alone

    from loadtest.drivers.registry import DRIVERS  # noqa: PLC0415 - slow, as above

    if name is None:
        raise click.UsageError("name a DRIVER; --list shows them")
    if name not in DRIVERS:
        close = get_close_matches(name, list(DRIVERS), n=1)
        hint = f"; did you mean {close[0]}?" if close else "; --list shows them"
        raise click.UsageError(f"no driver is called {name!r}{hint}")
    return _imported(lambda: DRIVERS[name], name)


def _imported(make: Callable[[], Driver], name: str) -> Driver:
    try:
        return make()
    except ImportError as error:
        end_with(
            f"{name} needs the extra attacks, pip install '.[attacks]' in a checkout ({error})",
            EXIT_CONFIGURATION,
        )


def _list(as_json: bool) -> None:
    from loadtest.drivers.registry import DRIVERS  # noqa: PLC0415 - slow, and not always needed

    drivers = [_imported(lambda name=name: DRIVERS[name], name) for name in DRIVERS]  # type: ignore[misc]  # mypy has no type for a lambda's default
    if as_json:
        fields = ("name", "family", "goal", "words", "atlas")
        told = [
            {**{field: getattr(one, field) for field in fields}, "needs": sorted(one.needs)}
            for one in drivers
        ]
        click.echo(json.dumps(told))
        return
    from proxy.cli.attack_report import show_drivers  # noqa: PLC0415 - as above

    show_drivers(drivers)
