import pytest
from absence import absent

CASES = {
    "at a desk": ({}, False),
    "not told to require": ({"BARTIZAN_REQUIRE_TOOLS": "0"}, False),
    "required": ({"BARTIZAN_REQUIRE_TOOLS": "1"}, True),
    "could not be installed": (
        {"BARTIZAN_REQUIRE_TOOLS": "1", "BARTIZAN_ABSENT_TOOLS": ".venv-helm java root"},
        False,
    ),
    "another could not": (
        {"BARTIZAN_REQUIRE_TOOLS": "1", "BARTIZAN_ABSENT_TOOLS": ".venv-helm javac"},
        True,
    ),
    "nothing could not": ({"BARTIZAN_REQUIRE_TOOLS": "1", "BARTIZAN_ABSENT_TOOLS": ""}, True),
}


@pytest.mark.parametrize(("environment", "fails"), CASES.values(), ids=CASES)
def test_what_could_be_installed_is_not_skipped(monkeypatch, environment, fails):
    for name in ("BARTIZAN_REQUIRE_TOOLS", "BARTIZAN_ABSENT_TOOLS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(pytest.fail.Exception if fails else pytest.skip.Exception, match="no Java"):
        absent("java", "there is no Java")


def test_all_cases_ran():
    assert len(CASES) == 6
