"""What every codec must do. A codec's tests subclass ``CodecConformance``, say what their wire can
carry and how its honest clients write a request; every case here then runs on it.

A case that a wire has no room for is left out with its reason, ``class TestX(CodecConformance,
without={"test_…": "why"})``, and counted in ``test_conformance_census.py``.
"""

import random
from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar

import numpy as np
import pytest
from conformance_answers import AnswerConformance
from conformance_bodies import FOREIGN, hostile, mutant, with_a_part_replaced
from conformance_wire import (
    Wire,
    agree,
    arrays_of,
    extremes,
    head_of,
    requests,
    same,
    several,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.protocols.base import Call, InferRequest, Refused
from proxy.protocols.contract import Contract, ContractError
from proxy.rules import (
    BODY_TOO_LARGE,
    CONTRACT_UNKNOWN,
    ROWS_PER_REQUEST,
    RULES,
    Refusal,
)


class CodecConformance(AnswerConformance):
    """Subclasses give ``kind``, ``wire``, and the methods that raise here.

    Attributes:
        kind: the codec's class.
        wire: what this spelling of the protocol carries.
        without: cases that this wire has no room for, by name, with the reason.
        method: of an inference.
    """

    kind: ClassVar[type]
    wire: ClassVar[Wire]
    without: ClassVar[Mapping[str, str]] = MappingProxyType({})
    method: ClassVar[str] = "POST"

    def __init_subclass__(cls, without=MappingProxyType({}), **arguments):
        super().__init_subclass__(**arguments)
        cls.without = MappingProxyType({**cls.without, **without})
        for case in without:
            assert callable(getattr(cls, case)), f"there is no {case}"
            setattr(cls, case, None)  # pytest collects no such thing

    # What a codec's tests say.

    def codec(self, contract, **bounds):
        """A codec under a contract (or None), with bounds such as ``max_rows``."""
        raise NotImplementedError

    def target(self):
        """The path to infer at."""
        raise NotImplementedError

    def write(self, named):
        """Headers and body of an honest request for ``{name: (datatype, array)}``."""
        raise NotImplementedError

    def parse(self, headers, body):
        """The tensors of a body that goes upstream, read by something other than the codec.

        ``{name: array}``: what the model server would see, with the tensors' own shapes. Numbers
        may be of any dtype that holds them where the wire tells none.
        """
        raise NotImplementedError

    def duplicated(self):
        """Pairs of headers and body that say something twice: keys, names, columns, parts."""
        raise NotImplementedError

    def wrong(self, datatype):
        """Pairs of headers and body of an example with a value not of the datatype."""
        raise NotImplementedError

    # Between the suite and the codec.

    def reader(self, named, **bounds):
        """The codec that reads requests for ``{name: (datatype, array)}``."""
        return self.codec(self.wire.contract(named), **bounds)

    def decode(self, codec, headers, body):
        return codec.decode_request(headers, body, codec.route(self.method, self.target()))

    def verdict(self, codec, headers, body):
        """The request, or the refusal: anything else fails the test."""
        try:
            request = self.decode(codec, headers, body)
        except Refusal as refusal:
            assert refusal.rule is RULES[refusal.rule.id]
            assert 400 <= refusal.rule.status < 500 or codec.contract is None
            assert type(codec.refuse(refusal)) is Refused
            return refusal
        assert type(request) is InferRequest
        rows = request.rows
        assert rows.dtype == np.float32
        assert rows.ndim == 2
        assert rows.flags.c_contiguous
        assert rows.flags.aligned
        assert rows.shape[0] == request.n >= 1
        assert np.isfinite(rows).all()
        assert all(tensor.flags.aligned for tensor in request.tensors.values())
        assert not any(tensor.flags.writeable for tensor in request.tensors.values())
        return request

    def seen(self, request):
        """What the model would see of a request: its tensors, where they are all of it."""
        return request.tensors

    def accepted(self, codec, headers, body):
        """The request, which must not be refused."""
        request = self.verdict(codec, headers, body)
        assert isinstance(request, InferRequest), request
        return request

    def written(self, codec, request):
        """What goes upstream for a request: it is checked to be read as the same request."""
        lines, body = codec.encode_request(request)
        again = self.accepted(codec, head_of(lines), body)
        found, expected = self.seen(again), self.seen(request)
        assert list(found) == list(expected)
        assert all(same(found[name], expected[name]) for name in expected)
        assert same(again.rows, request.rows)
        assert codec.encode_request(again) == (lines, body), "the canonical form is stable"
        return head_of(lines), body

    def forwarded(self, codec, request):
        """What goes upstream for a request: it is checked to be what was scored."""
        read = self.parse(*self.written(codec, request))
        assert agree(read, self.seen(request), self.wire)

    def examples(self):
        """Requests of every datatype alone, and with each tensor that fits beside another."""
        for datatype in sorted(self.wire.datatypes):
            yield self.wire.example(datatype, min(2, self.wire.rows))
        if len(self.wire.names) > 1:
            yield self.pair()

    def pair(self, rows=None):
        """A request with as many kinds of tensors as the wire holds, two at most."""
        rows = rows or min(2, self.wire.rows)
        named = self.wire.example(self.wire.number, rows)
        if len(self.wire.names) > 1:
            other = "BYTES" if "BYTES" in self.wire.datatypes else self.wire.number
            named |= self.wire.example(other, rows, name=1)
        return named

    # The cases: routes, contracts, refusals.

    def test_routes_its_inference(self):
        route = self.codec(Contract()).route(self.method, self.target())
        assert route.call is Call.INFER
        assert route.method == self.method

    def test_the_probe_is_a_path_of_its_own(self):
        codec = self.codec(Contract())
        if codec.probe is not None:
            assert codec.probe.method in {"GET", "RPC"}
            assert codec.probe.call is not Call.INFER

    def test_without_a_contract_nothing_is_inferred(self):
        named = self.pair()
        codec = self.codec(None)
        assert codec.contract is None
        refusal = self.verdict(codec, *self.write(named))
        assert isinstance(refusal, Refusal)
        assert refusal.rule is CONTRACT_UNKNOWN
        bound = codec.with_contract(self.wire.contract(named))
        assert bound.contract == self.wire.contract(named)
        self.accepted(bound, *self.write(named))
        assert codec.contract is None, "the codec that was bound stays as it is"

    @settings(several, max_examples=30)
    @given(body=st.one_of(st.binary(max_size=60), st.sampled_from([b"{}", b"[]", b"null"])))
    def test_what_it_learns_is_a_contract(self, body):
        try:
            contract = self.codec(None).learn(body, 7)
        except ContractError:
            return
        assert contract.width in {7, None}

    def test_every_refusal_has_words(self):
        codec = self.codec(Contract())
        for rule in RULES.values():
            refused = codec.refuse(Refusal(rule, "detail \u00e9 \ud800\r\n"))
            assert refused.content_type
            assert rule.message.encode() in refused.body, rule
            assert rule.explains == (b"detail" in refused.body), rule
            for name, value in refused.headers:
                assert name == name.lower()
                assert not set(b"\r\n\0") & set(value)

    # Requests: what was scored is what goes on.

    @settings(several, max_examples=40)
    @given(data=st.data())
    def test_what_is_forwarded_is_what_was_scored(self, data):
        named = data.draw(requests(self.wire))
        codec = self.reader(named)
        headers, body = self.write(named)
        request = self.accepted(codec, headers, body)
        seen = self.seen(request)
        assert list(seen) == list(named)
        assert all(same(seen[name], array) for name, (_, array) in named.items())
        numeric = [
            array.reshape(request.n, -1).astype(np.float32)
            for array in arrays_of(named).values()
            if array.dtype != object
        ]
        if numeric:
            assert same(np.concatenate(numeric, axis=1), request.rows)
        else:
            assert request.rows.shape == (request.n, 0)
        self.forwarded(codec, request)

    def test_extremes_survive(self):
        for datatype in sorted(self.wire.datatypes):
            for named in self.wire.filled(datatype, extremes(datatype)):
                codec = self.reader(named)
                request = self.accepted(codec, *self.write(named))
                name = self.wire.names[0]
                assert same(self.seen(request)[name], named[name][1]), datatype
                self.forwarded(codec, request)

    def test_a_request_is_left_as_it_was_read(self):
        named = self.wire.example(self.wire.number, min(2, self.wire.rows))
        request = self.accepted(self.reader(named), *self.write(named))
        with pytest.raises(ValueError, match="read-only"):
            request.tensors[self.wire.names[0]].reshape(-1)[0] = 2
        with pytest.raises(ValueError, match="read-only"):
            request.rows[0, 0] = 2

    def test_other_rows_are_asked_about_in_the_same_way(self):
        for named in self.examples():
            codec = self.reader(named)
            request = self.accepted(codec, *self.write(named))
            most = codec.batch(request)
            assert most >= 1
            origins = np.arange(min(3, most)) % request.n
            rows = np.ascontiguousarray(request.rows[origins])
            asked = codec.with_rows(request, rows, origins)
            assert asked.n == len(origins)
            for name, tensor in request.tensors.items():
                assert same(asked.tensors[name], tensor[origins])
            self.forwarded(codec, asked)
            wide = np.zeros((1, rows.shape[1] + 1), np.float32)
            with pytest.raises(ValueError, match="fit"):
                codec.with_rows(request, wide, origins[:1])

    # Requests: what is malformed is refused.

    def test_truncated_at_each_byte(self):
        named = self.pair()
        headers, body = self.write(named)
        codec = self.reader(named)
        self.accepted(codec, headers, body)
        for cut in range(len(body)):
            verdict = self.verdict(codec, headers, body[:cut])
            if isinstance(verdict, InferRequest):
                assert not self.wire.delimited, cut
                self.forwarded(codec, verdict)

    def test_with_each_byte_repeated_or_left_out(self):
        for named in self.examples():
            headers, body = self.write(named)
            codec = self.reader(named)
            for at in range(len(body)):
                for odd in (body[: at + 1] + body[at:], body[:at] + body[at + 1 :]):
                    verdict = self.verdict(codec, headers, odd)
                    if isinstance(verdict, InferRequest):
                        self.forwarded(codec, verdict)

    def test_oversized(self):
        named = self.wire.example(self.wire.number)
        headers, body = self.write(named)
        self.accepted(self.reader(named, max_bytes=len(body)), headers, body)
        refusal = self.verdict(self.reader(named, max_bytes=len(body) - 1), headers, body)
        assert isinstance(refusal, Refusal)
        assert refusal.rule is BODY_TOO_LARGE

    def test_too_many_rows(self):
        named = self.wire.example(self.wire.number, 4)
        headers, body = self.write(named)
        assert self.accepted(self.reader(named, max_rows=4), headers, body).n == 4
        refusal = self.verdict(self.reader(named, max_rows=3), headers, body)
        assert isinstance(refusal, Refusal)
        assert refusal.rule is ROWS_PER_REQUEST

    def test_duplicated(self):
        named = self.pair()
        codec = self.reader(named)
        self.accepted(codec, *self.write(named))
        bodies = list(self.duplicated())
        assert bodies
        for headers, body in bodies:
            assert isinstance(self.verdict(codec, headers, body), Refusal), body

    def test_wrong_type(self):
        for datatype in sorted(self.wire.datatypes):
            named = self.wire.example(datatype)
            codec = self.reader(named)
            self.accepted(codec, *self.write(named))
            bodies = list(self.wrong(datatype))
            assert bodies
            for headers, body in bodies:
                verdict = self.verdict(codec, headers, body)
                assert isinstance(verdict, Refusal), (datatype, body)

    def test_a_media_type_that_is_not_its_own(self):
        named = self.pair()
        headers, body = self.write(named)
        codec = self.reader(named)
        for media in (*FOREIGN, b"\xff"):
            verdict = self.verdict(codec, headers | {b"content-type": media}, body)
            assert isinstance(verdict, Refusal), media

    def test_hostile_bodies(self):
        named = self.pair()
        headers, body = self.write(named)
        codec = self.reader(named)
        for odd in hostile(body):
            verdict = self.verdict(codec, headers, odd)
            if isinstance(verdict, InferRequest):
                self.forwarded(codec, verdict)

    def test_with_each_part_replaced(self):
        named = self.pair()
        headers, body = self.write(named)
        # An open contract takes more: what is taken may be of a form that ``parse`` does not know.
        for codec in (self.reader(named), self.codec(Contract())):
            for odd in with_a_part_replaced(body):
                verdict = self.verdict(codec, headers, odd)
                if isinstance(verdict, InferRequest):
                    self.written(codec, verdict)

    def test_text_that_is_not_plain_utf_8(self):
        named = self.pair()
        headers, body = self.write(named)
        codec = self.reader(named)
        text = body.decode()
        odd = [b"\xef\xbb\xbf" + body, body + b"\xff", body + b"\0", b"\0" + body]
        odd += [text.encode(name) for name in ("utf-16", "utf-16-le", "utf-16-be", "utf-32")]
        for other in odd:
            assert isinstance(self.verdict(codec, headers, other), Refusal), other

    def test_seeded_mutations_give_a_request_or_a_refusal(self):
        rng = random.Random(20)
        seeds = [(self.reader(named), *self.write(named)) for named in self.examples()]
        fine = 0
        for _ in range(self.wire.mutations):
            codec, headers, body = rng.choice(seeds)
            verdict = self.verdict(codec, headers, mutant(body, rng))
            if isinstance(verdict, InferRequest):
                fine += 1
                self.forwarded(codec, verdict)
        assert 0 < fine < self.wire.mutations

    @settings(several, max_examples=100)
    @given(body=st.binary(max_size=200))
    def test_any_bytes_give_a_request_or_a_refusal(self, body):
        named = self.pair()
        headers, _ = self.write(named)
        for head in (headers, {}):
            for codec in (self.reader(named), self.codec(Contract())):
                self.verdict(codec, head, body)


OF_ANSWERS = tuple(name for name in vars(AnswerConformance) if name.startswith("test_"))
"""The cases that a codec leaves out whose answers are not read."""

CASES = OF_ANSWERS + tuple(name for name in vars(CodecConformance) if name.startswith("test_"))
"""The suite's cases, by name."""
