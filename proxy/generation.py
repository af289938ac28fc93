"""What one configuration becomes, and what the operator is told of it."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from detectors.bundle import Bundle
from detectors.patterns.base import Family, Standing
from proxy.contract_watch import ContractWatch
from proxy.endpoint import Endpoint
from proxy.pipeline import Pipeline
from proxy.policy import HARDNESS
from proxy.settings.models import Settings
from proxy.state.base import StateUnavailable
from proxy.telemetry.metrics import UpstreamState

_FAMILIES: Final = (Family.PROBING.value, Family.EXTRACTION.value)
"""The families of evidence in the order in which the tracker tells their levels."""


@dataclass(frozen=True, slots=True)
class Generation:
    """What one configuration becomes, from its loading to the next."""

    settings: Settings
    digest: str
    pipeline: Pipeline
    watches: tuple[ContractWatch, ...]
    bundles: Mapping[str, Bundle]
    clock: Callable[[], float]

    def problems(self) -> list[str]:
        """Why no traffic may be sent here: an endpoint was never ready, or none is.

        A model server that goes away takes no other model's endpoint out of service with it.
        """
        if all(watch.seen for watch in self.watches) and not all(
            watch.problem for watch in self.watches
        ):
            return []
        return [
            f"{endpoint.name}: {watch.problem}"
            for endpoint, watch in zip(self.pipeline.endpoints, self.watches, strict=True)
            if watch.problem
        ]

    def watched(self) -> dict[str, ContractWatch]:
        """The watches by endpoint."""
        endpoints = self.pipeline.endpoints
        return {one.name: watch for one, watch in zip(endpoints, self.watches, strict=True)}

    def upstreams(self) -> list[UpstreamState]:
        """Every upstream at this moment, for the metrics."""
        return [
            UpstreamState(
                endpoint.name,
                state.address,
                state.in_flight,
                state.in_flight + state.idle,
                state.ejected,
                state.ejections,
                state.limit,
            )
            for endpoint in self.pipeline.endpoints
            for pool in endpoint.pools
            for state in pool.state().addresses
        ]

    def excluded(self) -> list[str]:
        """The pseudonyms of the clients that exclusions name, in the order of the file."""
        return [
            exclusion.client
            for endpoint in self.pipeline.endpoints
            for setting in endpoint.policy.settings.values()
            for exclusion in setting.exclusions
        ]

    def queues(self) -> dict[str, float]:
        """By endpoint, the seconds that a request would wait for its upstreams."""
        return {
            endpoint.name: max(pool.state().queue_seconds for pool in endpoint.pools)
            for endpoint in self.pipeline.endpoints
        }

    def clients(self) -> dict[str, int]:
        """How many clients each endpoint's quotas know."""
        return {endpoint.name: endpoint.limiter.known()[0] for endpoint in self.pipeline.endpoints}

    def work(self) -> list[Coroutine[Any, Any, None]]:
        """What runs beside the exchanges for as long as this generation serves."""
        return [
            *(watch.run() for watch in self.watches),
            *(endpoint.clients.run() for endpoint in self.pipeline.endpoints),
        ]

    async def forgive(self, client: str, endpoint: str | None) -> None:
        """As ``admin.app.AdminSource.forgive``."""
        for one in self.named(endpoint):
            await one.clients.forgive(client)

    async def ban(self, client: str, seconds: float, endpoint: str | None) -> None:
        """As ``admin.app.AdminSource.ban``; 0 seconds lift a ban."""
        for one in self.named(endpoint):
            await one.clients.ban(client, seconds)

    async def standings(self, endpoint: str | None, most: int) -> list[dict[str, Any]]:
        """As ``admin.app.AdminSource.clients``."""
        told: list[dict[str, Any]] = []
        for one in self.named(endpoint):
            known = {standing.client: standing for standing in one.clients.standings(most)}
            shared: dict[str, float] = {}
            with suppress(StateUnavailable):  # what this worker knows is told all the same
                shared = dict(await one.clients.sketches.strongest(most))
            banned = one.clients.banned_clients(self.clock())
            for client in dict.fromkeys([*known, *shared, *banned]):
                levels = {"most": shared[client]} if client in shared else {}
                told.append(self._told(one, client, known.get(client), levels))
        told.sort(key=lambda entry: -max(entry["evidence"].values(), default=0.0))
        return told[:most]

    async def standing(self, client: str, endpoint: str | None) -> list[dict[str, Any]]:
        """As ``admin.app.AdminSource.client``."""
        told: list[dict[str, Any]] = []
        for one in self.named(endpoint):
            known, levels = one.clients.standing(client), {}
            if known is None:
                merged = None
                with suppress(StateUnavailable):
                    merged = await one.clients.sketches.look(f"client:{client}")
                levels = dict(zip(_FAMILIES, merged.levels, strict=False)) if merged else {}
            entry = self._told(one, client, known, levels)
            if entry["evidence"] or entry["banned_seconds"] is not None:
                told.append(entry)
        return told

    def _told(
        self, endpoint: Endpoint, client: str, known: Standing | None, levels: dict[str, float]
    ) -> dict[str, Any]:
        """One client at one endpoint, for the operator.

        Args:
            known: as this worker knows it, None if it does not.
            levels: the evidence (nats) that the state knows of, if this worker does not.
        """
        evidence = known.evidence if known else levels
        thresholds = known.thresholds if known else {}
        policy, now = endpoint.policy, self.clock()
        steps = [
            policy.step(nats, thresholds[family])
            for family, nats in evidence.items()
            if family in thresholds
        ]
        return {
            "endpoint": endpoint.name,
            "client": client,
            "evidence": evidence,
            "thresholds": thresholds,
            "level": max(steps, key=HARDNESS.__getitem__).value if steps else None,
            "queries": known.queries if known else None,
            "coverage": known.coverage if known else None,
            "banned_seconds": endpoint.clients.banned_clients(now).get(client),
            "seen_seconds_ago": now - known.seen if known else None,
        }

    def named(self, name: str | None) -> list[Endpoint]:
        """The endpoint of this name, or all for None.

        Raises:
            LookupError: if there is none of this name.
        """
        found = [one for one in self.pipeline.endpoints if name is None or one.name == name]
        if not found:
            raise LookupError(f"no endpoint is named {name!r}")
        return found

    def describe(self) -> list[dict[str, Any]]:
        """The endpoints, for the operator."""
        described = []
        for endpoint, watch in zip(self.pipeline.endpoints, self.watches, strict=True):
            bundle, window = endpoint.bundle, endpoint.metrics.window
            scorer = bundle and bundle.scorer
            contract = endpoint.contract
            described.append(
                {
                    "name": endpoint.name,
                    "match": endpoint.bindings[0].match,
                    "protocols": [
                        {"name": binding.codec.name, "match": binding.match}
                        for binding in endpoint.bindings
                    ],
                    "mode": endpoint.policy.mode.value,
                    "failure_mode": endpoint.policy.failure_mode.value,
                    "problem": watch.problem or None,
                    "contract": contract
                    and [
                        {"name": spec.name, "datatype": spec.datatype, "shape": list(spec.shape)}
                        for spec in contract.inputs
                    ],
                    "bundle": bundle.digest if bundle else None,
                    "signature": bundle.signature if bundle else None,
                    "detectors": list(scorer.names) if scorer else [],
                    "threshold": scorer.threshold if scorer else None,
                    "engine": scorer.engine if scorer else None,
                    "false_positive_budget": (bundle.agreement or bundle.scorer).calibration.alpha
                    if bundle
                    else None,
                    "alert_rate": window.rate if window else None,
                    "budget_exceeded": window.exceeded if window else None,
                    "agreement": _judged(endpoint),
                    "shaping": endpoint.style.mode,
                    "always_shaped": endpoint.always_shaped,
                    "capture": endpoint.capture and endpoint.capture.status(),
                    "patterns": dict(endpoint.clients.sizes()) or None,
                    "upstreams": [
                        {
                            "address": state.address,
                            "in_flight": state.in_flight,
                            "limit": state.limit,
                            "ejected": state.ejected,
                        }
                        for pool in endpoint.pools
                        for state in pool.state().addresses
                    ],
                }
            )
        return described


def _judged(endpoint: Endpoint) -> dict[str, Any] | None:
    """How the endpoint judges answers, for the operator."""
    if endpoint.judge is None:
        return None
    scorer, opinions = endpoint.judge[1], endpoint.opinions
    return {
        "detectors": list(scorer.names),
        "threshold": scorer.threshold,
        "classes": list(scorer.classes) if scorer.classes else None,
        "second_opinions": {
            "detectors": [opinion.name for opinion in scorer.opinions],
            "copies": opinions.copies,
            "share": opinions.budget.share,
            "left": opinions.budget.left,
        }
        if opinions
        else None,
    }
