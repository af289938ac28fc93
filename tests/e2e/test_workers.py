"""Several workers on one address, over a real Redis: killed, hung, reloaded, drained, orphaned."""

import contextlib
import json
import os
import signal
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import pytest
from recorder import MODEL
from redis_servers import ANY, RedisServer
from traffic import Traffic, ask, exchange, request_of

from loadtest.payloads import infer_request, infer_target
from loadtest.process import BARTIZAN, ProcessError

SECRET = "a secret of at least sixteen characters"
WORKERS = 2

pytestmark = pytest.mark.skipif(ANY is None, reason="no Redis server is installed")


@pytest.fixture
def redis(tmp_path_factory):
    """A running Redis."""
    server = RedisServer(tmp_path_factory.mktemp("redis")).start()
    yield server
    server.stop()


@pytest.fixture
def guard(recorder, gateway, redis):
    """Starts a firewall with workers: ``guard(endpoint={...}, **sections)``."""

    def start(*, wait=True, endpoint=None, **sections):
        return gateway(
            [recorder.endpoint(**(endpoint or {}))],
            wait=wait,
            **{
                "workers": WORKERS,
                "state": redis.url,
                # A busy machine is no outage.
                "sharing": {"wait_seconds": 1.0},
                "client": {"secret": SECRET},
                **sections,
            },
        )

    return start


def workers(guard):
    """Process ids of the workers, in no order."""
    pid = guard.process.pid
    children = [
        int(child)
        for task in Path(f"/proc/{pid}/task").iterdir()
        for child in (task / "children").read_text().split()
    ]
    assert pid not in children
    return children


def number_of(pid):
    """Which worker a process is, by the chain that it holds open."""
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            name = link.readlink().name
            if name.startswith("audit.worker-") and name.endswith(".head"):
                return int(name.split("-")[1].split(".")[0])
    raise AssertionError(f"{pid} holds no chain")


def starts(guard):
    return guard.metric("bartizan_worker_starts_total")


def is_whole(guard, count):
    """Whether all workers serve, after so many starts."""
    return starts(guard) == count and guard.metric("bartizan_worker_up") == WORKERS


def lives(pid):
    """Whether a process runs: a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def verify(guard):
    """What ``bartizan audit verify`` says of all chains."""
    command = [*BARTIZAN, "audit", "verify", "--json", str(guard.audit)]
    return json.loads(subprocess.run(command, capture_output=True, check=False).stdout)


def chain(guard, worker):
    """The records of one worker's chain."""
    path = guard.audit.with_name(f"audit.worker-{worker}.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_all_workers_serve_and_their_figures_are_one(guard):
    one = guard()
    for turn in range(60):
        assert ask(one.address, request_of(f"n{turn}")).status == 200
    assert one.metric("bartizan_requests_total", endpoint="digits", action="allow") == 60
    assert one.metric("bartizan_request_seconds_count", endpoint="digits") == 60
    assert one.metric("bartizan_workers") == WORKERS
    assert one.metric("bartizan_worker_up") == WORKERS
    assert one.metric("bartizan_connections") == 0
    (endpoint,) = json.loads(one.ask_admin("/api/v1/endpoints").body)["endpoints"]
    assert endpoint["name"] == "digits"
    assert endpoint["problem"] is None
    assert one.stop() == 0
    counts = [
        sum(record["type"] == "exchange" for record in chain(one, worker)) for worker in (1, 2)
    ]
    assert sum(counts) == 60
    assert min(counts) > 5, "the kernel spreads connections"
    started = [chain(one, worker)[1] for worker in (1, 2)]
    assert [(record["worker"], record["workers"]) for record in started] == [(1, 2), (2, 2)]
    report = verify(one)
    assert report["ok"]
    assert len(report["chains"]) == WORKERS


def test_a_quota_is_one_over_all_workers(guard):
    one = guard(endpoint={"limits": {"rows_per_day": 40, "rows_per_request": 8}})
    given = [ask(one.address, request_of(f"n{turn}")).status for turn in range(120)]
    assert 39 <= given.count(200) <= 40
    assert given.count(429) == 120 - given.count(200)


def test_a_killed_worker_gives_its_leases_back(guard):
    """What it had leased of the day and not spent is admitted by others; not one row more."""
    one = guard(endpoint={"limits": {"rows_per_day": 64, "rows_per_request": 8}})
    given = [ask(one.address, request_of(f"n{turn}")).status for turn in range(20)]
    os.kill(process_of(one, 1), signal.SIGKILL)
    one.process.wait_until(lambda: is_whole(one, WORKERS + 1), 60)
    given += [ask(one.address, request_of(f"n{turn}")).status for turn in range(100)]
    assert given.count(200) == 64
    assert given.count(429) == 120 - 64


def served_by(guard, answer):
    """The worker that gave an answer: the one whose chain holds its id."""
    name = answer.headers["x-request-id"]
    found = []

    def recorded():
        found.extend(
            worker
            for worker in range(1, WORKERS + 1)
            if any(record.get("id") == name for record in chain(guard, worker))
        )
        return found

    guard.process.wait_until(recorded)
    return found[0]


def process_of(guard, worker):
    """The process that is this worker."""
    return next(pid for pid in workers(guard) if number_of(pid) == worker)


def growing(metrics):
    """The samples that must never go back."""
    return {
        key: value
        for key, value in metrics.items()
        if key[0].endswith(("_total", "_count", "_bucket", "_sum"))
    }


def test_a_killed_worker_is_replaced_and_nobody_else_notices(guard):
    one = guard(audit={"durability": "released"})
    with socket.create_connection(one.address, 30) as connection:
        holder = served_by(one, exchange(connection, request_of("before")))
        killed = 3 - holder
        with Traffic(one, 4000) as traffic:
            traffic.wait_for(1000)
            seen = [growing(one.metrics())]
            os.kill(process_of(one, killed), signal.SIGKILL)

            def replaced():
                seen.append(growing(one.metrics()))
                return is_whole(one, WORKERS + 1)

            one.process.wait_until(replaced, 60)
            traffic.join()
        assert exchange(connection, request_of("after")).status == 200, "untouched"
    seen.append(growing(one.metrics()))
    for earlier, later in pairwise(seen):
        assert [key for key, value in earlier.items() if later.get(key, -1) < value] == []
    # Only what was under way on the killed worker's connections is lost: at most one each.
    failed = traffic.failures
    assert len(failed) <= 8
    assert all(outcome.status == 0 and "Reset" in outcome.failure for outcome in failed), failed
    assert one.stop() == 0
    assert verify(one)["ok"]
    answered = {outcome.request_id for outcome in traffic.outcomes if outcome.status == 200}
    recorded = {record.get("id") for worker in (1, 2) for record in chain(one, worker)}
    assert answered <= recorded
    lives_of = [record for record in chain(one, killed) if record["type"] == "started"]
    assert len(lives_of) == 2, "the replacement goes on with the chain"


def test_a_drained_worker_leaves_its_figures_whole(guard):
    """SIGTERM to one worker, as for a rolling restart: it ends in order, and is replaced."""
    one = guard()
    for turn in range(30):
        assert ask(one.address, request_of(f"n{turn}")).status == 200
    os.kill(process_of(one, 2), signal.SIGTERM)
    one.process.wait_until(lambda: is_whole(one, WORKERS + 1), 60)
    assert one.metric("bartizan_requests_total", endpoint="digits") == 30
    assert one.stop() == 0
    assert verify(one)["ok"]


def test_a_hung_worker_is_told_keeps_its_figures_and_is_replaced(guard):
    one = guard()
    for turn in range(30):
        assert ask(one.address, request_of(f"n{turn}")).status == 200
    before = growing(one.metrics())
    hung = process_of(one, 1)
    os.kill(hung, signal.SIGSTOP)
    try:
        one.process.wait_until(lambda: one.metric("bartizan_worker_up", worker="1") == 0)
        after = growing(one.metrics())
        assert [key for key, value in before.items() if after.get(key, -1) < value] == []
        page = json.loads(one.ask_admin("/readyz").body)
        assert page == {"ready": False, "reasons": ["worker 1: does not answer"]}
        one.process.wait_until(lambda: is_whole(one, WORKERS + 1), 120)
    finally:
        with contextlib.suppress(ProcessLookupError):  # a stopped process outlives us
            os.kill(hung, signal.SIGKILL)
    assert one.ready()
    last = growing(one.metrics())
    assert [key for key, value in before.items() if last.get(key, -1) < value] == []
    assert one.stop() == 0
    assert verify(one)["ok"]


def reloaded(one):
    """Sends SIGHUP, and waits until that attempt is over."""
    before = one.metric("bartizan_reloads_total")
    one.signal(signal.SIGHUP)
    one.process.wait_until(lambda: one.metric("bartizan_reloads_total") == before + 1)
    return one.metric("bartizan_reload_successful") == 1


def statuses(one, rows, count=24):
    """The statuses of requests of so many rows, over all workers."""
    return {ask(one.address, request_of(f"n{turn}", rows=rows)).status for turn in range(count)}


def test_all_workers_reload_or_none(guard, recorder):
    one = guard(endpoint={"limits": {"rows_per_request": 2}})

    def configure(**keys):
        one.settings["endpoints"] = [recorder.endpoint(**keys)]
        one.write()

    with Traffic(one, 3000) as traffic:
        traffic.wait_for(300)
        configure(limits={"rows_per_request": 3})
        assert reloaded(one)
        assert statuses(one, 3) == {200}
        assert statuses(one, 4) == {413}
        configure(limits={"rows_per_request": 4}, bundle=str(one.folder / "absent.bundle"))
        assert not reloaded(one)
        one.configuration.write_text("endpoints: [")
        assert not reloaded(one)
        one.settings["workers"] = 3
        configure(limits={"rows_per_request": 4})
        assert not reloaded(one)
        assert statuses(one, 3) == {200}
        assert statuses(one, 4) == {413}
        one.settings["workers"] = WORKERS
        # Who is started from now on serves what the others do, not what lies on disk.
        os.kill(process_of(one, 1), signal.SIGTERM)
        one.process.wait_until(lambda: is_whole(one, WORKERS + 1), 60)
        assert statuses(one, 3) == {200}
        assert statuses(one, 4) == {413}
        configure(limits={"rows_per_request": 4})
        assert reloaded(one)
        assert statuses(one, 4) == {200}
        traffic.join()
        assert traffic.failures == []
    assert one.stop() == 0
    assert verify(one)["ok"]
    for worker in (1, 2):
        kinds = [record["type"] for record in chain(one, worker)]
        assert kinds.count("reload failed") == 3


def test_a_bundle_is_rehearsed_and_then_served_by_all(guard, recorder, digits_bundle, images):
    one = guard(endpoint={"bundle": str(digits_bundle), "mode": "monitor"})
    honest = infer_request(images[:1], "localhost", infer_target(MODEL))
    strange = infer_request(images[:1] * 0 + 900, "localhost", infer_target(MODEL))

    def given(request):
        return {ask(one.address, request).status for _ in range(24)}

    assert given(honest) == given(strange) == {200}
    one.settings["endpoints"] = [recorder.endpoint(bundle=str(digits_bundle), mode="enforce")]
    one.write()
    assert reloaded(one)
    assert given(strange) == {403}
    # A bundle that cannot be used changes nothing, in no worker.
    (one.folder / "bad.bundle").write_bytes(digits_bundle.read_bytes()[:-100])
    one.settings["endpoints"] = [recorder.endpoint(bundle=str(one.folder / "bad.bundle"))]
    one.write()
    assert not reloaded(one)
    assert given(strange) == {403}
    (endpoint,) = json.loads(one.ask_admin("/api/v1/endpoints").body)["endpoints"]
    assert endpoint["problem"] is None
    assert endpoint["mode"] == "enforce"
    scored = one.metric("bartizan_rows_scored_total", endpoint="digits")
    flagged = one.metric("bartizan_rows_flagged_total", endpoint="digits")
    assert scored == 24 * 4
    assert 24 * 3 <= flagged <= scored
    rate = one.metric("bartizan_alert_rate", endpoint="digits")
    assert rate == endpoint["alert_rate"] == flagged / scored
    assert one.metric("bartizan_budget_exceeded", endpoint="digits") == 1


def test_the_operators_hand_reaches_every_worker(guard):
    one = guard()
    answer = ask(one.address, request_of("known"))
    holder = served_by(one, answer)
    record = next(
        record
        for record in chain(one, holder)
        if record.get("id") == answer.headers["x-request-id"]
    )

    def clients(*words):
        command = [*BARTIZAN, "clients", *words, "--admin", f"http://127.0.0.1:{one.admin_port}"]
        return subprocess.run(command, capture_output=True, check=False).returncode

    assert statuses(one, 1) == {200}
    assert clients("ban", record["client"], "--for", "1h") == 0
    assert 200 not in statuses(one, 1)
    assert clients("show", record["client"]) == 0
    # Who is started later learns of it.
    os.kill(process_of(one, 1), signal.SIGKILL)
    one.process.wait_until(lambda: is_whole(one, WORKERS + 1), 60)
    assert 200 not in statuses(one, 1)
    assert clients("unban", record["client"]) == 0
    assert statuses(one, 1) == {200}
    assert clients("forgive", record["client"]) == 0
    assert clients("ban", record["client"], "--for", "1h", "--endpoint", "no-such") == 1


def test_sigterm_drains_every_worker(guard, recorder):
    one = guard()
    with ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(ask, one.address, request_of("delay:0.7")) for _ in range(8)]
        one.process.wait_until(lambda: len(recorder.seen()) == 8)
        pids = workers(one)
        assert one.stop() == 0
        assert [answer.result(30).status for answer in answers] == [200] * 8
    assert not any(map(lives, pids))
    assert verify(one)["ok"]
    for worker in (1, 2):
        assert chain(one, worker)[-1]["type"] == "closed"


def test_workers_whose_supervisor_is_killed_drain_and_make_room(guard, recorder):
    one = guard()
    with ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(ask, one.address, request_of("delay:1.5")) for _ in range(4)]
        one.process.wait_until(lambda: len(recorder.seen()) == 4)
        pids = workers(one)
        assert one.kill() == -signal.SIGKILL
        # The next one waits for the chains that the orphans still hold.
        one.start(60)
        assert [answer.result(30).status for answer in answers] == [200] * 4
    assert ask(one.address, request_of("after")).status == 200
    one.process.wait_until(lambda: not any(map(lives, pids)))
    assert one.stop() == 0
    report = verify(one)
    assert report["ok"]
    recorded = [
        record["status"]
        for worker in (1, 2)
        for record in chain(one, worker)
        if record["type"] == "exchange"
    ]
    assert recorded == [200] * 5


def test_a_unix_socket_is_shared(guard, tmp_path):
    path = tmp_path / "clients.sock"
    one = guard(listen=f"unix:{path}")

    def status():
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(30)
            client.connect(str(path))
            return exchange(client, request_of("n")).status

    assert [status() for _ in range(40)] == [200] * 40
    os.kill(process_of(one, 1), signal.SIGKILL)
    assert [status() for _ in range(10)] == [200] * 10
    one.process.wait_until(lambda: is_whole(one, WORKERS + 1), 60)
    assert one.stop() == 0
    with socket.socket(socket.AF_UNIX) as client, pytest.raises(OSError):
        client.connect(str(path))


def test_sigterm_while_workers_start_ends_them(guard):
    one = guard(wait=False)
    one.process.wait_until(lambda: one.answers() and len(workers(one)) == WORKERS)
    pids = workers(one)
    assert one.stop() == 0
    assert not any(map(lives, pids))


def ended(one, words, status):
    """Waits for the end of a firewall that cannot be started."""
    with pytest.raises(ProcessError, match=rf"ended with status {status}:[\s\S]*{words}"):
        one.process.wait_until(lambda: False, 60)


def test_a_configuration_that_cannot_be_served_ends_at_once(guard, tmp_path):
    (tmp_path / "bad.bundle").write_bytes(b"not a bundle")
    one = guard(wait=False, endpoint={"bundle": str(tmp_path / "bad.bundle")})
    ended(one, "bad.bundle", 3)
    assert one.process.log.read_text().count("bad.bundle: ") == 1, "said once, not by each worker"


def test_an_address_that_is_taken_ends_at_once(guard):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        one = guard(wait=False, listen=f"127.0.0.1:{taken.getsockname()[1]}")
        ended(one, "cannot listen", 1)


def test_two_firewalls_do_not_share_a_port(guard):
    one = guard()
    other = guard(wait=False, listen=f"127.0.0.1:{one.port}")
    ended(other, "cannot listen", 1)
    assert ask(one.address, request_of("n")).status == 200


def test_an_audit_log_that_was_cut_ends_the_start(guard):
    one = guard()
    assert one.stop() == 0
    path = one.audit.with_name("audit.worker-2.jsonl")
    path.write_bytes(path.read_bytes()[:-20])
    one.launch()
    ended(one, "audit.worker-2.jsonl", 1)
    assert not verify(one)["ok"]


def test_a_missing_chain_is_missed(guard):
    one = guard()
    assert one.stop() == 0
    for path in one.folder.glob("audit.worker-2.*"):
        path.unlink()
    report = verify(one)
    assert not report["ok"]
    assert [entry["name"] for entry in report["chains"] if not entry["ok"]] == [
        "audit.worker-2.jsonl"
    ]
