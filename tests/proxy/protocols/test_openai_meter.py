"""Tokens of an answer, read off while it streams by: in any pieces, and in bounded memory."""

import json
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai_stub import DONE, chunk, completion, embeddings, usage

from proxy.protocols.openai_meter import TokenMeter

PROMPT = 5


def metered(body, step=None, *, before=1, worded=True):
    meter = TokenMeter(before, PROMPT, worded=worded)
    step = step or max(1, len(body))
    for at in range(0, len(body), step):
        meter.add(body[at : at + step])
    return meter.units()


def text(document):
    return json.dumps(document).encode()


BODIES = {
    "a whole answer": (text(completion(total=700)), 700),
    "usage first": (text({"usage": usage(12), **completion()}), 12),
    "spaced out": (b'{"usage" : {\n "total_tokens"\n : 31 }, "choices": []}', 31),
    "a number at the end of all": (b'{"usage": {"total_tokens": 999999}}', 999999),
    "no usage: a token for 4 bytes": (
        b'{"choices": [{"text": "' + b"a" * 377 + b'"}]}',
        PROMPT + 101,
    ),
    "usage of nothing": (b'{"usage": {"total_tokens": 0}, "a": 1}  ', PROMPT + 10),
    "the most that is believed": (b'{"usage": {"total_tokens": 1000000000}}', 10**9),
    "more than is believed": (b'{"usage": {"total_tokens": 1000000001}}', PROMPT + 10),
    "a number in another spelling": (b'{"usage": {"total_tokens": 1e3 }}', PROMPT + 9),
    "a fraction": (b'{"usage": {"total_tokens": 7E3 , "a": 0.5}}', PROMPT + 11),
    "a stream of more than is believed": (
        chunk("abcd") + chunk(usage=usage(2**64 - 1)) + chunk(usage=usage(10**9 + 1)),
        PROMPT + 1,
    ),
    "usage that is no number": (b'{"usage": {"total_tokens": "9"}}', PROMPT + 8),
    "usage in a text": (text(completion('{"total_tokens": 9}', total=50)), 50),
    "a stream": (chunk("Hel") + chunk("lo") + chunk(usage=usage(77)) + DONE, 77),
    "a stream without usage": (chunk("Hello, ") * 3 + DONE, PROMPT + 3 * 2),
    "carriage returns": (chunk("Hello").replace(b"\n", b"\r\n") * 2, PROMPT + 2 * 2),
    "comments and names": (b": ping\n\nevent: x\nid: 3\nretry: 1\n" + chunk("abcd"), PROMPT + 1),
    "usage in each event": (
        b"".join(chunk("ab", usage=usage(10 + turn)) for turn in range(1, 5)),
        14,
    ),
    "text after the last usage": (
        chunk("ab", usage=usage(10)) + chunk("abcdefgh") * 2,
        10 + 2 * 2,
    ),
    "usage null": (chunk("abcd", usage=None) * 2, PROMPT + 2),
    "no end of the last line": (chunk("ab") + chunk(usage=usage(44)).rstrip(), 44),
    "broken off in an event": (chunk("abcd") + b'data: {"choices": [{"de', PROMPT + 1 + 5),
    "events that are no JSON": (b"data: " + b"x" * 400 + b"\n\n", PROMPT + 100),
    "events of odd shapes": (b'data: []\n\ndata: 3\n\ndata: {"choices": 3}\n\n', PROMPT),
    "choices of odd shapes": (b'data: {"choices": [3, {"delta": 3}, {}]}\n\n', PROMPT),
    "text completions": (b'data: {"choices": [{"text": "abcdefgh"}]}\n\n', PROMPT + 2),
    "calls of tools": (
        b'data: {"choices": [{"delta": {"role": "assistant", "tool_calls": '
        b'[{"function": {"arguments": "abcdefgh"}}]}}]}\n\n',
        PROMPT + 2,
    ),
    "several choices": (
        b'data: {"choices": [{"delta": {"content": "a"}}, {"delta": {"content": "b"}}]}\n\n',
        PROMPT + 2,
    ),
    "nothing": (b"", PROMPT),
    "white space": (b" \r\n\n", PROMPT),
    "comments alone": (b": ping\n\n", PROMPT + 2),
}


@pytest.mark.parametrize("name", BODIES)
def test_what_an_answer_cost(name):
    body, tokens = BODIES[name]
    for step in (None, 1, 2, 3, 7, 64):
        assert metered(body, step) == tokens, step


@given(st.sampled_from(sorted(BODIES)), st.lists(st.integers(1, 40), max_size=40))
def test_it_does_not_matter_how_an_answer_is_cut(name, sizes):
    body, tokens = BODIES[name]
    meter = TokenMeter(1, PROMPT, worded=True)
    for size in sizes:
        meter.add(body[:size])
        body = body[size:]
    meter.add(body)
    assert meter.units() == tokens


@given(st.binary(max_size=300), st.integers(1, 50))
def test_any_bytes_cost_what_was_taken_before_or_more(body, step):
    assert metered(body, step, before=9) >= 9


def test_it_costs_no_less_than_was_taken_before():
    assert metered(text(completion(total=3)), before=50) == 50


def test_vectors_are_no_text():
    body = text(embeddings([[0.5] * 100], packed=False, total=8))
    assert metered(body, worded=False) == 8
    assert metered(body.replace(b"total_tokens", b"whole_tokens"), worded=False) == PROMPT


def test_an_answer_in_a_content_coding_is_counted_by_its_bytes():
    assert metered(b"\x1f\x8b" + b"\x00\n" * 499) == PROMPT + 250
    assert metered(b"data:" + b"\xff" * 4000) == PROMPT + 1000


@pytest.mark.parametrize(
    "start", [b"data: ", b'{"a": "', b"", b'data: {"choices": [{"delta": {"content": "']
)
@pytest.mark.parametrize("step", [1, 65536])
def test_whatever_comes_memory_is_bounded(start, step):
    meter = TokenMeter(1, PROMPT, worded=True)
    meter.add(start)
    piece = b"x" * step
    tracemalloc.start()
    for _ in range(200_000 if step == 1 else 500):
        meter.add(piece)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 400_000
    size = 200_000 if step == 1 else 500 * step
    assert meter.units() >= size // 4 or not start


def test_what_follows_a_huge_event_is_understood():
    huge = b"data: " + b"x" * 100_000 + b"\n\n"
    assert metered(huge + chunk("abcd")) == PROMPT + 25_002 + 1
    assert metered(huge + chunk(usage=usage(60)), 1000) == 60
