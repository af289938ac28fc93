"""What goes on beside the traffic through Envoy: Redis dies, certificates are renewed, the
configuration is replaced, workers are killed. And HTTP/2 from Envoy's clients."""

import itertools
import json
import os
import shutil
import signal
import socket
import ssl
import struct
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from authority import Authority
from envoy_process import Envoy, Processor
from recorder import FEATURES, MODEL, Recorder
from redis_servers import ANY, RedisServer
from traffic import Traffic, ask, request_of

from loadtest.payloads import infer_json, infer_target
from loadtest.process import free_port

pytestmark = pytest.mark.skipif(ANY is None, reason="no Redis server is installed")

WORKERS = 2
HTTP2 = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
TYPES = "type.googleapis.com/envoy.extensions.transport_sockets"


class Certificate:
    """The processor's, where it reads it, and Envoy's own."""

    def __init__(self, folder):
        self.authority = Authority(folder)
        self.client = self.authority.issue("envoy")
        self.files = {"certificate": str(folder / "tls.crt"), "key": str(folder / "tls.key")}
        self.tls = {**self.files, "client_ca": self.authority.path}
        self._names = itertools.count()
        self.renew()

    def renew(self):
        """Puts a new one in its place."""
        issued = self.authority.issue(f"processor-{next(self._names)}")
        for new, place in zip(issued, self.files.values(), strict=True):
            shutil.move(new, place)

    def served(self, port):
        """The serial number of the one that a new connection gets."""
        context = ssl.create_default_context(cafile=self.authority.path)
        context.load_cert_chain(*self.client)
        context.set_alpn_protocols(["h2"])
        with (
            socket.create_connection(("127.0.0.1", port), 10) as connection,
            context.wrap_socket(connection, server_hostname="127.0.0.1") as secured,
        ):
            return secured.getpeercert()["serialNumber"]

    def trusted_by(self, cluster):
        """Has Envoy use it, on connections that do not last; its health check is plain HTTP."""
        chain, key = self.client
        context = {
            "alpn_protocols": ["h2"],
            "tls_certificates": [
                {"certificate_chain": {"filename": chain}, "private_key": {"filename": key}}
            ],
            "validation_context": {"trusted_ca": {"filename": self.authority.path}},
        }
        cluster["transport_socket"] = _transport(
            "tls", "tls.v3.UpstreamTlsContext", common_tls_context=context
        )
        raw = _transport("raw_buffer", "raw_buffer.v3.RawBuffer")
        cluster["transport_socket_matches"] = [
            {"name": "health", "match": {"plain": True}, "transport_socket": raw}
        ]
        for check in cluster["health_checks"]:
            check["transport_socket_match_criteria"] = {"plain": True}
        options = cluster["typed_extension_protocol_options"][HTTP2]
        options["common_http_protocol_options"] = {"max_requests_per_connection": 20}


def _transport(name, kind, **keys):
    config = {"@type": f"{TYPES}.{kind}", **keys}
    return {"name": f"envoy.transport_sockets.{name}", "typed_config": config}


@pytest.fixture(scope="module")
def redis(tmp_path_factory):
    server = RedisServer(tmp_path_factory.mktemp("redis")).start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def recorder(tmp_path_factory):
    one = Recorder(tmp_path_factory.mktemp("recorder"), free_port()).start()
    yield one
    one.stop()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    return Certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture(scope="module")
def processor(tmp_path_factory, recorder, redis, certificate):
    one = Processor(
        tmp_path_factory.mktemp("processor"),
        [recorder.endpoint()],
        workers=WORKERS,
        state=redis.url,
        sharing={"wait_seconds": 1.0},
        client={"secret": "a secret of at least sixteen characters"},
    )
    one.settings["ext_proc"]["tls"] = certificate.tls
    yield one.start()
    one.stop()


@pytest.fixture(scope="module")
def envoy(tmp_path_factory, recorder, processor, certificate):
    places = [(processor.port, processor.admin_port)]
    folder = tmp_path_factory.mktemp("envoy")
    one = Envoy(folder, recorder.port, places, {"shipped": lambda _: None})
    clusters = one.settings["static_resources"]["clusters"]
    certificate.trusted_by(next(each for each in clusters if each["name"] == "bartizan"))
    yield one.start()
    one.stop()


@pytest.fixture
def address(envoy):
    return envoy.address("shipped")


@pytest.fixture
def served(address):
    """What ``Traffic`` sends to."""
    return SimpleNamespace(address=address, ready=lambda: True)


class Http2:
    """A client's connection, of which only the bodies of answers are read. Header names and
    values go as literals (RFC 7541, 6.2.2)."""

    HEADERS, DATA, RESET, SETTINGS, WINDOW = 1, 0, 3, 4, 8
    END_STREAM, END_HEADERS, ACK = 1, 4, 1

    def __init__(self, address):
        self.socket = socket.create_connection(address, 10)
        self.socket.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        self.frame(self.SETTINGS, 0, 0, b"")
        self._streams = itertools.count(1, 2)

    def frame(self, kind, flags, stream, payload):
        head = struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream)
        self.socket.sendall(head + payload)

    def headers(self, pairs, stream=None, *, end=False):
        """A request's head, or its trailers; its stream."""
        stream = stream or next(self._streams)
        block = b"".join(
            b"\x00" + b"".join(bytes([len(word)]) + word for word in map(str.encode, pair))
            for pair in pairs
        )
        self.frame(self.HEADERS, self.END_HEADERS | (self.END_STREAM if end else 0), stream, block)
        return stream

    def request(self):
        """An inference's head; its stream."""
        pseudo = {":method": "POST", ":scheme": "http", ":authority": "localhost"}
        pairs = {**pseudo, ":path": infer_target(MODEL), "content-type": "application/json"}
        return self.headers(pairs.items())

    def data(self, stream, payload, *, end=True):
        self.frame(self.DATA, self.END_STREAM if end else 0, stream, payload)

    def answers(self, *streams):
        """The bodies of the answers to these."""
        bodies, ended, reader = dict.fromkeys(streams, b""), set(), self.socket.makefile("rb")
        while not ended.issuperset(streams):
            head = reader.read(9)
            assert head, "the connection has ended"
            kind, flags, stream = struct.unpack(">BBI", head[3:])
            payload = reader.read(int.from_bytes(head[:3], "big"))
            if kind == self.SETTINGS and not flags & self.ACK:
                self.frame(self.SETTINGS, self.ACK, 0, b"")
            if kind == self.DATA:
                bodies[stream] += payload
            if kind == self.RESET or (kind in {self.DATA, self.HEADERS} and flags & 1):
                ended.add(stream)
        return [json.loads(bodies[stream]) for stream in streams]


def body_of(identifier):
    return infer_json(np.full((1, FEATURES), 0.5, np.float32), identifier)


def test_clients_that_speak_http2(address, recorder, envoy):
    before, seen = envoy.of_filter("shipped"), len(recorder.seen())
    client = Http2(address)
    try:
        streams = [client.request() for _ in range(10)]
        for number, stream in enumerate(streams):
            client.data(stream, body_of(f"n{number}")[:50], end=False)
        client.frame(client.RESET, 0, streams[9], struct.pack(">I", 8))  # CANCEL, in the middle
        for number, stream in enumerate(streams[:9]):
            client.data(stream, body_of(f"n{number}")[50:])
        told = client.answers(*streams[:9])
        assert [answer["id"] for answer in told] == [f"n{number}" for number in range(9)]
        trailing, broken = client.request(), client.request()
        client.data(trailing, body_of("trailers"), end=False)
        client.headers([("x-trailer", "1")], trailing, end=True)
        client.data(broken, body_of("broken")[:-2])
        refused = client.answers(trailing, broken)
        assert "trailers are not supported" in refused[0]["error"]
        assert "cannot be read" in refused[1]["error"]
    finally:
        client.socket.close()
    assert len(recorder.seen()) == seen + 9
    after = envoy.of_filter("shipped")
    assert after["streams_started"] == before.get("streams_started", 0) + 12
    assert "streams_failed" not in after


def events(processor, name):
    """How many workers have written such an event, so far, in all."""
    chains = processor.folder.glob("audit.worker-*.jsonl")
    records = [json.loads(line) for chain in chains for line in chain.read_text().splitlines()]
    return sum(record["type"] == name for record in records)


def test_no_request_is_lost_to_a_redis_that_dies(processor, redis, served):
    with Traffic(served, 100_000, clients=4) as traffic:
        traffic.wait_for(100)
        redis.process.stop()
        processor.process.wait_until(lambda: events(processor, "state degraded"))
        traffic.wait_for(len(traffic.outcomes) + 100)
        redis.start()
        processor.process.wait_until(
            lambda: events(processor, "state recovered") == events(processor, "state degraded")
        )
        traffic.wait_for(len(traffic.outcomes) + 100)
        traffic.stop()
    assert traffic.failures == []


def refused_unasked(envoy):
    """How many requests found no processor that the health check likes."""
    return envoy.counted("cluster.bartizan.")["upstream_cx_none_healthy"]


def test_no_request_is_lost_to_a_renewal(processor, recorder, certificate, served, envoy):
    """Nor to the configuration that comes with it: the health check sees no reload."""
    serials, unhealthy = {certificate.served(processor.port)}, refused_unasked(envoy)
    with Traffic(served, 100_000, clients=4) as traffic:
        for turn in range(1, 5):
            traffic.wait_for(turn * 100)
            certificate.renew()
            address = f"http://{'localhost' if turn % 2 else '127.0.0.1'}:{recorder.port}"
            limits = {"rows_per_request": turn}
            processor.settings["endpoints"] = [recorder.endpoint(upstream=address, limits=limits)]
            processor.write()
            reloads = processor.metric("bartizan_reloads_total", result="success")
            processor.signal(signal.SIGHUP)
            processor.process.wait_until(
                lambda before=reloads: (
                    processor.metric("bartizan_reloads_total", result="success") == before + 1
                )
            )
            serials.add(certificate.served(processor.port))
            assert ask(served.address, request_of(rows=turn)).status == 200
            assert ask(served.address, request_of(rows=turn + 1)).status == 413
        traffic.wait_for(500)
        traffic.stop()
    assert len(serials) == 5
    assert traffic.failures == []
    assert refused_unasked(envoy) == unhealthy


def workers(processor):
    """Their process ids."""
    pid = processor.process.pid
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


def test_a_worker_that_is_killed_passes_nothing(processor, recorder, envoy, address):
    before, seen = envoy.of_filter("shipped"), len(recorder.seen())
    with ThreadPoolExecutor(4) as pool:
        held = [pool.submit(ask, address, request_of("delay:5")) for _ in range(4)]
        processor.process.wait_until(lambda: len(recorder.seen()) == seen + 4)
        for worker in workers(processor):
            os.kill(worker, signal.SIGKILL)
        answers = [each.result(30) for each in held]
    assert Counter(answer.status for answer in answers) == {503: 4}
    assert not any(b"sha256" in answer.body for answer in answers)
    after = envoy.of_filter("shipped")
    assert after["streams_failed"] == before.get("streams_failed", 0) + 4
    processor.process.wait_until(
        lambda: processor.metric("bartizan_worker_up") == WORKERS and envoy.healthy()
    )
    processor.process.wait_until(lambda: ask(address, request_of()).status == 200)
