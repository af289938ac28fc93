"""Settings to contracts: what a model takes, as far as it is known before it is asked."""

from __future__ import annotations

from detectors.bundle import Bundle
from proxy.generation import Generation
from proxy.protocols.columns import feature_names as columns_of
from proxy.protocols.contract import Contract, ContractError
from proxy.settings.contract import LearntContract
from proxy.settings.endpoint import Endpoint
from proxy.settings.protocols import TorchServe


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
    if learnt is not None and _of_another(learnt, feature_names(bundle)):
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
        _check_image(endpoint, bundle)
        return None
    return given.declared(width, feature_names(bundle))


def _check_image(endpoint: Endpoint, bundle: Bundle | None) -> None:
    """Holds the images that a model takes against the rows that the bundle scores.

    Raises:
        ContractError: if they have other features.
    """
    if bundle is None or not isinstance(endpoint.protocol, TorchServe):
        return
    image = endpoint.protocol.image
    if image is None or image.width * image.height * image.channels == bundle.features:
        return
    size = f"{image.width} x {image.height} x {image.channels}"
    raise ContractError(
        f"protocol.image: {endpoint.bundle} scores {bundle.features} features, not {size}"
    )


def feature_names(bundle: Bundle | None) -> tuple[str, ...] | None:
    """The names of what is scored of a row, in order, where the bundle knows them."""
    names = bundle.manifest.feature_names if bundle else None
    return tuple(names) if names else None


def _of_another(learnt: Contract, names: tuple[str, ...] | None) -> bool:
    """Whether a learnt contract has the columns, or the order, of other features."""
    if learnt.columns:
        return columns_of(learnt) != names
    own = tuple(spec.name for spec in learnt.inputs)
    return names is not None and own != names and sorted(own) == sorted(names)


def _lesson(endpoint: Endpoint) -> str:
    """What a learnt contract depends on."""
    return endpoint.model_dump_json(
        include={"name", "match", "upstream", "upstream_path", "protocol", "grpc", "contract"}
    )
