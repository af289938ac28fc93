"""``bartizan demo``: the firewall at work, with everything that it needs brought along."""

from __future__ import annotations

import click


@click.command()
@click.option("--once", is_flag=True, help="End by itself; exit 0 only if all went as it should.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def demo(once: bool, as_json: bool) -> None:
    """Show the firewall at work in front of a small model server.

    Honest images, outliers, adversarial images, malformed requests and a flood are sent through it,
    and a table tells what became of them. Without --once it stays up until Ctrl-C.
    """
    from loadtest.demo.show import show  # noqa: PLC0415 - no other command needs it

    raise SystemExit(show(once=once, as_json=as_json))
