"""Settings to contracts: what a model takes, as far as it is known before it is asked."""

from __future__ import annotations

from detectors.bundle import Bundle
from proxy.generation import Generation
from proxy.protocols.columns import feature_names as columns_of
from proxy.protocols.contract import Contract, ContractError
from proxy.settings.contract import LearntContract
from proxy.settings.endpoint import Endpoint


def known_contract(
    endpoint: Endpoint, bundle: Bundle | None, previous: Generation | None
) -> Contract | None:
    """The contract that is declared, or was learnt before a reload; None if there is none yet.

    Raises:
        ContractError: if the model takes other rows than the bundle scores.
    """
    declared = declared_contract(endpoint, bundle)
    if declared is not None or previous is None:
        return declared
    pairs = zip(previous.settings.endpoints, previous.pipeline.endpoints, strict=True)
    lesson = _lesson(endpoint)
    learnt = next((one.contract for given, one in pairs if _lesson(given) == lesson), None)
    if learnt is not None and learnt.columns and columns_of(learnt) != feature_names(bundle):
        return None  # it was made of another bundle's names
    if learnt is None or bundle is None:
        return learnt
    try:
        return learnt.with_width(bundle.features)
    except ContractError as error:
        raise ContractError(f"{endpoint.bundle}: {error}") from None


def declared_contract(endpoint: Endpoint, bundle: Bundle | None) -> Contract | None:
    """The configured contract; None if it is to be learnt.

    Raises:
        ContractError: if the bundle scores other rows.
    """
    given = endpoint.contract
    width = bundle.features if bundle else None
    if isinstance(given, LearntContract):
        return None
    return given.declared(width, feature_names(bundle))


def feature_names(bundle: Bundle | None) -> tuple[str, ...] | None:
    """The names of what is scored of a row, in order, where the bundle knows them."""
    names = bundle.manifest.feature_names if bundle else None
    return tuple(names) if names else None


def _lesson(endpoint: Endpoint) -> str:
    """What a learnt contract depends on."""
    return endpoint.model_dump_json(
        include={"name", "match", "upstream", "upstream_path", "protocol", "grpc", "contract"}
    )
