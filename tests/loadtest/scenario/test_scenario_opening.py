"""From a scenario to its ground: what does not go together is said before anybody is asked."""

import numpy as np
import pytest

from loadtest.scenario import standing
from loadtest.scenario.ground import GroundError, UnreachableError
from loadtest.scenario.opening import ScenarioError, opened
from loadtest.scenario.settings import Attack, Scenario

CONTRACT = {"inputs": [{"name": "x", "shape": [-1, 4], "datatype": "FP32"}]}
TARGET = {
    "direct": "http://127.0.0.1:{port}/v2/models/m",
    "firewall": "http://127.0.0.1:{port}/v2/models/m",
    "contract": CONTRACT,
    "clients": {"by": "api_key", "count": 20, "secret": "of-invented-keys"},
}
LOAD = {"name": "a", "rate": 10, "seconds": 1}


class Picky:
    """A driver with one knob."""

    family, needs = "evasion", frozenset()

    def __init__(self, name="picky", needs=()):
        self.name = name
        self.needs = frozenset(needs)

    def run(self, oracle, judge, means):
        if set(means.knobs) - {"a"}:
            raise ValueError("no such knob")
        oracle.ask(means.own[0], means.accounts[0])


DRIVERS = {"picky": Picky(), "needy": Picky("needy", ["members"])}


@pytest.fixture
def ground(tmp_path, free_port):
    """Opens a scenario against a port that nobody listens on."""
    port = free_port()

    def ground(target=None, **sections):
        stated = {
            key: value.format(port=port) if isinstance(value, str) else value
            for key, value in (TARGET if target is None else target).items()
        }
        given = {"name": "t", "target": stated, "data": {"generate": {}}, "load": (LOAD,)}
        return opened(Scenario.model_validate(given | sections), tmp_path, DRIVERS)

    return ground


def test_a_ground_opens_without_asking_anybody_and_then_finds_nobody(ground, monkeypatch):
    monkeypatch.setattr(standing, "_PAUSE_SECONDS", 0)
    with ground(attacks=({"driver": "picky", "knobs": {"a": 1}},)) as found:
        assert found.describe()["protocol"] == "v2"
        found.prepare(Attack(driver="picky"))
        for side in ("direct", "firewall"):
            with pytest.raises(GroundError, match=rf"{side}, 127\.0\.0\.1:\d+: no answer"):
                found.check([side])


def test_objections_are_all_told_with_their_attack(ground):
    attacks = (
        {"driver": "picky", "knobs": {"b": 1}},
        {"driver": "needy"},
        {"driver": "picky", "name": "well"},
    )
    with pytest.raises(ScenarioError) as caught, ground(attacks=attacks):
        pass
    assert str(caught.value).splitlines() == [
        "attacks[0] (picky): no such knob",
        "attacks[1] (needy): needy needs members",
    ]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"clients": {"by": "header", "count": 2}}, "6 clients are needed, 2 there are"),
        ({"direct": "http://192.0.2.1:80/v2/models/m"}, "not this machine"),
        ({"example": "none.json"}, "none.json"),
    ],
)
def test_a_target_that_does_not_do(ground, changed, words):
    attacks = ({"driver": "picky", "tries": 5},)
    with (
        pytest.raises((ScenarioError, GroundError), match=words),
        ground(TARGET | changed, attacks=attacks),
    ):
        pass


def test_a_core_that_is_not_there(ground):
    with pytest.raises(ScenarioError, match="core 4095"), ground(load=(LOAD | {"cores": (4095,)},)):
        pass


def test_rows_that_the_endpoint_does_not_take(ground, tmp_path):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).random((50, 3), np.float32))
    with pytest.raises(ScenarioError), ground(data={"rows": str(tmp_path / "x.npy")}):
        pass


def test_who_does_not_say_what_it_takes_is_unreachable(ground):
    learnt = {key: value for key, value in TARGET.items() if key != "contract"}
    with pytest.raises(UnreachableError, match="direct"), ground(learnt):
        pass


def test_a_configuration_tells_both_sides_the_audit_log_and_what_is_set_up(
    ground, tmp_path, free_port
):
    (tmp_path / "audit.jsonl").touch()
    configuration = tmp_path / "bartizan.yaml"
    configuration.write_text(f"""\
listen: 127.0.0.1:{free_port()}
audit: {{path: audit.jsonl}}
endpoints:
  - name: m
    match: /v2/models/m
    upstream: http://127.0.0.1:{free_port()}
    contract: {{inputs: [{{name: x, shape: [-1, 4], datatype: FP32}}]}}
""")
    target = {"configuration": str(configuration), "clients": TARGET["clients"]}
    with ground(target) as found:
        about = found.describe()
        assert about["endpoint"] == "m" and len(about["configuration"]) == 64
        assert found._audit == tmp_path / "audit.jsonl"
    (tmp_path / "audit.jsonl").unlink()
    with ground(target) as found:
        assert found._audit is None
