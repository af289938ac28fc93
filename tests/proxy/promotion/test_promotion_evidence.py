"""What of an audit log counts, and what has to hold."""

from datetime import timedelta

import pytest
from promotion_logs import CLIENTS, NOW, PLAIN, Log, configuration, log_of

from proxy.promotion.evidence import Question, gather
from proxy.promotion.requirements import Bounds, requirements
from proxy.promotion.verdict import Kind
from proxy.settings.load import load

BUNDLE = "b" * 64
BOUNDS = Bounds(0.01, 0.01)


def question(path, *, bundle=BUNDLE, days=8, **more):
    settings = load(path)
    since = (NOW - timedelta(days=days)).timestamp()
    return Question(settings, settings.endpoints[0], bundle, since, NOW.timestamp(), **more)


def weigh(path, *, logs=None, bounds=BOUNDS, **more):
    """The evidence, and the names of the requirements that do not hold."""
    evidence = gather(logs or [path.with_name("audit.jsonl")], question(path, **more))
    held = requirements(evidence, bounds, pseudonyms=True)
    assert all(one.missing for one in held if not one.met)
    return evidence, [one.name for one in held if not one.met]


@pytest.fixture
def path(tmp_path):
    return configuration(tmp_path)


@pytest.fixture
def log(path):
    """To be filled and closed."""
    return Log(path.with_name("audit.jsonl"), load(path), bundle=BUNDLE)


SCORED = {"p_value": 0.5, "flagged_rows": 0}
FLAGGED = {"p_value": 1e-6, "flagged_rows": 1}


def test_honest_traffic_will_do(path, log):
    log.honest(500, **SCORED)
    log.close()
    evidence, missing = weigh(path)
    assert missing == []
    assert evidence.requests == evidence.scored_rows == 500
    assert len(evidence.clients) == 20
    assert len(evidence.hours) == 48


def test_a_log_that_is_named_twice_counts_once(path, log):
    log.honest(200, **SCORED)  # twice as many would do
    log.close()
    evidence, missing = weigh(path, logs=[log.path, log.path])
    assert evidence.requests == 200
    assert evidence.left_out == {"told before, in another of the logs": 200}
    assert "flagged rows" in missing


def test_too_little_says_how_much_more(path, log):
    log.honest(200, **SCORED)
    log.close()
    held = requirements(gather([log.path], question(path)), BOUNDS, pseudonyms=True)
    (rows,) = [one for one in held if one.name == "flagged rows"]
    assert not rows.met
    assert rows.missing.startswith("99 more rows, 23.6 hours")


@pytest.mark.parametrize("flagged", [0, 1, 40])
def test_the_budget_of_rows(path, log, flagged):
    log.honest(500 - flagged, **SCORED)
    for number in range(flagged):
        log.exchange(NOW - timedelta(seconds=number), CLIENTS[number], "BZ-300", **FLAGGED)
    log.close()
    evidence, missing = weigh(path)
    assert evidence.refused[Kind.ROWS] == evidence.flagged_rows == flagged
    assert ("flagged rows" in missing) is (flagged == 40)
    assert ("refused for rows" in missing) is (flagged == 40)


def test_rows_of_one_request_are_one_request(path, log):
    """Many rows of one request prove little more than one."""
    log.honest(3, hours=2, **{**SCORED, "rows": 5000})
    log.close()
    _, missing = weigh(path)
    assert "flagged rows" not in missing
    assert "refused for rows" not in missing  # each may be flagged with certainty
    assert {"hours", "clients"} <= set(missing)


def test_by_rule_and_client(path, log):
    log.honest(500, **SCORED)
    log.exchange(NOW, CLIENTS[0], "BZ-300", "BZ-601", **FLAGGED)
    log.exchange(NOW, CLIENTS[0], "BZ-300", **FLAGGED)
    log.close()
    evidence, _ = weigh(path)
    assert evidence.rules["BZ-300"].requests == 2
    assert evidence.rules["BZ-300"].clients == {CLIENTS[0]}
    assert evidence.clients[CLIENTS[0]].refused == 2
    assert evidence.refused == {Kind.ROWS: 2, Kind.LIMIT: 1}
    assert evidence.refused_requests == 2


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (("mode: monitor", "mode: enforce"), "while it enforced"),
        (("shape: [-1, 4]", "shape: [-1, 5]"), "under other settings of the endpoint"),
        (("mode: monitor", "mode: monitor\n    rules: {BZ-601: {mode: off}}"),
         "while a rule was off that is not off now"),
        (("secret: ", "ipv4_prefix: 28\n  secret: "), "under other settings of the endpoint"),
    ],
    ids=str,
)  # fmt: skip
def test_what_was_decided_otherwise_does_not_count(path, log, tmp_path, change, why):
    other = tmp_path / "other"
    other.mkdir()
    log.configured(load(configuration(other, PLAIN.replace(*change))), NOW - timedelta(days=5))
    log.honest(50, **SCORED)
    log.close()
    evidence, missing = weigh(path)
    assert evidence.left_out == {why: 50}
    assert "traffic" in missing


@pytest.mark.parametrize(
    "change",
    [
        ("endpoints:", "http: {head_bytes: 20000}\nendpoints:"),
        ("endpoints:", "endpoints:\n  - {name: b, match: /v2/models/b, upstream: 'http://a:1'}"),
        ("mode: monitor", "mode: monitor\n    timeouts: {connect_seconds: 2}"),
        ("mode: monitor", "mode: monitor\n    failure_mode: allow"),
        ("mode: monitor", 'mode: monitor\n    rules: {BZ-601: {exclude: [{client: '
         '"00000000000000000000000000000001", until: 2030-01-01}]}}'),
    ],
    ids=str,
)  # fmt: skip
def test_what_does_not_touch_the_verdicts_spoils_nothing(path, log, tmp_path, change):
    other = tmp_path / "other"
    other.mkdir()
    log.configured(load(configuration(other, PLAIN.replace(*change))), NOW - timedelta(days=5))
    log.honest(50, **SCORED)
    log.close()
    assert weigh(path)[0].requests == 50


def test_another_bundle_in_the_middle(path, log):
    log.honest(30, **SCORED)
    log._bundle = "c" * 64
    log.honest(20, **SCORED)
    log.close()
    evidence, _ = weigh(path)
    assert evidence.requests == 30
    assert evidence.left_out == {"scored by another bundle": 20}


def test_another_endpoints_log(path, log):
    log.honest(30, endpoint="faces", **SCORED)
    log.close()
    evidence, missing = weigh(path)
    assert evidence.requests == 0
    assert evidence.others == {"faces": 30}
    held = requirements(evidence, BOUNDS, pseudonyms=True)
    assert "this log is of faces" in next(one.missing for one in held if one.name == "traffic")
    assert "flagged rows" in missing


def test_an_edited_log_is_no_evidence(path, log):
    log.honest(500, **SCORED)
    log.close()
    whole = log.path.read_bytes()
    log.path.write_bytes(whole.replace(b'"rows":1,', b'"rows":9,', 1))
    assert weigh(path)[1] == ["log intact"]
    log.path.write_bytes(whole[: len(whole) // 2])
    assert "log intact" in weigh(path)[1]


def test_rotated_files_and_several_workers_are_one_evidence(path):
    settings = load(path)
    for worker in (1, 2):
        log = Log(
            path.with_name(f"audit.worker-{worker}.jsonl"), settings, bundle=BUNDLE, workers=2
        )
        log.honest(250, **SCORED)
        log.close()
    evidence, missing = weigh(path)
    assert evidence.requests == 500
    assert missing == []
    assert len(evidence.reports) == 2


def test_logs_of_replicas_are_one_evidence(path, tmp_path):
    logs = []
    for replica in ("a", "b"):
        (tmp_path / replica).mkdir()
        log = Log(tmp_path / replica / "audit.jsonl", load(path), bundle=BUNDLE)
        log.honest(500, **SCORED)
        log.close()
        logs.append(log.path)
    evidence, _ = weigh(path, logs=logs)
    assert evidence.requests == 1000
    assert len(evidence.reports) == 2


def test_a_log_that_is_not_there(path, tmp_path):
    with pytest.raises(FileNotFoundError, match="no such audit log"):
        gather([tmp_path / "none.jsonl"], question(path))


def test_a_configured_record_that_retention_deleted(path):
    log = Log(path.with_name("audit.jsonl"), load(path), bundle=BUNDLE)
    log._configuration = "f" * 64
    log.honest(10, **SCORED)
    log.close()
    evidence, _ = weigh(path)
    assert evidence.left_out == {"under a configuration that is not known any more": 10}


def test_an_older_log_counts_if_the_whole_configuration_is_the_same(path):
    log = Log(path.with_name("audit.jsonl"), load(path), bundle=BUNDLE)
    log.close()
    log = Log(path.with_name("b.jsonl"), load(path), bundle=BUNDLE)
    log.configured(load(path), NOW - timedelta(days=8), verdicts=None)
    log.honest(10, **SCORED)
    log.close()
    assert weigh(path, logs=[log.path])[0].requests == 10


def test_the_clock(path, log):
    log.honest(500, **SCORED)
    log.exchange(NOW + timedelta(days=1), CLIENTS[0], **SCORED)
    log.exchange(NOW - timedelta(days=2), CLIENTS[0], **SCORED)
    log.close()
    evidence, missing = weigh(path)
    assert evidence.left_out == {"in the future": 1}
    assert evidence.jumps == 1
    assert missing == ["all recorded"]


def test_the_period(path, log):
    log.honest(100, hours=24 * 8, **SCORED)
    log.close()
    evidence, _ = weigh(path, days=4)
    assert evidence.requests == 50
    assert evidence.left_out == {"before the period": 50}


def test_nobody(path, log):
    log.close()
    evidence, missing = weigh(path)
    assert evidence.requests == 0
    assert {"traffic", "flagged rows", "hours", "clients", "alarmed client-days"} <= set(missing)


def test_one_client_alone(path, log):
    log.honest(500, clients=1, **SCORED)
    log.close()
    assert weigh(path)[1] == ["clients", "largest client"]
    bounds = Bounds(0.01, 0.01, clients=1, share=1.0)
    assert weigh(path, bounds=bounds)[1] == []


def test_clients_without_a_secret_are_not_counted_twice(path, log):
    for life in range(3):
        log.add("started", NOW)
        for number in range(6):
            log.exchange(NOW, f"{100 * life + number:032x}", **SCORED)
    log.close()
    evidence, _ = weigh(path)
    held = requirements(evidence, BOUNDS, pseudonyms=False)
    (clients,) = [one for one in held if one.name == "clients"]
    assert clients.figure.startswith("6 in the process that saw most")
    assert not clients.met


def test_client_days(path, log):
    log.honest(500, **SCORED)
    for client in CLIENTS[:6]:
        log.exchange(NOW, client, "BZ-500", action="shape", **SCORED)
        log.exchange(NOW, client, "BZ-500", action="shape", **SCORED)
    log.exchange(NOW, CLIENTS[9], "BZ-503", action="allow", **SCORED)
    log.exchange(NOW, CLIENTS[9], "BZ-520", action="shape", **SCORED)
    log.close()
    evidence, missing = weigh(path)
    assert (len(evidence.alarmed), len(evidence.client_days)) == (6, 60)
    assert evidence.shaped == 13
    assert missing == ["alarmed client-days"]
    assert weigh(path, hostile=frozenset(CLIENTS[:6]))[1] == []


def test_client_days_that_are_too_few_to_show_it(path, log):
    log.honest(500, **SCORED)
    log.close()
    assert weigh(path)[1] == []
    assert weigh(path, bounds=Bounds(0.01, 0.01, shown=True))[1] == ["alarmed client-days"]


@pytest.mark.parametrize(
    ("rules", "missing"),
    [
        (("BZ-390",), ["faults"]),
        (("BZ-601",), ["limits"]),
        (("BZ-202",), ["contract"]),
        (("BZ-600",), ["contract"]),
        (("BZ-999",), ["contract"]),
        (("BZ-110",), []),
        (("BZ-130",), []),
        (("BZ-503",), []),
    ],
    ids=str,
)
def test_other_rules(path, log, rules, missing):
    log.honest(500, **SCORED)
    for number in range(5):
        log.exchange(NOW - timedelta(seconds=number), CLIENTS[number], *rules)
    log.close()
    assert weigh(path)[1] == missing


def test_faults_that_a_failure_mode_tolerates(tmp_path):
    text = PLAIN.replace("mode: monitor", "mode: monitor\n    failure_mode: allow")
    path = configuration(tmp_path, text)
    log = Log(path.with_name("audit.jsonl"), load(path), bundle=BUNDLE)
    log.honest(500, **SCORED)
    log.exchange(NOW, CLIENTS[0], "BZ-390")
    log.close()
    assert weigh(path)[1] == []


def test_exclusions_of_now_are_applied_to_then(tmp_path):
    switch = '{exclude: [{client: "00000000000000000000000000000001", until: 2030-01-01}]}'
    text = PLAIN.replace("mode: monitor", f"mode: monitor\n    rules: {{BZ-601: {switch}}}")
    path = configuration(tmp_path, text)
    log = Log(path.with_name("audit.jsonl"), load(configuration(tmp_path)), bundle=BUNDLE)
    configuration(tmp_path, text)
    log.honest(500, **SCORED)
    for number in range(20):
        log.exchange(NOW - timedelta(seconds=number), CLIENTS[0], "BZ-601")
    log.close()
    assert weigh(path)[1] == []
    configuration(tmp_path, text.replace("2030", "2020"))
    assert weigh(path)[1] == ["limits"]  # it has run out


def test_what_was_lost(path, log):
    log.honest(500, **SCORED)
    log.add("dropped", NOW, records=3)
    log.add("unreadable", NOW, id="x")
    log.add("state degraded", NOW, problem="away")
    log.close()
    evidence, missing = weigh(path)
    assert evidence.dropped == 3
    assert missing == ["all recorded", "faults"]


def test_drift(path, log):
    log.honest(500, **SCORED)
    for number in range(14):
        log.exchange(NOW - timedelta(seconds=number), CLIENTS[number], "BZ-300", **FLAGGED)
    log.close()
    assert weigh(path, bounds=Bounds(0.1, 0.01))[1] == ["drift"]


def test_requests_that_are_rightly_flagged(path, log):
    log.honest(500, **SCORED)
    for number in range(40):
        log.exchange(NOW, CLIENTS[number], "BZ-300", id=f"bad-{number}", **FLAGGED)
    log.close()
    assert "flagged rows" in weigh(path)[1]
    named = frozenset({f"bad-{number}" for number in range(40)} | {"unknown"})
    evidence, missing = weigh(path, rightly=named)
    assert missing == []
    assert evidence.rightly == named - {"unknown"}


@pytest.mark.parametrize(
    "fields",
    [{"rows": "many"}, {"reasons": 7}, {"reasons": [7]}, {"time": "soon"}, {"flagged_rows": None}],
    ids=str,
)
def test_records_that_are_not_as_they_are_written(path, log, fields):
    log.honest(10, **SCORED)
    values = {**SCORED, **fields}
    time = values.pop("time", None)
    log.exchange(NOW, CLIENTS[0], **values, **({"time": time} if time else {}))
    log.close()
    evidence, _ = weigh(path)
    assert evidence.requests == 10
    assert evidence.left_out.total() == 1


def test_the_endpoint_without_a_bundle_scores_nothing(tmp_path):
    path = configuration(tmp_path)
    log_of(path)
    evidence, missing = weigh(path, bundle="", bounds=Bounds(None, None))
    assert missing == []
    assert evidence.scored_rows == 0
