"""The probes of the Open Inference Protocol over gRPC: the same for every server."""

import base64
import json
from dataclasses import dataclass

import numpy as np
import pytest
from real_bytes import A, B, probabilities

from proxy.rules import RULES

NAN = [float("nan"), *A[1:]]


def raw(values):
    """Numbers as a raw entry, in protobuf's JSON form."""
    return base64.b64encode(np.array(values, "<f8").tobytes()).decode()


def tensor(shape=(1, 4), datatype="FP64", name="x", contents=None):
    """An input."""
    made = {"name": name, "datatype": datatype, "shape": list(shape)}
    if contents is not None:
        made["contents"] = {"fp64_contents": contents}
    return made


@dataclass(frozen=True)
class Call:
    """One call of ``ModelInfer``.

    Attributes:
        name: a row of the table.
        inputs: the message's, and ``raws``: its ``raw_input_contents``.
        through: the rule that refuses it, or "answers".
        reading: what is said of a server that answers to the first numbers.
    """

    name: str
    inputs: list
    raws: list
    through: str
    reading: str = "answers"


CALLS = [
    Call("raw contents", [tensor()], [raw(A)], "answers"),
    Call("typed contents", [tensor(contents=A)], [], "answers"),
    Call("typed and raw contents", [tensor(contents=A)], [raw(B)], "BZ-122", "takes the typed"),
    Call("surplus raw entries", [tensor()], [raw(A), raw(B)], "BZ-122", "ignores the rest"),
    Call("duplicate tensor name", [tensor(), tensor()], [raw(A), raw(B)], "BZ-200", "first"),
    Call("negative dimension", [tensor((-1, 4))], [raw(A)], "BZ-202"),
    Call("raw entry of another length", [tensor()], [raw(A + B)], "BZ-202"),
    Call("NaN", [tensor()], [raw(NAN)], "BZ-203"),
]


class GrpcBytes:
    """Every call. A subclass says what its server does by itself, in ``DIRECT``."""

    DIRECT: tuple[tuple[str, str], ...]

    @pytest.mark.parametrize("call", CALLS, ids=lambda call: call.name)
    def test_bytes(self, driver, guarded, observe, call):
        program = driver("clients", "grpc_driver.py")
        request = {"model_name": "linear", "inputs": call.inputs, "raw_input_contents": call.raws}

        def ask(through):
            target = f"127.0.0.1:{guarded.port(through, grpc=True)}"
            return program.ask(target=target, method="ModelInfer", request=request)

        direct, refusal = read(ask(through=False), call.reading), ask(through=True)
        through = refused_by(refusal) if "exception" in refusal else read(refusal, call.reading)
        observe(
            "bytes",
            f"gRPC {call.name} {guarded.server.environment}",
            protocol="gRPC",
            probe=call.name,
            server=f"{guarded.server.shown} {guarded.server.version}",
            direct=direct,
            through=through,
        )
        expected = dict(self.DIRECT)[call.name], call.through
        assert (direct, through) == expected, f"{(direct, through)}, not {expected}"


def read(answer, reading):
    """What an answer shows, in a word."""
    if "exception" in answer:
        return answer["status"]
    result = answer["result"]
    if "raw_output_contents" in result:
        found = np.frombuffer(base64.b64decode(result["raw_output_contents"][0]), "<f8")
    else:
        found = np.array(result["outputs"][0]["contents"]["fp64_contents"], dtype=float)
    if np.isnan(found).all():
        return "NaN"
    for word, rows in ((reading, [A]), ("takes the second", [B]), ("takes both", [A, B])):
        expected = probabilities(rows).ravel()
        if found.size == expected.size and np.allclose(found, expected):
            return word
    return "answers to something else"


def refused_by(answer):
    """The rule, told by its words."""
    found = [rule.id for rule in RULES.values() if rule.message in answer["message"]]
    assert found, json.dumps(answer)
    return found[0]
