"""Packed vectors and their comparison."""

from __future__ import annotations

import random

import pytest

from forwarder.vector_stores.vectors import (
    compute_similarity,
    normalize,
    pack_bits,
    pack_vector,
    unpack_vector,
)


def test_vector_has_length_one_and_survives_packing() -> None:
    unit = normalize([3.0, 4.0])

    assert list(unit) == pytest.approx([0.6, 0.8])
    assert unpack_vector(pack_vector(unit)) == tuple(unit)
    assert pack_vector(unit).hex() == "9a99193fcdcc4c3f"
    assert list(normalize([0.0, 0.0])) == [0.0, 0.0]


def test_similarity_is_the_cosine() -> None:
    a, b = normalize([1, 0]), normalize([1, 1])

    assert compute_similarity(a, b) == pytest.approx(0.5**0.5)
    assert compute_similarity(a, normalize([-1, 0])) == pytest.approx(-1)
    assert compute_similarity(a, normalize([1, 0, 0])) == -1.0


def test_bits_are_the_signs() -> None:
    assert pack_bits(normalize([1, -1, 1, 1, 0, -1, -1, 1, 1])) == bytes([0b1, 0b01100011])


def test_bits_of_similar_vectors_differ_less() -> None:
    source = random.Random(1)
    base = [source.gauss(0, 1) for _ in range(1536)]

    def count_differences(noise: float) -> int:
        noisy = [x + source.gauss(0, noise) for x in base]
        bits = [int.from_bytes(pack_bits(normalize(v)), "big") for v in (base, noisy)]
        return (bits[0] ^ bits[1]).bit_count()

    assert 0 < count_differences(0.1) < count_differences(0.5) < count_differences(5.0)
