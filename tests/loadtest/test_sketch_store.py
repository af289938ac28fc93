"""The measurement of what clients cost Redis, in small."""

import json

import pytest
from redis_servers import BINARIES

from loadtest.sketch_store import main

pytestmark = pytest.mark.skipif("wheel" not in BINARIES, reason="no redis-server of the wheel")


def test_it_measures_what_a_client_takes_and_costs(capsys):
    assert main(["--clients", "600", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["clients"] == 600
    assert found["bytes"]["fresh"] < found["bytes"]["typical"] < found["bytes"]["full"] <= 16_384
    assert found["bytes"]["typical"] <= found["bytes_a_client"] < 1.5 * found["bytes"]["typical"]
    assert [cost["what"] for cost in found["costs"]] == ["nothing new", "one query", "ring back"]
    assert all(cost["here"] > 0 and cost["calls"] > 0 for cost in found["costs"])


def test_it_says_so_if_they_do_not_fit(capsys):
    assert main(["--clients", "3000", "--maxmemory", "4mb"]) == 1
    assert "is it full?" in capsys.readouterr().err


def test_it_needs_a_server(capsys):
    assert main(["--redis", "no-such-redis-server"]) == 1
    assert "no such redis-server" in capsys.readouterr().err
