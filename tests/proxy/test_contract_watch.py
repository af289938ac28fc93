"""The contract follows the model server's metadata, and stays when that cannot be held."""

import asyncio
import json
from types import SimpleNamespace

import pytest

from proxy import rules
from proxy.contract_watch import ContractWatch
from proxy.protocols.contract import Contract
from proxy.protocols.v2 import V2
from proxy.rules import Refusal


def metadata(width=4, datatype="FP32"):
    inputs = [{"name": "x", "datatype": datatype, "shape": [-1, width]}]
    return 200, json.dumps({"name": "m", "inputs": inputs, "outputs": []}).encode()


class Pool:
    """Answers the questions in turn: (status, body), or an exception."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.asked = []

    async def send(self, permit):
        self.asked.append(permit.request)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        status, content = answer

        async def body(limit):
            if len(content) > limit:
                raise Refusal(rules.UPSTREAM_INVALID, "too large")
            return content

        return SimpleNamespace(status=status, body=body)


def watch_of(*answers, learn=True, width=None, sleep=None):
    endpoint = SimpleNamespace(
        name="m",
        match="/v2/models/m",
        codec=V2("/v2/models/m", None),
        pool=Pool(*answers),
        bundle=width and SimpleNamespace(features=width),
    )
    return endpoint, ContractWatch(endpoint, learn=learn, refresh_seconds=30.0, sleep=sleep)


async def test_the_contract_is_learnt_and_followed():
    endpoint, watch = watch_of(metadata(4), metadata(4), metadata(9))
    assert watch.problem
    await watch.check()
    assert not watch.problem
    assert endpoint.codec.contract.width == 4
    [request] = endpoint.pool.asked
    assert (request.method, request.target) == (b"GET", b"/v2/models/m")
    bound = endpoint.codec
    await watch.check()
    assert endpoint.codec is bound, "the same contract binds nothing anew"
    await watch.check()
    assert endpoint.codec.contract.width == 9


@pytest.mark.parametrize(
    "answer",
    [
        Refusal(rules.UPSTREAM_UNREACHABLE, "refused"),
        (503, b"loading"),
        (200, b"not json"),
        (200, b" " * (2**20 + 1)),
        metadata(4, datatype="BF16"),
        metadata(5),
    ],
)
async def test_what_cannot_be_held_leaves_the_contract_as_it_was(answer):
    endpoint, watch = watch_of(metadata(4), answer, metadata(4), width=4)
    await watch.check()
    held = endpoint.codec
    await watch.check()
    assert watch.problem
    assert endpoint.codec is held
    await watch.check()
    assert not watch.problem


async def test_a_configured_contract_is_not_replaced():
    endpoint, watch = watch_of(metadata(9), learn=False)
    endpoint.codec = endpoint.codec.with_contract(Contract())
    held = endpoint.codec
    await watch.check()
    assert not watch.problem, "the server was seen"
    assert endpoint.codec is held


async def test_a_silent_server_is_asked_again_soon_and_an_answering_one_now_and_then():
    waits = []

    async def sleep(seconds):
        waits.append(seconds)
        if len(waits) == 5:
            raise asyncio.CancelledError

    down = Refusal(rules.UPSTREAM_UNREACHABLE, "refused")
    _, watch = watch_of(down, down, metadata(), down, down, sleep=sleep)
    with pytest.raises(asyncio.CancelledError):
        await watch.run()
    assert waits == [0.1, 0.2, 30.0, 0.1, 0.2]


async def test_a_defect_does_not_end_the_watch():
    waits = []

    async def sleep(seconds):
        waits.append(seconds)
        if len(waits) == 2:
            raise asyncio.CancelledError

    _, watch = watch_of(RuntimeError("a defect"), metadata(), sleep=sleep)
    with pytest.raises(asyncio.CancelledError):
        await watch.run()
    assert not watch.problem
