"""The whole: four replicas, 64 clients, random routing, and what may happen to Redis meanwhile."""

import pytest

from loadtest.quotas import Load, measure
from loadtest.redis_servers import ANY, BINARIES
from proxy.state.base import Quota

pytestmark = pytest.mark.skipif(ANY is None, reason="no redis-server is installed")

# A request may wait long, so that this machine's other work is not taken for an outage of Redis.
PATIENT = {"seconds": 1.5, "wait_seconds": 5.0}
QUOTAS = {
    "rate": Load(quota=Quota.of(400.0, 400, None), **PATIENT),
    "day": Load(quota=Quota.of(None, 1, 800), **PATIENT),
    "both": Load(quota=Quota.of(5000.0, 300, 900), client_quota=Quota.of(50.0, 40, 60), **PATIENT),
    "many rows": Load(quota=Quota.of(2000.0, 2000, None), rows=16, **PATIENT),
}


@pytest.mark.parametrize("binary", list(BINARIES))
@pytest.mark.parametrize("name", QUOTAS)
def test_never_a_row_over_the_quota_and_nearly_all_of_it_usable(tmp_path, name, binary):
    usable = 0.0
    for turn in range(3):  # what is usable in so short a time depends on the machine's other work
        folder = tmp_path / str(turn)
        folder.mkdir()
        outcome = measure(QUOTAS[name], "none", folder, BINARIES[binary])
        assert outcome.degraded == 0
        assert outcome.worst == 0
        assert outcome.calls < outcome.admitted + outcome.denied
        usable = max(usable, outcome.usable)
        if usable >= 0.99:
            break
    assert usable >= 0.99


# How often Redis forgets what was used, and whether replicas must be on their own for a while. On
# a machine that is busy with other things they may be so in any case.
OUTAGES = {
    "script-flush": (0, False), "flush": (1, False), "pause": (0, True), "full": (0, True),
    "read-only": (1, True), "kill": (1, True), "cluster-failover": (1, True),
    "sentinel-failover": (1, True),
}  # fmt: skip


@pytest.mark.parametrize("chaos", OUTAGES)
def test_an_outage_admits_no_more_than_the_bound(tmp_path, chaos):
    forgets, alone = OUTAGES[chaos]
    quota = Quota.of(None, 1, 4000)
    outcome = measure(
        Load(quota=quota, seconds=3.0, requests_per_second=50.0, wait_seconds=0.2), chaos, tmp_path
    )
    assert outcome.recovered
    assert outcome.degraded > 0 or not alone
    assert outcome.worst <= quota.per_day * (forgets + (outcome.degraded > 0))
    # A lease whose answer is lost is lost for the day.
    assert outcome.usable >= (0.85 if outcome.failures else 0.99)
