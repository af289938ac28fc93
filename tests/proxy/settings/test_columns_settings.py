"""The columns of a contract, as the configuration states them."""

import pytest
from pydantic import ValidationError
from test_models import faults, make

from proxy.protocols.columns import columns_contract, feature_names
from proxy.settings.columns import Column, DeclaredColumns
from proxy.settings.protocols import Invocations

FLAVOUR = {"match": "/invocations", "protocol": "invocations"}


def columns(*given):
    return {**FLAVOUR, "contract": {"columns": list(given)}}


def test_columns_are_a_contract():
    given = columns(
        {"name": "a"},
        {"name": "b", "type": "category", "values": [1, 2], "encoding": "one_hot", "missing": 2},
        {"name": "c", "type": "boolean", "missing": False},
    )
    stated = make(given).endpoints[0].contract
    assert isinstance(stated, DeclaredColumns)
    assert stated.columns[0] == Column(name="a")
    assert stated.columns[2].missing is False
    contract = columns_contract([column.model_dump() for column in stated.columns])
    assert feature_names(contract) == ("a", "b=1", "b=2", "c")
    assert contract.inputs[1].missing == 2


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"name": ""}, "at least 1 character"),
        ({"name": "a", "type": "float"}, "'number'"),
        ({"name": "a", "type": "category"}, "values"),
        ({"name": "a", "type": "category", "values": ["x", 1]}, "neither all words"),
        ({"name": "a", "min": 2, "max": 1}, "the range is empty"),
        ({"name": "a", "optional": True}, "optional needs missing"),
        ({"name": "a", "missing": "x"}, "not a number"),
        ({"name": "a", "dtype": "x"}, "not permitted"),
    ],
)
def test_a_column_without_sense(given, words):
    found = faults(columns({"name": "z"}, given))
    assert any(place.startswith("endpoints.0.contract.columns.columns.1") for place in found)
    assert any(words in message for message in found.values())


def test_a_column_that_is_declared_twice_and_none_at_all():
    found = faults(columns({"name": "a"}, {"name": "a"}))
    assert (
        found["endpoints.0.contract.columns.columns.1.name"] == "the column 'a' is declared twice"
    )
    assert any("columns" in place for place in faults(columns()))


def test_parameters_are_mlflows():
    assert Invocations(parameters=("t",)).parameters == ("t",)
    with pytest.raises(ValidationError, match="only MLflow has params"):
        Invocations(server="sagemaker", parameters=("t",))
    with pytest.raises(ValidationError):
        Invocations(parameters=("a b",))
