"""``bartizan record``: a sample of live traffic, to fit a bundle from."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click

from detectors.calibration import rows_needed
from detectors.container import FILE_CAP, write_container
from detectors.sample import Sample, SampleError
from detectors.training.splits import MIN_MERGE, MIN_TRAIN
from proxy.capture import STRATIFIED_SHARE
from proxy.cli.admin import AdminListener, Busy, Failed, Unreachable
from proxy.cli.asking import answered, listener, listener_options
from proxy.cli.clients import seconds_of
from proxy.settings.fields import Origin

_POLL_SECONDS: Final = 2.0
_SAVE_SECONDS: Final = 120.0
"""How much is lost, at most, with a gateway that ends without a word."""
_TRIES: Final = 30
_FETCH_SECONDS: Final = 120.0
_FILE_BYTES: Final = FILE_CAP - (FILE_CAP >> 4)
"""What a file holds, and can be read again: of more rows, from several gateways, some go."""
_BUDGETS: Final = (0.01, 0.001)
_CONFIDENCE: Final = 0.95

_Say = Callable[[dict[str, Any]], None]


def _period(_context: click.Context, _option: click.Parameter, value: str | None) -> int | None:
    try:
        return None if value is None else seconds_of(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@dataclass(slots=True)
class Recorder:
    """Watches one endpoint's sample grow, and keeps a copy of it on disk.

    Args:
        listener: of the gateway.
        out: the file, always whole.
        clock: monotonic seconds.
        sleep: waits so many seconds.
    """

    listener: AdminListener
    endpoint: str
    out: Path
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    _seen: int = -1
    _earlier: Sample | None = None
    """What was saved of other gateways, or of this one before it was started anew."""

    def status(self) -> dict[str, Any]:
        """What the gateway holds.

        Raises:
            Unreachable, Failed: if it cannot be asked, or captures nothing at this endpoint.
        """
        endpoints = self.listener.ask("GET", "/api/v1/endpoints")["endpoints"]
        found = [one for one in endpoints if one["name"] == self.endpoint]
        if not found:
            known = ", ".join(one["name"] for one in endpoints)
            raise Failed(f"no endpoint is named {self.endpoint!r}; there are: {known}")
        capture: dict[str, Any] | None = found[0].get("capture")
        if capture is None:
            raise Failed(
                f"endpoint {self.endpoint} captures nothing: give it the key `capture: {{}}` in "
                "the gateway's configuration, and reload it; rows may be personal data"
            )
        if capture["seen"] < self._seen:  # it was started anew
            self.resume()
        self._seen = capture["seen"]
        return capture

    def resume(self) -> None:
        """What the file holds already is kept, and added to.

        Raises:
            Failed: if it is no sample of this endpoint.
        """
        if not self.out.exists():
            return
        try:
            self._earlier = Sample.decode(self.out.read_bytes())
        except SampleError as error:
            raise Failed(f"{self.out} is there, and is no sample: {error}") from error
        if self._earlier.endpoint != self.endpoint:
            raise Failed(f"{self.out} is a sample of endpoint {self._earlier.endpoint}")

    def save(self) -> int:
        """Fetches the sample and writes the file; how many rows are in it.

        Raises:
            Unreachable, Failed: if it cannot be fetched.
            SampleError: if it does not go with what was saved before.
            OSError: if the file cannot be written: what was there before stays.
        """
        sample = Sample.decode(self.listener.fetch(f"/api/v1/captures/{self.endpoint}"))
        if self._earlier is not None:
            sample = Sample.joined([sample, self._earlier]).within(_FILE_BYTES)
        write_container(self.out, sample.members())
        return len(sample)

    def run(
        self, rows: int, seconds: float | None, say: _Say, waits: Callable[[Unreachable], None]
    ) -> dict[str, Any]:
        """Records until there are so many rows, or the time is up, or the user interrupts.

        A gateway that cannot be reached for a while, once it was, is waited for.

        Args:
            say: told what is held, now and then.
            waits: told why it has to wait.

        Returns:
            What was held at the end, with ``recorded``, the rows in the file.

        Raises:
            Unreachable, Failed, SampleError, OSError: as :meth:`save`.
        """
        began = saved = self.clock()
        self.resume()
        status = self.status()
        try:
            while True:
                say(status)
                held, now = status["uniform"], self.clock()
                if held >= min(rows, _attainable(status)):
                    break
                if seconds is not None and now - began >= seconds:
                    break
                if held and now - saved >= _SAVE_SECONDS:
                    with suppress(Unreachable, Busy):  # the next time
                        self.save()
                        saved = now
                self.sleep(_POLL_SECONDS)
                try:
                    status = self.status()
                except Unreachable as unreachable:
                    waits(unreachable)
        except KeyboardInterrupt:
            pass  # what there is, is what was wanted
        return {**status, "recorded": self._saved_at_last()}

    def _saved_at_last(self) -> int:
        for _ in range(_TRIES - 1):
            try:
                return self.save()
            except Busy:  # another operator fetches it
                self.sleep(_POLL_SECONDS)
        return self.save()


def _attainable(status: dict[str, Any]) -> int:
    """The most rows that the uniform part can hold."""
    most: int = status["rows_at_most"]
    return most - int(most * STRATIFIED_SHARE)


@click.command()
@click.argument("endpoint")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help="The file to write.",
)
@click.option(
    "--rows",
    type=click.IntRange(1),
    default=10_000,
    show_default=True,
    help="Rows after which it is enough.",
)
@click.option(
    "--for",
    "seconds",
    callback=_period,
    metavar="TIME",
    help="End after 90s, 30m, 12h or 7d, however many rows there are.",
)
@listener_options
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def record(
    *,
    endpoint: str,
    out: Path,
    rows: int,
    seconds: int | None,
    admin: Origin | None,
    token: str | None,
    config: Path | None,
    as_json: bool,
) -> None:
    """Record a sample of the live traffic of ENDPOINT, with the model's answers.

    The gateway draws the sample while the endpoint has the key `capture` in its configuration; an
    endpoint in monitor mode sees all traffic, an enforcing one none of what it refuses. A file that
    is there already is added to. Interrupt to end: what there is, is written.
    `bartizan fit --from-capture FILE` makes a bundle of it.

    Exit status: 0 ok, 1 failed, 2 usage, 3 configuration, 4 unreachable.
    """
    if not out.parent.is_dir():
        raise click.BadParameter(f"{out.parent} is not a directory", param_hint="--out")
    recorder = Recorder(listener(admin, token, config, seconds=_FETCH_SECONDS), endpoint, out)

    def recorded() -> dict[str, Any]:
        try:
            return recorder.run(rows, seconds, _silent if as_json else _say, _wait)
        except (SampleError, OSError) as error:
            raise Failed(f"{out}: {getattr(error, 'strerror', None) or error}") from error
        except (Failed, Unreachable):
            if out.exists():
                click.echo(f"what was recorded before stays in {out}", err=True)
            raise

    told = answered(recorded)
    if as_json:
        click.echo(json.dumps({"file": str(out), **told}))
        return
    click.echo(f"{told['recorded']} rows written to {out}")
    for line in _advice(told):
        click.echo(line)


def _silent(_: dict[str, Any]) -> None:
    pass


def _wait(unreachable: Unreachable) -> None:
    click.echo(f"waiting for the gateway: {unreachable}", err=True)


def _say(status: dict[str, Any]) -> None:
    left_out = sum(status["left_out"].values())
    click.echo(
        f"{status['uniform']} rows of {status['seen']} seen, {status['clients']} clients, "
        f"{status['classes']} classes" + (f", {left_out} rows left out" if left_out else ""),
        err=True,
    )


def _advice(told: dict[str, Any]) -> list[str]:
    """What the sample is good for."""
    lines = [
        f"  left out: {count} rows {reason}" for reason, count in sorted(told["left_out"].items())
    ]
    for budget in _BUDGETS:
        need = rows_needed(budget, 1 - _CONFIDENCE) + MIN_TRAIN + MIN_MERGE
        verdict = "enough" if told["uniform"] >= need else "too few"
        lines.append(
            f"  {verdict} for a false-positive budget of {100 * budget:g} % with confidence "
            f"{_CONFIDENCE:g}: it takes {need}"
        )
    return lines
