"""Workers kept alive: programs that play one, and every way in which one may end."""

import asyncio
import contextlib
import os
import signal
import sys

import pytest

import proxy.fleet
from proxy.fleet import Fleet
from proxy.launch import Launch
from proxy.settings.models import Settings

# A worker as the supervisor sees it, without what it takes to serve.
PROLOGUE = """
import os, signal, sys, threading
from proxy.control import Answering, Refusal
import asyncio, socket
channel = Answering(socket.socket(fileno=int(sys.argv[1])))
first = channel.first()
launch = first.value

async def run():
    await channel.open()
    channel.answer(first.number, {})
    while True:
        try:
            question = await channel.next()
        except EOFError:
            break
        if question.name == "drain":
            channel.answer(0, f"page of {launch.number}")
            break
        if question.name == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if question.name != "silence":
            channel.answer(question.number, [question.name, launch.number])
    await channel.flush()
"""
SERVES = PROLOGUE + "asyncio.run(run())"
DIES = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
REFUSES = PROLOGUE.partition("async def run")[0] + (
    "async def refuse():\n"
    "    await channel.open()\n"
    "    channel.refuse(first.number, Refusal('failed', f'worker {launch.number}: no', 3))\n"
    "    await channel.flush()\n"
    "asyncio.run(refuse())\nsys.exit(3)"
)
STUBBORN = (
    PROLOGUE.replace('if question.name == "drain":', "if False:").replace(
        "except EOFError:\n            break",
        "except EOFError:\n            threading.Event().wait()",
    )
    + "asyncio.run(run())"
)


def settings(workers=2, drain=5.0):
    return Settings.model_validate(
        {
            "endpoints": [{"name": "a", "match": "/v2/models/a", "upstream": "http://h:1"}],
            "http": {"drain_seconds": drain},
        }
    ).model_copy(update={"workers": workers})


class Clock:
    """Seconds that pass only as told; every process has lived for ``life``."""

    def __init__(self):
        self.now = 0.0
        self.life = 0.0

    def __call__(self):
        self.now += self.life
        return self.now


@pytest.fixture
def crew(monkeypatch):
    """Starts a fleet of such programs: ``crew(program, ...)``; ends it with the test."""
    notes, ended, programs, clock = {}, [], {}, Clock()
    monkeypatch.setattr(proxy.fleet, "_PAUSES", (0.0,))
    monkeypatch.setattr(proxy.fleet, "_GRACE_SECONDS", 0.5)

    @contextlib.asynccontextmanager
    async def start(program, given=None):
        programs["now"] = program
        monkeypatch.setattr(
            proxy.fleet,
            "command",
            lambda descriptor: [sys.executable, "-c", programs["now"], str(descriptor)],
        )

        async def gone(number):
            ended.append(number)

        fleet = Fleet(
            given or settings(),
            lambda number, serves: Launch("1", serves, number, serves.workers, None, None, None),
            noted=notes.__setitem__,
            ended=gone,
            clock=clock,
        )
        fleet.notes, fleet.gone, fleet.programs, fleet.clock = notes, ended, programs, clock
        fleet.start()
        try:
            yield fleet
        finally:
            await fleet.end()

    return start


async def until(condition):
    """Waits for a condition, for as long as a busy machine may take."""
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - a process cannot set an event of ours
            await asyncio.sleep(0.01)


async def complete(fleet):
    async with asyncio.timeout(60):
        await fleet.complete.wait()


def starts(fleet):
    return [member.starts for member in fleet.members]


async def test_all_serve_and_end_in_order(crew):
    async with crew(SERVES) as fleet:
        await complete(fleet)
        assert starts(fleet) == [1, 1]
        answers = await fleet.ask_all("who", seconds=30)
        assert list(answers.values()) == [["who", 1], ["who", 2]]
        pids = [member.process.pid for member in fleet.members]
    assert fleet.notes == {1: "page of 1", 2: "page of 2"}
    assert sorted(fleet.gone) == [1, 2]
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


async def test_a_worker_that_is_killed_is_replaced(crew):
    async with crew(SERVES) as fleet:
        await complete(fleet)
        first, second = fleet.members
        kept = second.process.pid
        assert isinstance(await fleet.ask(first, "die", seconds=30), ConnectionError)
        await until(lambda: first.serving and first.starts == 2)
        assert second.process.pid == kept
        assert fleet.gone == [1]
        assert await fleet.ask(first, "who", seconds=30) == ["who", 1]


async def test_at_the_start_a_refusal_ends_it_all_with_its_status(crew):
    async with crew(REFUSES) as fleet:
        error = await asyncio.wait_for(fleet.failed, 60)
        assert error.status == 3
        assert str(error) in ("worker 1: no", "worker 2: no")
        assert max(starts(fleet)) == 1


async def test_a_crash_loop_at_the_start_ends(crew):
    async with crew(DIES) as fleet:
        error = await asyncio.wait_for(fleet.failed, 60)
        assert error.status == 1
        assert "was ended by SIGKILL, 5 times as it started" in str(error)
        assert max(starts(fleet)) == 5


async def test_after_the_start_no_failure_ends_the_others(crew):
    async with crew(SERVES) as fleet:
        await complete(fleet)
        first, second = fleet.members
        for program in (REFUSES, DIES):
            fleet.programs["now"] = program
            before = first.starts
            if first.channel is not None:
                await fleet.ask(first, "die", seconds=30)
            await until(lambda before=before: first.starts >= before + 6)
            assert await fleet.ask(second, "who", seconds=30) == ["who", 2]
        assert not fleet.failed.done()
        fleet.programs["now"] = SERVES
        await until(lambda: first.serving)


async def test_a_program_that_cannot_be_started_is_tried_again(crew, monkeypatch):
    async with crew(SERVES) as fleet:
        await complete(fleet)
        first, _ = fleet.members
        good = proxy.fleet.command
        tried = []

        def absent(descriptor):
            tried.append(descriptor)
            return ["/nowhere/at/all"] if len(tried) < 3 else good(descriptor)

        monkeypatch.setattr(proxy.fleet, "command", absent)
        await fleet.ask(first, "die", seconds=30)
        await until(lambda: len(tried) == 3 and first.serving)


async def test_whoever_was_started_under_old_settings_is_replaced(crew):
    async with crew(SERVES) as fleet:
        await complete(fleet)
        first, second = fleet.members
        fleet.settings = settings()
        await fleet.renew(first)
        await until(lambda: first.starts == 2 and first.serving)
        assert first.settings is fleet.settings
        assert second.settings is not fleet.settings


async def test_a_worker_that_does_not_answer_is_told(crew):
    async with crew(SERVES) as fleet:
        await complete(fleet)
        first, _ = fleet.members
        assert isinstance(await fleet.ask(first, "silence", seconds=0.01), TimeoutError)
        assert not first.answers
        await fleet.ask(first, "who", seconds=30)
        assert first.answers


async def test_a_worker_that_hangs_is_killed_and_replaced(crew):
    async with crew(SERVES) as fleet:
        await complete(fleet)
        first, second = fleet.members
        for _ in range(9):
            await fleet.ask(first, "silence", seconds=0)
            fleet.watch()
        await fleet.ask(first, "who", seconds=30)
        fleet.watch()
        assert first.silences == 0, "late is not never"
        hung, other = first.process.pid, second.process.pid
        for _ in range(10):
            assert first.process.pid == hung
            await fleet.ask(first, "silence", seconds=0)
            fleet.watch()
        await until(lambda: first.starts == 2 and first.serving)
        fleet.watch()
        assert first.silences == 0
        assert second.process.pid == other


async def test_a_worker_that_does_not_end_is_killed(crew):
    async with crew(STUBBORN, settings(drain=0.1)) as fleet:
        await complete(fleet)
    assert sorted(fleet.gone) == [1, 2]


async def test_the_end_comes_also_while_workers_start_or_wait(crew, monkeypatch):
    monkeypatch.setattr(proxy.fleet, "_PAUSES", (3600.0,))
    async with crew(SERVES) as fleet:
        await complete(fleet)
        fleet.programs["now"] = DIES
        await fleet.ask(fleet.members[0], "die", seconds=30)
        await until(lambda: fleet.gone == [1])
        fleet.programs["now"] = "import time; time.sleep(3600)"
        os.kill(fleet.members[1].process.pid, signal.SIGKILL)
        await until(lambda: sorted(fleet.gone) == [1, 2])
    assert not any(member.process for member in fleet.members)
