"""LitServe with an API of its user's own making."""

import json

import pytest
from real_bytes import A, B, Bytes, dumps
from real_bytes_json import EVERYWHERE, joined, json_probes
from real_custom import LitServe
from real_guard import Way
from real_pairs import Pair

SERVER = LitServe
SPOKEN = {
    "name": "json",
    "rows": "$.rows",
    "answer": "$.probabilities",
    "refusal": {"detail": "{message}"},
    "health": "/health",
}
WAYS = {"json": Way(SPOKEN, "/{model}/predict", "/predict")}


class TestRequests(Pair):
    client = "requests"
    distribution = "requests"
    environment = "clients"
    program = "requests_driver.py"
    way = "json"
    shown_way = "custom JSON"
    blocked = ("requests.exceptions.HTTPError", "403")
    limited = ("requests.exceptions.HTTPError", "429")
    wordless = True  # it never shows a body in its exception

    def ask(self, driver, guarded, rows, model="linear", *, through=True):
        path = f"/{model}/predict" if through else "/predict"
        url = f"http://127.0.0.1:{guarded.port(through)}{path}"
        return driver.ask(url=url, json={"rows": rows})


def document(rows):
    return {"rows": rows}


PROBES = json_probes(document, joined(dumps(document([A])), dumps(document([B]))))


class TestBytes(Bytes):
    protocol = "custom JSON"
    DIRECT = (
        ("5000 rows in a request", "answers"),
        ("NaN", "500"),
        ("UTF-16", "answers"),
        ("byte order mark", "answers"),
        ("content type absent", "answers"),
        ("duplicate JSON key", "last"),
        ("gzip", "500"),
        ("numeric strings", "coerces"),
    )
    EVERYWHERE = EVERYWHERE

    def extract(self, body):
        return json.loads(body)["probabilities"]

    @pytest.mark.parametrize("probe", PROBES, ids=lambda probe: probe.name)
    def test_bytes(self, guarded, observe, probe):
        self.compare(guarded, observe, probe, "/predict", "/linear/predict")
