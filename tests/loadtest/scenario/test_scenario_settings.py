"""A scenario's file: what is wrong is told at its place, all at once."""

import json

import numpy as np
import pytest

from loadtest.scenario.read import OverrideError, digest, read, schema
from loadtest.scenario.settings import Scenario
from loadtest.scenario.steps import steps
from proxy.settings.problems import SettingsError
from proxy.settings.schema import generated

HEAD = "name: t\nserve: demo\n"
LOAD = "load:\n  - {name: a, rate: 10, seconds: 1}\n"
TARGET = "name: t\ntarget: {direct: 'http://127.0.0.1:1/v2/models/m'}\ndata: {generate: {}}\n"


class Stub:
    """A driver that is not run."""

    family = "evasion"
    needs = frozenset()

    def __init__(self, **changed):
        self.__dict__.update(changed)


DRIVERS = {
    "square": Stub(),
    "extraction-random": Stub(family="extraction"),
    "membership": Stub(family="membership", needs=frozenset({"members"})),
    "abuse-slow": Stub(family="abuse"),
}


@pytest.fixture
def scenario(tmp_path):
    """Reads a text: ``scenario(text, overrides)``."""

    def read_text(text, *overrides, **environment):
        path = tmp_path / "s.yaml"
        path.write_text(text)
        return read(path, overrides=overrides, environment=environment, drivers=DRIVERS)

    return read_text


BAD = {
    "nothing to do": (HEAD, (1, 1, "neither load nor attacks")),
    "an unknown key": (HEAD + LOAD + "sede: 1\n", (5, 1, "did you mean 'seed'?")),
    "an unknown key of a load": (
        HEAD + "load:\n  - {name: a, rate: 10, second: 1}\n",
        (4, 25, "did you mean 'seconds'?"),
    ),
    "no target": ("name: t\n" + LOAD, (1, 1, "say either serve: demo, or target")),
    "two targets": (
        HEAD + LOAD + "target: {direct: 'http://127.0.0.1:1/v2/models/m'}\n",
        (5, 9, "it would do nothing"),
    ),
    "quotas of nothing": (TARGET + LOAD + "served: {}\n", (6, 9, "nothing is served")),
    "no data": (
        "name: t\ntarget: {direct: 'http://127.0.0.1:1/v2/models/m'}\n" + LOAD,
        (1, 1, "say data"),
    ),
    "a missing file": (
        HEAD + LOAD + "data: {rows: none.npy}\n",
        (5, 14, "no such file"),
    ),
    "no rows": (HEAD + LOAD + "data: {image: [8, 8]}\n", (5, 7, "say either rows")),
    "labels of generated rows": (
        HEAD + LOAD + "data: {generate: {}, labels: s.yaml}\n",
        (5, 30, "generated: it would do nothing"),
    ),
    "an empty box": (
        HEAD + LOAD + "data: {generate: {low: 1, high: 1}}\n",
        (5, 33, "the box is empty"),
    ),
    "a rate too few": (
        HEAD + "load:\n  - {name: a, seconds: 1}\n",
        (4, 5, "arrivals: poisson needs rate"),
    ),
    "a rate too many": (
        HEAD + "load:\n  - {name: a, arrivals: ceiling, rate: 10, seconds: 1}\n",
        (4, 40, "arrivals is ceiling: it would do nothing"),
    ),
    "steps without steps": (
        HEAD + "load:\n  - {name: a, arrivals: steps}\n",
        (4, 25, "needs steps beside it"),
    ),
    "far too many requests": (
        HEAD + "load:\n  - {name: a, rate: 1000000, seconds: 86400}\n",
        (4, 39, "make it shorter"),
    ),
    "a negative rate": (
        HEAD + "load:\n  - {name: a, rate: -1, seconds: 1}\n",
        (4, 21, "greater than 0"),
    ),
    "not a number": (
        HEAD + "load:\n  - {name: a, rate: .nan, seconds: 1}\n",
        (4, 21, "must be a finite number"),
    ),
    "too few connections": (
        HEAD + "load:\n  - {name: a, rate: 9, seconds: 1, connections: 1, processes: 2}\n",
        (4, 49, "2 processes need as many connections"),
    ),
    "a deadline of a ceiling": (
        HEAD + "load:\n  - {name: a, arrivals: ceiling, seconds: 1, deadline: 1}\n",
        (4, 56, "no intended times"),
    ),
    "no mix": (
        HEAD + "load:\n  - {name: a, rate: 9, seconds: 1, mix: []}\n",
        (4, 41, "must hold at least 1 item"),
    ),
    "a part's name twice": (
        HEAD + "load:\n  - {name: a, rate: 9, seconds: 1, mix: [{name: x}, {name: x}]}\n",
        (4, 60, "the name 'x' is taken"),
    ),
    "a driver that is not sent": (
        HEAD + "load:\n  - {name: a, rate: 9, seconds: 1, mix: [{name: x, driver: square}]}\n",
        (4, 60, "send is honest: it would do nothing"),
    ),
    "a driver that is not said": (
        HEAD + "load:\n  - {name: a, rate: 9, seconds: 1, mix: [{name: x, send: driver}]}\n",
        (4, 58, "send: driver needs driver"),
    ),
    "a side that is none": (
        HEAD + "load:\n  - {name: a, rate: 9, seconds: 1, sides: [left]}\n",
        (4, 44, "'direct' or 'firewall'"),
    ),
    "a side that the target has not": (
        TARGET + "load:\n  - {name: a, rate: 9, seconds: 1, sides: [direct, firewall]}\n",
        (5, 52, "target has no firewall"),
    ),
    "a side twice": (
        HEAD + "load:\n  - {name: a, rate: 9, seconds: 1, sides: [direct, direct]}\n",
        (4, 43, "a side is listed twice"),
    ),
    "a load's name twice": (
        HEAD + "load:\n  - {name: a, rate: 9, seconds: 1}\n  - {name: a, rate: 9, seconds: 1}\n",
        (5, 12, "the name 'a' is taken"),
    ),
    "an attack that there is not": (
        HEAD + "attacks:\n  - {driver: squares}\n",
        (4, 14, "did you mean 'square'?"),
    ),
    "an attack twice": (
        HEAD + "attacks:\n  - {driver: square}\n  - {driver: square}\n",
        (5, 14, "give it a name of its own"),
    ),
    "an attack that needs what is not said": (
        "name: t\ntarget: {direct: 'http://127.0.0.1:1/v2/models/m'}\ndata: {generate: {}}\n"
        "attacks:\n  - {driver: membership, sides: [direct]}\n",
        (5, 14, "membership needs members: say data.members"),
    ),
    "during no load": (
        HEAD + "attacks:\n  - {driver: square, during: a}\n",
        (4, 30, "there is no load 'a'"),
    ),
    "during a ceiling": (
        HEAD + "load:\n  - {name: a, arrivals: ceiling, seconds: 1}\n"
        "attacks:\n  - {driver: square, during: a}\n",
        (6, 30, "leaves nothing for anyone beside it"),
    ),
    "during a hostile load": (
        HEAD + "load:\n  - {name: a, rate: 9, seconds: 1, mix: [{name: x, send: noise}]}\n"
        "attacks:\n  - {driver: square, during: a}\n",
        (6, 30, "has no honest part"),
    ),
    "during a load that is not beside": (
        HEAD + LOAD + "attacks:\n  - {driver: square, sides: [direct], during: a}\n",
        (6, 47, "only the firewall is attacked under load"),
    ),
    "no budget": (
        HEAD + "attacks:\n  - {driver: square, budget: 0}\n",
        (4, 30, "greater than or equal to 1"),
    ),
    "a knob that is no plain value": (
        HEAD + "attacks:\n  - {driver: square, knobs: {a: [1]}}\n",
        (4, 33, "must be a number, a word, true or false"),
    ),
    "an unknown metric": (
        HEAD + LOAD + "thresholds:\n  honesty: '<= 1'\n",
        (6, 12, "there is no metric 'honesty'"),
    ),
    "a bound that is none": (
        HEAD + LOAD + "thresholds:\n  honest_refusals: small\n",
        (6, 20, "is not a bound"),
    ),
    "a metric that is never measured": (
        HEAD + LOAD + "thresholds:\n  membership_auc: '<= 1'\n",
        (6, 19, "it would never be measured"),
    ),
    "a ceiling that is never sought": (
        HEAD + LOAD + "thresholds:\n  ceiling_ratio: '>= 0.5'\n",
        (6, 18, "no load in a closed loop"),
    ),
    "a load that a threshold names": (
        HEAD + LOAD + "thresholds:\n  honest_refusals[b]: '<= 1'\n",
        (6, 23, "no such load: 'b'"),
    ),
    "a format that is none": (
        HEAD + LOAD + "report: {formats: [pdf]}\n",
        (5, 20, "'json', 'html'"),
    ),
    "a variable that is not set": (
        HEAD + "seed: ${SEED}\n" + LOAD,
        (3, 7, "SEED is not set"),
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_is_told_at_its_place(scenario, name):
    text, (line, column, words) = BAD[name]
    with pytest.raises(SettingsError) as caught:
        scenario(text)
    told = [(one.line, one.column, one.message) for one in caught.value.problems]
    assert any((at, where) == (line, column) and words in message for at, where, message in told), (
        told
    )


def test_as_many_as_were_meant():
    assert len(BAD) == 43


def test_everything_is_told_at_once_with_a_caret(scenario):
    text = HEAD + "seed: -1\nload:\n  - {name: a, rate: 0, seconds: 1}\n  - {name: B!, rate: 1}\n"
    with pytest.raises(SettingsError) as caught:
        scenario(text)
    assert [one.line for one in caught.value.problems] == [3, 5, 6]
    assert "    seed: -1\n          ^" in str(caught.value)


@pytest.mark.parametrize("text", ["", "- a\n", "name: [\n", "name: t\n---\n", "\t"])
def test_what_is_no_scenario(scenario, text):
    with pytest.raises(SettingsError) as caught:
        scenario(text)
    assert "listen" not in str(caught.value)
    assert "endpoints" not in str(caught.value)


def test_the_environment_fills_in(scenario):
    assert scenario(HEAD + LOAD + "seed: ${SEED:-7}\n").seed == 7
    assert scenario(HEAD + LOAD + "seed: ${SEED}\n", SEED="8").seed == 8


def test_overrides_by_number_and_by_name(scenario):
    text = HEAD + LOAD + "attacks:\n  - {driver: square}\n  - {name: two, driver: square}\n"
    read = scenario(
        text,
        "seed=3",
        "load.a.rate=50",
        "load.0.seconds=2",
        "attacks.square.tries=1",
        'attacks.two.sides=["direct"]',
        "served.anew=false",
    )
    assert (read.seed, read.load[0].rate, read.load[0].seconds) == (3, 50, 2)
    assert (read.attacks[0].tries, read.attacks[1].sides) == (1, ("direct",))
    assert read.served.anew is False
    with pytest.raises(SettingsError, match="greater than 0"):
        scenario(text, "load.a.rate=0")
    with pytest.raises(SettingsError, match=r"4:5: error: unknown key load\[0\]\.speed"):
        scenario(text, "load.a.speed=1")
    for override in ("sede=1", "sede.x=1"):
        with pytest.raises(SettingsError, match="unknown key sede; did you mean 'seed'"):
            scenario(text, override)


@pytest.mark.parametrize(
    "override",
    ["seed", "=1", "load.b.rate=1", "load.7.rate=1", "name.x=1", "load.a.mix=[1", ".=1", "a..b=1"],
)
def test_overrides_that_lead_nowhere(scenario, override):
    with pytest.raises(OverrideError):
        scenario(HEAD + LOAD, override)


def test_an_override_is_another_scenario(scenario):
    assert digest(scenario(HEAD + LOAD)) == digest(scenario(HEAD + LOAD))
    assert digest(scenario(HEAD + LOAD)) != digest(scenario(HEAD + LOAD, "seed=1"))


def test_the_order_of_steps(scenario):
    text = (
        HEAD + "load:\n  - {name: a, rate: 9, seconds: 1, rounds: 3}\n"
        "  - {name: b, rate: 9, seconds: 1, sides: [firewall]}\n"
        "attacks:\n  - {driver: square, during: b}\n  - {driver: abuse-slow, sides: [firewall]}\n"
    )
    assert [step.key for step in steps(scenario(text))] == [
        *("load.a.0.direct", "load.a.0.firewall", "load.a.1.firewall", "load.a.1.direct"),
        *("load.a.2.direct", "load.a.2.firewall", "load.b.0.firewall"),
        *("attack.square.direct", "attack.square.firewall", "attack.abuse-slow.firewall"),
    ]
    assert [step.beside.name for step in steps(scenario(text)) if getattr(step, "beside", 0)] == [
        "b"
    ]


def test_everyone_has_clients_of_their_own(scenario):
    text = (
        HEAD + "load:\n  - {name: a, rate: 9, seconds: 1, mix: [{name: x, clients: 3}]}\n"
        "  - {name: b, rate: 9, seconds: 1, mix: [{name: x, clients: 5}, {name: y, send: noise}]}\n"
        "attacks:\n  - {driver: square, tries: 4, accounts: 2}\n"
    )
    read = scenario(text)
    assert read.pools == {"x": 5, "y": 1}
    assert read.accounts == 5 + 1 + 8


def test_the_schema_is_closed_and_every_key_is_described():
    document = json.loads(schema())
    assert document["title"] == "Bartizan load test scenario"
    parts = [document, *document["$defs"].values()]
    own = [part for part in parts if "properties" in part]
    assert len(own) > 10
    for part in own:
        assert part["additionalProperties"] is False
        assert part["description"]
        for key, node in part["properties"].items():
            assert "description" in node, (part["title"], key)
    assert generated(Scenario) is not generated()


@pytest.mark.parametrize("name", ["demo", "smoke", "ci", "promote"])
def test_shipped_scenarios_are_valid_and_name_their_schema(repository, tmp_path, name):
    path = repository / "loadtest" / "scenarios" / f"{name}.yaml"
    assert path.read_text().startswith("# yaml-language-server: $schema=schema.json\n")
    if name in {"ci", "promote"}:
        # They name the operator's files, which stand beside them.
        for file in ("honest.npy", "stolen.npy"):
            np.save(tmp_path / file, np.zeros((2, 2), np.float32))
        (tmp_path / "bartizan.yaml").touch()
        (tmp_path / "s.yaml").write_text(path.read_text())
        path = tmp_path / "s.yaml"
    assert read(path, environment={}).name == name


def test_the_stored_schema_is_current(repository):
    stored = (repository / "loadtest" / "scenarios" / "schema.json").read_text()
    assert stored == schema(), "run: bartizan loadtest schema > loadtest/scenarios/schema.json"


def test_there_are_no_other_scenarios(repository):
    found = {path.name for path in (repository / "loadtest" / "scenarios").glob("*.yaml")}
    assert found == {"demo.yaml", "smoke.yaml", "ci.yaml", "promote.yaml"}
