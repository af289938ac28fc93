"""Exclusions name clients, records hold pseudonyms; without a configured secret only the process
that made those knew which is whose. So it writes down the pseudonyms of the clients it excluded.
"""

from __future__ import annotations

from collections.abc import Mapping

from proxy.rehearsal.recorded import Life
from proxy.settings.models import Settings


def known_names(life: Life, recorded: Settings) -> dict[str, str]:
    """The pseudonyms of the excluded clients, as far as they are known.

    Args:
        recorded: the configuration under which it was recorded.
    """
    names = _excluded(recorded)
    return dict(zip(names, life.excluded, strict=True)) if len(names) == len(life.excluded) else {}


def with_pseudonyms(settings: Settings, names: Mapping[str, str]) -> Settings:
    """The settings with the pseudonyms in the place of the names in exclusions."""
    if not names:
        return settings
    endpoints = []
    for endpoint in settings.endpoints:
        rules = {
            rule: switch.model_copy(
                update={
                    "exclude": tuple(
                        entry.model_copy(update={"client": names.get(entry.client, entry.client)})
                        for entry in switch.exclude
                    )
                }
            )
            for rule, switch in endpoint.rules.items()
        }
        endpoints.append(endpoint.model_copy(update={"rules": rules}))
    return settings.model_copy(update={"endpoints": tuple(endpoints)})


def _excluded(settings: Settings) -> list[str]:
    return [
        entry.client
        for endpoint in settings.endpoints
        for switch in endpoint.rules.values()
        for entry in switch.exclude
    ]
