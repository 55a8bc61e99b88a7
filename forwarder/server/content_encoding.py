"""Streaming decoders for compressed request bodies (``Content-Encoding``), with a size limit.

Bodies are decoded in pieces. A small body that decodes into gigabytes is rejected as soon as it
exceeds the limit, and other requests run between the pieces of a large body.
"""

from __future__ import annotations

import io
import sys
import time
import zlib
from collections.abc import Callable
from typing import Any, Protocol

import brotli

from forwarder.core.errors import InvalidRequest, TooLarge, UnsupportedEncoding

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

MAX_CODINGS = 4
"""Maximum number of nested codings."""

_INPUT_CHUNK_BYTES = 2**14
_OUTPUT_CHUNK_BYTES = 2**16
"""Bytes that one step reads and decodes."""

_MAX_STREAMS = 10_000
_STREAM_COST_BYTES = 2**10
"""Limit and cost of concatenated streams. Opening even an empty stream takes about as long as
decoding this many bytes."""

_BYTES_BETWEEN_PAUSES = 2**16
_PAUSE_SECONDS = 1e-5
"""How often and how long decoding pauses for other requests. gevent checks no sockets during a
pause of 0."""

_ZSTD_WINDOW_LOG = 23
"""Largest zstd window per RFC 9659: 8 MiB. The decoder allocates the whole window."""


class Decompressor(Protocol):
    """Decoder for one stream, with the interface of Python 3.14's ``zstd`` module."""

    eof: bool
    needs_input: bool
    unused_data: bytes

    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class ZlibDecompressor:
    """zlib's decompressor with the interface of `Decompressor`."""

    def __init__(self, wbits: int) -> None:
        self._inner = zlib.decompressobj(wbits)

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def needs_input(self) -> bool:
        return not self._inner.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._inner.decompress(self._inner.unconsumed_tail + data, max_length)


class BrotliDecompressor:
    """Brotli's decompressor with that interface. It raises an error for data after the end."""

    unused_data = b""

    def __init__(self) -> None:
        self._inner: Any = brotli.Decompressor()

    @property
    def eof(self) -> bool:
        return bool(self._inner.is_finished())

    @property
    def needs_input(self) -> bool:
        return bool(self._inner.can_accept_more_data())

    def decompress(self, data: bytes, max_length: int) -> bytes:
        decoded: bytes = self._inner.process(data, output_buffer_limit=max_length)
        return decoded


def open_zstd(head: bytes) -> Any:
    return zstd.ZstdDecompressor(
        options={zstd.DecompressionParameter.window_log_max: _ZSTD_WINDOW_LOG}
    )


def open_gzip(head: bytes) -> Any:
    return ZlibDecompressor(16 + zlib.MAX_WBITS)


def open_deflate(head: bytes) -> Any:
    """Accept the zlib format (RFC 9110) and the raw deflate data that some clients send."""
    is_zlib = head[0] & 0x0F == 8
    return ZlibDecompressor(zlib.MAX_WBITS if is_zlib else -zlib.MAX_WBITS)


def open_brotli(head: bytes) -> Any:
    return BrotliDecompressor()


_DECOMPRESSORS: dict[str, Callable[[bytes], Decompressor]] = {
    "zstd": open_zstd,
    "br": open_brotli,
    "gzip": open_gzip,
    "deflate": open_deflate,
}

ACCEPTED_CODINGS = ", ".join(_DECOMPRESSORS)
"""The supported codings, for ``Accept-Encoding``."""

_MULTI_STREAM_CODINGS = frozenset({"zstd", "gzip"})
"""Codings that allow several concatenated streams in one body."""

_CODING_ALIASES = {"x-gzip": "gzip"}

_DECOMPRESSION_ERRORS = (zlib.error, zstd.ZstdError, brotli.error)


class DecodedStream(io.RawIOBase):
    """A stream that decodes one coding of the data returned by ``read``, up to ``limit`` bytes."""

    def __init__(self, read: Callable[[int], bytes], coding: str, limit: int) -> None:
        self._read = read
        self._coding = coding
        self._limit = limit
        self._size = 0
        self._work = 0
        self._streams = 0
        self._inner: Decompressor | None = None
        self._unused = b""
        self._decoded = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """Read into ``buffer``; returns the number of bytes, 0 at the end."""
        if not self._decoded:
            self._decoded = memoryview(self._decode_piece())
        count = min(len(buffer), len(self._decoded))
        buffer[:count] = self._decoded[:count]
        self._decoded = self._decoded[count:]
        return count

    def _decode_piece(self) -> bytes:
        """Return the next decoded bytes, or ``b""`` at the end."""
        while True:
            data = self._unused
            is_at_end = False
            if not data and self._needs_input:
                data = self._read(_INPUT_CHUNK_BYTES)
                is_at_end = not data
                self._work += len(data)
            decoded = self._decompress_data(data)
            self._size += len(decoded)
            self._work += len(decoded)
            if self._size > self._limit:
                raise make_size_error(self._limit)
            self._yield_to_other_requests()
            if decoded:
                return decoded
            if is_at_end:
                if self._inner is not None and not self._inner.eof:
                    raise self._make_error("ends too early")
                return b""

    def _yield_to_other_requests(self) -> None:
        if self._work >= _BYTES_BETWEEN_PAUSES:
            self._work = 0
            time.sleep(_PAUSE_SECONDS)

    @property
    def _needs_input(self) -> bool:
        return self._inner is None or self._inner.eof or self._inner.needs_input

    def _decompress_data(self, data: bytes) -> bytes:
        if data and (self._inner is None or self._inner.eof):
            if self._inner is not None and self._coding not in _MULTI_STREAM_CODINGS:
                raise self._make_error("has data after its end")
            if self._streams == _MAX_STREAMS:
                raise self._make_error("has too many parts")
            self._inner = _DECOMPRESSORS[self._coding](data)
            self._streams += 1
            self._work += _STREAM_COST_BYTES
        if self._inner is None or self._inner.eof:
            return b""
        output_limit = min(_OUTPUT_CHUNK_BYTES, self._limit - self._size + 1)
        try:
            decoded = self._inner.decompress(data, output_limit)
        except _DECOMPRESSION_ERRORS as error:
            raise self._make_error("cannot be decoded") from error
        self._unused = self._inner.unused_data if self._inner.eof else b""
        return decoded

    def _make_error(self, how: str) -> InvalidRequest:
        needs = " (windows of up to 8 MiB are accepted)" if self._coding == "zstd" else ""
        return InvalidRequest(
            f"The request body is not valid {self._coding}: it {how}{needs}.",
            code="invalid_content_encoding",
        )


def make_size_error(limit: int) -> TooLarge:
    """Return the error for a body of more than ``limit`` bytes."""
    return TooLarge(f"The request body has more than {limit} bytes.")


class DecodedBody(io.RawIOBase):
    """The body from ``open_body``, decoded according to the ``Content-Encoding`` header.

    The first read opens the body. Reads raise UnsupportedEncoding, InvalidRequest for corrupt
    data, and TooLarge for more than ``limit`` bytes.
    """

    def __init__(self, open_body: Callable[[], Any], header: str, limit: int) -> None:
        self._open_body = open_body
        self._header = header
        self._limit = limit
        self._size = 0
        self._stream: Any = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """Read into ``buffer``; returns the number of bytes, 0 at the end."""
        if self._stream is None:
            self._stream = self._open_stream()
        count: int = self._stream.readinto(buffer)
        self._size += count
        if self._size > self._limit:
            raise make_size_error(self._limit)
        return count

    def readall(self) -> bytes:
        """Return the rest of the body."""
        return b"".join(iter(lambda: self.read(_OUTPUT_CHUNK_BYTES) or b"", b""))

    def _open_stream(self) -> Any:
        codings = read_codings(self._header)
        stream = self._open_body()
        for coding in reversed(codings):
            stream = DecodedStream(stream.read, coding, self._limit)
        return stream


def read_codings(header: str) -> list[str]:
    """Return the codings in the order of application, without ``identity``.

    Raises UnsupportedEncoding for an unknown coding or more than MAX_CODINGS.
    """
    names = [part.strip().lower() for part in header.split(",")]
    codings = [_CODING_ALIASES.get(part, part) for part in names if part not in ("", "identity")]
    for coding in codings:
        if coding not in _DECOMPRESSORS:
            raise UnsupportedEncoding(
                f"The Content-Encoding '{coding[:32]}' is not supported.",
                ACCEPTED_CODINGS,
            )
    if len(codings) > MAX_CODINGS:
        raise UnsupportedEncoding(
            f"A request body may have at most {MAX_CODINGS} codings.", ACCEPTED_CODINGS
        )
    return codings
