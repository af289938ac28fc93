"""``bartizan policy test``: a unit test of a security configuration."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from proxy.settings.problems import SettingsError
from proxy.settings.section import Place

if TYPE_CHECKING:
    from detectors.base import Rows
    from proxy.endpoint import Binding, Endpoint
    from proxy.protocols.base import InferRequest
    from proxy.rehearsal.cases import PolicyTests
    from proxy.settings.models import Settings

_EXIT_FAILED: Final = 1
_EXIT_CONFIGURATION: Final = 3


@click.group()
def policy() -> None:
    """Test a security configuration."""


@policy.command("test")
@click.argument("path", metavar="FILE", type=click.Path(path_type=Path))
@click.option(
    "--example",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="A request body of the endpoint's protocol, in whose form rows are sent; none: the "
    "protocol's plainest.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def test(path: Path, example: Path | None, as_json: bool) -> None:
    """Run sequences of requests against a configuration, and compare what is decided.

    Nothing is served and nothing is sent: the gateway's own pipeline decides, on a clock that FILE
    sets, about a model that says what FILE says. The same result every time.

    \b
    Exit status: 0 all as expected, 1 not, 2 usage, 3 the file or the configuration.
    """
    from proxy.build import BuildError, load_bundles  # noqa: PLC0415 - not for who asks for help
    from proxy.rehearsal.cases import PolicyTests  # noqa: PLC0415
    from proxy.rehearsal.trial import Trial, TrialError  # noqa: PLC0415
    from proxy.settings.load import load, load_as  # noqa: PLC0415
    from proxy.telemetry.logs import configure  # noqa: PLC0415

    configure(level="error", form="console")
    data: dict[str, Rows] = {}
    try:
        tests = load_as(PolicyTests, path, checks=[_data_check(data)])
        settings = load(tests.configuration)
        trial = Trial(tests, settings, load_bundles(settings), data, _form(settings, example))

        async def run() -> list[dict[str, Any]]:
            return [asdict(await trial.run(one)) for one in tests.tests]

        results = asyncio.run(run())
    except (SettingsError, BuildError, TrialError) as error:
        if as_json:
            click.echo(json.dumps({"ok": False, "problem": str(error)}))
        click.echo(f"bartizan: {error}", err=True)
        raise SystemExit(_EXIT_CONFIGURATION) from None
    failed = sum(bool(result["failed"]) for result in results)
    if as_json:
        click.echo(json.dumps({"ok": not failed, "tests": results}))
    else:
        for result in results:
            mark = f"FAILED at step {result['failed']}" if result["failed"] else "ok"
            click.echo(f"{mark}: {result['name']} ({result['requests']} requests)")
            if result["words"]:
                click.echo(f"    {result['words']}")
        click.echo(f"{len(results) - failed} of {len(results)} tests as expected")
    raise SystemExit(_EXIT_FAILED if failed else 0)


def _data_check(
    data: dict[str, Rows],
) -> Callable[[PolicyTests], Iterator[tuple[Place, str]]]:
    """Reads the files of rows, and checks every mention of them."""

    def check(tests: PolicyTests) -> Iterator[tuple[Place, str]]:
        from detectors.training.readers import DataError, read_table  # noqa: PLC0415
        from proxy.rehearsal.trial import TrialError, sliced  # noqa: PLC0415

        if not tests.configuration.exists():
            yield ("configuration",), f"no such file: {tests.configuration}"
        for name, path in tests.data.items():
            try:
                data[name] = read_table(path).rows
            except (DataError, OSError) as error:
                yield ("data", name), str(error)
        if len(data) < len(tests.data):
            return
        for place, text in _mentions(tests):
            try:
                sliced(data, text)
            except TrialError as error:
                yield place, str(error)

    return check


def _mentions(tests: PolicyTests) -> Iterator[tuple[Place, str]]:
    """Every place at which data are named."""
    for number, one in enumerate(tests.tests):
        for index, step in enumerate(one.steps):
            place: Place = ("tests", number, "steps", index, "rows")
            rows = step.rows
            if isinstance(rows, str):
                yield place, rows
            elif rows is not None and not isinstance(rows, tuple):
                if rows.around is not None:
                    yield (*place, "around"), rows.around
                for end, text in enumerate(rows.between or ()):
                    yield (*place, "between", end), text


def _form(
    settings: Settings, example: Path | None
) -> Callable[[Endpoint, Binding, int], tuple[str, InferRequest]]:
    """In which form each endpoint is asked for rows."""
    made: dict[tuple[str, int], tuple[str, InferRequest]] = {}

    def form(endpoint: Endpoint, binding: Binding, features: int) -> tuple[str, InferRequest]:
        from loadtest.targets.forms import FormError, call_route, first_request  # noqa: PLC0415
        from loadtest.targets.settings import Target  # noqa: PLC0415
        from proxy.rehearsal.trial import TrialError  # noqa: PLC0415

        key = endpoint.name, features
        if key not in made:
            target = Target.model_construct(example=example, example_type=None, binary=False)
            given = next(one for one in settings.endpoints if one.name == endpoint.name)
            try:
                route = call_route(binding.codec, binding.match, rpc=binding.rpc)
                request = first_request(
                    target, binding.codec, route, given.protocol, features, rpc=binding.rpc
                )
            except (FormError, OSError) as error:
                raise TrialError(f"endpoint {endpoint.name}: {error}") from None
            made[key] = _path(binding, route.target.decode()), request
        return made[key]

    return form


def _path(binding: Binding, upstream: str) -> str:
    """The target by which a client asks: below the binding's match."""
    if binding.rpc:
        return f"{binding.match}/ModelInfer"
    for below in ("", "/infer", ":predict"):
        if upstream.endswith(below) and below:
            return binding.match + below
    return binding.match
