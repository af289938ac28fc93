"""Explaining off the hot path: bounded, one at a time, and in the audit log on request."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from explained_exchanges import LIMITED, WALL, bundle, odd_row, record

from proxy.admin.explanations import Busy
from proxy.explainer import MOST_ASKED, MOST_WAITING, Explainer
from proxy.explanations import Explanations


class Log:
    """An audit log that takes events."""

    def __init__(self):
        self.events = []
        self.arrived = asyncio.Event()

    def event(self, kind, /, **fields):
        self.events.append((kind, fields))
        self.arrived.set()


@pytest.fixture
def executor():
    with ThreadPoolExecutor(1) as made:
        yield made


@pytest.fixture
def kept():
    return Explanations(200, wall=lambda: WALL)


def explainer(kept, executor, served=None, **more):
    served = served or bundle()
    return Explainer(
        kept,
        bundle=lambda _: served,
        executor=executor,
        clock=lambda: 0.0,
        wall=lambda: WALL,
        **more,
    )


async def test_what_is_kept_is_explained(kept, executor):
    kept.keep(record(), odd_row(), None)
    told = await explainer(kept, executor).explanation("one")
    assert told["input"]["features"][0]["index"] == 4


async def test_what_is_not_kept_is_none(kept, executor):
    assert await explainer(kept, executor).explanation("other") is None


async def test_it_happens_in_another_thread(kept, executor):
    threads, served = [], bundle()
    scored = served.scorer.score

    def score(rows):
        threads.append(threading.get_ident())
        return scored(rows)

    served.scorer.score = score
    kept.keep(record(), odd_row(), None)
    await explainer(kept, executor, served).explanation("one")
    assert set(threads) == {executor.submit(threading.get_ident).result()}
    assert threads[0] != threading.get_ident()


async def test_few_may_wait_at_once(kept, executor):
    kept.keep(record(), odd_row(), None)
    held = threading.Event()
    executor.submit(held.wait)
    one = explainer(kept, executor)
    waiting = [asyncio.ensure_future(one.explanation("one")) for _ in range(MOST_ASKED)]
    await asyncio.sleep(0)
    with pytest.raises(Busy):
        await one.explanation("one")
    # Who asks for what is not kept waits for nobody.
    assert await one.explanation("other") is None
    held.set()
    assert all(told["id"] == "one" for told in await asyncio.gather(*waiting))
    assert await one.explanation("one")


async def running(one):
    task = asyncio.ensure_future(one.run())
    await asyncio.sleep(0)
    return task


async def test_the_audit_log_gets_an_explanation_without_values(kept, executor):
    log = Log()
    task = await running(explainer(kept, executor, audit=log))
    kept.keep(record("limited", LIMITED), odd_row(), None)
    kept.keep(record(), odd_row(), None)
    await log.arrived.wait()
    task.cancel()
    ((kind, fields),) = log.events
    assert kind == "explanation"
    assert (fields["id"], fields["endpoint"], fields["dropped"]) == ("one", "digits", 0)
    first = fields["input"]["features"][0]
    assert first["index"] == 4
    assert first["nats"] > 0
    assert "value" not in first and "usual" not in first
    assert "30.0" not in str(fields)
    assert "examples" not in fields


async def test_with_values_where_the_audit_log_holds_them_anyway(kept, executor):
    log = Log()
    task = await running(explainer(kept, executor, audit=log, values=True))
    kept.keep(record(), odd_row(), None)
    await log.arrived.wait()
    task.cancel()
    assert log.events[0][1]["input"]["features"][0]["value"] == 30.0


async def test_what_is_too_much_is_dropped_and_counted(kept, executor):
    log = Log()
    one = explainer(kept, executor, audit=log)
    for number in range(MOST_WAITING + 7):
        kept.keep(record(f"id{number}", client=f"c{number}"), odd_row(), None)
    assert one.dropped == 7
    task = await running(one)
    while len(log.events) < MOST_WAITING:
        log.arrived.clear()
        await log.arrived.wait()
    task.cancel()
    assert [fields["id"] for _, fields in log.events] == [f"id{n}" for n in range(MOST_WAITING)]
    assert [fields["dropped"] for _, fields in log.events] == [7] + [0] * (MOST_WAITING - 1)


async def test_most_of_the_time_it_rests(kept, executor):
    log, rests = Log(), []
    times = iter([10.0, 12.0])

    async def sleep(seconds):
        rests.append(seconds)

    one = Explainer(
        kept,
        bundle=lambda _: None,
        executor=executor,
        clock=lambda: next(times),
        wall=lambda: WALL,
        audit=log,
        sleep=sleep,
    )
    task = await running(one)
    kept.keep(record(), odd_row(), None)
    await log.arrived.wait()
    await asyncio.sleep(0)
    task.cancel()
    assert rests == [18.0]


async def test_a_fault_ends_nothing(kept, executor, monkeypatch):
    log, served = Log(), bundle()

    def find(name):
        if not log.events and kept.find("first") and not find.failed:
            find.failed = True
            raise RuntimeError("odd")
        return served

    find.failed = False
    one = Explainer(
        kept, bundle=find, executor=executor, clock=lambda: 0.0, wall=lambda: WALL, audit=log
    )
    task = await running(one)
    kept.keep(record("first"), odd_row(), None)
    kept.keep(record("second"), odd_row(), None)
    await log.arrived.wait()
    task.cancel()
    assert [fields["id"] for _, fields in log.events] == ["second"]


async def test_without_an_audit_log_nothing_runs(kept, executor):
    await explainer(kept, executor).run()
    assert kept.heard is None
