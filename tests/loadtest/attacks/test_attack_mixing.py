from itertools import pairwise

import numpy as np
import pytest

from loadtest.attacks.datasets import load
from loadtest.attacks.mixing import ATTACKER, WARM_UP, Noise, interleaved, sybils
from loadtest.attacks.traces import Trace

SPLIT = load("digits", 1)
HONEST = SPLIT.honest.rows
TRACE = Trace(SPLIT.bases.rows[:30] + np.float32(0.001), 30, success=True)


@pytest.mark.parametrize("every", [0, 2, 10])
def test_interleaved_sends_the_attack_in_order_among_honest_rows(every):
    traffic = interleaved(TRACE, HONEST, every, 20, np.random.default_rng(0))
    assert len(traffic.rows) == WARM_UP + 20 * (every + 1)
    assert np.array_equal(traffic.rows[traffic.hostile], TRACE.queries[:20])
    assert not traffic.hostile[:WARM_UP].any()
    honest = {row.tobytes() for row in HONEST}
    assert all(row.tobytes() in honest for row in traffic.rows[~traffic.hostile])
    assert set(traffic.clients) == {ATTACKER}


@pytest.mark.parametrize(("accounts", "one_subnet"), [(4, True), (16, False)])
def test_sybils_take_turns(accounts, one_subnet):
    random = np.random.default_rng(0)
    traffic = sybils(TRACE, HONEST, 30, random, accounts=accounts, one_subnet=one_subnet)
    sent = list(zip(traffic.clients, traffic.subnets, traffic.hostile, strict=True))
    hostile = [client for client, _, is_hostile in sent if is_hostile]
    assert len(set(hostile)) == accounts
    assert all(left != right for left, right in pairwise(hostile))
    subnets = {subnet for client, subnet, _ in sent if client.startswith(ATTACKER)}
    assert len(subnets) == (1 if one_subnet else accounts)
    others = [c for c in traffic.clients if not c.startswith(ATTACKER)]
    assert len(others) == 4 * 30  # four honest queries of others to each hostile one


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("norm", [0.3, 8.0])
def test_noise_has_its_norm(inside, norm):
    source = Noise.of(SPLIT, inside=inside)
    base = SPLIT.bases.rows[0]
    steps = source.probes(base, norm, 50, np.random.default_rng(0)).queries - base
    assert np.linalg.norm(steps, axis=1) == pytest.approx(norm, rel=1e-4)
    if inside:
        assert np.linalg.matrix_rank(steps, tol=1e-3) <= len(source.basis) < 50
