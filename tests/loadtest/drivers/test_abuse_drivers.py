"""The drivers of protocol abuse against servers that are good or bad in one way each."""

import asyncio

import pytest
from abuse_servers import OK, Counted, Server, Wire, means, served

from loadtest.drivers.abuse_malformed import Ended, Malformed, judged
from loadtest.drivers.abuse_oversized import Oversized
from loadtest.drivers.abuse_probe import Probes, slower, suffered
from loadtest.drivers.abuse_reading import Reading, read
from loadtest.drivers.abuse_slow import KINDS, Slow
from loadtest.drivers.abuse_wire import End, Heard, exchange, read_answers
from loadtest.evidence.results import Estimate
from proxy import rules

BAD = Reading((False,), rules.SYNTAX, complete=True)
FEW = {"head_mutations": 5, "body_mutations": 5, "recovery": 0.3}


def heard(*statuses, end=End.OPEN, whole=True):
    return Heard(statuses, whole, end, 0.0)


@pytest.mark.parametrize(
    ("what", "ended"),
    [
        (heard(400), Ended.REFUSED),
        (heard(501), Ended.REFUSED),
        (heard(301), Ended.REFUSED),
        (heard(503), Ended.SHED),
        (heard(200), Ended.ANSWERED),
        (heard(500), Ended.FAULT),
        (heard(502), Ended.FAULT),
        (heard(400, 404), Ended.SECOND),
        (heard(200, 404), Ended.SECOND),
        (heard(0), Ended.GARBLED),
        (heard(end=End.CLOSED), Ended.BROKEN),
        (heard(end=End.RESET), Ended.BROKEN),
        (heard(end=End.UNREACHABLE), Ended.BROKEN),
        (heard(400, end=End.RESET, whole=False), Ended.BROKEN),
        (heard(end=End.CLOSED_AFTER_US), Ended.LEFT),
        (heard(end=End.SILENT), Ended.SILENT),
    ],
    ids=str,
)
def test_what_became_of_a_malformed_request(what, ended):
    assert judged(BAD, what) is ended


def test_a_valid_request_before_it_may_be_answered():
    reading = Reading((True, False), rules.FRAMING, complete=True)
    assert judged(reading, heard(200, 400)) is Ended.REFUSED
    assert judged(reading, heard(200, 200)) is Ended.ANSWERED
    assert judged(reading, heard(200, 400, 400)) is Ended.SECOND


def test_answers_are_taken_apart():
    one = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab"
    chunked = b"HTTP/1.1 400 X\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n"
    assert read_answers(b"") == ((), False)
    assert read_answers(one[:10]) == ((), False)
    assert read_answers(one[:-1]) == ((200,), False)
    assert read_answers(one) == ((200,), True)
    assert read_answers(b"HTTP/1.1 100 Continue\r\n\r\n" + one + chunked) == ((200, 400), True)
    assert read_answers(b"HTTP/1.1 500 X\r\n\r\nwhatever" + one) == ((500,), True)
    assert read_answers(one + b"junk") == ((200, 0), True)
    assert read_answers(b"HTTP/1.1 204 X\r\n\r\n" + one) == ((204, 200), True)
    assert read_answers(b"HTTP/1.1 400 X\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n") == (
        (0,),
        True,
    )


def strict(server, body):
    """Answers what the strict reader takes, and nothing else."""
    wire = strict.wire
    right = wire.request(means().own[:1], "x").split(b"\r\n\r\n", 1)[0]
    head = right.rsplit(b"Content-Length", 1)[0]
    reading = read(head + b"Content-Length: %d\r\n\r\n" % len(body) + body, wire.codec)
    server.reply(200 if reading.refused_by is None else 400)


def lenient(server, body):
    server.reply(200)


def attack(answer, driver, *, make=Server, budget=10**6, **knobs):
    with served(answer, make=make) as (address, _):
        asked = Counted(Wire(address), budget)
        strict.wire = asked.raw
        return driver.run(asked, None, means(**knobs)), asked


def test_a_lenient_server_answers():
    outcome, asked = attack(lenient, Malformed(), **FEW)
    worst = outcome.details["worst"]
    assert set(worst) == {Ended.ANSWERED.value}
    assert "and " in worst[Ended.ANSWERED.value][-1]
    reached = sum(one.reached for one in outcome.tries)
    assert 150 < reached < len(outcome.tries) == asked.queries
    assert outcome.details["outcomes"][Ended.ANSWERED.value] == reached
    assert outcome.details["stopped"] == []


def test_a_server_that_reads_bodies_strictly_answers_none_of_them():
    outcome, _ = attack(strict, Malformed(), **FEW)
    groups = outcome.details["by group"]
    for group in ("cut bodies", "JSON", "JSON members", "flipped bits"):
        assert set(groups[group]) == {Ended.REFUSED.value}
    # Of its heads llhttp leaves some to whoever uses it.
    assert Ended.ANSWERED.value in groups["lines"]


def test_a_second_answer_is_heard():
    def twice(server, body):
        server.reply(400)
        if b'"data"' not in body:
            server.reply(404)

    def honest_first(server, body):
        server.reply(200) if b'"shape":[1,4]' in body else twice(server, body)

    outcome, _ = attack(honest_first, Malformed(), **FEW)
    assert Ended.SECOND.value in outcome.details["worst"]


class Fragile(Server):
    """Stops serving for good at its first null."""

    broken = False

    def connection_made(self, transport):
        super().connection_made(transport)
        if Fragile.broken:
            transport.abort()

    def on_message_complete(self):
        if self._body == b"null":
            Fragile.broken = True
            self.transport.abort()
        elif b"/null" not in self._body:
            self.reply(200 if self._body.startswith(b'{"inputs":[{"name":"input"') else 400)


def test_a_server_that_breaks_is_noticed_and_left_alone():
    Fragile.broken = False
    outcome, _ = attack(None, Malformed(), make=Fragile, **FEW)
    (stopped,) = outcome.details["stopped"]
    assert stopped.startswith("after JSON: only null: for good")
    assert outcome.details["outcomes"][Ended.STOPPED.value] == 1
    assert outcome.details["not tried"] > 10
    assert outcome.tries[-1].reached


def test_the_budget_ends_it():
    outcome, asked = attack(lenient, Malformed(), budget=7, **FEW)
    assert asked.queries == 7
    assert len(outcome.tries) == 8
    assert "budget" in outcome.details["note"]


@pytest.mark.parametrize("driver", [Malformed(), Oversized(), Slow()], ids=lambda one: one.name)
def test_what_does_not_do_is_said(driver):
    with pytest.raises(ValueError, match="recovery"):
        attack(lenient, driver, recovery=-1)
    with pytest.raises(ValueError, match="colour"):
        attack(lenient, driver, colour=1)
    with pytest.raises(ValueError, match="HTTP/1"):
        driver.run(Counted(None), None, means())
    with pytest.raises(ValueError, match="no honest request"):
        attack(lambda server, body: server.reply(500), driver)


def test_probes_compare():
    calm = Probes(tuple(i / 1000 for i in range(1, 101)), {"answered": 100})
    slow = Probes(tuple(i / 100 for i in range(1, 101)), {"answered": 100})
    ratio = slower(calm, slow)
    assert ratio.value == pytest.approx(10)
    assert ratio.low <= ratio.value <= ratio.high
    assert suffered(calm, slow)
    assert not suffered(calm, calm)
    assert suffered(calm, Probes(calm.seconds, {"answered": 100, "failed": 3}))
    assert not suffered(calm, Probes(calm.seconds, {"answered": 100, "limited": 3}))
    assert suffered(calm, Probes((), {"silent": 3}))
    assert calm.percentile(50) == Estimate(0.05, 0.04, 0.061)


QUICK = {"seconds": 0.2, "rate": 40, "recovery": 0.3}


def test_oversized_requests():
    outcome, asked = attack(
        lenient, Oversized(), megabytes=0.02, count=2, at_once=2, patience=0.1, **QUICK
    )
    kinds = outcome.details["kinds"]
    assert len(kinds) == len(outcome.tries) == 9
    assert asked.queries == sum(one.queries for one in outcome.tries) == 18
    assert kinds["a body of many rows"]["answers"] == {"200 open": 2}
    assert 19_000 < kinds["a body of many rows"]["bytes"] < 22_000
    assert outcome.details["honest before"]["answered"] >= 1
    assert outcome.value.value > 0


def test_slow_clients():
    outcome, asked = attack(lenient, Slow(), connections=5, interval=0.05, **QUICK)
    kinds = outcome.details["kinds"]
    assert list(kinds) == list(KINDS)
    assert all(kind["connections"] == {"held to the end": 5} for kind in kinds.values())
    assert asked.queries == 20


class Exclusive(Server):
    """Serves one client at a time: a slow one keeps all others out."""

    inside = None

    def connection_made(self, transport):
        super().connection_made(transport)
        if Exclusive.inside is None:
            Exclusive.inside = self
        elif Exclusive.inside is not self:
            self.reply(500, OK)
            transport.close()

    def connection_lost(self, error):
        if Exclusive.inside is self:
            Exclusive.inside = None


def test_slow_clients_that_keep_others_out_are_felt():
    Exclusive.inside = None
    outcome, _ = attack(lenient, Slow(), make=Exclusive, connections=2, interval=0.05, **QUICK)
    assert [one.reached for one in outcome.tries] == [True] * 4
    assert all(kind["honest"]["failed"] for kind in outcome.details["kinds"].values())


def test_an_exchange_with_nobody():
    with served(lenient) as (address, stop):
        stop()
    nobody = Wire(address)
    one = asyncio.run(exchange(nobody, "a", b"GET / HTTP/1.1\r\n\r\n"))
    assert (one.statuses, one.end) == ((), End.UNREACHABLE)
