"""The contract follows the model server's metadata, and stays when that cannot be held."""

import asyncio
import json
from types import SimpleNamespace

import pytest

from proxy import rules
from proxy.contract_watch import ContractWatch
from proxy.endpoint import Binding, Endpoint
from proxy.protocols.contract import Contract
from proxy.protocols.torchserve import TorchServe
from proxy.protocols.v1 import V1
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

    crowded = False

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


def watch_of(*answers, contract=None, **keywords):
    binding = Binding("/v2/models/m", V2("/v2/models/m", contract), Pool(*answers))
    return binding, watch_over(binding, **keywords)


def watch_over(*bindings, learn=True, width=None, sleep=None, before=None):
    endpoint = Endpoint(
        "m",
        None,
        bindings,
        None,
        None,
        None,
        0,
        0,
        bundle=width and SimpleNamespace(features=width),
    )
    return ContractWatch(endpoint, learn=learn, refresh_seconds=30.0, sleep=sleep, before=before)


async def test_the_contract_is_learnt_and_followed():
    binding, watch = watch_of(metadata(4), metadata(4), metadata(9))
    assert watch.problem
    await watch.check()
    assert not watch.problem
    assert binding.codec.contract.width == 4
    [request] = binding.pool.asked
    assert (request.method, request.target) == (b"GET", b"/v2/models/m")
    bound = binding.codec
    await watch.check()
    assert binding.codec is bound, "the same contract binds nothing anew"
    await watch.check()
    assert binding.codec.contract.width == 9


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
    binding, watch = watch_of(metadata(4), answer, metadata(4), width=4)
    assert not watch.seen
    await watch.check()
    held = binding.codec
    await watch.check()
    assert watch.problem
    assert watch.seen
    assert binding.codec is held
    await watch.check()
    assert not watch.problem


async def test_a_configured_contract_is_not_replaced():
    binding, watch = watch_of(metadata(9), learn=False)
    binding.codec = binding.codec.with_contract(Contract())
    held = binding.codec
    await watch.check()
    assert not watch.problem, "the server was seen"
    assert binding.codec is held


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


async def test_what_was_found_before_a_reload_holds_until_the_server_was_asked_anew():
    binding, first = watch_of(metadata(4))
    await first.check()
    busy = Refusal(rules.UPSTREAM_QUEUE, "full")
    gone = Refusal(rules.UPSTREAM_UNREACHABLE, "refused")
    _, second = watch_of(busy, gone, contract=binding.codec.contract, before=first)
    assert (second.problem, second.seen) == ("", True)
    await second.check()
    assert not second.problem, "a server with too much to do serves"
    await second.check()
    assert second.problem
    _, third = watch_of(metadata(4), contract=binding.codec.contract, before=second)
    assert (third.problem, third.seen) == (second.problem, True)
    _, other = watch_of(metadata(4), before=first)
    assert other.problem, "there is another contract to learn"
    assert other.seen


class Silent(V2):
    """A codec whose server has nothing to ask."""

    def __init__(self, *given, **bounds):
        super().__init__(*given, **bounds)
        self.probe = None


async def test_where_there_is_nothing_to_ask_the_endpoint_is_ready_at_once():
    pool = Pool()
    binding = Binding("/v2/models/m", Silent("/v2/models/m", None), pool)
    watch = watch_over(binding, width=4, sleep=None)
    await watch.run()
    assert (watch.problem, watch.asked.is_set(), pool.asked) == ("", True, [])
    assert binding.codec.contract == Contract(width=4)
    declared = Contract.from_config([{"name": "x", "datatype": "FP32", "shape": [-1, 4]}])
    binding = Binding("/v2/models/m", Silent("/v2/models/m", declared), pool)
    await watch_over(binding, learn=False).run()
    assert binding.codec.contract is declared


def spoken(pool, *models):
    """One server by several protocols, which are V2 models of several names here."""
    return [Binding(f"/v2/models/{name}", V2(f"/v2/models/{name}", None), pool) for name in models]


async def test_of_several_protocols_the_first_that_is_answered_teaches_all():
    pool = Pool((404, b""), metadata(4), (404, b""), metadata(5))
    bindings = spoken(pool, "other", "m", "never")
    elsewhere = Binding("/v2/models/m", V2("/v2/models/m", None), Pool())
    watch = watch_over(*bindings, elsewhere)
    await watch.check()
    assert [request.target for request in pool.asked] == [b"/v2/models/other", b"/v2/models/m"]
    assert {binding.codec.contract.width for binding in (*bindings, elsewhere)} == {4}
    await watch.check()
    assert pool.asked[2:] == pool.asked[:2], "those after the one that was answered are not asked"
    assert {binding.codec.contract.width for binding in bindings} == {5}
    assert elsewhere.pool.asked == []


def automatic(pool):
    """V2 first, then protocols whose servers declare nothing, as ``auto`` asks them."""
    return [
        *spoken(pool, "m"),
        Binding("/v1/models/m", V1("/v1/models/m", None), pool),
        Binding("/predictions/m", TorchServe("/predictions/m", None), pool),
    ]


async def test_a_protocol_that_declares_is_asked_until_it_does():
    ready = 200, b'{"status": "Healthy"}'
    loading, absent = (400, b""), (404, b"")
    pool = Pool(loading, absent, ready, loading, absent, ready, metadata(4), absent)
    bindings = automatic(pool)
    watch = watch_over(*bindings, width=4)
    for contract in (Contract(width=4), Contract(width=4)):
        await watch.check()
        assert not watch.problem
        assert {binding.codec.contract for binding in bindings} == {contract}
    await watch.check()
    [declared] = {binding.codec.contract for binding in bindings}
    assert not declared.open
    await watch.check()
    assert "404" in watch.problem, "from then on it is asked alone"
    assert pool.answers == []
    assert {binding.codec.contract for binding in bindings} == {declared}


async def test_what_was_declared_is_not_taken_back_by_who_declares_nothing():
    """As after a reload while the model is loaded anew: the watch is new, the contract is not."""
    ready = 200, b'{"name": "m", "ready": true}'
    pool = Pool((404, b""), ready, (404, b""), ready, metadata(5))
    bindings = automatic(pool)
    declared = Contract.from_config([{"name": "x", "datatype": "FP32", "shape": [-1, 4]}])
    for binding in bindings:
        binding.codec = binding.codec.with_contract(declared)
    watch = watch_over(*bindings)
    for _ in range(2):
        await watch.check()
        assert not watch.problem, "the server was seen"
        assert {binding.codec.contract for binding in bindings} == {declared}
    await watch.check()
    assert {binding.codec.contract.width for binding in bindings} == {5}


async def test_a_server_that_no_longer_declares_anything_is_followed():
    pool = Pool(metadata(4), (200, b'{"name": "m", "inputs": []}'))
    bindings = automatic(pool)
    watch = watch_over(*bindings)
    await watch.check()
    await watch.check()
    assert {binding.codec.contract for binding in bindings} == {Contract()}


async def test_a_server_that_fails_is_not_asked_by_another_protocol():
    pool = Pool((503, b"loading"))
    watch = watch_over(*spoken(pool, "m", "other"))
    await watch.check()
    assert len(pool.asked) == 1
    assert "503" in watch.problem


async def test_a_server_that_speaks_none_of_the_protocols_is_a_problem():
    pool = Pool((404, b""), (405, b""))
    watch = watch_over(*spoken(pool, "m", "other"))
    await watch.check()
    assert len(pool.asked) == 2
    assert watch.problem == "the model's metadata was answered with 404"
