"""The probes of the Open Inference Protocol over HTTP: the same for every server."""

import gzip
import json
import zlib

import pytest
from real_bytes import JSON, A, B, Bytes, Probe, dumps


def extract(body):
    """The probabilities in an answer."""
    return json.loads(body)["outputs"][0]["data"]


def tensor(data, datatype="FP64", shape=(1, 4), name="x"):
    """One tensor of a document."""
    return {"name": name, "datatype": datatype, "shape": list(shape), "data": data}


def question(*tensors):
    """A body."""
    return dumps({"inputs": tensors})


PLAIN = question(tensor(A))
TWICE = PLAIN[:-3] + f',"data":{json.dumps(B)}}}]}}'.encode()
NAN = [float("nan"), *A[1:]]
ROWS = 5000


PROBES = [
    Probe("duplicate JSON key", TWICE, readings=(("first", [A]), ("last", [B]))),
    Probe(
        "duplicate tensor name",
        question(tensor(A), tensor(B)),
        readings=(("first", [A]), ("last", [B])),
    ),
    Probe(
        "INT64 declared, float data",
        question(tensor([1.9, 2.9, 0.9, 1.9], "INT64")),
        model="whole",
        readings=(("truncates", [[1, 2, 0, 1]]), ("keeps", [[1.9, 2.9, 0.9, 1.9]])),
    ),
    Probe("numeric strings", question(tensor([str(x) for x in A])), readings=(("coerces", [A]),)),
    Probe("negative dimension", question(tensor(A, shape=(-1, 4)))),
    Probe("NaN", question(tensor(NAN))),
    Probe("byte order mark", b"\xef\xbb\xbf" + PLAIN),
    Probe("UTF-16", PLAIN.decode().encode("utf-16")),
    Probe("gzip", gzip.compress(PLAIN), (JSON, ("Content-Encoding", "gzip"))),
    Probe("deflate", zlib.compress(PLAIN), (JSON, ("Content-Encoding", "deflate"))),
    Probe("content type absent", PLAIN, ()),
    Probe("content type text/plain", PLAIN, (("Content-Type", "text/plain"),)),
    Probe("percent-encoded path", PLAIN, model="%6cinear"),
    Probe(
        f"{ROWS} rows in a request",
        question(tensor(A * ROWS, shape=(ROWS, 4))),
        readings=(("answers", [A] * ROWS),),
    ),
]

THROUGH = (
    ("duplicate JSON key", "BZ-121"),
    ("duplicate tensor name", "BZ-200"),
    ("INT64 declared, float data", "BZ-203"),
    ("numeric strings", "BZ-203"),
    ("negative dimension", "BZ-202"),
    ("NaN", "BZ-120"),
    ("byte order mark", "BZ-120"),
    ("UTF-16", "BZ-120"),
    ("gzip", "answers"),
    ("deflate", "answers"),
    ("content type absent", "answers"),
    ("content type text/plain", "BZ-113"),
    ("percent-encoded path", "BZ-100"),
    (f"{ROWS} rows in a request", "BZ-600"),
)


class V2Bytes(Bytes):
    """Every probe. A subclass says what its server does by itself, in ``DIRECT``."""

    EVERYWHERE = THROUGH
    extract = staticmethod(extract)

    @pytest.mark.parametrize("probe", PROBES, ids=lambda probe: probe.name)
    def test_bytes(self, guarded, observe, probe):
        self.compare(guarded, observe, probe, f"/v2/models/{probe.model}/infer")
