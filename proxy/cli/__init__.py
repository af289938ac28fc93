"""The command line: one file a command group, each imported only when it is called."""

from __future__ import annotations

from importlib import import_module
from typing import Final

import click

_COMMANDS: Final = {
    "run": ("proxy.cli.run", "Run the firewall."),
    "ext-proc": ("proxy.cli.ext_proc", "Run the firewall behind Envoy's external processing."),
    "validate": ("proxy.cli.config", "Check a configuration, and the files that it names."),
    "doctor": ("proxy.cli.doctor", "Try what a configuration depends on, and say what is wrong."),
    "health": ("proxy.cli.health", "Ask a running gateway whether it is well."),
    "config": ("proxy.cli.config", "Describe the configuration."),
    "rules": ("proxy.cli.rules", "List the rules by which requests are refused."),
    "fit": ("proxy.cli.fit", "Fit and calibrate a bundle of detectors."),
    "inspect": ("proxy.cli.inspect", "Show what a bundle holds."),
    "score": ("proxy.cli.score", "Score rows as the gateway would."),
    "audit": ("proxy.cli.audit", "Verify the audit log."),
    "clients": ("proxy.cli.clients", "See which clients are suspected; forgive or ban them."),
    "explain": ("proxy.cli.explain", "Explain why an exchange was refused or shaped."),
    "record": ("proxy.cli.record", "Record a sample of live traffic, to fit a bundle from."),
    "loadtest": ("proxy.cli.loadtest", "Load and attack a model, with and without the firewall."),
    "attack": ("proxy.cli.attack", "Attack a model, with and without the firewall."),
    "replay": ("proxy.cli.replay", "Decide anew about what was recorded, as it was or otherwise."),
    "promote": ("proxy.cli.promote", "Move an endpoint from monitor to enforce, with evidence."),
    "policy": ("proxy.cli.policy", "Test a security configuration against expected decisions."),
    "demo": ("proxy.cli.demo", "Show the firewall at work."),
}


class _Commands(click.Group):
    """Imports a command when it is asked for: ``bartizan run`` must not pay for ``fit``."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, _ = _COMMANDS[cmd_name]
        command = getattr(import_module(module), cmd_name.replace("-", "_"))
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, words) for name, (_, words) in _COMMANDS.items()])


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="bartizan", prog_name="bartizan")
def main() -> None:
    """Bartizan, an inference firewall: it reads, scores and decides on every request to a model.

    Exit status: 0 ok, 1 findings or failed, 2 usage, 3 configuration, 4 unreachable.
    """
