"""``bartizan explain``: its words, its JSON, its exit codes; of a gateway, and of an audit log."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner
from explained_exchanges import BLOCKED, CLIENT, DIGEST, DISAGREED, WALL, bundle, odd_row, record

import detectors.bundle
from detectors.agreement.base import Answers
from detectors.bundle import BundleError
from proxy.cli import explain as module
from proxy.cli.admin import Failed, Unreachable
from proxy.cli.audit_record import Unexplained, find, kept_of
from proxy.cli.explain import explain
from proxy.explain import explained
from proxy.explanations import Explanations
from proxy.telemetry.audit_line import Lines


def run(*arguments):
    return CliRunner().invoke(explain, arguments, catch_exceptions=False)


@pytest.fixture
def gateway(monkeypatch):
    """What the listener is asked, and what it answers."""
    state = SimpleNamespace(asked=[], answer=None, given=None)

    class Listener:
        def ask(self, method, path):
            state.asked.append((method, path))
            if isinstance(state.answer, Exception):
                raise state.answer
            return state.answer

    def listener(*given, **more):
        state.given = (*given, more)
        return Listener()

    monkeypatch.setattr(module, "listener", listener)
    return state


def explanation(decision=BLOCKED, rows=None, answers=None, served=None, **more):
    ring = Explanations(4, wall=lambda: WALL)
    ring.keep(record(decision=decision, **more), odd_row() if rows is None else rows, answers)
    return explained(ring.find("one"), served or bundle(), now=WALL)


def of_an_answer():
    answers = Answers.of_probabilities([[0.9, 0.1]])
    return explanation(
        DISAGREED,
        odd_row(0, 4.0),
        answers,
        answer_score=8.0,
        answer_signals={"feature_squeezing": 0.02},
    )


def test_a_refused_input_in_words(gateway):
    gateway.answer = explanation()
    done = run("one", "--admin", "http://127.0.0.1:9090")
    assert done.exit_code == 0
    assert gateway.asked == [("GET", "/api/v1/explanations/one")]
    for words in (
        "one: block",
        f"client: {CLIENT}",
        "BZ-300: The merged outlier score passed the calibrated threshold.",
        "1 of 1 rows passed the threshold",
        "MITRE ATLAS: AML.T0015, AML.T0043",
        "The input, row 0: score ",
        "above the threshold",
        "(1, 1)",
        "mahalanobis",
        "exact",
        "all others",
        "The honest examples nearest to it",
        f'      - client: "{CLIENT}"',
    ):
        assert words in done.output, words
    assert done.output.isascii()


def test_an_answer_in_words(gateway):
    gateway.answer = of_an_answer()
    output = run("one").output
    for words in (
        "The model answered cat (90.0 %) to row 0.",
        "first_feature would have answered dog, and doubts the model's by 4 ",
        "asked again, feature_squeezing: p-value 0.02",
        "BZ-400:",
    ):
        assert words in output, words


def test_a_regression_answer_in_words(gateway):
    gateway.answer = of_an_answer()
    gateway.answer["answer"] |= {
        "label": None,
        "values": [1.25, 7.0],
        "witnesses": [],
        "expected": {"residual_agreement": [3.5]},
    }
    output = run("one").output
    assert "The model answered 1.25, 7 to row 0." in output
    assert "residual_agreement expected 3.5" in output


def test_the_sums_that_are_shown_add_up(gateway):
    gateway.answer = explanation(rows=np.full((1, 6), 5.0, np.float32))
    lines = run("one").output.splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith("feature"))
    shown = []
    for line in lines[start + 1 :]:
        if not line.strip():
            break
        shown.append(float(line.split()[-1]))
    assert len(shown) == 6 + 3
    assert sum(shown[:-1]) == pytest.approx(shown[-1], abs=0.01)
    assert shown[-1] == pytest.approx(gateway.answer["input"]["score"], abs=0.01)


def test_monitor_mode_is_told_apart(gateway):
    gateway.answer = explanation() | {"enforced": "allow", "would_block": True, "status": 200}
    assert "one: allow (by itself: block)" in run("one").output


def test_an_exchange_without_a_row(gateway):
    gateway.answer = explanation(rows=odd_row(), bundle="cd" * 32)
    done = run("one")
    assert done.exit_code == 0
    assert "Note: the bundle that scored it, cdcdcdcdcdcdcdcd, does not serve" in done.output


def test_json_is_what_was_answered(gateway):
    gateway.answer = of_an_answer()
    assert json.loads(run("one", "--json").output) == gateway.answer


def test_nothing_that_a_terminal_obeys_is_printed(gateway):
    gateway.answer = explanation()
    gateway.answer["reasons"][0]["detail"] = "a\x1b[2Jb\nc"
    gateway.answer["endpoint"] = "x\x07"
    output = run("one").output
    assert "\x1b" not in output
    assert "\x07" not in output


@pytest.mark.parametrize("answer", [{}, {"input": {}}, {"input": 1}, {"examples": [3]}])
def test_an_answer_of_another_version_is_no_traceback(gateway, answer):
    gateway.answer = explanation() | answer if answer else {}
    done = run("one")
    assert done.exit_code in {0, 1}
    assert done.exit_code == 0 or "is not as this version knows it" in done.stderr


@pytest.mark.parametrize(
    ("answer", "status"),
    [(Failed("nothing is kept of this exchange"), 1), (Unreachable("127.0.0.1: refused"), 4)],
)
def test_exit_status(gateway, answer, status):
    gateway.answer = answer
    done = run("one")
    assert done.exit_code == status
    assert str(answer) in done.stderr
    assert not done.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["a/b"],
        [""],
        ["x" * 129],
        ["one", "--audit", "log"],
        ["one", "--bundle", __file__],
        ["one", "--audit", "log", "--bundle", __file__, "--admin", "http://127.0.0.1:1"],
        ["one", "--audit", "log", "--bundle", __file__, "--config", "some"],
    ],
)
def test_usage(gateway, arguments):
    assert run(*arguments).exit_code == 2
    assert gateway.asked == []


# An audit log instead of a gateway.


@pytest.fixture
def log(tmp_path):
    """Writes records as the audit log would; returns its path."""
    path = tmp_path / "audit.jsonl"

    def write(*records, name="audit.jsonl"):
        lines = [b'{"seq":1,"prev":"' + b"0" * 64 + b'",' + Lines().event("opened", WALL, {})]
        lines += [b'{"seq":2,"prev":"",%b' % Lines(WALL).exchange(one) for one in records]
        (tmp_path / name).write_bytes(b"\n".join(lines) + b"\n")
        return path

    return write


def with_values(values, answers=None, **more):
    made = record(bundle=DIGEST, **more)
    made.notes["values"] = values
    if answers is not None:
        made.notes["answers"] = answers
    return made


def test_an_audit_log_says_what_the_gateway_says(log):
    served, rows = bundle(), np.vstack([odd_row(1, 1.0), odd_row(4, 30.1)])
    path = log(record("other"), with_values(rows, rows=2, worst_row=1))
    kept, note = kept_of(find(path, "one"), served)
    assert note == ""
    told = explained(kept, served, now=WALL)
    live = explanation(rows=rows, served=served, worst_row=1) | {"rows": 2}
    for name in ("input", "exclusion", "examples", "reasons", "time", "action", "client"):
        assert told[name] == live[name], name


@pytest.mark.parametrize(
    "answers",
    [{"probabilities": np.array([[0.5, 0.5], [0.9, 0.1]])}, {"labels": np.array([1, 0])}],
)
def test_an_audit_log_that_holds_the_answers_explains_them(log, answers):
    served, rows = bundle(), np.vstack([odd_row(1, 1.0), odd_row(0, 4.0)])
    path = log(with_values(rows, answers, decision=DISAGREED, answer_score=8.0, answer_row=1))
    kept, note = kept_of(find(path, "one"), served)
    assert note == ""
    told = explained(kept, served, now=WALL)["answer"]
    assert (told["row"], told["label"]) == (1, "cat")
    assert told["witnesses"][0]["answer"] == "dog"


def test_a_log_without_answers_says_so(log):
    path = log(with_values(odd_row(0, 4.0), decision=DISAGREED, answer_score=8.0))
    kept, note = kept_of(find(path, "one"), bundle())
    assert kept.doubted is None
    assert "does not hold what the model answered" in note


def test_a_log_without_values_says_so(log):
    kept, note = kept_of(find(log(record()), "one"), bundle())
    assert kept.worst is None
    assert "audit.values" in note


def test_every_worker_s_log_is_searched(log):
    log(record("other"), name="audit.worker-1.jsonl")
    log(record("one", status=418), name="audit.worker-2.jsonl.000000000001")
    path = log(record("another"), name="audit.worker-2.jsonl")
    assert find(path, "one")["status"] == 418
    with pytest.raises(Unexplained, match="holds no exchange"):
        find(path, "on")


@pytest.mark.parametrize(
    "edit",
    [
        {"reasons": [{"rule": "BZ-999", "detail": ""}]},
        {"action": "shrug"},
        {"worst_row": 7},
        {"worst_row": "0"},
        {"notes": {"values": [[1.0, 2.0]]}},
        {"notes": {"values": "x"}},
        {"notes": []},
        {"time": "soon"},
        {"client": ...},
    ],
)
def test_a_record_that_was_edited_is_refused(log, edit):
    found = find(log(with_values(odd_row())), "one")
    for key, value in edit.items():
        if value is ...:
            del found[key]
        else:
            found[key] = value
    with pytest.raises(Unexplained, match="cannot be read"):
        kept_of(found, bundle())


def offline(monkeypatch, path, served, *more):
    def load_bundle(_):
        if isinstance(served, Exception):
            raise served
        return served

    monkeypatch.setattr(detectors.bundle, "load_bundle", load_bundle)
    return run("one", "--audit", str(path), "--bundle", __file__, *more)


def test_offline_in_words_and_as_json(monkeypatch, log):
    path = log(with_values(odd_row()))
    done = offline(monkeypatch, path, bundle())
    assert done.exit_code == 0
    assert "(1, 1)" in done.output
    told = json.loads(offline(monkeypatch, path, bundle(), "--json").output)
    assert told["input"]["features"][0]["index"] == 4


def test_offline_faults_end_with_status_1(monkeypatch, log, tmp_path):
    path = log(record("other"))
    done = offline(monkeypatch, path, bundle())
    assert (done.exit_code, "holds no exchange one" in done.stderr) == (1, True)
    done = offline(monkeypatch, path, BundleError("damaged"))
    assert (done.exit_code, "damaged" in done.stderr) == (1, True)
    done = offline(monkeypatch, tmp_path / "none" / "audit.jsonl", bundle())
    assert done.exit_code == 1
