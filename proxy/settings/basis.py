"""What the verdicts on one endpoint's exchanges hang on, as far as the configuration says it: by
this an audit log is evidence for the endpoint as it is configured now, or is not.

What other endpoints, listeners and logs are configured to be is no part of it. Nor are what does
not change a verdict (the mode, how long a server may take, what is captured), and exclusions and
switches of rules, which can be applied to recorded verdicts afterwards; but for rules that are
switched off, of which nothing is recorded.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from typing import Any, Final

import orjson

from proxy.settings.endpoint import Endpoint
from proxy.settings.models import Settings
from proxy.settings.shared_state import MEMORY

_DIGEST: Final = 16  # hex digits, as of digests in every record
_APART: Final = frozenset(
    {
        "bundle",
        "bundle_max_age_days",
        "capture",
        "connections",
        "failure_mode",
        "mode",
        "rules",
        "slowdown",
        "timeouts",
        "upstream_tls",
    }
)


def basis(settings: Settings, endpoint: Endpoint) -> str:
    """A digest, in hex: equal where the same exchanges get the same verdicts.

    Secrets are no part of it, nor are files, which lie elsewhere on other machines: a bundle's
    digest is recorded by itself.
    """
    client = settings.client.model_dump(mode="json", exclude={"api_keys"})
    values = {
        "endpoint": endpoint.model_dump(mode="json", exclude=set(_APART)),
        "client": {**client, "api_keys": settings.client.api_keys is not None},
        # Over workers that share nothing, no limit and no pattern counts as over those that do.
        "workers": settings.workers,
        "shared": settings.state != MEMORY,
    }
    return sha256(orjson.dumps(values, option=orjson.OPT_SORT_KEYS)).hexdigest()[:_DIGEST]


def switched_off(endpoint: Endpoint) -> list[str]:
    """The ids of the rules of which nothing is recorded."""
    return sorted(rule for rule, switch in endpoint.rules.items() if switch.mode == "off")


def verdicts(settings: Settings) -> Mapping[str, Mapping[str, Any]]:
    """Of every endpoint its basis, its mode, and the rules that are off: for the audit log."""
    return {
        endpoint.name: {
            "basis": basis(settings, endpoint),
            "mode": endpoint.mode.value,
            "off": switched_off(endpoint),
        }
        for endpoint in settings.endpoints
    }
