"""A run on a ground without servers: order, interruption, resumption, death, exit status."""

import itertools
import threading
from dataclasses import replace

import pytest
from fake_ground import FakeGround
from rich.console import Console

from loadtest.load.plan import LoadError, Progress
from loadtest.scenario.conduct import conduct
from loadtest.scenario.ground import GroundError, UnreachableError
from loadtest.scenario.ledger import Ledger, LedgerError
from loadtest.scenario.settings import Scenario

LOAD = {"name": "a", "rate": 10, "seconds": 1}
SQUARE = {"driver": "square"}


@pytest.fixture
def ground():
    return FakeGround()


@pytest.fixture
def run(tmp_path, ground):
    """Conducts a scenario on the fake ground: results and status."""

    def run_it(*, resume=False, on=None, **sections):
        given = {"name": "t", "serve": "demo", "load": (LOAD,), "attacks": (SQUARE,)} | sections
        clock = itertools.count(0.0, 0.5)
        return conduct(
            Scenario.model_validate(given),
            tmp_path / "report",
            resume=resume,
            command="bartizan loadtest run t.yaml",
            console=Console(quiet=True),
            open_ground=(on or ground).opened,
            clock=lambda: next(clock),
        )

    return run_it


def test_everything_in_order(run, ground):
    results, status = run()
    assert [what for what in ground.did if not what.startswith("check")] == [
        *("open", "load a direct 0", "load a firewall 0"),
        *("attack square direct", "prepare square", "attack square firewall", "close"),
    ]
    assert ground.did[1] == "check direct firewall"
    assert status == 0 and results.complete and results.passed
    assert [(load.side, load.round) for load in results.loads] == [("direct", 0), ("firewall", 0)]
    assert [one.side for one in results.attacks] == ["direct", "firewall"]
    assert results.attacks[0].details["as"] == "square"
    assert results.notes == ("a note",)
    assert results.target == {"protocol": "v2"}
    begun = [one.begun for one in (*results.loads, *results.attacks)]
    assert begun == sorted(begun) and begun[0] > 0
    assert results.seconds > begun[-1]


@pytest.mark.parametrize(
    ("metric", "bound", "status"),
    [
        ("honest_refusals", "<= 0.9", 0),
        ("honest_refusals", "<= 0.0", 1),
        ("goodput_ratio", ">= 1e9", 1),
        ("goodput_ratio", ">= 0.0", 0),
    ],
)
def test_thresholds_decide(run, metric, bound, status):
    results, found = run(thresholds={metric: bound})
    assert found == status
    assert results.checks[0].passed is (status == 0)


def test_an_attack_that_could_not_be_carried_out_is_a_failure(run, ground):
    ground.attacks["square"] = {"fault": "the budget is too small"}
    results, status = run()
    assert status == 1
    assert results.complete
    assert ground.did.count("attack square firewall") == 1


def test_who_cannot_be_reached_is_told_before_anything_is_sent(run, ground):
    ground.down = "direct, 127.0.0.1:1: no answer"
    with pytest.raises(UnreachableError, match=r"127\.0\.0\.1:1"):
        run()
    assert not any(what.startswith(("load", "attack")) for what in ground.did)
    assert ground.did[-1] == "close"


@pytest.mark.parametrize(
    ("last", "loads", "attacks"),
    [
        ("load a direct 0", 1, 0),
        ("attack square direct", 2, 1),
        ("attack square firewall", 2, 2),
    ],
)
def test_a_server_that_dies_is_told_and_ends_the_run(run, ground, last, loads, attacks):
    ground.dead[last] = "bartizan ended with status 1"
    results, status = run(thresholds={"honest_refusals": "<= 1"})
    assert status == 1
    assert not results.complete and not results.passed
    assert (len(results.loads), len(results.attacks)) == (loads, attacks)
    assert any("bartizan ended with status 1" in note for note in results.notes)
    if attacks:
        assert results.attacks[-1].fault == "bartizan ended with status 1"
    assert [one for one in ground.did if one.startswith(("load", "attack"))][-1] == last


@pytest.mark.parametrize("error", [GroundError("it is gone"), LoadError("it is gone")])
def test_a_load_that_cannot_be_run_ends_the_run(run, ground, error):
    ground.ends["load a firewall 0"] = error
    results, status = run()
    assert status == 1 and not results.complete
    assert any("load a, firewall: it is gone" in note for note in results.notes)
    assert len(results.loads) == 1


@pytest.mark.parametrize(
    ("error", "status"),
    [(SystemExit(130), 130), (SystemExit(143), 143), (KeyboardInterrupt(), 130)],
)
def test_an_interrupted_run_still_has_results(run, ground, error, status):
    ground.ends["attack square direct"] = error
    results, found = run(thresholds={"honest_refusals": "<= 1"})
    assert found == status
    assert not results.complete and not results.passed
    assert len(results.loads) == 2
    assert any("interrupted" in note for note in results.notes)
    assert ground.did[-1] == "close"


def test_a_broken_run_is_gone_on_with(run, ground):
    ground.ends["attack square direct"] = SystemExit(130)
    first, _ = run()
    again = FakeGround()
    results, status = run(resume=True, on=again)
    assert status == 0 and results.complete
    assert [what for what in again.did if what.startswith(("load", "attack"))] == [
        "attack square direct",
        "attack square firewall",
    ]
    assert [replace(load, series=()) for load in results.loads] == list(first.loads)
    assert results.started == first.started
    assert results.seconds > first.loads[-1].begun
    assert results.attacks[0].begun > results.loads[-1].begun


def test_what_failed_is_tried_again(run, ground):
    ground.attacks["square"] = {"fault": "no answer to 20 queries"}
    run()
    again = FakeGround()
    results, status = run(resume=True, on=again)
    assert status == 0
    assert "attack square direct" in again.did and "load a direct 0" not in again.did
    assert not any(attack.fault for attack in results.attacks)


def test_another_scenario_is_not_gone_on_with(run, ground):
    run()
    with pytest.raises(LedgerError, match="another scenario"):
        run(resume=True, seed=2)


def test_nothing_is_not_gone_on_with(run, ground):
    with pytest.raises(LedgerError, match="no broken run"):
        run(resume=True)
    assert ground.did == []


def test_a_new_run_takes_nothing_from_an_old_one(run, ground, tmp_path):
    run()
    stale = tmp_path / "report" / "progress" / "attack.square.direct.journal"
    assert stale.read_text() == "asked"
    (tmp_path / "report" / "site").mkdir()
    again = FakeGround()
    again.ends["load a direct 0"] = SystemExit(130)
    run(on=again)
    assert not stale.exists()
    assert not (tmp_path / "report" / "site").exists()
    assert "load a direct 0" in again.did


@pytest.mark.parametrize("resume", [True, False])
def test_steps_of_nobody_knows_which_run_are_not_taken(run, ground, tmp_path, resume):
    progress = tmp_path / "report" / "progress"
    run()
    (progress / "head.json").unlink()
    again = FakeGround()
    with pytest.raises(LedgerError, match="no broken run" if resume else "take it away"):
        run(on=again, resume=resume)
    assert again.did == []
    for path in progress.iterdir():
        path.unlink()
    assert run(on=again)[1] == 0
    assert "attack square direct" in again.did


def test_steps_of_another_run_are_not_taken(run, tmp_path):
    progress = tmp_path / "report" / "progress"
    run()
    step = progress / "attack.square.direct.json"
    other = step.read_text().replace('"started": "2', '"started": "1', 1)
    assert other != step.read_text()
    step.write_text(other)
    with pytest.raises(LedgerError, match="of another run"):
        run(resume=True)


@pytest.mark.parametrize("damage", ["{", "[]", "{}", '{"version": 99}', "\0"])
def test_what_was_noted_and_cannot_be_read(run, ground, tmp_path, damage):
    run()
    (tmp_path / "report" / "progress" / "load.a.0.direct.json").write_text(damage)
    with pytest.raises(LedgerError):
        run(resume=True)


def test_a_ledger_s_head_that_cannot_be_read(tmp_path):
    for damage in ("{", "[]", "{}", '{"digest": "d", "started": "x", "seconds": "y"}'):
        (tmp_path / "head.json").write_text(damage)
        with pytest.raises(LedgerError):
            Ledger.resume(tmp_path, "d")


def test_a_load_runs_beside_an_attack_for_as_long_as_it_takes(run, ground):
    third = threading.Event()

    def during(load, turn, progress):
        if turn >= 10_002:
            third.set()

    def slow(attack, side, journal, progress):
        ground.did.append(f"attack {attack.title} {side}")
        if side == "firewall":
            assert third.wait(30)
        return FakeGround.attack(ground, attack, side, journal, progress)

    ground.during = during
    ground.attack = slow
    results, status = run(attacks=({"driver": "square", "during": "a"},))
    assert status == 0
    beside = [load for load in results.loads if load.beside]
    assert len(beside) >= 3
    assert {(load.name, load.side, load.beside) for load in beside} == {("a", "firewall", "square")}
    assert [load.round for load in beside] == list(range(len(beside)))
    assert len(results.loads) - len(beside) == 2
    # The rows of a round hang on its number: beside another attack they are others.
    assert "load a firewall 10000" in ground.did


def test_a_load_beside_that_fails_is_noted(run, ground):
    ground.during = lambda load, turn, progress: None
    original = ground.load

    def load(load, side, turn, progress):
        if any(what.startswith("prepare") for what in ground.did):
            raise LoadError("no connection")
        return original(load, side, turn, progress)

    ground.load = load
    results, _ = run(attacks=({"driver": "square", "during": "a"},))
    assert any("the load beside it failed: no connection" in note for note in results.notes)
    assert len(results.attacks) == 2


def test_a_load_beside_ends_at_once_when_the_run_is_interrupted(run, ground):
    begun = threading.Event()

    def during(load, turn, progress):
        if not any(what.startswith("prepare") for what in ground.did):
            return
        begun.set()
        for _ in range(10**8):  # as long as a long load, but for what progress raises
            progress(Progress("a", "firewall", turn, 0.0, 1e6, 0, 0, 0, 0, {}, 0))

    def attack(attack, side, journal, progress):
        if side == "firewall":
            assert begun.wait(30)
            raise SystemExit(130)
        return FakeGround.attack(ground, attack, side, journal, progress)

    ground.during = during
    ground.attack = attack
    results, status = run(attacks=({"driver": "square", "during": "a"},))
    assert status == 130
    assert "beside" not in {thread.name for thread in threading.enumerate()}
    assert len(results.attacks) == 1
