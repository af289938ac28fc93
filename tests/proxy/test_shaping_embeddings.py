"""Shaped embeddings: fewer digits, the same neighbours and lengths."""

import numpy as np
import pytest

from proxy.protocols.base import InferResponse
from proxy.shaping import Style, shape
from proxy.shaping_noise import noise_key

KEY = noise_key(b"secret", "texts")


def vectors(n=8, d=384, seed=0):
    rows = np.random.default_rng(seed).normal(size=(n, d))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def shaped(rows, **style):
    response = InferResponse({"embedding": rows}, len(rows), {"a": 1}, rows)
    found = shape(response, Style(**style))
    assert found.options == {"a": 1}
    assert np.array_equal(response.tensors["embedding"], rows)
    tensor = found.tensors["embedding"]
    assert tensor.dtype == np.float32
    assert np.isfinite(tensor).all()
    return tensor


STYLES = [
    {"mode": "round"},
    {"mode": "round", "decimals": 0},
    {"mode": "top_k"},
    {"mode": "label"},
    {"mode": "noise", "key": KEY},
]


@pytest.mark.parametrize("style", STYLES, ids=str)
@pytest.mark.parametrize("scale", [1.0, 1e-20, 1e18])
def test_lengths_stay_and_directions_nearly(style, scale):
    rows = (vectors().astype(np.float64) * scale).astype(np.float32)
    found = shaped(rows, **style).astype(np.float64)
    wide = rows.astype(np.float64)
    lengths = np.linalg.norm(wide, axis=1)
    assert np.allclose(np.linalg.norm(found, axis=1), lengths, rtol=1e-5)
    cosines = (found * wide).sum(axis=1) / lengths**2
    assert (cosines > 0.9).all()
    assert (cosines < 1 - 1e-5).all()


def test_rounded_vectors_hold_few_values():
    found = shaped(vectors(1), mode="round", decimals=1)
    assert len(np.unique(np.abs(found))) < 50
    assert len(np.unique(np.abs(shaped(vectors(1), mode="round", decimals=4)))) > 300


def test_a_row_is_shaped_on_its_own():
    rows = vectors()
    for style in STYLES:
        assert np.array_equal(shaped(rows, **style)[3:4], shaped(rows[3:4], **style))


def test_noise_belongs_to_the_vector_and_to_the_key():
    rows = vectors()
    first = shaped(rows, mode="noise", key=KEY)
    assert np.array_equal(first, shaped(rows, mode="noise", key=KEY))
    other = shaped(rows, mode="noise", key=noise_key(b"another", "texts"))
    assert not np.isclose(first, other, rtol=1e-3).all(axis=1).any()
    # Were it the same for all, a difference of two answers would be free of it.
    noises = first - rows
    assert np.abs(np.corrcoef(noises) - np.eye(len(rows))).max() < 0.9


def test_zeros_stay_zeros():
    rows = np.zeros((2, 5), np.float32)
    for style in STYLES:
        assert np.array_equal(shaped(rows, **style), rows)
