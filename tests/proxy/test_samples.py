"""Samples on their way from the gateway: whole, in pages, and from several workers."""

import asyncio
from random import Random
from types import SimpleNamespace

import numpy as np
import pytest

from detectors.sample import Sample, SampleError
from proxy import samples
from proxy.admin.explanations import Busy
from proxy.capture import Capture
from proxy.decision import ALLOWED
from proxy.identity import Identity
from proxy.protocols.base import InferResponse
from proxy.protocols.contract import Contract
from proxy.samples import Samples, gathered, row_shape, united
from proxy.supervisor import _Supervisor


def endpoint(rows=8, start=0, contract=None, captures=True):
    capture = Capture(rows=1000, rows_per_client=1000, anonymise=True, dice=Random(0))
    if rows:
        given = np.arange(start, start + rows, dtype=np.float32)[:, None] * np.ones(4, np.float32)
        answer = InferResponse({"y": np.eye(3)[np.arange(rows) % 3]}, rows)
        capture.offer(Identity("0" * 32, "ip"), given, answer, 0.0, ALLOWED)
    return SimpleNamespace(
        name="digits",
        capture=capture if captures else None,
        contract=contract,
    )


async def test_the_sample_is_the_file():
    sample = Sample.decode(await Samples().sample(endpoint()))
    assert len(sample) == 8 and sample.endpoint == "digits" and sample.row_shape == (4,)


CONTRACTS = {
    "an image": ([{"name": "x", "datatype": "FP32", "shape": (-1, 2, 2)}], (2, 2)),
    "flat": ([{"name": "x", "datatype": "FP32", "shape": (-1, 4)}], (4,)),
    "open": ([{"name": "x", "datatype": "FP32", "shape": (-1, -1)}], None),
    "two tensors": (
        [{"name": n, "datatype": "FP32", "shape": (-1, 2)} for n in ("x", "z")],
        None,
    ),
    "text beside it": (
        [
            {"name": "t", "datatype": "BYTES", "shape": (-1, 1)},
            {"name": "x", "datatype": "FP32", "shape": (-1, 2, 2)},
        ],
        (2, 2),
    ),
}


@pytest.mark.parametrize("case", CONTRACTS)
def test_the_shape_of_a_row(case):
    inputs, shape = CONTRACTS[case]
    assert row_shape(endpoint(contract=Contract.from_config(inputs))) == shape


def test_no_contract_no_shape():
    assert row_shape(endpoint()) is None


@pytest.mark.parametrize(
    ("given", "words"), [({"captures": False}, "`capture`"), ({"rows": 0}, "yet")]
)
async def test_nothing_captured_is_said(given, words):
    with pytest.raises(LookupError, match=words):
        await Samples().sample(endpoint(**given))


async def test_one_is_made_at_a_time():
    made, one = Samples(), endpoint()
    first = asyncio.ensure_future(made.sample(one))
    await asyncio.sleep(0)
    with pytest.raises(Busy):
        await made.sample(one)
    assert await first
    assert await made.sample(one)


async def test_pages_add_up(monkeypatch):
    monkeypatch.setattr(samples, "PAGE_BYTES", 100)
    made, one, asked = Samples(), endpoint(), []

    async def ask(offset):
        asked.append(offset)
        return await made.page(one, offset)

    assert len(Sample.decode(await gathered(ask))) == 8
    assert len(asked) > 5 and made._whole == b""


async def test_a_worker_that_lost_its_sample_is_noticed():
    async def ask(offset):
        return {"size": 1000, "data": ""}

    with pytest.raises(LookupError):
        await gathered(ask)


async def test_workers_samples_are_one():
    parts = [await Samples().sample(endpoint(start=start)) for start in (0, 4)]
    assert len(Sample.decode(united(parts))) == 12  # four rows came to both
    assert united(parts[:1]) == parts[0]
    with pytest.raises(SampleError):
        united([parts[0], b"nonsense"])


class Workers:
    """Two workers behind a supervisor, each with a sample of its own."""

    def __init__(self):
        self.members = [SimpleNamespace(serving=True, number=number) for number in range(2)]
        self.turned = asyncio.Event()
        self._parts = [(Samples(), endpoint(start=start)) for start in (0, 4)]

    async def ask(self, member, command, asked, *, seconds):
        await asyncio.sleep(0)
        made, one = self._parts[member.number]
        if asked[1]:
            self.turned.set()
        return await made.page(one, asked[1])


async def test_a_supervisor_gathers_one_sample_at_a_time(monkeypatch):
    """Two would take each other's pages."""
    monkeypatch.setattr(samples, "PAGE_BYTES", 100)
    supervisor = object.__new__(_Supervisor)
    supervisor._fleet, supervisor._sampling = Workers(), False
    first = asyncio.ensure_future(supervisor.sample("e"))
    await supervisor._fleet.turned.wait()  # it is made, and on its way
    with pytest.raises(Busy):
        await supervisor.sample("e")
    assert len(Sample.decode(await first)) == 12
    assert len(Sample.decode(await supervisor.sample("e"))) == 12
