"""A replay decides as the live run did, whatever came: in every number, to the last bit."""

import asyncio
from contextlib import suppress

import numpy as np
import pytest
from live_gateway import body_of, serving
from small_models import CENTRES, draw

from proxy.build import load_bundles
from proxy.rehearsal.recorded import read_log
from proxy.rehearsal.replay import Player
from proxy.rehearsal.stage import Stage
from proxy.rehearsal.tally import Fidelity
from proxy.settings.load import load


async def replayed(path):
    settings = load(path, environment={})
    log = read_log(settings.audit.path)
    fidelity = Fidelity()
    outcomes = []
    stage = Stage(settings, load_bundles(settings))

    def tell(outcome):
        outcomes.append(outcome)
        fidelity.add(outcome)

    for life in log.lives:
        player = Player(stage, tell)
        await player.begin()
        for moment, record in life.records():
            await player.play(moment, record)
        await player.end()
    return fidelity, outcomes


async def storm(live, steps):
    """Whatever may come: honest clients, probing ones, what cannot be read, large requests beside
    small ones, a model that fails, clients that leave, bans, and a reload."""
    random = live.random
    rows, _ = draw(400, 7)
    start, goal = rows[0], CENTRES[1].astype(np.float32)
    clients = [f"10.0.{net}.{host}" for net in range(2) for host in range(1, 4)]
    under_way = []
    for _ in range(steps):
        client = str(random.choice(clients))
        kind = int(random.integers(0, 20))
        live.model.mood = "well"
        live.now += float(random.exponential(0.05))
        if kind < 7:
            some = rows[random.integers(0, len(rows), int(random.integers(1, 4)))]
            if kind == 6:
                live.model.mood = "lie"
            under_way.append(live.ask(client, body_of(some)))
        elif kind < 11:  # along a line between two classes, as a boundary attack goes
            along = random.uniform(0.4, 0.6)
            row = start + along * (goal - start) + random.normal(size=6) * 1e-3
            under_way += [live.ask("10.0.9.9", body_of(row.astype(np.float32))) for _ in range(3)]
        elif kind == 11:
            under_way.append(live.ask(client, body_of(rows[:1] * 40)))
        elif kind == 12:
            bad = (b"{", b'{"inputs": []}', b"\xff\x00", body_of(rows[:2])[:-3])
            under_way.append(live.ask(client, bad[int(random.integers(0, len(bad)))]))
        elif kind == 13:  # beyond what is inspected on the loop
            under_way.append(live.ask(client, body_of(rows[random.integers(0, 400, 350)])))
        elif kind == 14:
            live.model.mood = ("late", "broken")[int(random.integers(0, 2))]
            under_way.append(live.ask(client, body_of(rows[1:2])))
        elif kind == 15:
            target = ("/v2/health/live", "/v2/models/m", "/v2/nothing")[int(random.integers(0, 3))]
            under_way.append(live.ask(client, b"", target, "GET"))
        elif kind == 16:
            await live.endpoint.clients.exchange()
        elif kind == 17:
            pseudonym = live.generation.pipeline.identify.pseudonym(f"ip:{client}")
            if random.integers(0, 2):
                await live.endpoint.clients.ban(pseudonym, float(random.exponential(1.0)))
            else:
                await live.endpoint.clients.forgive(pseudonym)
        elif kind == 18:
            live.model.mood = "asleep"
            leaving = asyncio.ensure_future(live.ask(client, body_of(rows[2:3])))
            await asyncio.sleep(0.002)
            leaving.cancel()
            with suppress(asyncio.CancelledError):
                await leaving
            live.model.mood = "well"
        elif random.integers(0, 4) == 0:
            live.reload()
        if len(under_way) > 6 or not random.integers(0, 3):
            await asyncio.gather(*under_way)
            under_way = []
            await live.endpoint.clients.learn_bans()
    await asyncio.gather(*under_way)


LIMITS = {
    "limits": {
        "rows_per_request": 400,
        "rows_per_second": 20,
        "burst_rows": 400,
        "rows_per_day": 4000,
    },
    "subnet_limits": {"rows_per_second": 60, "burst_rows": 800},
}
CASES = {
    "as usual": {},
    "sampled": {"second_opinion": {"when": "sampled", "share": 0.4, "sample": 0.5}},
    "monitored": {"mode": "monitor"},
    "shaped": {"shaping": {"when": "always"}, "on_disagreement": "shape"},
    "limited": LIMITS,
    "failing open": {"failure_mode": "allow", "rules": {"BZ-300": {"mode": "monitor"}}},
}


def stormed(path, seed, steps):
    async def run():
        async with serving(path, seed) as live:
            await storm(live, steps)
        return await replayed(path)

    fidelity, outcomes = asyncio.run(run())
    assert not fidelity.differences, fidelity.differences
    assert fidelity.equal > steps // 2
    assert set(fidelity.unplayed) <= {"it was refused before it was read"}
    return {reason["rule"] for one in outcomes for reason in one.was["reasons"]}


@pytest.mark.parametrize("case", CASES)
def test_a_replay_decides_as_was_decided(configuration, case):
    assert "BZ-400" in stormed(configuration(**CASES[case]), 1, 60)


def test_in_a_long_storm_everything_happens(configuration):
    rules = stormed(configuration(), 0, 200)
    assert {"BZ-120", "BZ-300", "BZ-400", "BZ-500", "BZ-510", "BZ-550"} <= rules
