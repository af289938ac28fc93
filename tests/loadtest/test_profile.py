"""The sampler counts functions; the table orders them and spreads the cost of a request."""

import io
import json
import sys

from rich.console import Console

from loadtest.profile import table
from loadtest.sampled import Sampler


def test_a_sample_counts_the_innermost_function_and_each_caller_once(tmp_path):
    sampler = Sampler()

    def innermost(depth):
        if depth:
            innermost(depth - 1)
        else:
            sampler.sample(0, sys._getframe())

    innermost(3)
    innermost(0)
    sampler.write(tmp_path / "s.json")
    document = json.loads((tmp_path / "s.json").read_text())
    assert document["samples"] == 2
    ((own, count),) = document["own"].items()
    assert own.endswith("<locals>.innermost")
    assert count == 2
    assert document["total"][own] == 2
    assert any("test_a_sample" in name and name != own for name in document["total"])


def test_the_table_is_in_the_order_asked_for():
    counts = {"samples": 10, "own": {"a": 7, "b": 3}, "total": {"a": 7, "b": 10}}

    def text(by):
        console = Console(width=100, file=io.StringIO(), record=True)
        console.print(table(counts, 1e-4, by, lines=5))
        return console.export_text()

    own, total = text("own"), text("total")
    assert own.index(" a ") < own.index(" b ")
    assert total.index(" b ") < total.index(" a ")
    assert "70.0%" in own
    assert "30.0" in own
    assert "100.0%" in own
