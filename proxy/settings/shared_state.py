"""The configuration of what workers and replicas share."""

from __future__ import annotations

from typing import Annotated, Final
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from proxy.settings.client_tls import ClientTls
from proxy.settings.fields import Seconds
from proxy.settings.secret import Password
from proxy.settings.section import Faults, Section
from proxy.state.redis.address import parse

MEMORY: Final = "memory://"
_FORMS: Final = (
    "memory://, redis://host:6379/0, rediss://host:6379/0 (TLS), unix:///path, "
    "redis+sentinel://host:26379,host:26379/SERVICE or redis+cluster://host:6379,host:6379"
)


def _state(given: str) -> str:
    if given == MEMORY:
        return given
    try:
        credentials = "@" in urlsplit(given).netloc
        parse(given)
    except ValueError as error:
        raise ValueError(f"is none of {_FORMS}: {error}") from error
    if any(map(str.isspace, given)):
        raise ValueError("must not hold white space")
    if credentials:
        raise ValueError("credentials do not belong here: use sharing.username and .password")
    return given


StateUrl = Annotated[str, AfterValidator(_state)]
"""Where quotas and sketches are kept."""


class SharingTls(ClientTls):
    """TLS to the shared state."""


class Sharing(Section):
    """How workers and replicas share through Redis."""

    username: str | None = None
    """The Redis user; none: the default user."""
    password: Password | None = None
    """Its password: ``${REDIS_PASSWORD}``."""
    tls: SharingTls | None = None
    """TLS to ``rediss://``, where the system's certificates do not suffice."""
    wait_seconds: Annotated[float, Field(ge=0.001, le=1, allow_inf_nan=False)] = 0.02
    """The longest that a request waits for the shared state: once a client and lease. A lease that
    comes later leaves the request to this worker's share of the quota, which can admit rows that
    the others do not know of yet: too short a wait costs exactness."""
    sync_seconds: Annotated[float, Field(ge=0.01, le=60, allow_inf_nan=False)] = 0.05
    """How often what was learnt about clients is exchanged."""
    lease_seconds: Annotated[float, Field(ge=0.01, le=10, allow_inf_nan=False)] = 0.5
    """For how long a client's rows are leased ahead, at its recent rate."""
    retention_seconds: Seconds = 86_400.0
    """How long a client that sends nothing is remembered."""


def check_state(state: str, sharing: Sharing, workers: int, faults: Faults) -> None:
    """Notes what contradicts between the state, how it is shared, and the number of workers."""
    if state == MEMORY:
        if workers > 1:
            faults.add(
                f"{workers} workers need a state that they share, and memory:// is not one: set "
                "state to a Redis URL, or workers to 1",
                "workers",
            )
        needless = sharing.model_fields_set - {"retention_seconds"}
        for key in sorted(needless):
            faults.add("nothing is shared with memory://: it would do nothing", "sharing", key)
    elif sharing.tls is not None and not parse(state).tls:
        faults.add("the state's URL is not rediss…: it would do nothing", "sharing", "tls")
