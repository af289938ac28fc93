"""``bartizan record``: what it writes, when it ends, and what stays if something breaks."""

from random import Random

import numpy as np
import pytest
from click.testing import CliRunner

from detectors.sample import Sample
from proxy.capture import Capture
from proxy.cli import record as module
from proxy.cli.admin import Busy, Failed, Unreachable
from proxy.cli.record import Recorder, record
from proxy.decision import ALLOWED
from proxy.identity import Identity
from proxy.protocols.base import InferResponse


class Gateway:
    """A gateway whose traffic goes on while one waits."""

    def __init__(self, step=10, rows=1000):
        self.step, self.rows = step, rows
        self.now = 0.0
        self.events = {}
        self.down = False
        self.busy = 0
        self.start()

    def start(self):
        self.capture = Capture(rows=self.rows, rows_per_client=1000, anonymise=True, dice=Random(0))
        self.sent = 1000 * int(self.now)

    def ask(self, method, path, query=None, body=None):
        assert (method, path) == ("GET", "/api/v1/endpoints")
        if self.down:
            raise Unreachable("connection refused")
        return {
            "endpoints": [
                {"name": "digits", "capture": self.capture.status()},
                {"name": "idle", "capture": None},
            ]
        }

    def fetch(self, path):
        assert path == "/api/v1/captures/digits"
        if self.down:
            raise Unreachable("connection refused")
        if self.busy:
            self.busy -= 1
            raise Busy("another sample is being made")
        return self.capture.sample("digits").encode()

    def clock(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds
        event = self.events.pop(int(self.now), None)
        if event is not None:
            event()
        rows = np.arange(self.sent, self.sent + self.step, dtype=np.float32)[:, None]
        self.sent += self.step
        answer = InferResponse({"y": np.eye(2)[np.arange(self.step) % 2]}, self.step)
        client = Identity(f"{self.sent % 7:0>32}", "ip")
        self.capture.offer(client, np.hstack([rows, rows]), answer, 0.0, ALLOWED)


def recorder(gateway, tmp_path, endpoint="digits"):
    return Recorder(
        gateway, endpoint, tmp_path / "x.capture", clock=gateway.clock, sleep=gateway.sleep
    )


def run(gateway, tmp_path, rows=10_000, seconds=None, **options):
    return recorder(gateway, tmp_path, **options).run(
        rows, seconds, options.get("say", lambda _: None), lambda _: None
    )


def read(tmp_path):
    return Sample.decode((tmp_path / "x.capture").read_bytes())


def test_it_ends_once_there_are_enough_rows(tmp_path):
    gateway, said = Gateway(), []
    told = recorder(gateway, tmp_path).run(95, None, said.append, lambda _: None)
    assert told["uniform"] == 100 and told["recorded"] == len(read(tmp_path)) == 100
    assert [status["uniform"] for status in said] == [10 * i for i in range(11)]


def test_it_ends_where_no_more_can_be_held(tmp_path):
    assert run(Gateway(rows=50), tmp_path)["uniform"] == 45


def test_it_ends_in_time(tmp_path):
    gateway = Gateway()
    assert run(gateway, tmp_path, seconds=60)["recorded"] == 300
    assert gateway.now == 60


def test_another_who_fetches_the_sample_is_waited_for(tmp_path):
    gateway = Gateway()
    gateway.busy = 2  # when it is saved on the way, and at the end
    assert run(gateway, tmp_path, seconds=122)["recorded"] == 620
    gateway.busy = 1000
    with pytest.raises(Busy):
        run(gateway, tmp_path, seconds=10)
    assert len(read(tmp_path)) == 620


def test_an_interrupt_writes_what_there_is(tmp_path):
    gateway = Gateway()

    def interrupt():
        raise KeyboardInterrupt

    gateway.events[20] = interrupt
    assert run(gateway, tmp_path)["recorded"] == 90


def test_a_gateway_started_anew_adds_to_what_was_saved(tmp_path):
    gateway = Gateway()
    gateway.events[130] = gateway.start
    run(gateway, tmp_path, seconds=200)
    sample = read(tmp_path)
    # Saved after 120 s; what came between that and the end of the first gateway is lost.
    assert len(sample) == 600 + 360
    assert len(np.unique(sample.digests)) == len(sample)


def test_a_gateway_that_is_gone_leaves_what_was_saved(tmp_path):
    gateway = Gateway()
    gateway.events[150] = lambda: setattr(gateway, "down", True)
    with pytest.raises(Unreachable):
        run(gateway, tmp_path, seconds=300)
    assert len(read(tmp_path)) == 600


def test_a_gateway_that_is_away_for_a_while_is_waited_for(tmp_path):
    gateway, waited = Gateway(), []
    gateway.events[50] = lambda: setattr(gateway, "down", True)
    gateway.events[80] = lambda: setattr(gateway, "down", False)
    told = recorder(gateway, tmp_path).run(10_000, 100, lambda _: None, waited.append)
    assert len(waited) == 15 and told["recorded"] == 500


def test_a_file_that_is_there_is_added_to(tmp_path):
    run(Gateway(), tmp_path, rows=50)
    later = Gateway()
    later.sent = 5000
    run(later, tmp_path, rows=50)
    assert len(read(tmp_path)) == 100


def test_a_file_never_grows_beyond_what_can_be_read(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_FILE_BYTES", 100 * (2 * 4 + 2 * 8 + 32))
    for start in (0, 5000, 9000):
        gateway = Gateway()
        gateway.sent = start
        told = run(gateway, tmp_path, rows=80)
    rows = read(tmp_path).rows[:, 0]
    assert told["recorded"] == len(rows) == 100
    for start in (0, 5000, 9000):
        assert ((rows >= start) & (rows < start + 100)).sum() > 10


@pytest.mark.parametrize("other", [b"something else", "another endpoint's"])
def test_a_file_that_is_something_else_is_left_alone(tmp_path, other):
    if other == "another endpoint's":
        gateway = Gateway()
        gateway.sleep(1)
        other = gateway.capture.sample("idle").encode()
    (tmp_path / "x.capture").write_bytes(other)
    with pytest.raises(Failed, match="sample"):
        run(Gateway(), tmp_path, rows=50)
    assert (tmp_path / "x.capture").read_bytes() == other


@pytest.mark.parametrize(
    ("endpoint", "words"), [("idle", "captures nothing"), ("other", "there are: digits, idle")]
)
def test_where_nothing_is_captured_it_says_so(tmp_path, endpoint, words):
    with pytest.raises(Failed, match=words):
        run(Gateway(), tmp_path, endpoint=endpoint)


def command(monkeypatch, tmp_path, gateway, *options):
    monkeypatch.setattr(module, "listener", lambda *_, **__: gateway)
    monkeypatch.setattr(Recorder, "__init__", _timed(gateway, Recorder.__init__))
    out = str(tmp_path / "x.capture")
    return CliRunner().invoke(record, ["digits", "--out", out, *options])


def _timed(gateway, made):
    def init(self, listener, endpoint, out):
        made(self, listener, endpoint, out, clock=gateway.clock, sleep=gateway.sleep)

    return init


def test_the_command_says_what_the_sample_is_good_for(monkeypatch, tmp_path):
    result = command(monkeypatch, tmp_path, Gateway(step=250), "--rows", "500")
    assert result.exit_code == 0, result.output
    assert "500 rows written" in result.output
    assert "enough for a false-positive budget of 1 %" in result.output
    assert "too few for a false-positive budget of 0.1 %" in result.output


def test_a_full_disk_is_told_and_leaves_the_old_file(monkeypatch, tmp_path):
    run(Gateway(), tmp_path, rows=10)
    old = (tmp_path / "x.capture").read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "write_container", full)
    result = command(monkeypatch, tmp_path, Gateway(), "--rows", "10")
    assert result.exit_code == 1 and "No space left" in result.output
    assert (tmp_path / "x.capture").read_bytes() == old


def test_a_folder_that_is_missing_is_told(tmp_path):
    result = CliRunner().invoke(record, ["digits", "--out", str(tmp_path / "no" / "x.capture")])
    assert result.exit_code == 2 and "not a directory" in result.output
