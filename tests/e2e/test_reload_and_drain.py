"""SIGHUP and SIGTERM while requests are under way: none fails."""

import resource
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest
from traffic import Traffic, ask, request_of

from loadtest.process import ProcessError

REQUESTS = 10_000


def reloaded(gateway, number=1):
    """Sends SIGHUP, and waits until that attempt is over."""
    before = gateway.metric("bartizan_reloads_total")
    gateway.signal(signal.SIGHUP)
    gateway.process.wait_until(lambda: gateway.metric("bartizan_reloads_total") == before + number)
    return gateway.metric("bartizan_reload_successful") == 1


def test_no_request_fails_across_reloads(recorder, gateway):
    guard = gateway([recorder.endpoint()])
    with Traffic(guard, REQUESTS) as traffic:
        for turn in range(1, 10):
            traffic.wait_for(turn * REQUESTS // 10)
            guard.settings["endpoints"] = [recorder.endpoint(limits={"rows_per_request": turn})]
            guard.write()
            assert reloaded(guard)
            # It is the new configuration that serves.
            assert ask(guard.address, request_of(rows=turn)).status == 200
            assert ask(guard.address, request_of(rows=turn + 1)).status == 413
        traffic.join()
        assert len(traffic.outcomes) == REQUESTS
        assert traffic.failures == []


def test_no_request_fails_across_restarts(recorder, gateway):
    guard = gateway([recorder.endpoint()])
    with Traffic(guard, REQUESTS) as traffic:
        for turn in range(1, 5):
            traffic.wait_for(turn * REQUESTS // 5)
            assert guard.stop() == 0
            guard.start()
        traffic.join()
        assert len(traffic.outcomes) == REQUESTS
        assert traffic.failures == []
    assert guard.stop() == 0
    recorded = {record["id"] for record in guard.records()}
    assert {outcome.request_id for outcome in traffic.outcomes} <= recorded


def test_a_request_under_way_is_answered_by_the_draining_server(recorder, gateway):
    guard = gateway([recorder.endpoint()])
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(ask, guard.address, request_of("delay:0.5"))
        guard.process.wait_until(lambda: len(recorder.seen()) == 1)
        assert guard.stop() == 0
        assert answer.result(30).status == 200


@pytest.mark.parametrize(
    "damage",
    [
        lambda guard: guard.configuration.write_text("endpoints: ["),
        lambda guard: guard.configuration.write_text("endpoints: []"),
        lambda guard: guard.configuration.write_text(
            guard.configuration.read_text() + "no_such_key: 1\n"
        ),
        lambda guard: guard.configuration.unlink(),
        lambda guard: guard.configuration.write_bytes(b"\xff\xfe\x00"),
    ],
    ids=["syntax", "no-endpoints", "unknown-key", "absent", "binary"],
)
def test_a_bad_reload_keeps_the_old_configuration(recorder, gateway, damage):
    guard = gateway([recorder.endpoint(limits={"rows_per_request": 2})])
    damage(guard)
    assert not reloaded(guard)
    assert ask(guard.address, request_of(rows=2)).status == 200
    assert ask(guard.address, request_of(rows=3)).status == 413
    assert guard.ready()
    guard.settings["endpoints"] = [recorder.endpoint(limits={"rows_per_request": 3})]
    guard.write()
    assert reloaded(guard)
    assert ask(guard.address, request_of(rows=3)).status == 200


def test_a_bundle_that_is_not_one_keeps_the_old_configuration(recorder, gateway, tmp_path):
    guard = gateway([recorder.endpoint()])
    (tmp_path / "bad.bundle").write_bytes(b"not a bundle")
    guard.settings["endpoints"] = [recorder.endpoint(bundle=str(tmp_path / "bad.bundle"))]
    guard.write()
    assert not reloaded(guard)
    assert ask(guard.address, request_of()).status == 200


def test_what_needs_a_restart_is_refused_as_a_whole(recorder, gateway):
    guard = gateway([recorder.endpoint()])
    guard.settings["http"] = {"header_count": 9}
    guard.settings["endpoints"] = [recorder.endpoint(limits={"rows_per_request": 1})]
    guard.write()
    assert not reloaded(guard)
    assert ask(guard.address, request_of(rows=2)).status == 200, "the old configuration serves"
    assert guard.stop() == 0
    assert "changes of http need a restart" in guard.audit.read_text()


def test_more_connections_than_descriptors_is_told_at_start(recorder, gateway):
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY or hard > 1_000_000:
        pytest.skip("the system allows more descriptors than can be configured")
    guard = gateway([recorder.endpoint()], wait=False, http={"connections": 1_000_000})
    with pytest.raises(ProcessError, match=r"ended with status 3:[\s\S]*file descriptors"):
        guard.process.wait_until(lambda: False)
