"""What only the answer told is charged in a replay as it was: tokens, and rows that were in it."""

import asyncio
import gzip
import json

import pytest
from live_gateway import Answer, body_of, serving
from small_models import draw
from test_replay_exact import replayed

CHAT = "/v1/chat/completions"


class Chat:
    """Answers with as many tokens as it is told, in one piece."""

    crowded = False

    def __init__(self, tokens):
        self.tokens = iter(tokens)

    async def send(self, permit):
        usage = {"prompt_tokens": 1, "completion_tokens": (n := next(self.tokens))}
        usage["total_tokens"] = n + 1
        choice = {"index": 0, "message": {"role": "assistant", "content": "x"}}
        return Answer(200, json.dumps({"choices": [choice], "usage": usage}).encode())


async def relay(self, response, extra=b"", tap=None):
    self.status, self.answered = response.status, True
    if tap is not None:
        tap(response.sent)
    return len(response.sent)


def test_tokens_are_charged_as_they_were(configuration, monkeypatch):
    monkeypatch.setattr("live_gateway.Exchange.relay", relay)
    path = configuration(
        match="/v1",
        protocol={"name": "openai", "unit": "tokens", "calls": ["chat"]},
        limits={"rows_per_second": 1, "burst_rows": 300, "rows_per_request": 300},
    )
    settings = json.loads(path.read_text())
    for key in ("bundle", "contract", "on_pattern", "second_opinion"):
        del settings["endpoints"][0][key]
    path.write_text(json.dumps(settings))

    async def run():
        async with serving(path, 4) as live:
            await live.generation.watches[0].check()
            live.endpoint.bindings[0].pool = Chat([100] * 20)
            body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}]})
            statuses = []
            for index in range(12):
                live.now += 10.0 * (index == 6)
                statuses.append(await live.ask("10.0.0.1", body.encode(), CHAT))
        return statuses, *(await replayed(path))

    statuses, fidelity, outcomes = asyncio.run(run())
    assert not fidelity.differences, fidelity.differences
    assert fidelity.equal == 12
    assert 200 in statuses and 429 in statuses
    assert {one.was["rows"] for one in outcomes if one.was["status"] == 200} == {101}


@pytest.mark.parametrize("coding", [b"gzip", b"nonsense"])
def test_a_compressed_body_is_replayed_as_it_came(configuration, coding):
    path = configuration()
    rows, _ = draw(3, 5)

    async def run():
        async with serving(path) as live:
            headers = {"content-encoding": coding}
            body = gzip.compress(body_of(rows))
            status = await live.ask("10.0.0.1", body, **headers)
        return status, *(await replayed(path))

    status, fidelity, _ = asyncio.run(run())
    assert status == (200 if coding == b"gzip" else 415)
    assert not fidelity.differences and fidelity.equal == 1
