"""BentoML with an API of its user's own making, and its own client."""

import json

import pytest
from real_bytes import A, B, Bytes, dumps
from real_bytes_json import EVERYWHERE, joined, json_probes
from real_custom import BentoML
from real_guard import Way
from real_pairs import Pair

SERVER = BentoML
SPOKEN = {
    "name": "json",
    "rows": "$.rows",
    "answer": "$",
    "health": "/readyz",
    "reads": ["/schema.json"],  # its client asks for it before anything else
}
WAYS = {"json": Way(SPOKEN, "/{model}")}


class TestBentoML(Pair):
    client = "bentoml SyncHTTPClient"
    distribution = "bentoml"
    environment = "bentoml"
    program = "bentoml_driver.py"
    way = "json"
    shown_way = "custom JSON"
    blocked = ("bentoml.exceptions.BentoMLException", "403")
    limited = ("bentoml.exceptions.BentoMLException", "429")

    def ask(self, driver, guarded, rows, model="linear", *, through=True):
        base = f"http://127.0.0.1:{guarded.port(through)}"
        return driver.ask(base=base, model=model, rows=rows)


def document(rows):
    return {"rows": rows}


PROBES = json_probes(document, joined(dumps(document([A])), dumps(document([B]))))


class TestBytes(Bytes):
    protocol = "custom JSON"
    DIRECT = (
        ("5000 rows in a request", "answers"),
        ("NaN", "NaN"),
        ("UTF-16", "400"),
        ("byte order mark", "400"),
        ("content type absent", "answers"),
        ("duplicate JSON key", "last"),
        ("gzip", "400"),
        ("numeric strings", "coerces"),
    )
    EVERYWHERE = EVERYWHERE

    def extract(self, body):
        return json.loads(body)

    @pytest.mark.parametrize("probe", PROBES, ids=lambda probe: probe.name)
    def test_bytes(self, guarded, observe, probe):
        self.compare(guarded, observe, probe, "/linear")
