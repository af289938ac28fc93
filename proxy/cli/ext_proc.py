"""``bartizan ext-proc``: the firewall as Envoy's external processor."""

from __future__ import annotations

from pathlib import Path

import click

from proxy.cli.run import start


@click.command(name="ext-proc")
@click.argument("path", metavar="CONFIG", type=click.Path(path_type=Path))
def ext_proc(path: Path) -> None:
    """Run the firewall behind Envoy's external processing (ext_proc), until SIGTERM, which drains
    it. SIGHUP reloads CONFIG and its bundles.

    Envoy carries requests and answers, and asks here what is to become of each: at ext_proc.listen,
    127.0.0.1:9002 if CONFIG does not say. The rest of CONFIG is that of `bartizan run`.

    Exit status 3 if the configuration cannot be used, 1 if it cannot be served.
    """
    start(path, envoy=True)
