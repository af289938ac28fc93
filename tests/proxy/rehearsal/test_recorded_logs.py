"""Audit logs as they are found: rotated, cut, edited, begun in the middle, or without what a replay
takes."""

import asyncio
import json
from collections import Counter

import numpy as np
import pytest
from live_gateway import body_of, serving
from small_models import draw
from test_replay_exact import storm

from proxy.rehearsal.amendments import Amendments
from proxy.rehearsal.recorded import read_log
from proxy.rehearsal.whatif import Incomplete, of_log


def recorded(path, steps=30, seed=0, **given):
    """A log of a storm; where it lies."""

    async def run():
        async with serving(path, seed, **given) as live:
            await storm(live, steps)
            return live.settings.audit.path

    return asyncio.run(run())


def replayed(path, log, **given):
    return asyncio.run(of_log(log, path, Amendments(**given), 10))


def test_a_rotated_log_of_several_starts_is_one(configuration):
    path = configuration(audit={"rotate_bytes": 2**16, "keep": 100})
    log = recorded(path)
    recorded(path, seed=1)
    told = replayed(path, log)
    assert len(list(log.parent.glob("audit.jsonl.0*"))) > 1
    assert told["ok"] and told["unequal"] == 0
    assert told["notes"] == [] and told["broken"] == []
    assert len(read_log(log).lives) == 2


def test_what_was_edited_is_told(configuration):
    path = configuration()
    log = recorded(path)
    lines = log.read_bytes().splitlines(keepends=True)
    place = next(i for i, line in enumerate(lines) if b'"action":"block"' in line)
    lines[place] = lines[place].replace(b'"action":"block"', b'"action":"allow"')
    log.write_bytes(b"".join(lines))
    told = replayed(path, log)
    assert not told["ok"]
    assert told["unequal"] == 1
    assert told["differences"][0]["differs"]["action"] == {"was": "allow", "now": "block"}
    assert told["broken"] == [f"audit.jsonl:{place + 2}: it does not follow record {place + 1}"]


def test_a_record_that_is_gone_is_told(configuration):
    path = configuration()
    log = recorded(path)
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join(lines[:10] + lines[11:]) + b"no record\n")
    told = replayed(path, log)
    assert not told["ok"]
    assert told["broken"][0] == "audit.jsonl:11: it does not follow record 10"
    assert told["broken"][-1].endswith(": this is no record")


def test_a_torn_end_is_none_of_its_faults(configuration):
    path = configuration()
    log = recorded(path)
    log.write_bytes(log.read_bytes()[:-20])
    told = replayed(path, log)
    assert told["ok"]
    assert "ends within a record" in " ".join(told["notes"])


def test_a_log_that_begins_in_the_middle_says_so(configuration):
    path = configuration()
    log = recorded(path)
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join(lines[len(lines) // 2 :]))
    told = replayed(path, log)
    assert told["broken"] == []
    assert "begins in the middle" in " ".join(told["notes"])
    assert told["played"] > 10


def test_another_configuration_is_told(configuration, tmp_path):
    log = recorded(configuration())
    told = replayed(configuration("other.yaml", mode="monitor"), log)
    assert "recorded under configuration" in told["notes"][0]


def test_without_what_a_replay_takes_it_is_said_which_key_to_set(configuration):
    path = configuration(audit={"replay": False, "values": True})
    log = recorded(path)
    with pytest.raises(Incomplete, match=r"audit: \{replay: true\}"):
        replayed(path, log)


def test_whatever_is_in_a_log_is_replayed_or_refused_in_words(configuration):
    path = configuration()
    log = recorded(path, 12)
    whole = log.read_bytes()
    random = np.random.default_rng(6)
    words = [b"null", b"7", b'"x"', b"[]", b"{}", b"", b'"', b"-1e9", b"true"]
    ended = Counter()
    for _ in range(12):
        at = int(random.integers(0, len(whole)))
        gone = int(random.integers(0, 30))
        colon = whole.find(b":", at)  # a value in place of another, mostly
        at = colon + 1 if colon > 0 and random.integers(0, 3) else at
        new = words[int(random.integers(0, len(words)))]
        end = next((i for i in range(at, len(whole)) if whole[i] in b",}"), at + gone)
        log.write_bytes(whole[:at] + new + whole[end:])
        try:
            ended[replayed(path, log)["ok"]] += 1
        except Incomplete:
            ended["incomplete"] += 1
    assert ended.total() == 12
    assert ended[True] <= 2  # but for what stands in the last record


def test_an_empty_log_holds_no_exchange(configuration):
    path = configuration()

    async def run():
        async with serving(path) as live:
            return live.settings.audit.path

    with pytest.raises(Incomplete, match="holds no exchange"):
        replayed(path, asyncio.run(run()))
    with pytest.raises(FileNotFoundError, match="no such audit log"):
        replayed(path, path.with_name("nowhere.jsonl"))


def test_what_is_too_large_for_a_record_is_taken_as_recorded(configuration):
    path = configuration(limits={"body_bytes": 2**22, "rows_per_request": 10_000})
    rows, _ = draw(10_000, 3)

    async def run():
        async with serving(path) as live:
            await live.ask("10.0.0.1", body_of(rows))
            await live.ask("10.0.0.1", body_of(rows[:1]))
            return live.settings.audit.path

    told = replayed(path, asyncio.run(run()))
    assert told["as_recorded"] == {"it was too large to be recorded": 1}
    assert told["played"] == 1


def test_no_secret_of_a_client_is_recorded(configuration):
    path = configuration()
    text = recorded(path).read_text()
    assert "secret" not in text and "cookie" not in text
    exchanges = [json.loads(line) for line in text.splitlines() if '"exchange"' in line]
    assert any("replay" in one.get("notes", {}) for one in exchanges)


def test_exclusions_hold_though_nobody_knows_the_pseudonyms_key(configuration):
    until = "2031-01-01T00:00:00Z"
    exclude = [{"client": "ip:10.0.0.1", "until": until}]
    path = configuration(rules={"BZ-300": {"exclude": exclude}})
    rows, _ = draw(2, 3)

    async def run():
        async with serving(path) as live:
            for client in ("10.0.0.1", "10.0.0.2"):
                await live.ask(client, body_of(rows + 50))
            return live.settings.audit.path

    told = replayed(path, asyncio.run(run()))
    assert told["ok"] and told["equal"] == 2
