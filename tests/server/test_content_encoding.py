"""Decoding of compressed bodies: codings, pieces, limits."""

from __future__ import annotations

import gzip
import io
import random
import tracemalloc
import zlib
from collections.abc import Callable

import brotli
import pytest

from forwarder.core.errors import InvalidRequest, TooLarge, UnsupportedEncoding
from forwarder.server.content_encoding import MAX_CODINGS, DecodedBody, read_codings, zstd
from tests.helpers.check_cases import check_each

Encode = Callable[[bytes], bytes]


def compress_raw(data: bytes) -> bytes:
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return deflater.compress(data) + deflater.flush()


ENCODERS: dict[str, Encode] = {
    "zstd": zstd.compress,
    "br": brotli.compress,
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "deflate": zlib.compress,
    "Deflate": compress_raw,
    "identity": bytes,
}

every_coding = check_each("coding", ENCODERS)
every_compression = check_each("coding", [c for c in ENCODERS if c != "identity"])

TEXT = "Grüße, 世界! ".encode() * 40_000
NOISE = random.Random(1).randbytes(300_000)


class Trickle(io.BytesIO):
    """A body that arrives in small pieces."""

    def read(self, size: int | None = -1) -> bytes:
        return super().read(min(size or 7, 7) if size and size > 0 else 7)


def decode(
    data: bytes, header: str, limit: int = 2**20, source: type[io.BytesIO] = io.BytesIO
) -> bytes:
    return DecodedBody(lambda: source(data), header, limit).readall()


@every_coding
@check_each("body", [b"{}", TEXT, NOISE, TEXT[:65_536]], ids=len)
def test_a_body_is_decoded(coding: str, body: bytes) -> None:
    assert decode(ENCODERS[coding](body), coding) == body


@every_coding
def test_a_body_that_arrives_in_pieces_is_decoded(coding: str) -> None:
    body = NOISE[:5000] + TEXT[:5000]
    assert decode(ENCODERS[coding](body), coding, source=Trickle) == body


@every_coding
@check_each("size", [1, 1000, 10**6])
def test_reads_of_any_size_give_the_whole_body(coding: str, size: int) -> None:
    body = DecodedBody(lambda: io.BytesIO(ENCODERS[coding](NOISE[:9000])), coding, 2**20)
    assert b"".join(iter(lambda: body.read(size), b"")) == NOISE[:9000]


def test_codings_are_undone_in_reverse_order() -> None:
    data = zstd.compress(brotli.compress(zlib.compress(gzip.compress(TEXT))))
    assert decode(data, "gzip, deflate,br , identity, ZSTD") == TEXT


@check_each("coding", ["gzip", "zstd"])
def test_concatenated_streams_are_one_body(coding: str) -> None:
    encode = ENCODERS[coding]
    data = encode(b"one ") + encode(b"") + encode(b"two ") + encode(TEXT)
    assert decode(data, coding) == b"one two " + TEXT
    assert decode(data, coding, source=Trickle) == b"one two " + TEXT


@every_compression
def test_an_empty_body_stays_empty(coding: str) -> None:
    assert decode(b"", coding) == b""
    assert decode(ENCODERS[coding](b""), coding) == b""


@every_compression
@check_each("source", [io.BytesIO, Trickle])
def test_a_body_that_ends_too_early_is_refused(coding: str, source: type[io.BytesIO]) -> None:
    compressed = ENCODERS[coding](NOISE[:4000])
    for end in (1, 5, 2000, len(compressed) - 1):
        with pytest.raises(InvalidRequest) as raised:
            decode(compressed[:end], coding, source=source)
        assert raised.value.code == "invalid_content_encoding"


@every_compression
@check_each("source", [io.BytesIO, Trickle])
def test_data_after_the_end_of_the_stream_is_refused(coding: str, source: type[io.BytesIO]) -> None:
    with pytest.raises(InvalidRequest):
        decode(ENCODERS[coding](b"{}") + b"and more", coding, source=source)


@every_compression
def test_a_broken_stream_is_refused(coding: str) -> None:
    data = bytearray(ENCODERS[coding](NOISE[:4000]))
    data[:12] = b"not encoded!"
    with pytest.raises(InvalidRequest, match=r"not valid \w+: it cannot be decoded|ends too early"):
        decode(bytes(data), coding)


@every_compression
def test_a_body_of_exactly_the_limit_is_decoded_and_one_byte_more_is_not(coding: str) -> None:
    data = ENCODERS[coding](TEXT)
    assert decode(data, coding, len(TEXT)) == TEXT
    with pytest.raises(TooLarge):
        decode(data, coding, len(TEXT) - 1)


@every_compression
def test_a_decompression_bomb_is_refused_before_it_is_decompressed(coding: str) -> None:
    bomb = ENCODERS[coding](bytes(16 * 2**20))
    tracemalloc.start()
    try:
        with pytest.raises(TooLarge):
            decode(bomb, coding, 2**20)
        assert tracemalloc.get_traced_memory()[1] < 8 * 2**20
    finally:
        tracemalloc.stop()


def test_decompression_bomb_in_an_inner_coding_is_refused() -> None:
    empty = bytearray(gzip.compress(b""))
    empty[3] = 8  # a file name follows the header
    gzip_with_long_name = bytes(empty[:10]) + b"n" * (2 * 2**20) + b"\0" + bytes(empty[10:])
    assert decode(gzip_with_long_name, "gzip", 2**22) == b""
    bomb = zstd.compress(gzip_with_long_name)
    assert len(bomb) < 10_000
    with pytest.raises(TooLarge):
        decode(bomb, "gzip, zstd", 2**20)


@check_each("coding", ["gzip", "zstd"])
def test_body_of_too_many_empty_streams_is_refused(coding: str) -> None:
    empty = ENCODERS[coding](b"")
    with pytest.raises(InvalidRequest, match="too many parts"):
        decode(empty * 20_000, coding)


def test_a_body_that_is_not_compressed_has_the_same_limit() -> None:
    assert decode(b"x" * 10, "", 10) == b"x" * 10
    with pytest.raises(TooLarge):
        decode(b"x" * 11, "", 10)


def test_a_zstd_window_that_takes_too_much_memory_is_refused() -> None:
    level = {zstd.CompressionParameter.window_log: 27}
    compressor = zstd.ZstdCompressor(options=level)
    data = compressor.compress(b"{}") + compressor.flush()
    with pytest.raises(InvalidRequest, match="8 MiB"):
        decode(data, "zstd")


def test_other_codings_are_refused() -> None:
    for header in ("compress", "gzip, lzma", "gzip;q=1"):
        with pytest.raises(UnsupportedEncoding) as raised:
            read_codings(header)
        assert raised.value.status == 415
        assert raised.value.headers == {"Accept-Encoding": "zstd, br, gzip, deflate"}


def test_too_many_codings_are_refused() -> None:
    assert read_codings(", ".join(["gzip"] * MAX_CODINGS)) == ["gzip"] * MAX_CODINGS
    with pytest.raises(UnsupportedEncoding):
        read_codings(", ".join(["gzip"] * (MAX_CODINGS + 1)))


def test_body_is_opened_on_first_read() -> None:
    def fail() -> io.BytesIO:
        raise AssertionError

    DecodedBody(fail, "nonsense", 1)
