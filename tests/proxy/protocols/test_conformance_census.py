"""No codec without the conformance suite, and no case that is left out unsaid."""

import importlib
import inspect
import pkgutil
from pathlib import Path

from conformance import CASES, CodecConformance

import proxy.protocols
from proxy.protocols.base import Codec

METHODS = {name for name, member in vars(Codec).items() if inspect.isfunction(member)} - {
    name for name in vars(Codec) if name.startswith("_")
}

RAN = {
    "CustomJson": 77,
    "GrpcV2": 50,
    "Invocations": 286,
    "OpenAI": 84,
    "SageMaker": 180,
    "Seldon": 52,
    "TorchServe": 100,
    "V1": 151,
    "V2": 128,
}
"""Pairs of a spelling and a case, by codec."""

ALWAYS = {
    "test_any_bytes_give_a_request_or_a_refusal",
    "test_every_refusal_has_words",
    "test_hostile_bodies",
    "test_oversized",
    "test_routes_its_inference",
    "test_seeded_mutations_give_a_request_or_a_refusal",
    "test_truncated_at_each_byte",
    "test_what_is_forwarded_is_what_was_scored",
    "test_with_each_part_replaced",
    "test_with_each_byte_repeated_or_left_out",
    "test_wrong_type",
}
"""Cases that every spelling has room for."""


def codecs():
    """Every class in ``proxy.protocols`` that has a codec's methods."""
    found = set()
    for module in pkgutil.iter_modules(proxy.protocols.__path__, "proxy.protocols."):
        for value in vars(importlib.import_module(module.name)).values():
            own = inspect.isclass(value) and value.__module__ == module.name
            if own and value is not Codec and all(hasattr(value, name) for name in METHODS):
                found.add(value)
    return found


def spellings():
    """Every class of tests that runs the suite."""
    return [
        value
        for path in sorted(Path(__file__).parent.glob("test_*_conformance.py"))
        for name, value in vars(importlib.import_module(path.stem)).items()
        if name.startswith("Test") and inspect.isclass(value) and value.__module__ == path.stem
        if issubclass(value, CodecConformance)
    ]


def test_every_codec_runs_the_suite():
    assert len(METHODS) == 10
    assert {spelling.kind for spelling in spellings()} == codecs()


def test_what_is_left_out_is_said():
    for spelling in spellings():
        for case in CASES:
            left_out = getattr(spelling, case) is None
            assert left_out == (case in spelling.without), (spelling, case)
            # As it stands here: a case that a subclass rewrites is another case.
            assert left_out or getattr(spelling, case) is getattr(CodecConformance, case)
        assert set(spelling.without) <= set(CASES) - ALWAYS, spelling
        assert all(spelling.without.values()), spelling


def test_how_many_pairs_of_codec_and_case_run():
    ran = {}
    for spelling in spellings():
        name = spelling.kind.__name__
        ran[name] = ran.get(name, 0) + len(CASES) - len(spelling.without)
    assert ran == RAN


def test_the_suite_tries_enough():
    for spelling in spellings():
        assert spelling.wire.mutations >= 500, spelling
        assert spelling.wire.datatypes, spelling
