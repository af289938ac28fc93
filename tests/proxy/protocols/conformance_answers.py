"""The cases of answers: what is read and written again. A part of ``conformance.py``."""

import random

import numpy as np
import pytest
from conformance_bodies import hostile, mutant, with_a_part_replaced
from conformance_wire import agree, answers, arrays_of, head_of, same, several
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.protocols.base import InferResponse
from proxy.protocols.contract import Contract
from proxy.rules import UPSTREAM_INVALID, Refusal


class AnswerConformance:
    """A codec's tests give the methods that raise here."""

    def write_answer(self, named):
        """Headers and body of an honest answer with ``{name: (datatype, array)}``."""
        raise NotImplementedError

    def parse_answer(self, headers, body):
        """The tensors of an answer that was written, as ``parse``."""
        raise NotImplementedError

    def check_answer(self, head, response):
        """What else holds of an answer that was written as it was read: subclasses assert it."""

    def responder(self, **bounds):
        """The codec that reads answers."""
        return self.codec(Contract(), **bounds)

    def answer(self):
        """An honest answer with two rows."""
        wire = self.wire
        datatype = next(name for name in ("FP32", "FP64", "INT64") if name in wire.answers)
        array = np.arange(1, 7).astype({"FP32": "<f4", "FP64": "<f8", "INT64": "<i8"}[datatype])
        return {wire.answer_names[0]: (datatype, array.reshape(2, 3))}

    @settings(several, max_examples=40)
    @given(data=st.data())
    def test_an_answer_is_written_as_it_was_read(self, data):
        named = data.draw(answers(self.wire))
        codec = self.responder()
        headers, body = self.write_answer(named)
        response = codec.decode_response(headers, body)
        assert type(response) is InferResponse
        assert list(response.tensors) == list(named)
        assert all(same(response.tensors[name], array) for name, (_, array) in named.items())
        lengths = {len(array) for _, array in named.values()}
        assert response.n == (lengths.pop() if len(lengths) == 1 else 1)

        lines, written = codec.encode_response(response)
        again = codec.decode_response(head_of(lines), written)
        assert all(same(again.tensors[name], response.tensors[name]) for name in named)
        assert list(again.tensors) == list(named)
        assert (again.n, again.options) == (response.n, response.options)
        assert codec.encode_response(again) == (lines, written), "the canonical form is stable"
        assert agree(self.parse_answer(head_of(lines), written), arrays_of(named), self.wire)
        self.check_answer(head_of(lines), response)

    def test_a_truncated_answer_is_invalid_at_each_byte(self):
        codec = self.responder()
        response = codec.decode_response(*self.write_answer(self.answer()))
        lines, written = codec.encode_response(response)
        for cut in range(len(written)):
            verdict = self.answered(codec, head_of(lines), written[:cut])
            assert verdict is None or not self.wire.delimited, cut

    def test_any_answer_is_read_or_invalid(self):
        rng = random.Random(21)
        codec = self.responder()
        headers, body = self.write_answer(self.answer())
        mutants = (mutant(body, rng) for _ in range(self.wire.mutations // 4))
        for odd in (*hostile(body), *with_a_part_replaced(body), *mutants):
            self.answered(codec, headers, odd)
            self.answered(codec, {}, odd)

    def test_an_answer_beyond_its_bounds_is_invalid(self):
        headers, body = self.write_answer(self.answer())
        assert self.answered(self.responder(max_response_bytes=len(body)), headers, body)
        short = self.responder(max_response_bytes=len(body) - 1)
        assert self.answered(short, headers, body) is None
        coded = headers | {b"content-encoding": b"gzip"}
        assert self.answered(self.responder(), coded, body) is None

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_what_is_not_finite_is_never_written_as_something_else(self, value):
        codec = self.responder()
        named = self.answer()
        response = codec.decode_response(*self.write_answer(named))
        ((name, tensor),) = response.tensors.items()
        odd = tensor.astype("<f8" if tensor.dtype.kind != "f" else tensor.dtype)
        odd[0, 1] = value
        try:
            lines, written = codec.encode_response(
                InferResponse({name: odd}, response.n, response.options)
            )
        except ValueError:
            return
        read = np.asarray(self.parse_answer(head_of(lines), written)[name])
        assert same(read.astype(odd.dtype), odd)

    def answered(self, codec, headers, body):
        """The answer, or None where it is refused as invalid: anything else fails the test."""
        try:
            response = codec.decode_response(headers, body)
        except Refusal as refusal:
            assert refusal.rule is UPSTREAM_INVALID
            return None
        assert type(response) is InferResponse
        for tensor in response.tensors.values():
            assert tensor.dtype.kind != "f" or np.isfinite(tensor).all()
        return response
