"""The rules that an operator may switch, and the clients to which a rule does not apply."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Annotated, Final, Literal

from pydantic import model_validator

from proxy import rules
from proxy.settings.fields import Matching, Moment
from proxy.settings.section import Faults, Section

SWITCHABLE: Final = (
    rules.OUTLIER,
    rules.DISAGREEMENT,
    *rules.PATTERNS,
    rules.CLIENT_RATE,
    rules.CLIENT_DAY,
    rules.SUBNET_RATE,
    rules.SUBNET_DAY,
    rules.ENDPOINT_RATE,
    rules.ENDPOINT_DAY,
)
"""The rules that an operator may switch. Without any other there would be no request to forward, or
no reason to believe in it."""

ClientName = Annotated[
    str,
    Matching(
        r"([0-9a-f]{32}|(mtls|api_key|ip):\S{1,1024})",
        "a pseudonym of 32 hex digits as in the audit log, or mtls:URI, api_key:NAME or ip:ADDRESS",
    ),
]


class Exclusion(Section):
    """A client to which a rule does not apply, until a date."""

    client: ClientName
    """The client: its pseudonym as in the audit log, or ``mtls:spiffe://…``, ``api_key:NAME``,
    ``ip:ADDRESS``."""
    until: Moment
    """When the exclusion ends: a date, or a time with its zone."""

    @model_validator(mode="after")
    def _check(self) -> Exclusion:
        faults = Faults()
        kind, _, name = self.client.partition(":")
        if kind == "ip":
            try:
                ip_address(name)
            except ValueError:
                faults.add(f"{name!r} is not an IP address", "client")
        faults.report()
        return self


class RuleSwitch(Section):
    """How one rule is applied."""

    mode: Literal["enforce", "monitor", "off"] | None = None
    """``enforce``, ``monitor`` (recorded, but nothing that a client sees changes) or ``off``; none:
    the endpoint's mode."""
    exclude: tuple[Exclusion, ...] = ()
    """Clients to which the rule does not apply."""


def known_rules(switches: dict[str, RuleSwitch]) -> dict[str, RuleSwitch]:
    """The same switches, by rule id.

    Raises:
        PydanticCustomError: if one is of no rule, or of a rule that cannot be switched.
    """
    faults = Faults()
    switchable = {rule.id for rule in SWITCHABLE}
    for rule in switches:
        if rule not in rules.RULES:
            faults.add(f"no such rule: {rule}; see docs/rules.md", rule)
        elif rule not in switchable:
            faults.add(
                f"{rule} ({rules.RULES[rule].message}) cannot be switched; "
                f"these can: {', '.join(sorted(switchable))}",
                rule,
            )
    faults.report()
    return switches
