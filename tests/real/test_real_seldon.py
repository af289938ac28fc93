"""Seldon's wrapper of version 1, with its own client."""

import json
from urllib.parse import urlencode

import pytest
from real_bytes import A, B, Bytes, Probe, dumps
from real_bytes_json import EVERYWHERE, joined, json_probes
from real_custom import Seldon
from real_guard import Way
from real_http import post
from real_pairs import Pair

SERVER = Seldon
WAYS = {
    "seldon": Way("seldon", "/{model}/api/v1.0/predictions", "/api/v1.0/predictions"),
}


class TestSeldonClient(Pair):
    """Its client raises nothing: it tells of the status in words."""

    client = "seldon_core SeldonClient"
    distribution = "seldon-core"
    environment = "seldon"
    program = "seldon_driver.py"
    way = "seldon"
    shown_way = "Seldon v1"
    blocked = ("success=False", "403")
    limited = ("success=False", "429")
    wordless = True  # it tells the status alone

    def ask(self, driver, guarded, rows, model="linear", *, through=True):
        path = f"/{model}" if through else ""
        answer = driver.ask(endpoint=f"127.0.0.1:{guarded.port(through)}{path}", rows=rows)
        told = answer["result"]
        if told["success"]:
            return answer
        status, _, words = told["message"].partition(":")
        return {"exception": "success=False", "status": status, "message": words}


@pytest.mark.parametrize("through", [False, True], ids=["direct", "through"])
def test_a_form_field_predicts_too(guarded, through):
    """Past any reader of JSON bodies. The client's ``microservice`` call sends its requests so."""
    question = json.dumps({"data": {"ndarray": [[0.5, -0.25, 0.125, 0.75]]}})
    body = urlencode({"json": question}).encode()
    form = ("Content-Type", "application/x-www-form-urlencoded")
    target = ("/linear" if through else "") + "/api/v1.0/predictions"
    answer = post(guarded.port(through), target, body, form)
    if through:
        assert answer.status == 415
    else:
        assert "ndarray" in json.loads(answer.body)["data"]


def document(rows):
    return {"data": {"ndarray": rows}}


TWICE = joined(dumps(document([A])), dumps(document([B])))
FORM = ("Content-Type", "application/x-www-form-urlencoded")
PROBES = [
    *json_probes(document, TWICE),
    Probe(
        "ndarray and tensor",
        dumps({"data": {"ndarray": [A], "tensor": {"shape": [1, 4], "values": B}}}),
        readings=(("takes ndarray", [A]), ("takes tensor", [B])),
    ),
    Probe("form field json=", urlencode({"json": json.dumps(document([A]))}).encode(), (FORM,)),
]


class TestBytes(Bytes):
    protocol = "Seldon v1"
    DIRECT = (
        ("5000 rows in a request", "answers"),
        ("NaN", "NaN"),
        ("UTF-16", "answers"),
        ("byte order mark", "answers"),
        ("content type absent", "400"),
        ("duplicate JSON key", "last"),
        ("form field json=", "answers"),
        ("gzip", "400"),
        ("ndarray and tensor", "takes tensor"),
        ("numeric strings", "coerces"),
    )
    EVERYWHERE = (*EVERYWHERE, ("ndarray and tensor", "BZ-120"), ("form field json=", "BZ-113"))

    def extract(self, body):
        data = json.loads(body)["data"]
        return data["ndarray"] if "ndarray" in data else data["tensor"]["values"]

    @pytest.mark.parametrize("probe", PROBES, ids=lambda probe: probe.name)
    def test_bytes(self, guarded, observe, probe):
        path = "/api/v1.0/predictions"
        self.compare(guarded, observe, probe, path, f"/linear{path}")
