"""An oracle over gRPC, against a server of Google's own library."""

from concurrent import futures
from contextlib import contextmanager

import numpy as np
import pytest

grpc = pytest.importorskip("grpc")
from grpc_messages import MESSAGES  # noqa: E402 - after it is known to be of use
from spoken_stub import CLASSES, FEATURES, model  # noqa: E402

from loadtest.targets.base import Said  # noqa: E402
from loadtest.targets.open import Endpoint, Unreachable  # noqa: E402
from loadtest.targets.settings import Target  # noqa: E402

SERVICE = "inference.GRPCInferenceService"
ROW = np.random.default_rng(1).normal(size=FEATURES).astype(np.float32)


@pytest.fixture(autouse=True)
def proxied(monkeypatch):
    """An environment whose proxy nobody is to be asked by."""
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    for name in ("no_proxy", "no_grpc_proxy"):
        monkeypatch.delenv(name, raising=False)


class Service:
    """Answers one model, or ends calls with a status."""

    def __init__(self):
        self.status = None
        self.trailing = ()
        self.asked = []

    def metadata(self, _request, _context):
        tensors = [
            {"name": "x", "datatype": "FP32", "shape": [-1, FEATURES]},
        ]
        outputs = [{"name": "p", "datatype": "FP64", "shape": [-1, CLASSES]}]
        return MESSAGES["ModelMetadataResponse"](
            name="m", inputs=tensors, outputs=outputs
        ).SerializeToString()

    def infer(self, request, context):
        self.asked.append((dict(context.invocation_metadata()), request))
        context.send_initial_metadata((("x-request-id", "r1"),))
        if self.status is not None:
            context.set_trailing_metadata(self.trailing)
            context.abort(self.status, "no")
        read = MESSAGES["ModelInferRequest"]()
        read.ParseFromString(request)
        rows = np.frombuffer(read.raw_input_contents[0] if read.raw_input_contents else b"", "<f4")
        if not rows.size:
            rows = np.array(read.inputs[0].contents.fp32_contents, np.float32)
        scores = model(rows.reshape(-1, FEATURES))
        output = {"name": "p", "datatype": "FP64", "shape": list(scores.shape)}
        return MESSAGES["ModelInferResponse"](
            model_name="m",
            outputs=[output],
            raw_output_contents=[scores.astype("<f8").tobytes()],
        ).SerializeToString()


@contextmanager
def serving(service):
    server = grpc.server(futures.ThreadPoolExecutor(2))
    handlers = {
        "ModelInfer": grpc.unary_unary_rpc_method_handler(service.infer),
        "ModelMetadata": grpc.unary_unary_rpc_method_handler(service.metadata),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield port
    finally:
        server.stop(None).wait()


def opened(port, **keys):
    return Endpoint.open(Target.model_validate({"direct": f"grpc://127.0.0.1:{port}/m", **keys}))


def test_rows_are_asked_and_scores_come_back():
    service = Service()
    with serving(service) as port:
        endpoint = opened(port, clients={"by": "api_key", "count": 2, "secret": "of-invented-keys"})
        assert (endpoint.features, endpoint.classes) == (FEATURES, CLASSES)
        with endpoint.oracle("direct") as oracle:
            reply = oracle.ask(ROW, endpoint.clients[1])
            assert oracle.raw is None
        assert reply.said is Said.ANSWERED, reply.body
        np.testing.assert_allclose(reply.scores, model(ROW[None])[0], rtol=1e-12)
        assert reply.request_id == "r1"
        ((metadata, sent),) = service.asked
        assert metadata["x-api-key"] == endpoint._identities[endpoint.clients[1]].headers[0][1]
        (calls,) = endpoint.requests("direct", ROW[None], endpoint.clients[1:])
        assert calls[1] == sent
        assert dict(calls[0])["x-api-key"] == metadata["x-api-key"]


@pytest.mark.parametrize(
    ("code", "said", "status"),
    [
        ("PERMISSION_DENIED", Said.REFUSED, 403),
        ("RESOURCE_EXHAUSTED", Said.LIMITED, 429),
        ("UNAVAILABLE", Said.SHED, 503),
        ("INVALID_ARGUMENT", Said.INVALID, 400),
        ("INTERNAL", Said.FAILED, 500),
    ],
)
def test_what_a_client_can_tell_of_a_status(code, said, status):
    service = Service()
    service.status = grpc.StatusCode[code]
    delay = MESSAGES["Duration"](seconds=300).SerializeToString()
    info = MESSAGES["RetryInfo"]()
    info.retry_delay.ParseFromString(delay)
    kind = "type.googleapis.com/google.rpc.RetryInfo"
    details = MESSAGES["Status"](
        code=8, details=[{"type_url": kind, "value": info.SerializeToString()}]
    )
    service.trailing = (("grpc-status-details-bin", details.SerializeToString()),)
    with serving(service) as port:
        endpoint = opened(port)
        with endpoint.oracle("direct") as oracle:
            reply = oracle.ask(ROW, "client")
    assert (reply.said, reply.status, reply.request_id) == (said, status, "r1")
    assert reply.body == "no"
    assert reply.retry_after == 300.0


def test_nobody_there_is_told(free_port):
    with pytest.raises(Unreachable, match="no gRPC"):
        opened(free_port(), timeout_seconds=2)


def test_source_addresses_are_not_chosen_over_grpc():
    with serving(Service()) as port:
        endpoint = opened(port, clients={"by": "source_address", "count": 2})
        with pytest.raises(ValueError, match="api_key or header"):
            endpoint.oracle("direct")
