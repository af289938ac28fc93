"""An exchange explained: what is said, what adds up, and an exclusion that the gateway accepts."""

import json
import textwrap
from datetime import UTC, datetime

import numpy as np
import orjson
import pytest
import yaml
from explained_exchanges import (
    BLOCKED,
    CLIENT,
    DISAGREED,
    LIMITED,
    WALL,
    bundle,
    odd_row,
    record,
)

from detectors.agreement.base import Answers
from proxy import rules
from proxy.decision import Action, Decision, Reason
from proxy.explain import exclusion, explained
from proxy.explanations import Explanations
from proxy.protocols.columns import columns_contract
from proxy.protocols.contract import Contract
from proxy.protocols.rows import feature_name
from proxy.settings.load import load


def kept(decision=BLOCKED, rows=None, answers=None, **more):
    ring = Explanations(4, wall=lambda: WALL)
    ring.keep(record(decision=decision, **more), odd_row() if rows is None else rows, answers)
    return ring.find("one")


def doubted(label=0, **more):
    """An exchange whose answer was judged; the first feature says dog."""
    answers = Answers.of_probabilities([[0.9, 0.1] if label == 0 else [0.1, 0.9]])
    return kept(DISAGREED, odd_row(0, 4.0), answers, answer_score=8.0, **more)


def adds_up(part, total):
    told = part["baseline"] + part["others"] + sum(one["nats"] for one in part["features"])
    return told == pytest.approx(total, abs=1e-9)


def test_the_decision_in_words():
    told = explained(kept(), bundle(), now=WALL)
    assert told["id"] == "one"
    assert (told["endpoint"], told["client"]) == ("digits", CLIENT)
    assert told["time"] == "2030-03-17T17:46:40.000+00:00"
    assert (told["action"], told["enforced"], told["would_block"]) == ("block", "block", False)
    assert told["status"] == 403
    (reason,) = told["reasons"]
    assert reason["rule"] == "BZ-300"
    assert reason["meaning"] == rules.OUTLIER.meaning
    assert reason["detail"] == "1 of 1 rows passed the threshold"
    assert reason["atlas"] == list(rules.OUTLIER.atlas)


def test_the_planted_feature_is_told_with_its_place():
    served = bundle()
    told = explained(kept(rows=odd_row(4)), served, now=WALL)["input"]
    first = told["features"][0]
    assert (first["index"], first["position"], first["value"]) == (4, [1, 1], 30.0)
    assert first["usual"] == pytest.approx(served.examples.rows[:, 4].mean())
    assert first["nats"] > 0.99 * (told["score"] - told["baseline"])
    verdict = served.scorer.score(odd_row(4))
    assert told["score"] == verdict.merged[0]
    assert told["p_value"] == verdict.p_values[0]
    assert told["threshold"] == served.scorer.threshold
    assert told["flagged"]
    assert adds_up(told, told["score"])
    (finding,) = told["detectors"]
    assert (finding["name"], finding["method"], finding["score"]) == ("mahalanobis", "exact", 900.0)
    assert finding["features"][0]["index"] == 4


def test_names_are_told_where_the_bundle_has_them():
    served = bundle(shape=None, names=list("abcdef"))
    first = explained(kept(rows=odd_row(2)), served, now=WALL)["input"]["features"][0]
    assert first["name"] == "c"
    assert "position" not in first


def test_otherwise_features_bear_the_names_of_the_contract():
    inputs = [
        {"name": "age", "datatype": "FP32", "shape": [-1]},
        {"name": "note", "datatype": "BYTES", "shape": [-1, 1]},
        {"name": "grid", "datatype": "FP32", "shape": [-1, 2, 2]},
        {"name": "score", "datatype": "FP64", "shape": [-1, 1]},
    ]
    contract = Contract.from_config(inputs, width=6)
    names = ["age", "grid[0,0]", "grid[0,1]", "grid[1,0]", "grid[1,1]", "score"]
    for feature, name in enumerate(names):
        exchange = kept(rows=odd_row(feature))
        told = explained(exchange, bundle(shape=None), contract=contract, now=WALL)["input"]
        assert told["features"][0]["name"] == name
    own = bundle(shape=None, names=list("abcdef"))
    told = explained(kept(rows=odd_row(2)), own, contract=contract, now=WALL)["input"]
    assert told["features"][0]["name"] == "c"
    told = explained(kept(rows=odd_row(4)), bundle(), contract=contract, now=WALL)["input"]
    assert told["features"][0]["position"] == [1, 1] and "name" not in told["features"][0]


@pytest.mark.parametrize(
    ("shapes", "expected"),
    [
        ([[-1, -1]], "x0[4]"),
        ([[-1, 6]], "x0[4]"),
        ([[1, -1], [1, 3]], None),
        ([], None),
        ([[6]], "x0[4]"),
    ],
)
def test_a_contract_names_what_it_fixes(shapes, expected):
    inputs = [
        {"name": f"x{k}", "datatype": "FP32", "shape": shape} for k, shape in enumerate(shapes)
    ]
    assert feature_name(Contract.from_config(inputs, width=6), 4) == expected


def test_columns_name_their_features():
    contract = columns_contract(
        [
            {"name": "age"},
            {"name": "note", "type": "string"},
            {"name": "pet", "type": "category", "values": ["cat", "dog"], "encoding": "one_hot"},
        ]
    )
    assert [feature_name(contract, k) for k in range(3)] == ["age", "pet=cat", "pet=dog"]


def test_few_features_and_the_others_together():
    rows = np.full((1, 6), 5.0, np.float32)
    told = explained(kept(rows=rows), bundle(), features=2, now=WALL)["input"]
    assert len(told["features"]) == 2
    assert told["others"] > 0
    assert adds_up(told, told["score"])


def test_what_the_witnesses_would_have_answered():
    served = bundle()
    told = explained(doubted(), served, now=WALL)["answer"]
    assert (told["label"], told["confidence"]) == ("cat", 0.9)
    (witness,) = told["witnesses"]
    assert witness["answer"] == "dog"
    assert witness["doubt"] == 4.0
    assert witness["doubts"] == {"dog": -4.0, "cat": 4.0}
    assert told["flagged"]
    assert told["score"] > told["threshold"] == served.agreement.threshold
    assert told["features"][0]["index"] == 0
    assert adds_up(told, sum(one["evidence"] for one in told["detectors"]))


def test_a_regression_model_s_answer_is_told_as_values():
    from proxy.explain import _said

    assert _said(Answers.of_values([[1.5, 2.5]]), None) == (None, None, [1.5, 2.5])
    assert _said(Answers.of_labels(np.array([1])), None) == ("1", None, None)


def test_second_opinions_are_told_as_they_were():
    signals = {"first_feature": 0.1, "feature_squeezing": 0.02}
    plain = explained(doubted(), bundle(), now=WALL)["answer"]
    heard = doubted(answer_signals=signals, answer_p_value=0.25)
    told = explained(heard, bundle(), now=WALL)["answer"]
    assert told["second_opinions"] == {"feature_squeezing": 0.02}
    # The recorded score has them counted in, and the model is not asked once more.
    assert (told["score"], told["p_value"]) == (8.0, 0.25)
    assert told["without_second_opinions"] == plain["score"] != 8.0
    assert told["flagged"] == (told["score"] > told["threshold"])


def test_the_nearest_honest_examples_are_told_at_the_features_that_matter():
    served = bundle()
    told = explained(kept(rows=odd_row(4)), served, now=WALL)
    assert len(told["examples"]) == 3
    first = told["examples"][0]
    assert first["label"] in {"cat", "dog"}
    shown = [one["index"] for one in told["input"]["features"]]
    assert [one["index"] for one in first["values"]] == shown
    row = served.examples.rows[first["index"]]
    assert [one["value"] for one in first["values"]] == [row[j] for j in shown]


def test_a_bundle_without_examples_shows_none():
    told = explained(kept(), bundle(examples=False), now=WALL)
    assert told["examples"] == []
    assert told["input"]["features"][0]["usual"] == 0.0


def test_another_bundle_s_scores_are_not_explained():
    for other in (bundle(digest="cd" * 32), None):
        told = explained(kept(), other, now=WALL)
        assert told["input"] is None
        assert "does not serve" in told["notes"][0]
        assert told["exclusion"]


def test_an_exchange_without_a_row_is_still_told():
    told = explained(kept(LIMITED), bundle(), now=WALL)
    assert told["input"] is None
    assert told["reasons"][0]["rule"] == "BZ-601"
    assert told["notes"] == []


def test_a_row_that_the_bundle_cannot_score_is_a_note():
    told = explained(kept(rows=np.zeros((1, 5), np.float32)), bundle(), now=WALL)
    assert "cannot be explained" in told["notes"][0]
    told = explained(kept(rows=np.full((1, 6), np.nan, np.float32)), bundle(), now=WALL)
    assert "cannot be explained" in told["notes"][0]


def test_a_bundle_that_judges_no_answers_still_explains_the_input():
    told = explained(doubted(), bundle(agreement=False), now=WALL)
    assert told["input"] is not None
    assert told["answer"] is None
    assert "not known" in told["notes"][0]


def test_everything_is_ready_for_json_and_repeatable():
    served = bundle()
    first, again = (orjson.dumps(explained(doubted(), served, now=WALL)) for _ in range(2))
    assert first == again
    json.loads(first)


BOTH = (Reason(rules.OUTLIER), Reason(rules.PROBING_CLIENT, action=Action.SHAPE))
CONFIGURATION = """
client: {secret: a-secret-of-16-characters}
endpoints:
  - name: digits
    match: /v2/models/digits
    upstream: http://127.0.0.1:8081
    bundle: digits.bundle
"""


def test_the_exclusion_can_be_pasted(tmp_path):
    pasted = exclusion(kept(Decision(Action.BLOCK, Action.BLOCK, BOTH)), WALL)
    path = tmp_path / "bartizan.yaml"
    path.write_text(CONFIGURATION + textwrap.indent(pasted, "    "))
    switches = load(path).endpoints[0].rules
    assert list(switches) == ["BZ-300", "BZ-500"]
    for switch in switches.values():
        (entry,) = switch.exclude
        assert entry.client == CLIENT
        assert entry.until == datetime.fromtimestamp(WALL + 7 * 86_400, UTC)


def test_every_rule_that_can_be_switched_can_be_excluded(tmp_path):
    from proxy.settings.switches import SWITCHABLE

    reasons = tuple(map(Reason, SWITCHABLE))
    pasted = exclusion(kept(Decision(Action.BLOCK, Action.BLOCK, reasons)), WALL)
    assert yaml.safe_load(pasted)["rules"].keys() == {rule.id for rule in SWITCHABLE}
    path = tmp_path / "bartizan.yaml"
    path.write_text(CONFIGURATION + textwrap.indent(pasted, "    "))
    assert len(load(path).endpoints[0].rules) == len(SWITCHABLE)


@pytest.mark.parametrize(
    ("reasons", "found"),
    [
        ((Reason(rules.DETECTOR_FAULT),), None),
        ((Reason(rules.BANNED),), None),
        ((Reason(rules.SHAPE), Reason(rules.OUTLIER)), ["BZ-300"]),
        # What is only recorded did not refuse it.
        ((Reason(rules.OUTLIER), Reason(rules.PROBING_ENDPOINT, action=Action.ALLOW)), ["BZ-300"]),
        ((Reason(rules.DISAGREEMENT), Reason(rules.DISAGREEMENT)), ["BZ-400"]),
    ],
)
def test_what_is_excluded(reasons, found):
    pasted = exclusion(kept(Decision(Action.BLOCK, Action.BLOCK, reasons)), WALL)
    assert (pasted and list(yaml.safe_load(pasted)["rules"])) == found


def test_an_exclusion_lasts_a_week_from_when_it_is_pasted():
    assert "until: 2030-03-24T17:46:40Z" in exclusion(kept(), WALL)
    assert "until: 2030-04-23T17:46:40Z" in exclusion(kept(), WALL + 30 * 86_400)


def test_nobody_can_be_excluded_without_a_name():
    assert exclusion(kept()._replace(client=""), WALL) is None
