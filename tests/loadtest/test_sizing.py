"""The sizing page's tables, and the requests that it is measured with."""

import numpy as np
import pytest

from loadtest.report import section
from loadtest.sizing import STAGES, Rate, pool
from loadtest.sizing_page import HEADING, tables


def found(**changes):
    rates = [
        Rate(features, rows, stage, binary, rows / 12_345, "")
        for features in (8, 64)
        for rows in (1, 16)
        for stage in STAGES
        for binary in (False, True)
    ]
    return {
        "date": "2026-01-01",
        "machine": {"processor": "Some CPU, 2 cores", "Python": "3.12.0"},
        "rates": rates,
        "resident": {8: dict.fromkeys(STAGES, 95e6), 64: dict.fromkeys(STAGES, 230e6)},
        "client_bytes": {8: 9_000.0, 64: 11_000.0},
        "stored": {
            "redis": "7.0",
            "clients": 100,
            "bytes": {"fresh": 200, "typical": 2500, "full": 12_000},
            "bytes_a_client": 2_600.0,
            "used_memory": 10,
            "used_memory_rss": 14,
            "costs": [{"what": "one query", "server": 75.0}],
        },
        "shared": {"requests": 1000.0, "commands": 500.0, "cpu": 0.02},
        **changes,
    }


def test_the_tables_hold_every_figure():
    text = tables(found())
    assert text.count("| 12,000 | 12,000 | 12,000 | 12,000 |") == 8  # cells of two forms
    assert "| 8 | 95 MB | 95 MB | 95 MB | 95 MB | 9.0 KB |" in text
    assert "| of eight different queries | 2,600 | 2.6 GB | 3.9 GB |" in text
    assert "(0.50 for each request)" in text


def test_a_cell_with_a_fault_is_not_counted():
    rates = found()["rates"]
    first = rates[0]
    rates[0] = Rate(first.features, first.rows, first.stage, first.binary, 1e-9, "statuses")
    text = tables(found(rates=rates))
    assert text.count("not counted") == 1
    assert "1,000,000,000" not in text


def test_without_redis_the_page_says_so():
    assert "No Redis server was installed" in tables(found(stored=None, shared=None))


def test_the_section_is_replaced_and_the_prose_stays(tmp_path):
    page = tmp_path / "sizing.md"
    page.write_text(f"# Sizing\n\nBefore.\n\n## {HEADING}\n\nold\n\n## After\n\nkept\n")
    section(page, HEADING, tables(found()))
    text = page.read_text()
    assert "old" not in text
    assert text.index("Before.") < text.index("12,000") < text.index("kept")


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize(("features", "rows"), [(8, 1), (64, 16), (784, 256)])
def test_a_pool_is_of_different_requests_and_bounded(features, rows, binary):
    asked = pool(features, rows, binary=binary)
    assert len(set(asked)) == len(asked) >= 8
    assert sum(map(len, asked)) < 60_000_000
    if binary:
        numbers = np.frombuffer(asked[0][-4 * features * rows :], "<f4")
        assert np.isfinite(numbers).all()
        assert len(np.unique(numbers)) > features * rows // 2
