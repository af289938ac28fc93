"""Whether the shared state is reached, keeps what it is given, and answers in time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from proxy.doctor.finding import Finding, Level, ok, untried, warning, wrong
from proxy.settings.models import Settings
from proxy.settings.shared_state import MEMORY
from proxy.state.redis.address import Topology, parse

_REACHED: Final = "redis.reached"
_VERSION: Final = "redis.version"
_EVICTION: Final = "redis.eviction"
_PERSISTENCE: Final = "redis.persistence"
_PACE: Final = "redis.round-trip"
_ROLE: Final = "redis.role"
_SCRIPTS: Final = "redis.scripts"
_CLOCK: Final = "clock.redis"
_OLDEST: Final = (6, 2)
_APART_SECONDS: Final = 1.0
_FULL: Final = 0.9


async def state(settings: Settings, seconds: float) -> list[Finding]:
    """What is found of the state that workers and replicas share."""
    if settings.state == MEMORY:
        return [
            warning(
                _REACHED,
                "the state is memory: quotas, evidence and bans are this process's alone, and "
                "forgotten when it ends",
                "set state to a Redis, if there are replicas or restarts matter",
            )
        ]
    try:
        from proxy.state.redis.client import Tls  # noqa: PLC0415 - an extra
        from proxy.state.redis.survey import SurveyError, survey  # noqa: PLC0415
    except ImportError as error:
        words = f"the Redis client is not installed ({error})"
        return [
            wrong(_REACHED, words, "install the extra redis, pip install '.[redis]' in a checkout")
        ]
    sharing, tls = settings.sharing, settings.sharing.tls
    address = parse(settings.state)
    address = replace(
        address,
        username=sharing.username,
        password=sharing.password.get_secret_value() if sharing.password else None,
    )
    files = Tls(tls.ca, tls.certificate, tls.key) if tls else None
    try:
        found = await survey(address, files, seconds=seconds)
    except SurveyError as error:
        return [_unasked(str(address), str(error), refused=error.refused)]
    except (OSError, ValueError) as error:
        words = f"its certificates cannot be used: {error}"
        return [wrong(_REACHED, words, "correct sharing.tls")]
    several = f", {len(found.nodes)} primaries" if len(found.nodes) > 1 else ""
    encrypted = ", by TLS" if address.tls else ""
    findings = [ok(_REACHED, f"{address} answers{several}{encrypted}")]
    for node in found.nodes:
        findings += node_findings(node.name or str(address), node.info, node.save)
    role = topology(address.topology, found.nodes[0].info)
    findings.append(role)
    findings.append(pace(found.round_trip, sharing.wait_seconds))
    findings.append(clock(found.ahead, found.round_trip))
    findings.append(scripts(found.script, role))
    return findings


def scripts(why: str, role: Finding) -> Finding:
    """Whether our scripts may run.

    Args:
        why: they may not, or "".
        role: what was found of the server: a wrong one says nothing of scripts.
    """
    if not why:
        return ok(_SCRIPTS, "scripts may run on keys of ours")
    if role.level is Level.WRONG:
        return untried(_SCRIPTS, "whether scripts may run shows once state names the right server")
    advice = "allow EVAL, EVALSHA and ~bartizan:*"
    return wrong(_SCRIPTS, f"scripts may not run: {why}", advice)


def _unasked(address: str, why: str, *, refused: bool) -> Finding:
    if refused:
        advice = "correct sharing.username and .password, or what that user is allowed"
        return wrong(_REACHED, f"{address} refuses: {why}", advice)
    advice = "start Redis, or correct state; until then each worker keeps its share of the quotas"
    return wrong(_REACHED, f"{address}: {why}", advice, unreachable=True)


def node_findings(name: str, info: Mapping[str, Any], save: str | None) -> list[Finding]:
    """What is found of one server.

    Args:
        info: what INFO says.
        save: its save points, None if it does not tell.
    """
    return [_version(name, info), _eviction(name, info), _persistence(name, info, save)]


def _version(name: str, info: Mapping[str, Any]) -> Finding:
    told = str(info.get("redis_version", ""))
    numbers = told.split(".")[:2]
    if len(numbers) < 2 or not all(number.isdigit() for number in numbers):
        return untried(_VERSION, f"{name}: does not tell its version")
    if (int(numbers[0]), int(numbers[1])) < _OLDEST:
        return wrong(_VERSION, f"{name}: is Redis {told}", "use Redis 6.2 or newer")
    return ok(_VERSION, f"{name}: is Redis {told}")


def _eviction(name: str, info: Mapping[str, Any]) -> Finding:
    most, used = int(info.get("maxmemory", 0)), int(info.get("used_memory", 0))
    policy = str(info.get("maxmemory_policy", ""))
    if not policy:
        return untried(_EVICTION, f"{name}: does not tell its maxmemory-policy")
    if policy != "noeviction":
        # Every key of ours has a time to live: volatile-* evicts them as allkeys-* does.
        words = f"{name}: maxmemory-policy is {policy}: a flood of clients evicts quotas and bans"
        if most:
            return wrong(_EVICTION, words, "set maxmemory-policy noeviction")
        words += ", once a maxmemory is set"
        return warning(_EVICTION, words, "set maxmemory-policy noeviction, and a maxmemory")
    if not most:
        return warning(
            _EVICTION,
            f"{name}: no maxmemory: it grows until the system ends it",
            "set a maxmemory: docs/operation.md, Sizing Redis",
        )
    if used > _FULL * most:
        words = f"{name}: {used / most:.0%} of its maxmemory is used: beyond it, writes are refused"
        return warning(_EVICTION, words, "raise maxmemory")
    return ok(_EVICTION, f"{name}: evicts nothing, {used / most:.0%} of its maxmemory is used")


def _persistence(name: str, info: Mapping[str, Any], save: str | None) -> Finding:
    for key, what in (
        ("rdb_last_bgsave_status", "the last snapshot"),
        ("aof_last_write_status", "the last write to the append-only file"),
    ):
        if info.get(key, "ok") != "ok":
            return wrong(
                _PERSISTENCE,
                f"{name}: {what} failed: it refuses writes",
                "give it disk and permission: its log says why",
            )
    if info.get("aof_enabled"):
        return ok(_PERSISTENCE, f"{name}: keeps an append-only file")
    if save is None:
        return untried(
            _PERSISTENCE, f"{name}: no append-only file, and it does not tell of snapshots"
        )
    if save.strip():
        return ok(_PERSISTENCE, f"{name}: takes snapshots")
    return warning(
        _PERSISTENCE,
        f"{name}: keeps nothing on disk: its restart forgets daily quotas and what was learnt",
        "switch on appendonly, if a day's quotas matter",
    )


def topology(asked: Topology, info: Mapping[str, Any]) -> Finding:
    """Whether it is what the URL says: a primary, and a cluster or not."""
    clustered = str(info.get("redis_mode", "")) == "cluster" or bool(info.get("cluster_enabled"))
    if str(info.get("role", "master")) == "slave":
        return wrong(_ROLE, "this is a replica, which takes no writes", "name the primary in state")
    if clustered and asked is not Topology.CLUSTER:
        advice = "write state as redis+cluster://"
        return wrong(_ROLE, "this is a node of a cluster, and keeps but some keys", advice)
    if asked is Topology.SENTINEL:
        return ok(_ROLE, "this is the primary that the sentinels name")
    return ok(_ROLE, "this is a cluster" if clustered else "this is a primary of its own")


def pace(round_trip: float, wait_seconds: float) -> Finding:
    """The round trip against what a request waits for a lease."""
    words = (
        f"a round trip takes {1000 * round_trip:.1f} ms; a request waits {1000 * wait_seconds:g}"
    )
    if round_trip > wait_seconds:
        return wrong(
            _PACE,
            f"{words}: leases come too late, and quotas are not exact",
            "move Redis nearer, or raise sharing.wait_seconds",
        )
    if round_trip > wait_seconds / 2:
        return warning(_PACE, words, "move Redis nearer, or raise sharing.wait_seconds")
    return ok(_PACE, words)


def clock(ahead: float, round_trip: float) -> Finding:
    """Its clock against ours."""
    if abs(ahead) > _APART_SECONDS + round_trip / 2:
        return warning(
            _CLOCK,
            f"Redis' clock is {abs(ahead):.1f} s {'ahead of' if ahead > 0 else 'behind'} ours",
            "synchronise both by NTP: days of quotas and bans end by these clocks",
        )
    return ok(_CLOCK, "Redis' clock and ours agree")
