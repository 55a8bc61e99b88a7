"""Embeddings as bytes, and their comparison without a numerical library.

A vector has length one and is stored as 32-bit floats. Its bits are the signs of its numbers. The
distance of bits is a rough measure of similarity, hundreds of times faster than the product of two
vectors; a search computes it for all passages and the product for the best ones.
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Sequence
from operator import mul

MAX_DIMENSIONS = 8192


def normalize(vector: Sequence[float]) -> array[float]:
    """Return a vector scaled to length one, as 32-bit floats."""
    length = sum(map(mul, vector, vector)) ** 0.5 or 1.0
    return array("f", [x / length for x in vector])


def pack_vector(vector: array[float]) -> bytes:
    """Return a vector as little-endian 32-bit floats."""
    if sys.byteorder == "little":
        return vector.tobytes()
    return struct.pack(f"<{len(vector)}f", *vector)


def pack_bits(vector: array[float]) -> bytes:
    """Return the signs of a vector's numbers, one bit each."""
    digits = "".join(["1" if x > 0 else "0" for x in vector])
    return int(digits, 2).to_bytes((len(vector) + 7) // 8, "big")


def unpack_vector(data: bytes) -> tuple[float, ...]:
    """Return the numbers of a packed vector."""
    return struct.unpack(f"<{len(data) // 4}f", data)


def compute_similarity(a: Sequence[float], b: Sequence[float]) -> float:
    """Return the cosine of two vectors of length one; -1 if they have different dimensions."""
    return sum(map(mul, a, b)) if len(a) == len(b) else -1.0
