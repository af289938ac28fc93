"""The table of rules, and the page made from it."""

import re
from pathlib import Path

from proxy.cli.rules import page
from proxy.rules import OUTLIER, RULES, SHAPE, Refusal

ROOT = Path(__file__).parents[2]


def test_ids_are_stable_in_form_and_unique_by_construction():
    assert len(RULES) >= 40
    for key, rule in RULES.items():
        assert key == rule.id
        assert re.fullmatch(r"BZ-[1234569]\d\d", key)
        assert 400 <= rule.status <= 504
        assert all(re.fullmatch(r"AML\.T\d{4}(\.\d{3})?", atlas) for atlas in rule.atlas)


def test_a_block_is_403_and_never_a_status_that_clients_retry():
    assert OUTLIER.status == 403
    assert {rule.status for rule in RULES.values() if rule.id.startswith("BZ-6")} == {413, 429}


def test_only_rules_about_the_clients_own_mistake_explain_themselves():
    for rule in RULES.values():
        if rule.explains:
            assert rule.status < 500
            assert not rule.id.startswith(("BZ-3", "BZ-4", "BZ-5", "BZ-9"))
    assert Refusal(SHAPE, "is [1, 3]").message == "wrong shape: is [1, 3]"
    assert Refusal(OUTLIER, "score 9.1").message == "request refused"


def test_the_page_has_every_rule_once():
    assert re.findall(r"^\| (BZ-\d{3}) ", page(), re.MULTILINE) == sorted(RULES)


def test_the_page_is_current():
    assert (ROOT / "docs" / "rules.md").read_text() == page(), (
        "regenerate it: bartizan rules --markdown > docs/rules.md"
    )
