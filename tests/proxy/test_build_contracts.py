"""What is known of a contract before the model server is asked."""

from types import SimpleNamespace

import pytest

from proxy.build_contracts import known_contract
from proxy.protocols.columns import columns_contract, numbers_contract
from proxy.protocols.contract import Contract, ContractError
from proxy.settings.models import Settings


def endpoint(**more):
    given = {"name": "m", "match": "/invocations", "upstream": "http://127.0.0.1:1"}
    given |= {"protocol": "invocations", **more}
    return Settings.model_validate({"endpoints": [given]}).endpoints[0]


def bundle(*names, features=None):
    manifest = SimpleNamespace(feature_names=list(names) or None)
    return SimpleNamespace(manifest=manifest, features=features or len(names))


def served(given, contract):
    """The generation that serves the endpoint under a contract that it learnt."""
    return SimpleNamespace(
        settings=SimpleNamespace(endpoints=[given]),
        pipeline=SimpleNamespace(endpoints=[SimpleNamespace(contract=contract)]),
    )


def test_columns_that_are_declared_must_be_the_bundles():
    columns = [
        {"name": "a"},
        {"name": "c", "type": "category", "values": ["x", "y"], "encoding": "one_hot"},
    ]
    given = endpoint(contract={"columns": columns})
    assert known_contract(given, None, None) == columns_contract(columns)
    assert known_contract(given, bundle("a", "c=x", "c=y"), None) == columns_contract(columns)
    assert known_contract(given, bundle(features=3), None) == columns_contract(columns)
    with pytest.raises(ContractError, match="feature 1 of the columns is 'c=x'"):
        known_contract(given, bundle("a", "c=y", "c=x"), None)
    with pytest.raises(ContractError, match="3 features per row, not 2"):
        known_contract(given, bundle(features=2), None)


def test_a_reload_keeps_the_names_of_the_same_bundle_alone():
    given = endpoint()
    learnt = numbers_contract("ab")
    before = served(given, learnt)
    assert known_contract(given, None, None) is None
    assert known_contract(given, bundle("a", "b"), before) == learnt
    assert known_contract(given, bundle("b", "a"), before) is None
    assert known_contract(given, bundle(features=2), before) is None
    assert known_contract(given, None, before) is None
    before = served(given, Contract())
    assert known_contract(given, bundle(features=2), before) == Contract(width=2)
    tensors = [{"name": name, "datatype": "FP32", "shape": [-1]} for name in "ba"]
    learnt = Contract.from_config(tensors)
    before = served(given, learnt)
    assert known_contract(given, bundle("b", "a"), before) == learnt
    assert known_contract(given, bundle("a", "b"), before) is None
    assert known_contract(given, bundle(features=2), before) == learnt


def test_an_image_has_the_features_that_the_bundle_scores():
    image = {"width": 9, "height": 8, "channels": 1}
    more = {"match": "/predictions/m", "protocol": {"name": "torchserve", "image": image}}
    assert known_contract(endpoint(**more), bundle(features=72), None) is None
    assert known_contract(endpoint(**more), None, None) is None
    with pytest.raises(ContractError, match="scores 64 features, not 9 x 8 x 1"):
        known_contract(endpoint(**more), bundle(features=64), None)
