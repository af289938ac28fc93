"""What an endpoint of OpenAI's API may be told, and what would do nothing there."""

import pytest
from pydantic import ValidationError

from proxy.settings.endpoint import Endpoint
from proxy.settings.section import placed

TEXTS = {"name": "texts", "match": "/v1", "upstream": "http://127.0.0.1:1"}


def make(protocol="openai", **keys):
    return Endpoint.model_validate({**TEXTS, "protocol": protocol, **keys})


def faults(protocol="openai", **keys):
    with pytest.raises(ValidationError) as caught:
        make(protocol, **keys)
    [error] = caught.value.errors()
    return dict(placed(error["ctx"]["faults"]))


def told(**keys):
    return {"name": "openai", **keys}


def test_a_word_is_enough():
    assert make().protocol.calls == ("chat", "completions", "embeddings")
    assert make(told()).protocol == make().protocol


def test_what_is_no_path_of_the_api():
    assert "[/BASE]/v1" in faults(match="/v1/chat")[("match",)]
    assert "[/BASE]/v1" in faults(upstream_path="/chat")[("upstream_path",)]
    make(match="/team/v1", upstream_path="/v3")


@pytest.mark.parametrize("keys", [{"shaping": {"when": "always"}}, {"bundle": __file__}])
def test_of_texts_nothing_is_scored_or_shaped(keys):
    found = faults(**keys)
    assert {place[0] for place in found} == set(keys)
    assert "[embeddings]" in found[next(iter(found))]
    make(told(calls=("embeddings",)), **keys)


def test_nothing_is_captured_and_no_tensor_declared():
    calls = told(calls=("embeddings",))
    asked = faults(calls, bundle=__file__, second_opinion={"when": "suspicious"})
    assert list(asked) == [("second_opinion",)]
    assert list(faults(calls, capture={"rows": 1000})) == [("capture",)]
    tensor = {"name": "x", "datatype": "FP32", "shape": (-1, 4)}
    assert list(faults(calls, contract={"inputs": (tensor,)})) == [("contract",)]


def test_a_burst_is_of_requests_or_is_stated():
    make(limits={"rows_per_second": 1, "burst_rows": 3})
    for unit, rows in (("requests", 1), ("items", 1024), ("characters", 1), ("tokens", 1)):
        assert make(told(unit=unit)).rows_at_once == rows
    assert list(faults(told(unit="items"), limits={"rows_per_second": 1, "burst_rows": 3})) == [
        ("limits", "burst_rows")
    ]
    for unit in ("characters", "tokens"):
        rate = {"rows_per_second": 1}
        for section in ("limits", "subnet_limits", "endpoint_limits"):
            assert list(faults(told(unit=unit), **{section: rate})) == [
                (section, "rows_per_second")
            ]
            make(told(unit=unit), **{section: {**rate, "burst_rows": 3}})
        make(told(unit=unit), limits={"rows_per_day": 100})
