"""Settings to objects: the only file that knows everything."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from importlib import import_module
from ssl import SSLContext
from typing import Any, Final

import numpy as np

from detectors.bundle import Bundle, BundleError, load_bundle
from detectors.calibration import BudgetError, Calibration
from detectors.patterns.exchange import Layout
from detectors.patterns.tracker import PatternTracker
from proxy.build_answers import Answering, Random, answering
from proxy.build_bindings import bindings
from proxy.build_contracts import declared_contract, known_contract
from proxy.client_watch import ClientWatch
from proxy.contract_watch import ContractWatch
from proxy.decision import Action, Mode
from proxy.endpoint import Binding, Endpoint
from proxy.explanations import Explanations
from proxy.generation import Generation
from proxy.http.address import Address
from proxy.http.application import Application
from proxy.http.limits import ListenerLimits
from proxy.http.tls import server_context
from proxy.identity import Identifier
from proxy.pipeline import Pipeline
from proxy.policy import Exclusion, Policy, RuleSetting
from proxy.protocols.contract import ContractError
from proxy.recording import Recording, text_of
from proxy.settings.contract import LearntContract
from proxy.settings.endpoint import Endpoint as EndpointSettings
from proxy.settings.limits import Quota as QuotaSettings
from proxy.settings.load import digest
from proxy.settings.models import Http, Settings
from proxy.settings.server_tls import Tls
from proxy.state.base import Quota, State
from proxy.state.limits import Limiter
from proxy.telemetry.audit import Audit
from proxy.telemetry.metrics import Metrics, Watched
from proxy.transport import TakesCalls

FORWARDED: Final = (
    "accept",
    "accept-encoding",
    "authorization",
    "user-agent",
)
"""Request headers that are passed on as the client sent them. Of the others, only a valid trace
context goes on."""

_DAY: Final = 86_400.0  # seconds


class BuildError(Exception):
    """A configuration that is sound in itself, but cannot be served: the message says why."""


@dataclass(frozen=True, slots=True)
class Shared:
    """What outlives a reload.

    Attributes:
        pseudonym_key: keys the clients' pseudonyms where the configuration has no secret.
        explanations: what can be explained of the last exchanges.
        recording: writes down what it takes to replay; None: nothing is.
        random: chooses of which rows a second opinion is asked; None: each endpoint has its own.
    """

    clock: Callable[[], float]
    wall: Callable[[], float]
    executor: Executor
    request_id: Callable[[], str]
    metrics: Metrics
    state: State
    audit: Audit
    pseudonym_key: bytes
    explanations: Explanations
    recording: Recording | None = None
    random: Random | None = None


def load_bundles(settings: Settings) -> dict[str, Bundle]:
    """The endpoints' bundles by endpoint, verified and checked in full.

    Raises:
        BuildError: if one cannot be used.
    """
    return {
        endpoint.name: load_endpoint_bundle(settings, endpoint)
        for endpoint in settings.endpoints
        if endpoint.bundle is not None
    }


def build(
    settings: Settings,
    shared: Shared,
    bundles: Mapping[str, Bundle],
    previous: Generation | None = None,
) -> Generation:
    """Makes everything that serves this configuration. Opens no connection.

    Args:
        bundles: those of :func:`load_bundles`.
        previous: the generation that this one replaces: a pool whose settings stay goes on.

    Raises:
        BuildError: if a certificate, a budget or a contract cannot be used. Nothing has changed
            then.
        SettingsError: if the file of API keys cannot be used.
    """
    identify = Identifier(settings.client, random=lambda n: shared.pseudonym_key[:n])
    spoken = {
        endpoint.name: _bindings(settings, endpoint, bundles.get(endpoint.name), shared, previous)
        for endpoint in settings.endpoints
    }
    clients = {
        endpoint.name: _clients(settings, endpoint, bundles.get(endpoint.name), shared, previous)
        for endpoint in settings.endpoints
    }
    answers = {
        endpoint.name: _answering(settings, endpoint, bundles.get(endpoint.name), shared, previous)
        for endpoint in settings.endpoints
    }

    # From here on nothing fails: what outlives a reload may be changed.
    shared.metrics.bind(
        _watched(endpoint, bundles.get(endpoint.name)) for endpoint in settings.endpoints
    )
    endpoints = [
        Endpoint(
            name=endpoint.name,
            policy=_policy(endpoint, identify),
            bindings=spoken[endpoint.name],
            limiter=_limiter(endpoint, shared.state),
            clients=clients[endpoint.name],
            metrics=shared.metrics.endpoint(endpoint.name),
            body_limit=endpoint.limits.body_bytes,
            expanded_ratio=int(endpoint.limits.expanded_ratio),
            answer_limit=endpoint.answer.body_bytes,
            bundle=bundles.get(endpoint.name),
            judge=answers[endpoint.name].judge,
            opinions=answers[endpoint.name].opinions,
            style=answers[endpoint.name].style,
            always_shaped=answers[endpoint.name].always_shaped,
            capture=answers[endpoint.name].capture,
        )
        for endpoint in settings.endpoints
    ]
    configuration = digest(settings)
    watched = previous.watched() if previous is not None else {}
    return Generation(
        settings,
        configuration,
        Pipeline(
            endpoints,
            forward=FORWARDED,
            identify=identify,
            request_id=shared.request_id,
            metrics=shared.metrics,
            audit=shared.audit,
            clock=shared.clock,
            wall=shared.wall,
            executor=shared.executor,
            configuration=configuration,
            explanations=shared.explanations,
            digests=settings.audit is not None and settings.audit.payload_digest,
            values=settings.audit is not None and settings.audit.values,
            replays=shared.recording is not None,
        ),
        tuple(
            ContractWatch(
                built,
                learn=isinstance(given.contract, LearntContract),
                refresh_seconds=given.contract.refresh_seconds
                if isinstance(given.contract, LearntContract)
                else LearntContract().refresh_seconds,
                sleep=asyncio.sleep,
                learnt=_learnt(shared.recording, built.name),
                before=watched.get(built.name),
            )
            for built, given in zip(endpoints, settings.endpoints, strict=True)
        ),
        bundles,
        shared.clock,
    )


def listener_limits(http: Http) -> ListenerLimits:
    """The wire's limits, as configured."""
    return ListenerLimits(
        head_bytes=http.head_bytes,
        header_count=http.header_count,
        head_seconds=http.head_seconds,
        body_seconds=http.body_seconds,
        body_rate=http.body_rate,
        idle_seconds=http.idle_seconds,
        connections=http.connections,
    )


def listener_address(settings: Settings) -> Address:
    """Where to listen, with the TLS context if one is configured.

    Raises:
        BuildError: if the certificate or its key cannot be used.
    """
    listen = settings.listen
    return Address(listen.host, listen.port, listen.path, _server_context(settings.tls, "tls"))


def check_grpc_certificate(settings: Settings) -> None:
    """Reads what the listeners of gRPC are to present, for nothing.

    Raises:
        BuildError: if a certificate or its key cannot be used.
    """
    if settings.grpc is not None:
        _server_context(settings.grpc.tls, "grpc.tls")
    if settings.ext_proc is not None:
        _server_context(settings.ext_proc.tls, "ext_proc.tls")


def grpc_listener(
    settings: Settings,
    application: Application,
    *,
    clock: Callable[[], float],
    reuse_port: bool,
) -> TakesCalls:
    """The listener for clients that speak gRPC, as configured.

    Args:
        clock: monotonic seconds.
        reuse_port: whether other processes listen on the same port.

    Raises:
        BuildError: if gRPC is not installed, or a certificate cannot be used.
    """
    try:
        # Imported where it is asked for: gRPC is an extra.
        made: TakesCalls = import_module("proxy.build_grpc").listener(
            settings, application, clock=clock, reuse_port=reuse_port
        )
    except (ImportError, OSError, ValueError) as error:
        raise BuildError(f"grpc: {error}") from error
    return made


def ext_proc_listener(
    settings: Settings,
    application: Application,
    *,
    clock: Callable[[], float],
    reuse_port: bool,
) -> TakesCalls:
    """The listener for Envoy's external processing, as configured.

    Args:
        clock: monotonic seconds.
        reuse_port: whether other processes listen on the same port.

    Raises:
        BuildError: if gRPC or Envoy's messages are not installed, or a certificate cannot be used.
    """
    try:
        # Imported where it is asked for: they are an extra.
        made: TakesCalls = import_module("proxy.build_ext_proc").listener(
            settings, application, clock=clock, reuse_port=reuse_port
        )
    except ImportError as error:
        raise BuildError(
            f"ext_proc: {error}: it needs the extra ext-proc, "
            "pip install '.[ext-proc]' in a checkout"
        ) from error
    except (OSError, ValueError) as error:
        raise BuildError(f"ext_proc: {error}") from error
    return made


def _server_context(tls: Tls | None, place: str) -> SSLContext | None:
    if tls is None:
        return None
    try:
        return server_context(*map(str, filter(None, (tls.certificate, tls.key, tls.client_ca))))
    except OSError as error:
        raise BuildError(f"{place}: {error}") from error


def load_endpoint_bundle(settings: Settings, endpoint: EndpointSettings) -> Bundle:
    """One endpoint's bundle, its scorer under the endpoint's own budget where it states one.

    Raises:
        BuildError: if it cannot be used, cannot keep the budget, or does not fit the contract.
    """
    assert endpoint.bundle is not None  # the caller looked
    try:
        bundle = load_bundle(
            endpoint.bundle,
            trusted_keys=[path.read_bytes() for path in settings.trusted_keys],
        )
        calibration = (bundle.agreement or bundle.scorer).calibration
        alpha = endpoint.false_positive_budget or calibration.alpha
        delta = 1 - endpoint.confidence if endpoint.confidence else calibration.delta
        if (alpha, delta) != (calibration.alpha, calibration.delta):
            bundle = bundle.with_budget(alpha, delta)
    except (BundleError, BudgetError, OSError) as error:
        raise BuildError(f"endpoint {endpoint.name}: {endpoint.bundle}: {error}") from error
    try:
        declared_contract(endpoint, bundle)
    except ContractError as error:
        raise BuildError(f"endpoint {endpoint.name}: {error}") from error
    return bundle


def _bindings(
    settings: Settings,
    endpoint: EndpointSettings,
    bundle: Bundle | None,
    shared: Shared,
    previous: Generation | None,
) -> tuple[Binding, ...]:
    """The endpoint's protocols, bound to what is known of the contract.

    Raises:
        BuildError: if the model cannot be asked so.
    """
    try:
        contract = known_contract(endpoint, bundle, previous)
        return bindings(settings, endpoint, contract, bundle, clock=shared.clock, previous=previous)
    except ValueError as error:
        raise BuildError(f"endpoint {endpoint.name}: {error}") from error


def _policy(endpoint: EndpointSettings, identify: Identifier) -> Policy:
    return Policy(
        mode=endpoint.mode,
        failure_mode=endpoint.failure_mode,
        on_outlier=Action(endpoint.on_outlier),
        on_disagreement=Action(endpoint.on_disagreement),
        ladder=tuple(map(Action, endpoint.on_pattern)),
        lineages_climb=endpoint.patterns.lineages == "climb",
        block_fraction=endpoint.block_fraction,
        settings={
            rule: RuleSetting(
                off=switch.mode == "off",
                mode=Mode(switch.mode) if switch.mode in ("enforce", "monitor") else None,
                exclusions=tuple(
                    Exclusion(identify.pseudonym(entry.client), entry.until.timestamp())
                    for entry in switch.exclude
                ),
            )
            for rule, switch in endpoint.rules.items()
        },
    )


def _clients(
    settings: Settings,
    endpoint: EndpointSettings,
    bundle: Bundle | None,
    shared: Shared,
    previous: Generation | None,
) -> ClientWatch:
    """What watches the endpoint's clients: the one that did so far if it would do the same.

    Raises:
        BuildError: if the patterns are configured but are not in the bundle, or cannot keep the
            budget.
    """
    served = _served(previous, endpoint.name)
    old = served and served[1].clients
    if served is not None and previous is not None and old is not None:
        before = _habit(previous.settings, served[0], previous.bundles.get(endpoint.name))
        if _habit(settings, endpoint, bundle) == before:
            old.throttle(endpoint.patterns.throttle_seconds)
            return old
    model = bundle.patterns if bundle else None
    given = endpoint.model_fields_set & {"client_alarm_budget", "on_pattern", "patterns"}
    if bundle is not None and model is None and given:
        raise BuildError(
            f"endpoint {endpoint.name}: {endpoint.bundle} was fitted without patterns: "
            f"{', '.join(sorted(given))} would do nothing"
        )
    sharing = settings.sharing
    name = endpoint.name
    tracker, layout = None, Layout()
    if model is not None and bundle is not None:
        supported = bundle.manifest.patterns.budget if bundle.manifest.patterns else 0.0
        budget = endpoint.client_alarm_budget or supported
        if budget < supported:
            raise BuildError(
                f"endpoint {endpoint.name}: {endpoint.bundle} was fitted for a client alarm budget "
                f"of {supported:g}: fit it for {budget:g}, with more rows if that takes them"
            )
        # Sketches of another model mean something else: what was learnt with it does not count.
        name = f"{endpoint.name}/{bundle.digest[:16]}"
        tracker = PatternTracker(
            model,
            clients=endpoint.patterns.clients,
            budget=budget,
            retention=sharing.retention_seconds,
            coverage_limit=endpoint.patterns.coverage_limit,
            profile=endpoint.patterns.profile,
        )
        layout = replace(tracker.layout, retention=sharing.retention_seconds)
    recording = shared.recording
    watch = ClientWatch(
        tracker,
        shared.state.sketches(name, layout),
        bans=shared.state.sketches(endpoint.name),
        throttle_seconds=endpoint.patterns.throttle_seconds,
        sync_seconds=sharing.sync_seconds,
        clock=shared.clock,
        sleep=asyncio.sleep,
        happened=partial(_happened, recording, endpoint.name) if recording is not None else None,
        alone=recording is not None and recording.alone,
    )
    if old is not None:
        watch.keep_bans_of(old)
    return watch


def _happened(recording: Recording, endpoint: str, what: str, /, **fields: Any) -> None:
    recording.happened(what, endpoint, **fields)


def _learnt(recording: Recording | None, endpoint: str) -> Callable[[str, bytes], None] | None:
    if recording is None:
        return None

    def learnt(match: str, body: bytes) -> None:
        recording.happened("metadata", endpoint, match=match, **text_of(body))

    return learnt


def _answering(
    settings: Settings,
    endpoint: EndpointSettings,
    bundle: Bundle | None,
    shared: Shared,
    previous: Generation | None,
) -> Answering:
    """What is done with the endpoint's answers.

    Raises:
        BuildError: if it cannot be done with this bundle.
    """
    served = _served(previous, endpoint.name)
    try:
        return answering(
            endpoint,
            bundle,
            secret=_secret(settings, shared),
            workers=settings.workers,
            former=served and (served[0], served[1].capture),
            random=shared.random,
        )
    except ValueError as error:
        raise BuildError(f"endpoint {endpoint.name}: {error}") from error


def _secret(settings: Settings, shared: Shared) -> bytes:
    """What keys are derived from: the same in all workers and replicas that share a state."""
    given = settings.client.secret
    return given.get_secret_value().encode() if given else shared.pseudonym_key


def _habit(
    settings: Settings, endpoint: EndpointSettings, bundle: Bundle | None
) -> tuple[object, ...]:
    """What the watching of clients depends on."""
    return (
        endpoint.name,
        bundle and bundle.digest,
        endpoint.client_alarm_budget,
        endpoint.patterns.model_copy(update={"throttle_seconds": None, "lineages": None}),
        settings.sharing,
    )


def _served(generation: Generation | None, name: str) -> tuple[EndpointSettings, Endpoint] | None:
    """The endpoint of this name as it was served so far."""
    if generation is None:
        return None
    pairs = zip(generation.settings.endpoints, generation.pipeline.endpoints, strict=True)
    return next(((given, served) for given, served in pairs if given.name == name), None)


def _limiter(endpoint: EndpointSettings, state: State) -> Limiter:
    most = endpoint.rows_at_once

    def quota(limits: QuotaSettings) -> Quota:
        return Quota.of(limits.rows_per_second, limits.burst(most), limits.rows_per_day)

    return Limiter(
        state,
        endpoint.name,
        client=quota(endpoint.limits),
        subnet=quota(endpoint.subnet_limits),
        total=quota(endpoint.endpoint_limits),
    )


def _watched(endpoint: EndpointSettings, bundle: Bundle | None) -> Watched:
    if bundle is None:
        return Watched(endpoint.name, endpoint.mode)
    scorer, agreement = bundle.scorer, bundle.agreement
    asked = agreement.opinions if agreement and endpoint.second_opinion.when != "never" else ()
    return Watched(
        endpoint.name,
        endpoint.mode,
        (*scorer.names, *(agreement.names if agreement else ()), *(one.name for one in asked)),
        _least_flagged(scorer.calibration, scorer.threshold),
        (agreement or scorer).calibration.alpha,
        bundle.digest,
        _least_flagged(agreement.calibration, agreement.threshold) if agreement else None,
        _moment(bundle.manifest.created),
        endpoint.bundle_max_age_days * _DAY,
    )


def _moment(created: str) -> float:
    """RFC 3339 as seconds since the epoch; 0, which is as stale as can be, if it is none."""
    try:
        moment = datetime.fromisoformat(created)
    except ValueError:
        return 0.0
    return moment.timestamp() if moment.tzinfo else 0.0


def _least_flagged(calibration: Calibration, threshold: float) -> float:
    """The p-value at or below which a row is flagged: that of the least score above a threshold."""
    return float(calibration.p_values(np.array([np.nextafter(threshold, np.inf)]))[0])
