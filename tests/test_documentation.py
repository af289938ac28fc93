"""What the pages say of each other, of the rules and of budgets is so."""

import re
from pathlib import Path

import pytest

from loadtest.evidence.atlas import TECHNIQUES, title
from proxy.rules import RULES

REPOSITORY = Path(__file__).resolve().parent.parent
PAGES = sorted([*REPOSITORY.glob("*.md"), *REPOSITORY.joinpath("docs").rglob("*.md")])
PAGES += sorted(REPOSITORY.joinpath("deploy").rglob("*.md"))
_FENCES = re.compile(r"^( *)```.*?^\1```$", re.S | re.M)
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
_ATLAS = re.compile(r"AML\.T\d{4}(?:\.\d{3})?")


def prose(page):
    """A page without its blocks of code, whose brackets are no links."""
    return _FENCES.sub("", page.read_text())


def anchors(page):
    """What its headings can be reached by, as repository hosts make it of them."""
    found = set()
    for heading in re.findall(r"^#+ (.+)$", prose(page), re.M):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
        anchor = re.sub(r"[^\w\- ]", "", text).replace(" ", "-")
        count = sum(1 for other in found if re.fullmatch(rf"{re.escape(anchor)}(-\d+)?", other))
        found.add(f"{anchor}-{count}" if anchor in found else anchor)
    return found | set(re.findall(r'<a (?:id|name)="([^"]+)"', page.read_text()))


def broken(page):
    """Links of a page that lead nowhere in the checkout."""
    for link in _LINK.findall(prose(page)):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (
            anchor and target.suffix == ".md" and anchor not in anchors(target)
        ):
            yield link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_every_link_leads_somewhere(page):
    assert not list(broken(page))


def test_there_are_pages_and_links():
    assert len(PAGES) > 25
    assert sum(len(_LINK.findall(prose(page))) for page in PAGES) > 200


def test_a_broken_link_is_noticed(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# One two\n[a](#one-two) [b](#one) [c](page.md) [d](none.md)\n```\n[e](f)\n```\n"
    )
    assert list(broken(page)) == ["#one", "none.md"]


def test_the_index_names_every_page():
    docs = REPOSITORY / "docs"
    index = (docs / "README.md").read_text()
    named = {(docs / link).resolve() for link in _LINK.findall(index)}
    assert not [
        page for page in docs.rglob("*.md") if page not in named and page.name != "README.md"
    ]


def section(page, heading):
    """The text below a heading, up to the next one."""
    return re.search(rf"^#+ {re.escape(heading)}$(.*?)(?=^#|\Z)", page, re.M | re.S)[1]


def test_the_threat_model_names_what_the_rules_name():
    page = (REPOSITORY / "docs" / "threat-model.md").read_text()
    answered = {}
    for line in section(page, "Techniques that rules answer").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if _ATLAS.match(cells[0]):
            answered[cells[0]] = set(cells[1].split(", "))
            assert cells[2] in {"covered", "partly", "not"}
    expected = {}
    for rule in RULES.values():
        for technique in rule.atlas:
            expected.setdefault(title(technique), set()).add(rule.id)
    assert answered == expected
    others = section(page, "Techniques that no rule names")
    rest = re.findall(rf"^\| ({_ATLAS.pattern}.*?) \|", others, re.M)
    named = {title(technique) for technique in TECHNIQUES}
    assert set(rest) == named - set(expected) - {title("AML.T0034")}  # both its parts are above
    assert set(re.findall(r"AML\.T[\d.]*\d", page)) <= set(TECHNIQUES)


def test_the_threat_model_goes_through_owasps_lists():
    page = (REPOSITORY / "docs" / "threat-model.md").read_text()
    for prefix in ("ML", "LLM"):
        rows = re.findall(rf"^\| {prefix}(\d\d) [^|]+\| (\w+) \|", page, re.M)
        assert [int(number) for number, _ in rows] == list(range(1, 11))
        assert {far for _, far in rows} <= {"covered", "partly", "not"}


def test_the_rows_that_budgets_take_are_those_that_fit_demands():
    from detectors.calibration import rows_needed
    from detectors.training.splits import MIN_MERGE, MIN_TRAIN

    page = (REPOSITORY / "docs" / "tuning.md").read_text()
    rows = re.findall(r"^\| ([\d.]+) % \| (\d+) \|", section(page, "Which budget"), re.M)
    assert len(rows) == 8
    for share, count in rows:
        needed = rows_needed(float(share) / 100, 0.05) + MIN_TRAIN + MIN_MERGE
        assert int(count) == needed
