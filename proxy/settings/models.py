"""The configuration as immutable values: its root, and what concerns the whole process.

Every key is documented where it is declared; the JSON Schema and the reference are made from these
declarations.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field, model_validator

from proxy.settings.endpoint import Endpoint
from proxy.settings.ext_proc import MESSAGE_SLACK, ExtProc
from proxy.settings.fields import (
    Address,
    Bytes,
    FilePath,
    HostName,
    Listen,
    Matching,
    Network,
    Seconds,
)
from proxy.settings.grpc import Grpc
from proxy.settings.secret import Secret
from proxy.settings.section import Faults, Section
from proxy.settings.server_tls import Tls
from proxy.settings.shared_state import MEMORY, Sharing, StateUrl, check_state

HeaderName = Annotated[
    str,
    Matching("[A-Za-z0-9-]{1,64}", "a header name of letters, digits and hyphens"),
    AfterValidator(str.lower),
]
Kind = Literal["mtls", "api_key", "ip"]

_EVERYWHERE: Final = frozenset({"0.0.0.0", "::"})  # noqa: S104 - to be recognised, not bound


class Admin(Section):
    """The listener for health, readiness and metrics."""

    listen: Listen = Address("127.0.0.1", 9090)
    """Where it listens: host:port, or unix:/path."""
    token: Secret | None = None
    """The bearer token that every caller must send, of at least 16 characters: ``${ADMIN_TOKEN}``.
    Needed off loopback."""
    hosts: tuple[HostName, ...] = ()
    """DNS names by which callers may call it, beside ``localhost``, the one in ``listen``, and any
    IP address."""
    explanations: Annotated[int, Field(ge=0, le=100_000)] = 256
    """Exchanges that detectors refused or shaped, or would have, which each worker keeps in memory
    for ``bartizan explain``: of each, its worst rows and the model's answers to them, 32 MiB in
    all. They may be personal data. 0: none."""

    @model_validator(mode="after")
    def _check(self) -> Admin:
        faults = Faults()
        if self.token is None and not self.listen.is_local:
            faults.add(
                f"{self.listen} can be reached from other machines: set admin.token, "
                "or listen on 127.0.0.1 or a unix socket",
                "listen",
            )
        faults.report()
        return self


class Client(Section):
    """Who a client is taken to be."""

    identify: tuple[Kind, ...] = ("mtls", "api_key", "ip")
    """The ways to know a client, strongest first; a client that none knows is anonymous, and all
    anonymous clients share one quota."""
    api_key_header: HeaderName = "x-api-key"
    """The header that carries an API key; ``authorization`` reads a Bearer token."""
    api_keys: FilePath | None = None
    """The file of known API keys: a line ``NAME:SHA256`` each, the key's SHA-256 in hex."""
    trusted_proxies: tuple[Network, ...] = ()
    """Address ranges of the proxies in front, whose X-Forwarded-For is believed."""
    ipv4_prefix: Annotated[int, Field(ge=8, le=32)] = 32
    """The prefix length over which IPv4 addresses are one client."""
    ipv6_prefix: Annotated[int, Field(ge=16, le=128)] = 64
    """The prefix length over which IPv6 addresses are one client."""
    ipv4_subnet: Annotated[int, Field(ge=8, le=32)] = 24
    """The prefix length of an IPv4 subnet."""
    ipv6_subnet: Annotated[int, Field(ge=16, le=128)] = 48
    """The prefix length of an IPv6 subnet."""
    secret: Secret | None = None
    """The key of clients' pseudonyms, of at least 16 characters: ``${CLIENT_SECRET}``. None: a
    random one at each start, so that pseudonyms do not outlive the process."""
    max_known: Annotated[int, Field(ge=1, le=10**7)] = 100_000
    """Clients, and subnets, whose quotas each endpoint keeps apart; newcomers beyond it share
    one."""

    @model_validator(mode="after")
    def _check(self) -> Client:
        faults = Faults()
        if not self.identify:
            faults.add("must name at least one of mtls, api_key, ip", "identify")
        if "api_key_header" in self.model_fields_set and self.api_keys is None:
            faults.add("no key is known without api_keys: it would do nothing", "api_key_header")
        for index, kind in enumerate(self.identify):
            if kind in self.identify[:index]:
                faults.add(f"{kind} is listed twice", "identify", index)
        if "ip" in self.identify[:-1]:
            place = self.identify.index("ip") + 1
            faults.add("ip knows every client: what follows it does nothing", "identify", place)
        if self.api_keys is not None and "api_key" not in self.identify:
            faults.add("client.identify does not list api_key: it would do nothing", "api_keys")
        for family in ("ipv4", "ipv6"):
            prefix, subnet = getattr(self, f"{family}_prefix"), getattr(self, f"{family}_subnet")
            if subnet > prefix:
                key = (
                    f"{family}_prefix"
                    if f"{family}_prefix" in self.model_fields_set
                    else (f"{family}_subnet")
                )
                faults.add(f"a subnet (/{subnet}) cannot be smaller than a client (/{prefix})", key)
        faults.report()
        return self


class Audit(Section):
    """The audit log: a hash-chained record of every exchange."""

    path: FilePath
    """The file; rotated ones lie beside it."""
    durability: Literal["batched", "released"] = "batched"
    """``batched``: records are synced to disk a few times a second. ``released``: no answer leaves
    before its record is on disk."""
    rotate_bytes: Bytes = 256 * 2**20
    """The size at which a new file is begun."""
    keep: Annotated[int, Field(ge=1, le=100_000)] = 16
    """How many rotated files are kept."""
    key: Secret | None = None
    """The key that seals the log's head, of at least 16 characters: ``${AUDIT_KEY}``. Who lacks it
    cannot rewrite the log unnoticed, but can put an older copy of log and head in its place: note
    the last record elsewhere (``audit verify --expect-head``), or ship the log. None: only damage
    is noticed, and edits without care."""
    payload_digest: bool = False
    """Whether a record holds the SHA-256 of the body that was forwarded."""
    values: bool = False
    """Whether a record holds the payload's values. They may be personal data."""
    replay: bool = False
    """Whether a record holds all that it takes to decide anew, for ``bartizan replay``: the body as
    it came, the headers that say how to read it, the model's answer where it was read, and exact
    moments. Bodies may be personal data, and of a language model they are what people wrote. The
    log grows by the size of the bodies."""
    explain: bool = False
    """Whether an ``explanation`` follows the record of an exchange that detectors refused or
    shaped, or would have: which features made the scores, and by how much. It takes up to a tenth
    of a processor; beyond that, some are left out and counted. Needs ``admin.explanations``."""


class Log(Section):
    """The process's own log, on standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """The least severe level that is written."""
    format: Literal["auto", "json", "console"] = "auto"
    """``json``, ``console`` (for people), or ``auto``: console on a terminal, JSON otherwise."""


class Http(Section):
    """Limits of the wire, for every client connection."""

    head_bytes: Annotated[Bytes, Field(ge=1024, le=2**20)] = 16 * 2**10
    """The size of a request's head."""
    header_count: Annotated[int, Field(ge=8, le=1000)] = 100
    """Headers in a request."""
    head_seconds: Seconds = 10.0
    """The time for a request's head to arrive."""
    body_seconds: Seconds = 60.0
    """The time for a request's body to arrive."""
    body_rate: Bytes = 1024
    """The least rate at which a body must arrive, in bytes a second."""
    idle_seconds: Seconds = 75.0
    """How long a kept-alive connection may rest between requests."""
    connections: Annotated[int, Field(gt=0, le=1_000_000)] = 4096
    """Client connections at once; beyond it, a connection is shed as it is accepted."""
    drain_seconds: Seconds = 30.0
    """How long requests under way may take to finish after SIGTERM."""


class Settings(Section):
    """The whole configuration."""

    listen: Listen = Address("127.0.0.1", 8080)
    """Where clients connect: host:port, or unix:/path."""
    tls: Tls | None = None
    """TLS for clients; none: plain HTTP."""
    admin: Admin = Admin()
    """Where the operator looks: health, readiness and metrics."""
    workers: Annotated[int, Field(ge=1, le=64)] = 1
    """Processes that serve, on one machine. More than 1 needs a Redis state."""
    state: StateUrl = MEMORY
    """Where quotas, and what is learnt about clients, are kept: ``memory://`` (one worker), or
    Redis: ``redis://host:6379/0``, ``rediss://…`` (TLS), ``unix:///path``,
    ``redis+sentinel://host:26379,…/SERVICE``, ``redis+cluster://host:6379,…``."""
    sharing: Sharing = Sharing()
    """How a Redis state is shared."""
    client: Client = Client()
    """How clients are told apart."""
    audit: Audit | None = None
    """The audit log; none: nothing is recorded."""
    log: Log = Log()
    """The process's own log."""
    http: Http = Http()
    """Limits of the wire."""
    grpc: Grpc | None = None
    """The listener for clients that speak gRPC; none: there is none. Needs the extra ``grpc``."""
    ext_proc: ExtProc | None = None
    """The listener of ``bartizan ext-proc``, for Envoy's external processing. Needs the extra
    ``ext-proc``."""
    trusted_keys: tuple[FilePath, ...] = ()
    """Ed25519 public keys (PEM), one of which must have signed every bundle. None: signatures are
    not checked."""
    endpoints: Annotated[tuple[Endpoint, ...], Field(min_length=1, max_length=1000)]
    """The models behind the firewall."""

    @model_validator(mode="after")
    def _check(self) -> Settings:
        faults = Faults()
        self._check_listeners(faults)
        self._check_endpoints(faults)
        self._check_grpc(faults)
        self._check_ext_proc(faults)
        if self.audit is not None and self.audit.explain and not self.admin.explanations:
            faults.add("admin.explanations is 0: nothing is kept to explain", "audit", "explain")
        check_state(self.state, self.sharing, self.workers, faults)
        if self.state != MEMORY and self.client.secret is None:
            faults.add(
                "a shared state needs client.secret: without it, each worker would know a client "
                "by another pseudonym",
                "client",
            )
        faults.report()
        return self

    def _check_listeners(self, faults: Faults) -> None:
        if self.ext_proc is None and _collide(self.listen, self.admin.listen):
            faults.add(f"clients and admin cannot share {self.listen}", "admin", "listen")
        if self.tls is not None and self.listen.path:
            faults.add("TLS is not offered on a unix socket", "tls")
        if self.ext_proc is None:
            self._check_clear(faults, self.listen, self.tls, "tls")
        if self.grpc is None:
            return
        if any(_collide(self.grpc.listen, taken) for taken in (self.listen, self.admin.listen)):
            faults.add(f"{self.grpc.listen} is taken by another listener", "grpc", "listen")
        if self.grpc.tls is not None and self.grpc.listen.path:
            faults.add("TLS is not offered on a unix socket", "grpc", "tls")
        if self.workers > 1 and not self.grpc.listen.port:
            faults.add("several workers share a port that is stated", "grpc", "listen")
        self._check_clear(faults, self.grpc.listen, self.grpc.tls, "grpc.tls")

    def _check_clear(self, faults: Faults, listen: Address, tls: Tls | None, key: str) -> None:
        if self.client.api_keys is not None and not listen.is_local and tls is None:
            faults.add(
                f"API keys would cross the network in clear: {listen} needs {key}",
                "client",
                "api_keys",
            )

    def _check_grpc(self, faults: Faults) -> None:
        asked = [index for index, one in enumerate(self.endpoints) if one.grpc is not None]
        if self.grpc is not None and not asked:
            faults.add("no endpoint has a grpc section: it would do nothing", "grpc")
        if self.grpc is None:
            for index in asked:
                faults.add(
                    "no client could ask by gRPC: add a grpc section beside endpoints",
                    *("endpoints", index, "grpc"),
                )

    def _check_ext_proc(self, faults: Faults) -> None:
        given = self.ext_proc
        if given is None:
            return
        for key in ("listen", "tls", "grpc"):
            if key in self.model_fields_set and getattr(self, key) is not None:
                faults.add("clients connect to Envoy: beside ext_proc it would do nothing", key)
        if _collide(given.listen, self.admin.listen):
            faults.add(f"{given.listen} is taken by another listener", "ext_proc", "listen")
        if given.tls is not None and given.listen.path:
            faults.add("TLS is not offered on a unix socket", "ext_proc", "tls")
        if self.workers > 1 and not given.listen.port:
            faults.add("several workers share a port that is stated", "ext_proc", "listen")
        self._check_clear(faults, given.listen, given.tls, "ext_proc.tls")
        for index, endpoint in enumerate(self.endpoints):
            for section, size in (
                ("limits", endpoint.limits.body_bytes),
                ("answer", endpoint.answer.body_bytes),
            ):
                if size > given.message_bytes - MESSAGE_SLACK:
                    faults.add(
                        f"a body of {size} bytes does not fit in a message of ext_proc: raise "
                        f"ext_proc.message_bytes to {size + MESSAGE_SLACK}",
                        *("endpoints", index, section, "body_bytes"),
                    )

    def _check_endpoints(self, faults: Faults) -> None:
        names: set[str] = set()
        paths: dict[str, str] = {}
        for index, endpoint in enumerate(self.endpoints):
            if endpoint.name in names:
                faults.add(f"the name {endpoint.name!r} is taken", "endpoints", index, "name")
            names.add(endpoint.name)
            for path in endpoint.matches:
                for taken, owner in paths.items():
                    if f"{path}/".startswith(f"{taken}/") or f"{taken}/".startswith(f"{path}/"):
                        faults.add(
                            f"{path} overlaps {taken} of endpoint {owner!r}",
                            *("endpoints", index, "match"),
                        )
            paths |= dict.fromkeys(endpoint.matches, endpoint.name)
            if self.client.secret is None:
                self._check_exclusions(faults, index, endpoint)

    @staticmethod
    def _check_exclusions(faults: Faults, index: int, endpoint: Endpoint) -> None:
        for rule, switch in endpoint.rules.items():
            for entry, exclusion in enumerate(switch.exclude):
                if ":" not in exclusion.client:
                    faults.add(
                        "a pseudonym needs client.secret: without it, pseudonyms change at "
                        "every start",
                        *("endpoints", index, "rules", rule, "exclude", entry, "client"),
                    )


def _collide(one: Address, other: Address) -> bool:
    """Whether two listeners cannot both have their address."""
    if one.path or other.path or not one.port:
        return bool(one.path) and one == other
    return one.port == other.port and (
        one.host == other.host or not _EVERYWHERE.isdisjoint((one.host, other.host))
    )
