"""Faults of the firewall itself follow the failure mode, are counted, and pass."""

import resource

import pytest
from traffic import ask, request_of

UNLIMITED = resource.RLIM_INFINITY


def fill_disk(guard):
    """Lets the audit log grow no more, as a full disk would; the process's own log still may."""
    assert statuses(guard, 30) == [200] * 30
    # Records reach the file a little after their answers.
    guard.process.wait_until(
        lambda: guard.audit.stat().st_size > 4 * guard.process.log.stat().st_size
    )
    size = guard.audit.stat().st_size
    resource.prlimit(guard.process.pid, resource.RLIMIT_FSIZE, (size, UNLIMITED))


def free_disk(guard):
    resource.prlimit(guard.process.pid, resource.RLIMIT_FSIZE, (UNLIMITED, UNLIMITED))


def statuses(guard, count):
    return [ask(guard.address, request_of(f"n{n}")).status for n in range(count)]


def test_no_room_for_the_audit_log_refuses_what_it_cannot_record(recorder, gateway):
    guard = gateway([recorder.endpoint()], audit={"durability": "released"})
    fill_disk(guard)
    guard.process.wait_until(lambda: 503 in statuses(guard, 1))
    assert guard.metric("bartizan_audit_failing") == 1
    assert guard.metric("bartizan_faults_total", rule="BZ-901") > 0
    free_disk(guard)
    guard.process.wait_until(lambda: statuses(guard, 1) == [200])
    assert statuses(guard, 5) == [200] * 5
    assert guard.metric("bartizan_audit_failing") == 0


def test_a_log_that_cannot_be_written_either_changes_nothing(recorder, gateway):
    guard = gateway([recorder.endpoint(mode="monitor")])
    resource.prlimit(guard.process.pid, resource.RLIMIT_FSIZE, (1, UNLIMITED))
    assert statuses(guard, 20) == [200] * 20
    guard.process.wait_until(lambda: guard.metric("bartizan_audit_failing") == 1)
    free_disk(guard)
    guard.process.wait_until(lambda: guard.metric("bartizan_audit_failing") == 0)
    assert guard.stop() == 0
    assert len(guard.records()) == 20


@pytest.mark.parametrize("keys", [{"failure_mode": "allow"}, {"mode": "monitor"}])
def test_no_room_for_the_audit_log_lets_pass_where_it_may(recorder, gateway, keys):
    guard = gateway([recorder.endpoint(**keys)])
    fill_disk(guard)
    assert statuses(guard, 50) == [200] * 50
    guard.process.wait_until(lambda: guard.metric("bartizan_audit_failing") == 1)
    assert statuses(guard, 50) == [200] * 50
    free_disk(guard)
    guard.process.wait_until(lambda: guard.metric("bartizan_audit_failing") == 0)
    assert statuses(guard, 5) == [200] * 5
