"""What every codec must do. A codec's tests subclass ``CodecConformance`` and say how its honest
clients write a request; every test here then runs on it.
"""

import hashlib
import random

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.protocols.base import Call, InferRequest, InferResponse
from proxy.rules import BODY_TOO_LARGE, ROWS_PER_REQUEST, RULES, UPSTREAM_INVALID, Refusal

DTYPES = {
    "BOOL": "?",
    "UINT8": "<u1",
    "UINT16": "<u2",
    "UINT32": "<u4",
    "UINT64": "<u8",
    "INT8": "<i1",
    "INT16": "<i2",
    "INT32": "<i4",
    "INT64": "<i8",
    "FP16": "<f2",
    "FP32": "<f4",
    "FP64": "<f8",
    "BYTES": object,
}


def head_of(lines):
    """The headers that header lines make, by lower-case name."""
    pairs = [line.split(b": ", 1) for line in lines.split(b"\r\n") if line]
    return {name.lower(): value for name, value in pairs}


def same(one, other):
    """Whether two tensors agree bit for bit."""
    if one.dtype == object or other.dtype == object:
        return one.shape == other.shape and one.tolist() == other.tolist()
    return (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes())


@st.composite
def tensors(draw, datatype=None, rows=None):
    """A (datatype, array) pair of any datatype of the protocols, finite, at least one element."""
    name = datatype or draw(st.sampled_from(sorted(DTYPES)))
    n = rows or draw(st.integers(1, 4))
    shape = (n, *draw(st.lists(st.integers(1, 4), max_size=2)))
    count = int(np.prod(shape))
    if name == "BYTES":
        items = draw(st.lists(st.text(max_size=6), min_size=count, max_size=count))
        array = np.empty(count, object)
        array[:] = [item.encode() for item in items]
        return name, array.reshape(shape)
    dtype = np.dtype(DTYPES[name])
    if name == "BOOL":
        elements = st.booleans()
    elif dtype.kind == "f":
        # What a float32 row cannot hold is refused, so FP64 is drawn from its range too.
        elements = st.floats(width=min(32, dtype.itemsize * 8), allow_nan=False)
        elements = elements.filter(np.isfinite)
    else:
        info = np.iinfo(dtype)
        elements = st.integers(info.min, info.max)
    values = draw(st.lists(elements, min_size=count, max_size=count))
    array = np.array(values, dtype).reshape(shape)
    if name == "FP64" and draw(st.booleans()):
        array = array * np.float64(0.3)  # all 53 bits
    return name, array


# Each codec's class runs the same property: an example that failed one is tried on all.
several = settings(
    suppress_health_check=[HealthCheck.differing_executors, HealthCheck.too_slow],
)


class CodecConformance:
    """Subclasses give the six methods that raise here."""

    def codec(self, **bounds):
        """A codec with an open contract and the bounds ``max_rows`` and ``max_bytes``."""
        raise NotImplementedError

    def write(self, named):
        """Headers and body of an honest request for ``{name: (datatype, array)}``."""
        raise NotImplementedError

    def parse(self, headers, body):
        """The tensors of a body, read by something other than the codec: ``{name: array}``."""
        raise NotImplementedError

    def write_answer(self, named):
        """Headers and body of an honest answer with ``{name: (datatype, array)}``."""
        raise NotImplementedError

    def parse_answer(self, headers, body):
        """The tensors of an answer, read by something other than the codec: ``{name: array}``."""
        raise NotImplementedError

    def target(self):
        """The path to infer at."""
        raise NotImplementedError

    def decode(self, codec, headers, body):
        return codec.decode_request(headers, body, codec.route("POST", self.target()))

    def verdict(self, codec, headers, body):
        """The request, or the refusal: anything else fails the test."""
        try:
            request = self.decode(codec, headers, body)
        except Refusal as refusal:
            assert refusal.rule is RULES[refusal.rule.id]
            assert 400 <= refusal.rule.status < 500
            content_type, reply, _ = codec.refuse(refusal)
            assert content_type and reply
            return refusal
        assert type(request) is InferRequest
        rows = request.rows
        assert rows.dtype == np.float32 and rows.ndim == 2 and rows.flags.c_contiguous
        assert rows.shape[0] == request.n >= 1
        assert np.isfinite(rows).all()
        return request

    def test_routes_its_inference(self):
        route = self.codec().route("POST", self.target())
        assert route.call is Call.INFER
        assert route.method == "POST"

    @settings(several, max_examples=60)
    @given(data=st.data())
    def test_what_is_forwarded_is_what_was_scored(self, data):
        n = data.draw(st.integers(1, 4))
        count = data.draw(st.integers(1, 3))
        named = {f"t{i}": data.draw(tensors(rows=n)) for i in range(count)}
        codec = self.codec()
        headers, body = self.write(named)
        request = self.verdict(codec, headers, body)
        assert isinstance(request, InferRequest)
        assert list(request.tensors) == list(named)
        assert all(same(request.tensors[name], array) for name, (_, array) in named.items())

        lines, forwarded = codec.encode_request(request)
        again = self.verdict(codec, head_of(lines), forwarded)
        assert isinstance(again, InferRequest)
        assert all(same(again.tensors[name], request.tensors[name]) for name in named)
        assert same(again.rows, request.rows)
        assert codec.encode_request(again) == (lines, forwarded), "the canonical form is stable"

        independent = self.parse(head_of(lines), forwarded)
        assert all(same(independent[name], request.tensors[name]) for name in named)
        numeric = [array.reshape(n, -1) for array in independent.values() if array.dtype != object]
        if numeric:
            joined = np.concatenate([array.astype(np.float32) for array in numeric], axis=1)
            assert (
                hashlib.sha256(joined.tobytes()).digest()
                == hashlib.sha256(request.rows.tobytes()).digest()
            )

    @pytest.mark.parametrize("datatype", sorted(DTYPES))
    def test_extremes_survive(self, datatype):
        dtype = np.dtype(DTYPES[datatype])
        if dtype.hasobject:
            array = np.array([b"", b"\0", "\u00e9\u4e2d\U0001f600".encode(), b'"\\:{[']).astype(
                object
            )
        elif dtype.kind == "f":
            info = np.finfo(np.float32 if datatype == "FP64" else dtype)
            small = np.finfo(dtype).smallest_subnormal
            array = np.array([info.max, info.min, small, -small, -0.0, 0.0, 1 / 3, info.eps], dtype)
        elif dtype.kind == "b":
            array = np.array([True, False])
        else:
            info = np.iinfo(dtype)
            array = np.array([info.min, info.max, 0, 1], dtype)
        named = {"t": (datatype, array.reshape(1, -1))}
        codec = self.codec()
        request = self.verdict(codec, *self.write(named))
        lines, forwarded = codec.encode_request(request)
        assert same(request.tensors["t"], named["t"][1])
        assert same(self.parse(head_of(lines), forwarded)["t"], named["t"][1])

    def test_a_request_is_left_as_it_was_read(self):
        codec = self.codec()
        named = {"t": ("FP32", np.ones((2, 3), "<f4")), "b": ("BYTES", _two())}
        request = self.verdict(codec, *self.write(named))
        for name in named:
            with pytest.raises(ValueError, match="read-only"):
                request.tensors[name][0, 0] = 2
        alone = self.verdict(codec, *self.write({"t": named["t"]}))
        with pytest.raises(ValueError, match="read-only"):
            alone.rows[0, 0] = 2

    @pytest.mark.parametrize("padding", range(8))
    def test_tensors_are_aligned_wherever_they_lie(self, padding):
        named = {
            "t" * (padding + 1): ("FP64", np.ones((2, 3))),
            "u": ("FP32", np.ones((2, 1), "f4")),
        }
        request = self.verdict(self.codec(), *self.write(named))
        assert request.rows.flags.aligned
        assert all(tensor.flags.aligned for tensor in request.tensors.values())

    def test_truncated_at_each_byte(self):
        named = {"t": ("FP32", np.arange(6, dtype="<f4").reshape(2, 3)), "b": ("BYTES", _two())}
        headers, body = self.write(named)
        codec = self.codec()
        assert isinstance(self.verdict(codec, headers, body), InferRequest)
        for cut in range(len(body)):
            assert isinstance(self.verdict(codec, headers, body[:cut]), Refusal), cut

    def test_with_each_byte_repeated_or_left_out(self):
        named = {"t": ("INT64", np.arange(1, 7).reshape(2, 3)), "b": ("BYTES", _two())}
        headers, body = self.write(named)
        codec = self.codec()
        for at in range(len(body)):
            self.verdict(codec, headers, body[:at] + body[at : at + 1] + body[at:])
            self.verdict(codec, headers, body[:at] + body[at + 1 :])

    def test_oversized(self):
        headers, body = self.write({"t": ("FP32", np.ones((1, 8), "<f4"))})
        assert isinstance(
            self.verdict(self.codec(max_bytes=len(body)), headers, body), InferRequest
        )
        refusal = self.verdict(self.codec(max_bytes=len(body) - 1), headers, body)
        assert refusal.rule is BODY_TOO_LARGE

    def test_too_many_rows(self):
        headers, body = self.write({"t": ("FP32", np.ones((5, 1), "<f4"))})
        assert self.verdict(self.codec(max_rows=5), headers, body).n == 5
        assert self.verdict(self.codec(max_rows=4), headers, body).rule is ROWS_PER_REQUEST

    def test_seeded_mutations_give_a_request_or_a_refusal(self):
        rng = random.Random(20)
        codec = self.codec()
        seeds = [
            self.write({"t": ("FP32", np.linspace(-2, 2, 8, dtype="<f4").reshape(2, 4))}),
            self.write({"t": ("BYTES", _two()), "u": ("INT8", np.ones((2, 1), "<i1"))}),
            self.write({"t": ("BOOL", np.array([[True], [False]]))}),
        ]
        alphabet = b'{}[]",:0123456789.eE+-\\utrfalsn \0\xff\xef\xbb\xbf'
        accepted = 0
        for _ in range(3000):
            headers, body = rng.choice(seeds)
            mutant = bytearray(body)
            for _ in range(rng.randint(1, 3)):
                at = rng.randrange(len(mutant))
                match rng.randrange(4):
                    case 0:
                        mutant[at] = rng.choice(alphabet)
                    case 1:
                        mutant.insert(at, rng.choice(alphabet))
                    case 2:
                        del mutant[at]
                    case _:
                        mutant[at:at] = mutant[at : at + rng.randint(1, 40)]
            verdict = self.verdict(codec, headers, bytes(mutant))
            if isinstance(verdict, InferRequest):
                accepted += 1
                lines, forwarded = codec.encode_request(verdict)
                independent = self.parse(head_of(lines), forwarded)
                assert all(same(independent[k], v) for k, v in verdict.tensors.items())
        assert 0 < accepted < 3000

    @settings(several, max_examples=100)
    @given(body=st.binary(max_size=200))
    def test_any_bytes_give_a_request_or_a_refusal(self, body):
        headers, _ = self.write({"t": ("FP32", np.ones((1, 1), "<f4"))})
        self.verdict(self.codec(), headers, body)
        self.verdict(self.codec(), {}, body)

    @settings(several, max_examples=60)
    @given(data=st.data())
    def test_an_answer_is_written_as_it_was_read(self, data):
        n = data.draw(st.integers(1, 4))
        count = data.draw(st.integers(1, 3))
        named = {f"t{i}": data.draw(tensors(rows=n)) for i in range(count)}
        codec = self.codec()
        headers, body = self.write_answer(named)
        response = codec.decode_response(headers, body)
        assert type(response) is InferResponse
        assert response.n == n
        assert list(response.tensors) == list(named)
        assert all(same(response.tensors[name], array) for name, (_, array) in named.items())

        lines, written = codec.encode_response(response)
        again = codec.decode_response(head_of(lines), written)
        assert all(same(again.tensors[name], response.tensors[name]) for name in named)
        assert list(again.tensors) == list(named)
        assert (again.n, again.options) == (response.n, response.options)
        assert codec.encode_response(again) == (lines, written), "the canonical form is stable"
        independent = self.parse_answer(head_of(lines), written)
        assert all(same(independent[name], array) for name, (_, array) in named.items())
        # Binary stays binary and JSON stays JSON: a client may read only what it asked for.
        assert (b"inference-header-content-length" in head_of(lines)) == any(
            name in response.options.get("binary", ()) for name in named
        )

    @pytest.mark.parametrize("shape", [(0,), (0, 3), (2, 0), (1, 1, 1, 1)])
    @pytest.mark.parametrize("datatype", ["FP16", "INT8", "BYTES"])
    def test_an_answer_of_any_shape(self, datatype, shape):
        array = np.zeros(shape, DTYPES[datatype])
        if datatype == "BYTES":
            array[...] = b"a"
        codec = self.codec()
        response = codec.decode_response(*self.write_answer({"t": (datatype, array)}))
        lines, written = codec.encode_response(response)
        assert same(codec.decode_response(head_of(lines), written).tensors["t"], array)

    def test_a_truncated_answer_is_invalid_at_each_byte(self):
        named = {"t": ("FP32", np.arange(6, dtype="<f4").reshape(2, 3)), "b": ("BYTES", _two())}
        codec = self.codec()
        response = codec.decode_response(*self.write_answer(named))
        lines, written = codec.encode_response(response)
        for cut in range(len(written)):
            with pytest.raises(Refusal) as refusal:
                codec.decode_response(head_of(lines), written[:cut])
            assert refusal.value.rule is UPSTREAM_INVALID

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_what_is_not_finite_is_never_written_as_something_else(self, value):
        codec = self.codec()
        headers, body = self.write_answer({"t": ("FP32", np.ones((1, 2), "<f4"))})
        response = codec.decode_response(headers, body)
        odd = np.array([[1, value]], "<f4")
        try:
            written = codec.encode_response(InferResponse({"t": odd}, 1, response.options))
        except ValueError:
            return
        assert same(self.parse_answer(head_of(written[0]), written[1])["t"], odd)

    @pytest.mark.parametrize("rule", RULES.values(), ids=lambda rule: rule.id)
    def test_every_refusal_has_words(self, rule):
        content_type, body, _ = self.codec().refuse(Refusal(rule, "detail \u00e9 \ud800"))
        assert content_type
        assert rule.message.encode() in body
        assert rule.explains == (b"detail" in body)


def _two():
    array = np.empty((2, 1), object)
    array[:, 0] = [b"a]b", b'{"data":[1]}']
    return array
