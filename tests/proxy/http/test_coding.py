"""Content codings: what is undone, what is refused, and what a bomb costs."""

import gzip
import random
import tracemalloc
import zlib

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from proxy.http.coding import decode
from proxy.rules import BODY_TOO_LARGE, CODED_BODY, CODING, RATIO, Refusal

TEXT = b'{"inputs":[{"name":"a","data":[' + b"0.125,3.5," * 200 + b"1]}]}"


def zstd(data):
    return zstandard.ZstdCompressor(write_checksum=True).compress(data)


def zstd_stream(data):
    """A frame that does not say how long its content is."""
    writer = zstandard.ZstdCompressor(write_checksum=True).compressobj()
    return writer.compress(data) + writer.flush()


def gzip_named(data):
    """A gzip member with a name and an extra field in its header."""
    packer = zlib.compressobj(wbits=-15)
    raw = packer.compress(data) + packer.flush()
    trailer = zlib.crc32(data).to_bytes(4, "little") + len(data).to_bytes(4, "little")
    return b"\x1f\x8b\x08\x0c\0\0\0\0\0\xff\x02\0xxname\0" + raw + trailer


PACKERS = {
    "gzip": (b"gzip", gzip.compress),
    "gzip with a name": (b"gzip", gzip_named),
    "deflate": (b"deflate", zlib.compress),
    "zstd": (b"zstd", zstd),
    "zstd stream": (b"zstd", zstd_stream),
}
packers = pytest.mark.parametrize(("coding", "pack"), PACKERS.values(), ids=PACKERS)


def refused(coding, body, limit=10**6, ratio=100):
    with pytest.raises(Refusal) as refusal:
        decode(coding, body, limit=limit, ratio=ratio)
    return refusal.value.rule


@packers
@given(data=st.binary(max_size=300))
def test_round_trip(coding, pack, data):
    assert decode(coding, pack(data), limit=300, ratio=1000) == data


@packers
def test_long_bodies(coding, pack):
    noise = random.Random(1).randbytes(300_000)
    for data in (noise, noise[:1000] * 300, b"\0" * 300_000):
        assert decode(coding, pack(data), limit=300_000, ratio=20_000) == data


@packers
def test_the_letter_case_does_not_matter(coding, pack):
    assert decode(b" " + coding.upper() + b"\t", pack(TEXT), limit=10**6, ratio=100) == TEXT


@packers
def test_truncated_at_each_byte(coding, pack):
    body = pack(TEXT)
    for cut in range(len(body)):
        assert refused(coding, body[:cut]) is CODED_BODY


@packers
def test_bytes_after_the_end(coding, pack):
    body = pack(TEXT)
    for more in (b"\0", b"x", b"junk" * 100, body, pack(b""), b"\x50\x2a\x4d\x18\x04\0\0\0abcd"):
        assert refused(coding, body + more) is CODED_BODY


@packers
def test_a_changed_bit_is_noticed_or_harmless(coding, pack):
    body = pack(TEXT)
    for at in range(len(body)):
        for bit in (1, 128):
            changed = body[:at] + bytes([body[at] ^ bit]) + body[at + 1 :]
            try:
                plain = decode(coding, changed, limit=10**6, ratio=1000)
            except Refusal as refusal:
                assert refusal.rule in {CODED_BODY, RATIO, BODY_TOO_LARGE}
            else:
                assert plain == TEXT


@packers
def test_the_limit_is_exact(coding, pack):
    body = pack(TEXT)
    assert decode(coding, body, limit=len(TEXT), ratio=1000) == TEXT
    assert refused(coding, body, limit=len(TEXT) - 1, ratio=1000) is BODY_TOO_LARGE


@packers
def test_the_ratio_is_exact(coding, pack):
    body = pack(TEXT)
    ratio = len(TEXT) // len(body)
    assert decode(coding, body, limit=10**6, ratio=ratio + 1) == TEXT
    assert refused(coding, body, ratio=ratio) is RATIO


@packers
def test_a_bomb_costs_less_than_a_hundred_times_its_size(coding, pack):
    bomb = pack(b"\0" * 20_000_000)
    for limit, rule in ((10**9, RATIO), (50_000, BODY_TOO_LARGE)):
        tracemalloc.start()
        verdict = refused(coding, bomb, limit=limit, ratio=100)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert verdict is rule
        # Pieces are of 64 KiB at least, and zlib holds one twice.
        assert peak < 100 * len(bomb) or peak < 4 * 65536


@packers
def test_an_accepted_body_costs_its_decoded_size(coding, pack):
    body = pack(random.Random(1).randbytes(1000) * 2000)
    tracemalloc.start()
    decode(coding, body, limit=10**7, ratio=20_000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1.2 * 2_000_000


@pytest.mark.parametrize(
    "coding",
    [
        b"",
        b"br",
        b"compress",
        b"x-gzip",
        b"gzip, gzip",
        b"gzip,identity",
        b"identity, gzip",
        b"gzi",
        b"gzip;q=1",
    ],
)
def test_other_and_several_codings(coding):
    assert refused(coding, gzip.compress(TEXT)) is CODING


@pytest.mark.parametrize("coding", [None, b"identity", b"Identity"])
def test_identity(coding):
    assert decode(coding, TEXT, limit=len(TEXT), ratio=1) is TEXT
    assert refused(coding, TEXT, limit=len(TEXT) - 1) is BODY_TOO_LARGE


def test_deflate_is_the_zlib_format():
    packer = zlib.compressobj(wbits=-15)
    assert refused(b"deflate", packer.compress(TEXT) + packer.flush()) is CODED_BODY
    assert refused(b"deflate", gzip.compress(TEXT)) is CODED_BODY
    assert refused(b"gzip", zlib.compress(TEXT)) is CODED_BODY


def test_what_needs_a_dictionary_is_refused():
    packer = zlib.compressobj(zdict=TEXT)
    assert refused(b"deflate", packer.compress(TEXT) + packer.flush()) is CODED_BODY
    samples = [bytes(random.Random(i).choices(b"abcdef", k=200)) for i in range(200)]
    dictionary = zstandard.train_dictionary(1024, samples)
    body = zstandard.ZstdCompressor(dict_data=dictionary).compress(samples[0])
    assert refused(b"zstd", body) is CODED_BODY


def test_a_zstd_window_beyond_eight_mebibytes_is_refused():
    parameters = zstandard.ZstdCompressionParameters(window_log=24, write_content_size=0)
    writer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    body = writer.compress(TEXT) + writer.flush()
    assert zstandard.get_frame_parameters(body).window_size == 2**24
    assert refused(b"zstd", body) is CODED_BODY


@given(st.sampled_from([b"gzip", b"deflate", b"zstd"]), st.binary(max_size=100))
def test_any_bytes_give_a_body_or_a_refusal(coding, body):
    try:
        assert len(decode(coding, body, limit=1000, ratio=100)) <= 1000
    except Refusal as refusal:
        assert refusal.rule in {CODED_BODY, RATIO, BODY_TOO_LARGE}
