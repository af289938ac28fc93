"""Multi Model Server with SageMaker's toolkit, as SageMaker's containers run it, with boto3."""

import base64
import io
import json

import numpy as np
import pytest
from real_bytes import A, Bytes, Probe
from real_bytes_json import EVERYWHERE, json_probes
from real_guard import Way
from real_java import MMS
from real_pairs import Pair

from loadtest.wire import Session, render_request

SERVER = MMS
SPOKEN = {"name": "invocations", "server": "sagemaker"}
WAYS = {"sagemaker": Way(SPOKEN, "/endpoints/{model}/invocations", "/invocations")}


def as_csv(rows):
    """Rows without a header."""
    return "text/csv", "\n".join(",".join(map(repr, row)) for row in rows).encode()


def as_json(rows):
    """A list of lists."""
    return "application/json", json.dumps(rows).encode()


def as_npy(rows):
    """As ``numpy.save`` writes them."""
    saved = io.BytesIO()
    np.save(saved, np.array(rows))
    return "application/x-npy", saved.getvalue()


class TestBoto3(Pair):
    client = "boto3"
    shown_way = "SageMaker, CSV"
    distribution = "boto3"
    environment = "clients"
    program = "boto3_driver.py"
    way = "sagemaker"
    blocked = ("botocore.exceptions.ClientError", "403 AccessDeniedException")
    limited = ("botocore.exceptions.ClientError", "429 ThrottlingException")
    attempts = 3
    form = staticmethod(as_csv)

    def ask(self, driver, guarded, rows, model="linear", *, through=True):
        media_type, body = self.form(rows)
        return driver.ask(
            base=f"http://127.0.0.1:{guarded.port(through)}",
            endpoint=model,
            body=base64.b64encode(body).decode(),
            content_type=media_type,
        )

    def direct(self, driver, guarded, rows):
        """The container has no such path: SageMaker's own front makes it ``/invocations``."""
        media_type, body = self.form(rows)
        headers = [("Content-Type", media_type)]
        with Session(("127.0.0.1", guarded.server.port)) as session:
            request = render_request("POST", "/invocations", "localhost", body, headers)
            answer = session.exchange(request)
        assert answer.status == 200
        content = base64.b64encode(answer.body).decode()
        return {"result": {"content_type": answer.headers["content-type"], "body": content}}


class TestBoto3Json(TestBoto3):
    shown_way = "SageMaker, JSON"
    form = staticmethod(as_json)


class TestBoto3Npy(TestBoto3):
    shown_way = "SageMaker, npy"
    form = staticmethod(as_npy)


class Payload:
    """Unpickled, it calls a function: here it only makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize("through", [False, True], ids=["direct", "through"])
def test_npy_that_holds_a_pickle(guarded, tmp_path, through):
    """The toolkit loads it with pickle: the body of a request is a program that the server runs."""
    marker = tmp_path / "ran"
    saved = io.BytesIO()
    holder = np.empty(1, dtype=object)
    holder[0] = Payload(str(marker))
    np.save(saved, holder, allow_pickle=True)
    target = "/endpoints/linear/invocations" if through else "/invocations"
    headers = [("Content-Type", "application/x-npy")]
    with Session(("127.0.0.1", guarded.port(through))) as session:
        answer = session.exchange(
            render_request("POST", target, "localhost", saved.getvalue(), headers)
        )
    assert marker.exists() is not through
    if through:
        assert answer.status in (400, 403), answer


CSV = (("Content-Type", "text/csv"),)
NPZ = (("Content-Type", "application/x-npz"),)
ROW = ",".join(map(repr, A))


def savez(rows):
    saved = io.BytesIO()
    np.savez(saved, np.array(rows))
    return saved.getvalue()


PROBES = [
    *(probe for probe in json_probes(list, b"[]") if probe.name != "duplicate JSON key"),
    Probe("CSV with a header", f"a,b,c,d\n{ROW}\n".encode(), CSV),
    Probe("CSV with a word", ("x" + ROW[ROW.index(",") :]).encode(), CSV),
    Probe("CSV with a comment", f"{ROW}#,1".encode(), CSV),
    Probe("CSV with a byte order mark", b"\xef\xbb\xbf" + ROW.encode(), CSV),
    Probe("npz", savez([A]), NPZ),
]


class TestBytes(Bytes):
    protocol = "SageMaker"
    DIRECT = (
        ("5000 rows in a request", "answers"),
        ("CSV with a byte order mark", "500"),
        ("CSV with a comment", "answers"),
        ("CSV with a header", "500"),
        ("CSV with a word", "500"),
        ("NaN", "NaN"),
        ("UTF-16", "500"),
        ("byte order mark", "500"),
        ("content type absent", "500"),
        ("gzip", "500"),
        ("npz", "500"),
        ("numeric strings", "coerces"),
    )
    THROUGH = (("content type absent", "BZ-113"),)
    EVERYWHERE = (
        *EVERYWHERE,
        ("CSV with a header", "BZ-203"),
        ("CSV with a word", "BZ-203"),
        ("CSV with a comment", "BZ-203"),
        ("CSV with a byte order mark", "BZ-120"),
        ("npz", "BZ-113"),
    )

    def extract(self, body):
        return json.loads(body)

    @pytest.mark.parametrize("probe", PROBES, ids=lambda probe: probe.name)
    def test_bytes(self, guarded, observe, probe):
        self.compare(guarded, observe, probe, "/invocations", "/endpoints/linear/invocations")
