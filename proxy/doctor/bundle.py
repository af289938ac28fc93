"""How old the detectors are, whose they are, and what they promise."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from detectors.bundle import Bundle
from proxy.doctor.finding import Finding, ok, untried, warning, wrong
from proxy.settings.endpoint import Endpoint

_AGE: Final = "bundle.age"
_SIGNATURE: Final = "bundle.signature"
_BUDGET: Final = "bundle.budget"
_HOUR: Final = 3600.0
_DAY: Final = 24 * _HOUR


def bundle_findings(endpoint: Endpoint, bundle: Bundle | None, now: float) -> list[Finding]:
    """What is found of an endpoint's bundle.

    Args:
        bundle: loaded, and so sound; None if the endpoint has none.
        now: seconds since the epoch.
    """
    if bundle is None:
        return [
            warning(
                _AGE,
                f"{endpoint.name}: no bundle: contract and limits hold, and nothing is scored",
                "bartizan record, then bartizan fit: docs/fitting.md",
            )
        ]
    return [
        age(endpoint, bundle.manifest.created, now),
        _signature(endpoint, bundle),
        _budget(endpoint, bundle),
    ]


def age(endpoint: Endpoint, created: str, now: float) -> Finding:
    """How long ago a bundle was fitted, which its manifest says in RFC 3339."""
    name, most = endpoint.name, endpoint.bundle_max_age_days
    try:
        moment = datetime.fromisoformat(created)
    except ValueError:
        return untried(_AGE, f"{name}: its manifest does not say when it was fitted")
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    seconds = now - moment.timestamp()
    if seconds < -_HOUR:
        advice = "set the clock right: this host's, or that on which the bundle was fitted"
        return wrong(_AGE, f"{name}: the bundle is of {created}, which is yet to come", advice)
    words = f"{name}: the bundle is {max(0, seconds) / _DAY:.0f} days old"
    if seconds > most * _DAY:
        words += f", more than bundle_max_age_days ({most:g})"
        return warning(_AGE, words, "fit it anew: what is honest drifts")
    return ok(_AGE, words)


def _signature(endpoint: Endpoint, bundle: Bundle) -> Finding:
    name = endpoint.name
    if bundle.signature == "verified":
        return ok(_SIGNATURE, f"{name}: signed by {bundle.signer}")
    if bundle.signature == "unverified":
        words = f"{name}: signed, and no key to verify it with: any bundle would be taken"
        return warning(_SIGNATURE, words, "name the public key in trusted_keys")
    words = f"{name}: not signed: whoever can write the file chooses what is refused"
    return warning(_SIGNATURE, words, "fit with --sign, and name the public key in trusted_keys")


def _budget(endpoint: Endpoint, bundle: Bundle) -> Finding:
    calibration = (bundle.agreement or bundle.scorer).calibration
    words = (
        f"{endpoint.name}: schema {bundle.manifest.schema_version}, {bundle.features} features; at "
        f"most {calibration.alpha:g} of honest rows flagged, with confidence "
        f"{1 - calibration.delta:g}, supported by {calibration.scores.size} rows"
    )
    return ok(_BUDGET, words)
