from __future__ import annotations

import asyncio

import pytest

from proxy.http.drive import Drive, Waiter


class Ends:
    def __init__(self):
        self.ends = []

    def __call__(self, error):
        self.ends.append(error)


async def test_a_coroutine_that_waits_for_nothing_ends_at_once():
    steps, ends = [], Ends()

    async def work():
        steps.append("ran")

    Drive(work(), ends).step()
    assert steps == ["ran"]
    assert ends.ends == [None]


async def test_wake_resumes_before_it_returns():
    steps, ends, waiter = [], Ends(), Waiter()

    async def work():
        steps.append("before")
        await waiter
        steps.append("after")

    Drive(work(), ends).step()
    assert steps == ["before"]
    waiter.wake()
    assert steps == ["before", "after"]
    assert ends.ends == [None]


async def test_fail_raises_at_the_wait():
    ends, waiter = Ends(), Waiter()

    async def work():
        await waiter

    Drive(work(), ends).step()
    waiter.fail(KeyError("x"))
    assert isinstance(ends.ends[0], KeyError)


async def test_what_came_first_counts():
    ends, waiter = Ends(), Waiter()

    async def work():
        await waiter

    Drive(work(), ends).step()
    waiter.wake()
    waiter.fail(KeyError("x"))
    waiter.wake()
    assert ends.ends == [None]


@pytest.mark.parametrize("error", [None, KeyError("x")])
async def test_a_waiter_that_is_done_does_not_wait(error):
    ends, waiter = Ends(), Waiter()
    if error is None:
        waiter.wake()
    else:
        waiter.fail(error)

    async def work():
        await waiter

    Drive(work(), ends).step()
    assert ends.ends == [error]


async def test_a_waiter_serves_a_task_too():
    waiter, failing, cancelled = Waiter(), Waiter(), Waiter()

    async def work(which):
        await which
        return "woken"

    tasks = [asyncio.create_task(work(each)) for each in (waiter, failing, cancelled)]
    await asyncio.sleep(0)
    waiter.wake()
    failing.fail(KeyError("x"))
    tasks[2].cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert results[0] == "woken"
    assert isinstance(results[1], KeyError)
    assert isinstance(results[2], asyncio.CancelledError)
    cancelled.wake()  # too late, and harmless


async def test_futures_tasks_and_sleep_may_be_awaited():
    ends, steps = Ends(), []
    future = asyncio.get_running_loop().create_future()

    async def work():
        steps.append(await future)
        steps.append(await asyncio.create_task(asyncio.sleep(0, "task")))
        await asyncio.sleep(0)
        steps.append("slept")

    Drive(work(), ends).step()
    future.set_result("future")
    for _ in range(5):
        await asyncio.sleep(0)
    assert steps == ["future", "task", "slept"]
    assert ends.ends == [None]


async def test_an_exception_of_a_future_is_raised():
    ends = Ends()
    future = asyncio.get_running_loop().create_future()

    async def work():
        await future

    Drive(work(), ends).step()
    future.set_exception(KeyError("x"))
    await asyncio.sleep(0)
    assert isinstance(ends.ends[0], KeyError)


@pytest.mark.parametrize("what", ["waiter", "future", "sleep"])
async def test_cancel_raises_at_the_wait_and_lets_it_clean_up(what):
    ends, steps = Ends(), []
    waiter, future = Waiter(), asyncio.get_running_loop().create_future()

    def zero():
        return asyncio.sleep(0)

    async def work():
        try:
            await {"waiter": lambda: waiter, "future": lambda: future, "sleep": zero}[what]()
        except asyncio.CancelledError:
            steps.append("cancelled")
            await asyncio.sleep(0)
            steps.append("cleaned")
            raise

    drive = Drive(work(), ends)
    drive.step()
    drive.cancel()
    for _ in range(4):
        await asyncio.sleep(0)
    assert steps == ["cancelled", "cleaned"]
    assert isinstance(ends.ends[0], asyncio.CancelledError)
    assert len(ends.ends) == 1
    waiter.wake()  # nobody waits any more
    assert len(ends.ends) == 1


async def test_cancel_of_a_future_that_is_done_is_not_lost():
    ends = Ends()
    future = asyncio.get_running_loop().create_future()

    async def work():
        await future

    drive = Drive(work(), ends)
    drive.step()
    future.set_result(None)
    drive.cancel()
    await asyncio.sleep(0)
    assert isinstance(ends.ends[0], asyncio.CancelledError)


async def test_cancel_from_within_takes_effect_at_the_next_wait():
    ends, steps = Ends(), []

    async def work():
        drive.cancel()
        steps.append("still running")
        await Waiter()

    drive = Drive(work(), ends)
    drive.step()
    assert steps == ["still running"]
    assert isinstance(ends.ends[0], asyncio.CancelledError)


async def test_drives_nest():
    ends, steps, inner_waiter, outer_waiter = Ends(), [], Waiter(), Waiter()

    async def inner():
        await inner_waiter
        steps.append("inner")

    async def outer():
        inner_waiter.wake()
        steps.append("outer")
        await outer_waiter  # must belong to the outer drive again

    Drive(inner(), ends).step()
    Drive(outer(), ends).step()
    outer_waiter.wake()
    assert steps == ["inner", "outer"]
    assert ends.ends == [None, None]


async def test_awaiting_something_else_is_an_error():
    class Odd:
        def __await__(self):
            yield "odd"

    ends = Ends()

    async def work():
        await Odd()

    Drive(work(), ends).step()
    await asyncio.sleep(0)
    assert isinstance(ends.ends[0], RuntimeError)


async def test_interrupts_are_not_swallowed():
    ends = Ends()

    async def work():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Drive(work(), ends).step()
    assert isinstance(ends.ends[0], KeyboardInterrupt)
