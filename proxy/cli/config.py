"""``bartizan validate`` and ``bartizan config``: the configuration, checked and described."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import click

from proxy.http.tls import client_context, server_context
from proxy.settings.client_tls import ClientTls
from proxy.settings.endpoint import Endpoint
from proxy.settings.files import check_files
from proxy.settings.load import Check, digest, load
from proxy.settings.models import Settings
from proxy.settings.problems import SettingsError
from proxy.settings.reference import reference as reference_page
from proxy.settings.schema import schema as json_schema
from proxy.settings.section import Place
from proxy.settings.server_tls import Tls

EXIT_CONFIGURATION: Final = 3

LoadBundle = Callable[[Settings, Endpoint], object]
"""Loads an endpoint's bundle as the gateway would, and raises if it cannot be used."""


@click.command()
@click.argument("path", metavar="CONFIG", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.pass_obj
def validate(load_bundle: LoadBundle | None, path: Path, as_json: bool) -> None:
    """Check a configuration, and the files that it names, without serving it.

    Exit status 0 if the gateway could start with it, 3 if not.
    """
    from proxy.build import load_endpoint_bundle  # noqa: PLC0415 - `config schema` needs none of it

    bundles = bundle_check(load_bundle or load_endpoint_bundle)
    checks: list[Check] = [check_extras, check_files, check_tls, bundles]
    try:
        settings = load(path, checks=checks)
    except SettingsError as error:
        if as_json:
            problems = [
                {
                    "file": problem.file,
                    "line": problem.line,
                    "column": problem.column,
                    "message": problem.message,
                }
                for problem in error.problems
            ]
            click.echo(json.dumps({"ok": False, "problems": problems}, indent=2))
        else:
            click.echo(str(error), err=True)
            count = len(error.problems)
            click.echo(f"{count} error{'s' if count != 1 else ''}", err=True)
        raise SystemExit(EXIT_CONFIGURATION) from None
    names = [endpoint.name for endpoint in settings.endpoints]
    if as_json:
        report = {"ok": True, "problems": [], "digest": digest(settings), "endpoints": names}
        click.echo(json.dumps(report, indent=2))
    else:
        click.echo(f"{path}: ok ({', '.join(names)})")


@click.group()
def config() -> None:
    """Describe the configuration."""


@config.command()
def schema() -> None:
    """Print the configuration's JSON Schema."""
    click.echo(json_schema(), nl=False)


@config.command()
def reference() -> None:
    """Print the page docs/configuration.md: every key, with its default and meaning."""
    click.echo(reference_page(), nl=False)


def check_extras(settings: Settings) -> Iterator[tuple[Place, str]]:
    """Yields what is asked for and not installed."""
    if settings.grpc is not None and find_spec("grpc") is None:
        yield ("grpc",), "needs the extra grpc, pip install '.[grpc]' in a checkout"
    if settings.ext_proc is not None and None in (find_spec("grpc"), find_spec("envoy")):
        yield ("ext_proc",), "needs the extra ext-proc, pip install '.[ext-proc]' in a checkout"


def check_tls(settings: Settings) -> Iterator[tuple[Place, str]]:
    """Yields what is wrong with certificates and keys that are there."""
    listeners: list[tuple[Place, Tls | None]] = [(("tls",), settings.tls)]
    if settings.grpc is not None:
        listeners.append((("grpc", "tls"), settings.grpc.tls))
    if settings.ext_proc is not None:
        listeners.append((("ext_proc", "tls"), settings.ext_proc.tls))
    for place, tls in listeners:
        if tls is not None:
            fault = _tls_fault(server_context, tls.certificate, tls.key, tls.client_ca)
            if fault:
                yield place, fault
    for index, endpoint in enumerate(settings.endpoints):
        upstreams: list[tuple[Place, ClientTls | None]] = [
            (("upstream_tls",), endpoint.upstream_tls)
        ]
        if endpoint.grpc is not None:
            upstreams.append((("grpc", "upstream_tls"), endpoint.grpc.upstream_tls))
        for place, upstream in upstreams:
            if upstream is not None:
                fault = _tls_fault(client_context, upstream.ca, upstream.certificate, upstream.key)
                if fault:
                    yield ("endpoints", index, *place), fault


def _tls_fault(context: Callable[..., object], *files: Path | None) -> str:
    if any(file is not None and not file.exists() for file in files):
        return ""  # reported as missing
    try:
        context(*(None if file is None else str(file) for file in files))
    except OSError as error:
        return f"certificate and key cannot be used: {error.strerror or error}"
    return ""


def bundle_check(load_bundle: LoadBundle) -> Check:
    """A check that loads every bundle that is there."""

    def check(settings: Settings) -> Iterator[tuple[Place, str]]:
        for index, endpoint in enumerate(settings.endpoints):
            if endpoint.bundle is None or not endpoint.bundle.exists():
                continue
            try:
                load_bundle(settings, endpoint)
            except Exception as error:  # whatever stops the gateway is what is asked for here
                yield ("endpoints", index, "bundle"), str(error) or type(error).__name__

    return check
