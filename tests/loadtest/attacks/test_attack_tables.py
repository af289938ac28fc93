import pytest

from loadtest.attacks.tables import (
    queries,
    recognised,
    render,
    replace_section,
    share,
    wilson,
    within,
)


def test_wilson_of_no_alarm_in_3000_days():
    low, high = wilson(0, 3000)
    assert low == pytest.approx(0, abs=1e-12)
    assert high == pytest.approx(0.00128, abs=1e-5)
    assert wilson(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("found", "told"),
    [
        ([], "-"),
        ([8], "8 / 8"),
        ([9, 7, 8], "8 / 9"),
        ([7, None, 8], "8 / -"),
        ([None, None, 8], "- / -"),
        ([*range(1, 20), None], "10 / 19"),
    ],
)
def test_a_miss_counts_as_infinitely_many(found, told):
    assert queries(found) == told


def test_recognised_counts_runs():
    assert recognised([5, None, 7]) == "2/3, 7 / -"
    assert share(1, 2).startswith("1/2 (")


def test_within_counts_runs():
    assert [within([50, None, 300], limit) for limit in (49, 50, 250, 1500)] == [0, 1, 1, 2]


def test_thefts_that_nobody_saw_are_named():
    theft = {"part": "extraction", "set": "digits", "split": 1, "one_subnet": True, "padding": 0.0}
    rows = [
        theft | {"strategy": "uniform", "accounts": 1, "found": [20, 120], "sent": [1500, 1500]},
        theft | {"strategy": "active", "accounts": 16, "found": [None], "sent": [570]},
    ]
    text = render(rows, [])
    assert "| uniform | 1 | one | 0% | 1 / 2 / 2 of 2 |" in text
    assert "Never recognised (accounts, subnets): active (16, one)." in text
    assert "digits 570 queries" in text


def test_a_table_for_each_part_with_figures():
    zoo = {"part": "blackbox", "set": "digits", "attack": "zoo", "every": 0}
    rows = [
        zoo | {"split": 1, "found": [7, 9]},
        zoo | {"split": 2, "found": [None]},
        {
            "part": "honest",
            "set": "digits",
            "split": 1,
            "kind": "mixed",
            "profile": "default",
            "days": 10,
            "alarmed": 1,
            "raised": {"probing, client": 1},
            "queries": 400.0,
        },
    ]
    text = render(rows, ["shuttle: not here"])
    assert "| zoo | 2/3, 9 / - |" in text
    assert "| mixed | 1/10 (1.8 to 40 %) |" in text
    assert "- mixed (default): probing, client: 1" in text
    assert "Skipped: shuttle: not here." in text
    assert "Theft" not in text


def test_a_section_is_replaced_and_the_rest_stays(tmp_path):
    path = tmp_path / "page.md"
    path.write_text("before\n", encoding="utf-8")
    replace_section(path, "old")
    replace_section(path, r"new \1")
    text = path.read_text(encoding="utf-8")
    assert text.startswith("before\n")
    assert r"new \1" in text
    assert "old" not in text
