"""Every check, one after the other. None of them changes anything, and none can hide another."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from functools import partial

from detectors.bundle import Bundle
from proxy.build import BuildError, load_endpoint_bundle
from proxy.doctor import audit, bundle, clock, exposure, limits, listeners, redis, upstream
from proxy.doctor.finding import Finding, ok, untried, wrong
from proxy.doctor.host import Host
from proxy.settings.models import Settings

Check = Callable[[], Awaitable[Sequence[Finding]]]


async def examine(settings: Settings, host: Host, *, seconds: float) -> AsyncIterator[Finding]:
    """Tries everything that a configuration depends on, from where the gateway runs.

    Args:
        seconds: the longest that one server is waited for.
    """
    begun = time.perf_counter()
    bundles, faults = await asyncio.to_thread(_load, settings)
    loading = time.perf_counter() - begun
    for fault in faults:
        yield fault
    if bundles:
        words = f"{len(bundles)} bundle(s) read, checked and compiled in {loading:.1f} s"
        yield ok("bundle.loaded", words)
    for name, check in _checks(settings, bundles, host, seconds).items():
        for finding in await _tried(name, check):
            yield finding


async def examine_outside(
    settings: Settings, hosts: Sequence[str], *, seconds: float, control: int | None = None
) -> AsyncIterator[Finding]:
    """Tries, from where clients are, whether the model is reached past the firewall.

    Args:
        control: as for :func:`exposure.outside`.
    """

    async def check() -> Sequence[Finding]:
        return await exposure.outside(settings, hosts, seconds, control)

    for finding in await _tried("exposure", check):
        yield finding


def _checks(
    settings: Settings, bundles: Mapping[str, Bundle], host: Host, seconds: float
) -> dict[str, Check]:
    """The checks by their subject, in the order in which they are told."""
    checks: dict[str, Check] = {"exposure": partial(exposure.inside, settings, host, seconds)}
    for endpoint in settings.endpoints:
        name, loaded = endpoint.name, bundles.get(endpoint.name)
        checks[f"upstream {name}"] = partial(
            upstream.upstreams, settings, endpoint, loaded, seconds
        )
        if endpoint.bundle is None or loaded is not None:
            checks[f"bundle {name}"] = _plain(
                partial(bundle.bundle_findings, endpoint, loaded, time.time())
            )
    checks["redis"] = partial(redis.state, settings, seconds)
    checks["clock"] = _plain(clock.clocks)
    checks["limits"] = _plain(partial(limits.limits, settings, host))
    checks["audit"] = _plain(partial(audit.audit, settings, host))
    checks["listeners"] = _plain(partial(listeners.listeners, settings, host, time.time()))
    return checks


def _plain(check: Callable[[], Sequence[Finding]]) -> Check:
    """A check that waits for nobody but this machine."""
    return lambda: asyncio.to_thread(check)


async def _tried(name: str, check: Check) -> Sequence[Finding]:
    try:
        return await check()
    except Exception as error:  # a defect of one check is no reason to leave out the others
        return [untried(name.split(maxsplit=1)[0], f"{name}: {type(error).__name__}: {error}")]


def _load(settings: Settings) -> tuple[dict[str, Bundle], list[Finding]]:
    bundles, faults = {}, []
    for endpoint in settings.endpoints:
        if endpoint.bundle is None:
            continue
        try:
            bundles[endpoint.name] = load_endpoint_bundle(settings, endpoint)
        except BuildError as error:
            advice = "fit it anew, or put the right one there"
            faults.append(wrong("bundle.loaded", str(error), advice))
    return bundles, faults
