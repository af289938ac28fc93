"""Whether each model server answers, as whom, and as what."""

from __future__ import annotations

import asyncio
import ssl
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Final

from detectors.bundle import Bundle
from proxy.build_bindings import bindings
from proxy.build_contracts import declared_contract
from proxy.decision import ALLOWED, Permit, UpstreamRequest
from proxy.doctor.finding import Finding, ok, untried, warning, wrong
from proxy.endpoint import Binding
from proxy.http.tls import client_context
from proxy.protocols.contract import Contract, ContractError
from proxy.rules import Refusal
from proxy.settings.contract import LearntContract
from proxy.settings.endpoint import Endpoint
from proxy.settings.fields import Origin
from proxy.settings.models import Settings

_REACHED: Final = "upstream.reached"
_TLS: Final = "upstream.tls"
_SPOKEN: Final = "upstream.protocol"
_CONTRACT: Final = "upstream.contract"
_DATE: Final = "clock.upstream"
_METADATA_BYTES: Final = 2**20
_SLOW_SECONDS: Final = 1.0
_RENEW_DAYS: Final = 14
_APART_SECONDS: Final = 5.0
"""A ``Date`` counts whole seconds, and the answer took some time."""


@dataclass(frozen=True, slots=True)
class _Server:
    """One server to be asked.

    Attributes:
        name: endpoint and origin, for people.
        endpoint: of which it is the only server.
        declared: the configured contract, or None.
        rpc: whether it is asked by gRPC.
    """

    name: str
    endpoint: Endpoint
    declared: Contract | None
    bundle: Bundle | None
    rpc: bool


@dataclass(frozen=True, slots=True)
class _Asked:
    """What a model server said of itself."""

    status: int
    body: bytes
    seconds: float
    date: bytes | None


async def upstreams(
    settings: Settings, endpoint: Endpoint, bundle: Bundle | None, seconds: float
) -> list[Finding]:
    """Every server of an endpoint, each asked alone and by the endpoint's own protocol."""
    findings: list[Finding] = []
    for origin in endpoint.upstream:
        alone = endpoint.model_copy(update={"upstream": (origin,), "grpc": None})
        findings += await _one(settings, alone, origin, bundle, seconds)
    if endpoint.grpc is not None:
        for origin in endpoint.grpc.upstream:
            grpc = endpoint.grpc.model_copy(update={"upstream": (origin,)})
            alone = endpoint.model_copy(update={"upstream": (), "grpc": grpc})
            if endpoint.grpc.model is None and endpoint.grpc_match is None:
                continue
            findings += await _one(settings, alone, origin, bundle, seconds)
    return findings


async def _one(
    settings: Settings, endpoint: Endpoint, origin: Origin, bundle: Bundle | None, seconds: float
) -> list[Finding]:
    """One server, which is the only one of ``endpoint``."""
    name = f"{endpoint.name} {origin}"
    findings: list[Finding] = []
    if origin.tls:
        finding, reached = await _certificate(name, endpoint, origin, seconds)
        findings.append(finding)
        if not reached:
            return findings
    declared = declared_contract(endpoint, bundle)
    made = bindings(settings, endpoint, declared, bundle, clock=time.perf_counter)
    try:
        asked = [one for one in made if one.codec.probe is not None]
        if not asked:
            findings.append(untried(_SPOKEN, f"{name}: {made[0].codec.name} has nothing to ask"))
            return findings
        server = _Server(name, endpoint, declared, bundle, not endpoint.upstream)
        findings += await _ask_in_turn(server, asked, seconds)
    finally:
        for pool in {one.pool for one in made}:
            await pool.close()
    return findings


async def _ask_in_turn(server: _Server, asked: list[Binding], seconds: float) -> list[Finding]:
    """Asks by each protocol until one is answered, as the gateway does."""
    name = server.name
    refused: list[str] = []
    for binding in asked:
        try:
            async with asyncio.timeout(seconds):
                answer = await _ask(binding)
        except TimeoutError:
            why = f"no answer within {seconds:g} s"
            return [_gone(name, why)]
        except Refusal as refusal:
            return [_gone(name, refusal.detail or refusal.rule.message)]
        if answer.status == 200:
            return [
                _timed(name, answer, server.endpoint),
                _contract(server, binding, answer),
                *([] if server.rpc else [_date(name, answer)]),
            ]
        refused.append(f"{binding.codec.name}: {answer.status}")
    ready = ok(_REACHED, f"{name}: answers")
    said = wrong(
        _SPOKEN,
        f"{name}: the model's metadata was answered with {', '.join(refused)}",
        "see that the model is loaded there, and that protocol, match and upstream_path are right",
    )
    return [ready, said]


async def _ask(binding: Binding) -> _Asked:
    route = binding.codec.probe
    assert route is not None  # it was chosen for it
    request = UpstreamRequest(route.method.encode(), route.target, b"accept: application/json\r\n")
    begun = time.perf_counter()
    response = await binding.pool.send(Permit(ALLOWED, request))
    body = await response.body(_METADATA_BYTES)
    return _Asked(response.status, body, time.perf_counter() - begun, response.get(b"date"))


def _gone(name: str, why: str) -> Finding:
    return wrong(
        _REACHED,
        f"{name}: {why}",
        "start the model server, or correct endpoints.upstream",
        unreachable=True,
    )


def _timed(name: str, answer: _Asked, endpoint: Endpoint) -> Finding:
    words = f"{name}: its metadata came in {1000 * answer.seconds:.0f} ms"
    if answer.seconds > min(_SLOW_SECONDS, endpoint.timeouts.response_seconds):
        return warning(
            _REACHED, words, "see why it is slow before it serves: readiness waits for it"
        )
    return ok(_REACHED, words)


def _contract(server: _Server, binding: Binding, answer: _Asked) -> Finding:
    """What the server says that the model takes, against the bundle and the configuration."""
    name, bundle, declared = server.name, server.bundle, server.declared
    try:
        learnt = binding.codec.learn(answer.body, bundle.features if bundle else None)
    except ContractError as error:
        advice = "fit the bundle for this model, or correct endpoints.upstream and the contract"
        return wrong(_CONTRACT, f"{name}: {error}", advice)
    if learnt.open:
        words = f"{name}: the server does not say what the model takes"
        if isinstance(server.endpoint.contract, LearntContract):
            return warning(_CONTRACT, words, "state endpoints.contract, so that requests are held")
        return ok(_CONTRACT, f"{words}; the configuration does")
    told = {spec.name: (spec.datatype, spec.shape) for spec in learnt.inputs}
    for spec in declared.inputs if declared is not None and not declared.columns else ():
        if told.get(spec.name, (spec.datatype, spec.shape)) != (spec.datatype, spec.shape):
            datatype, shape = told[spec.name]
            return warning(
                _CONTRACT,
                f"{name}: {spec.name} is {datatype} {list(shape)} there, and {spec.datatype} "
                f"{list(spec.shape)} in the configuration",
                "correct endpoints.contract, unless it is narrower on purpose",
            )
    inputs = ", ".join(f"{spec.name} {spec.datatype} {list(spec.shape)}" for spec in learnt.inputs)
    agrees = f", as the bundle's {bundle.features} features" if bundle else ""
    return ok(_CONTRACT, f"{name}: {inputs}{agrees}")


def _date(name: str, answer: _Asked) -> Finding:
    if answer.date is None:
        return untried(_DATE, f"{name}: sends no Date")
    try:
        apart = abs(parsedate_to_datetime(answer.date.decode("latin-1")).timestamp() - time.time())
    except (ValueError, OverflowError):
        return untried(_DATE, f"{name}: its Date cannot be read")
    if apart > _APART_SECONDS:
        return warning(
            _DATE,
            f"{name}: its clock and ours are {apart:.0f} s apart",
            "synchronise both by NTP: logs cannot be held against each other",
        )
    return ok(_DATE, f"{name}: its clock and ours agree")


async def _certificate(
    name: str, endpoint: Endpoint, origin: Origin, seconds: float
) -> tuple[Finding, bool]:
    """The server's certificate as the gateway verifies it, and whether the handshake succeeded."""
    given = (
        endpoint.upstream_tls if endpoint.upstream else endpoint.grpc and endpoint.grpc.upstream_tls
    )
    files = (given.ca, given.certificate, given.key) if given else (None,)
    try:
        context = client_context(*(None if path is None else str(path) for path in files))
    except OSError as error:
        words = f"{name}: our own files cannot be used: {error.strerror or error}"
        return wrong(_TLS, words, "correct upstream_tls"), False
    server_name = (given.server_name if given else None) or origin.address.host
    if not endpoint.upstream:
        context.set_alpn_protocols(["h2"])
    try:
        async with asyncio.timeout(seconds):
            _, writer = await asyncio.open_connection(
                origin.address.host, origin.address.port, ssl=context, server_hostname=server_name
            )
    except ssl.SSLCertVerificationError as error:
        advice = "renew the server's certificate, or correct upstream_tls.ca and .server_name"
        return wrong(_TLS, f"{name}: {error.verify_message.lower()}", advice), False
    except ssl.SSLError as error:
        advice = "see that it speaks TLS 1.2 or newer, and whether it wants a client certificate"
        return wrong(_TLS, f"{name}: {(error.reason or str(error)).lower()}", advice), False
    except TimeoutError:
        return _gone(name, f"no answer within {seconds:g} s"), False
    except OSError as error:
        return _gone(name, (error.strerror or str(error)).lower()), False
    certificate = writer.get_extra_info("ssl_object").getpeercert()
    writer.transport.abort()
    left = (ssl.cert_time_to_seconds(certificate["notAfter"]) - time.time()) / 86_400
    words = f"{name}: its certificate is good for another {left:.0f} days"
    if left < _RENEW_DAYS:
        return warning(_TLS, words, "renew it"), True
    return ok(_TLS, words), True
