"""The figures of ``loadtest.sizing`` as a section of docs/sizing.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from loadtest.report import table

HEADING: Final = "Figures"
_MB: Final = 1e6


def tables(found: Mapping[str, Any]) -> str:
    """The whole section, with its heading."""
    machine = found["machine"]
    lines = [
        f"## {HEADING}",
        "",
        f"`python -m loadtest.sizing --out docs/sizing.md`, {found['date']}; one core of",
        f"{machine['processor']}; Python {machine['Python']}. Rows a second of CPU of one worker:",
        "what it does when its core does nothing else.",
        "",
    ]
    for binary, form in ((False, "JSON"), (True, "binary tensors")):
        lines += [f"Requests in {form}:", "", *_rates(found["rates"], binary=binary), ""]
    lines += ["Memory:", "", *_memory(found), ""]
    if found["stored"] is not None:
        lines += _redis(found["stored"], found["shared"])
    else:
        lines += ["No Redis server was installed: what it takes was not measured."]
    return "\n".join(lines).rstrip() + "\n"


def _rates(rates: Sequence[Any], *, binary: bool) -> list[str]:
    these = [rate for rate in rates if rate.binary == binary]
    stages = list(dict.fromkeys(rate.stage for rate in these))
    cells = {(rate.features, rate.rows, rate.stage): rate for rate in these}
    return table(
        ["features", "rows in a request", *stages],
        [
            [str(features), str(rows), *(_cell(cells[features, rows, stage]) for stage in stages)]
            for features, rows in dict.fromkeys((rate.features, rate.rows) for rate in these)
        ],
    )


def _cell(rate: Any) -> str:
    return f"{_rounded(rate.rows_a_second):,}" if not rate.fault else "not counted"


def _rounded(value: float) -> int:
    """Two digits: the third is another for each run."""
    return int(float(f"{value:.2g}"))


def _memory(found: Mapping[str, Any]) -> list[str]:
    stages = list(next(iter(found["resident"].values())))
    rows = [
        [
            str(features),
            *(f"{by_stage[stage] / _MB:.0f} MB" for stage in stages),
            f"{found['client_bytes'][features] / 1000:.1f} KB",
        ]
        for features, by_stage in found["resident"].items()
    ]
    return table(["features", *(f"a worker, {s}" for s in stages), "each watched client"], rows)


def _redis(stored: Mapping[str, Any], shared: Mapping[str, float]) -> list[str]:
    sizes, costs = stored["bytes"], {cost["what"]: cost for cost in stored["costs"]}
    # Bytes a client in use, and what the allocator keeps beside them.
    resident = stored["used_memory_rss"] / stored["used_memory"]
    per_request = shared["commands"] / max(shared["requests"], 1)
    kinds = {
        "of whom little is known": sizes["fresh"],
        "of eight different queries": stored["bytes_a_client"],
        "with the longest history": sizes["full"],
    }
    return [
        f"Redis {stored['redis']}, {stored['clients']:,} clients of eight queries each"
        f" ({resident:.2f} bytes resident for each in use):",
        "",
        *table(
            ["clients", "bytes each", "per 10^6 clients", "`maxmemory` for 10^6"],
            [
                [kind, f"{size:,.0f}", f"{size / 1000:.1f} GB", f"{1.5 * size / 1000:.1f} GB"]
                for kind, size in kinds.items()
            ],
        ),
        "",
        *table(
            ["", "CPU of Redis"],
            [
                [f"a client's news, {what}", f"{cost['server']:.0f} µs"]
                for what, cost in costs.items()
            ],
        ),
        "",
        f"One worker at {shared['requests']:,.0f} requests a second of 16 clients sent"
        f" {shared['commands']:,.0f} commands a second ({per_request:.2f} for each request) and"
        f" kept {100 * shared['cpu']:.1f} % of a core of Redis busy.",
    ]
