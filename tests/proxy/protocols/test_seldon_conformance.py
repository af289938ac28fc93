"""The conformance suite over Seldon's version 1: ``ndarray`` and ``tensor``."""

import json

import numpy as np
from conformance import CodecConformance
from conformance_bodies import JsonBodies
from conformance_wire import Wire
from plain_json import INFERRED, alone, tensor, written

from proxy.protocols.seldon import Seldon

PATH = "/seldon/ns/digits/api/v1.0/predictions"


class OverSeldon(JsonBodies, CodecConformance):
    kind = Seldon
    wire = Wire(names=("data",), typed=False, answers=INFERRED, answer_names=("data",))

    def codec(self, contract, **bounds):
        return Seldon(PATH, contract, **bounds)

    def target(self):
        return PATH

    def write_answer(self, named):
        _, body = self.write(named)
        return written({**json.loads(body), "meta": {"requestPath": {"a": "b:1"}}})

    def parse_answer(self, headers, body):
        assert json.loads(body)["meta"] == {"requestPath": {"a": "b:1"}}
        return self.parse(headers, body)


class TestNdarray(OverSeldon):
    def write(self, named):
        return written({"data": {"ndarray": alone(named)}})

    def parse(self, headers, body):
        return {"data": tensor(json.loads(body)["data"]["ndarray"])}


class TestTensor(OverSeldon):
    def write(self, named):
        ((_, array),) = named.values()
        told = {"shape": list(array.shape), "values": alone({"": ("", array.reshape(-1))})}
        return written({"meta": {"puid": "a1", "tags": {}}, "data": {"names": [], "tensor": told}})

    def parse(self, headers, body):
        data = json.loads(body)["data"]
        told = data["tensor"]
        return {"data": np.reshape(tensor(told["values"]), told["shape"])}
