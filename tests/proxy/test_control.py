"""The channel between supervisor and worker: whole, in time, and harmless whatever comes up it."""

import asyncio
import contextlib
import socket
import struct

import pytest

from proxy.control import NOTE, Answering, Asking, Refusal
from proxy.settings.models import Settings


@contextlib.asynccontextmanager
async def asking(noted=None):
    """The supervisor's end, and a socket at the other."""
    ours, theirs = socket.socketpair()
    one = Asking(noted or (lambda _: None))
    await one.open(ours)
    try:
        yield one, theirs
    finally:
        await one.close()
        theirs.close()


@contextlib.asynccontextmanager
async def pair(noted=None):
    async with asking(noted) as (one, theirs):
        other = Answering(theirs)
        await other.open()
        yield one, other
        await other.flush()


def message(body):
    return struct.pack("!I", len(body)) + body


async def test_questions_are_answered_by_number_in_any_order():
    async with pair() as (one, other):
        asked = [asyncio.create_task(one.ask(name, {"of": name})) for name in ("a", "b", "c")]
        questions = [await other.next() for _ in asked]
        for question in reversed(questions):
            other.answer(question.number, [question.name, question.value])
        answers = await asyncio.gather(*asked)
        assert answers == [[name, {"of": name}] for name in ("a", "b", "c")]


async def test_settings_go_down_whole_with_their_secrets():
    secret = "a secret of at least sixteen characters"
    settings = Settings.model_validate(
        {
            "client": {"secret": secret},
            "endpoints": [{"name": "a", "match": "/v2/models/a", "upstream": "http://h:1"}],
        }
    )
    ours, theirs = socket.socketpair()
    one, other = Asking(lambda _: None), Answering(theirs)
    await one.open(ours)
    asked = asyncio.create_task(one.ask("serve", settings))
    # Read before there is a loop, as a worker does.
    question = await asyncio.to_thread(other.first)
    assert question.value == settings
    assert question.value.client.secret.get_secret_value() == secret
    await other.open()
    other.answer(question.number, "ok")
    assert await asked == "ok"
    await one.close()
    with pytest.raises(EOFError):
        await other.next()
    await other.flush()


async def test_large_messages_pass_both_ways():
    async with pair() as (one, other):
        asked = asyncio.create_task(one.ask("x", "d" * 3_000_000))
        question = await other.next()
        other.answer(question.number, question.value * 2)
        assert await asked == "d" * 6_000_000


async def test_a_refusal_is_raised_with_all_that_it_says():
    async with pair() as (one, other):
        asked = asyncio.create_task(one.ask("x"))
        question = await other.next()
        other.refuse(question.number, Refusal("failed", "because", 3))
        with pytest.raises(Refusal, match="because") as told:
            await asked
        assert (told.value.kind, told.value.status) == ("failed", 3)


async def test_an_answer_that_comes_too_late_is_nobodys():
    async with pair() as (one, other):
        with pytest.raises(TimeoutError):
            await one.ask("slow", seconds=0)
        late = await other.next()
        asked = asyncio.create_task(one.ask("next"))
        question = await other.next()
        other.answer(late.number, "late")
        other.answer(question.number, "in time")
        assert await asked == "in time"


async def test_what_is_said_unasked_is_noted():
    notes = []
    async with pair(notes.append) as (one, other):
        one.tell("drain")
        assert (await other.next()).name == "drain"
        other.answer(NOTE, "last words")
        asked = asyncio.create_task(one.ask("x"))
        other.answer((await other.next()).number, None)
        await asked
    assert notes == ["last words"]


GARBAGE = [
    b"",
    b"\0\0",
    message(b""),
    message(b"not json"),
    message(b"[]"),
    message(b"1"),
    message(b"{}"),
    message(b'{"number":0}'),
    message(b'{"number":[1],"value":2}'),
    message(b'{"number":1,"refusal":{}}'),
    message(b'{"number":1,"refusal":{"kind":"a","message":"b","status":1,"more":2}}'),
    message(b'{"number":1}'),
    struct.pack("!I", 2**32 - 1),
    b"\x80\x04cos\nsystem\n",
]


@pytest.mark.parametrize("garbage", GARBAGE)
async def test_garbage_ends_the_channel_and_nothing_else(garbage):
    async with asking() as (one, theirs):
        asked = asyncio.create_task(one.ask("x"))
        await asyncio.sleep(0)
        theirs.sendall(garbage)
        theirs.shutdown(socket.SHUT_WR)
        with pytest.raises(ConnectionError):
            await asked
        await one.ended()
        with pytest.raises(ConnectionError):
            await one.ask("y")


async def test_a_worker_that_ends_answers_nobody():
    async with asking() as (one, theirs):
        asked = asyncio.create_task(one.ask("x"))
        await asyncio.sleep(0)
        theirs.close()
        with pytest.raises(ConnectionError):
            await asked


def test_a_supervisor_that_is_gone_before_it_spoke():
    ours, theirs = socket.socketpair()
    ours.close()
    with pytest.raises(EOFError):
        Answering(theirs).first()
    theirs.close()
