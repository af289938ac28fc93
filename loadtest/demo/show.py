"""The demonstration on a terminal."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterable
from pathlib import Path

from rich.console import Console

from loadtest.artefacts import FitError
from loadtest.demo.play import perform
from loadtest.demo.report import Report, checks_table, traffic_table
from loadtest.demo.site import DemoError, Site, Stage, example, prepare, workplace
from loadtest.interrupts import ended_in_order
from loadtest.process import ProcessError


def show(*, once: bool, as_json: bool) -> int:
    """Runs the demonstration and stays up until Ctrl-C, or ends by itself.

    Returns:
        The exit status: 0 if everything was decided as it should be, 1 if not.

    Raises:
        SystemExit: on a signal, Ctrl-C included, with 128 and its number.
    """
    console = Console(stderr=as_json, highlight=False)
    try:
        with ended_in_order():
            with console.status("fitting the model and the firewall's bundle"):
                stage = prepare()
            said = "kept from before" if stage.cached else "fitted now"
            console.print(f"The model and the firewall's bundle: {said}.")
            return _run(console, stage, once=once, as_json=as_json)
    except (DemoError, FitError, ProcessError, OSError, ValueError) as error:
        Console(stderr=True, highlight=False).print(f"error: {error}", markup=False)
        return 1
    except ModuleNotFoundError as error:
        Console(stderr=True, highlight=False).print(
            f"error: {error}; the extra `train` brings it", markup=False
        )
        return 1


def _run(console: Console, stage: Stage, *, once: bool, as_json: bool) -> int:
    with workplace(keep=not once) as folder:
        site = Site(folder, stage)
        with site.running():
            with console.status("") as status:
                report = perform(site, stage, status.update)
            if as_json:
                sys.stdout.write(json.dumps(report.as_json(), indent=2) + "\n")
                sys.stdout.flush()
            else:
                console.print(traffic_table(report))
                console.print(checks_table(report))
            _conclude(console, report)
            if not once:
                _stay(console, site, stage)
        if once and not report.good:
            _tails(console, folder.glob("*.log"))
    return 0 if report.good else 1


def _conclude(console: Console, report: Report) -> None:
    if report.good:
        console.print("[green]Everything was decided as it should be.[/]")
    else:
        console.print("[bold red]Something was not decided as it should be.[/]")


def _stay(console: Console, site: Site, stage: Stage) -> None:
    host, port = site.admin
    console.print(
        f"""
The firewall stays up at http://{site.host} until Ctrl-C.
  metrics        http://{host}:{port}/metrics
  configuration  {site.configuration}
  audit log      {site.audit}
An honest request to try:
{example(site, stage)}""",
        markup=False,
        soft_wrap=True,
    )
    signal.pause()


def _tails(console: Console, logs: Iterable[Path]) -> None:
    """The folder goes when we end, and with it the logs that would tell what went wrong."""
    for log in logs:
        lines = log.read_text(errors="replace").splitlines()[-20:]
        console.print(f"{log.name}:", *lines, sep="\n", markup=False, soft_wrap=True)
