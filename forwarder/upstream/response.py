"""An open response of an upstream: bytes in, batches of events out, within the time-outs.

The response can differ from the request: a web page, a JSON body instead of a stream, a stream
that stalls.  This module detects these cases, so that no other module needs to.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import re
import time
from collections.abc import Callable, Generator, Iterator
from typing import Any

import httpx2
import orjson

from forwarder.config.settings import UpstreamSettings
from forwarder.context.redaction import redact_headers, redact_secrets
from forwarder.core import json_lenient
from forwarder.core.errors import (
    ShuttingDown,
    UpstreamProtocolError,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from forwarder.core.in_flight_requests import ShutdownInterrupt
from forwarder.core.large_bodies import take_turn
from forwarder.core.types import EventStream, Json
from forwarder.protocols import unfold
from forwarder.protocols.chat_responses_mappings import TERMINAL_EVENTS
from forwarder.protocols.framing import BOM, SseDecoder
from forwarder.protocols.registry import EMBEDDINGS
from forwarder.upstream.transport.answer_limits import (
    MAX_ANSWER_BYTES,
    MAX_ANSWER_VALUES,
    MAX_EMBEDDING_VALUES,
    UnreadableAnswer,
    check_values,
    describe_oversized_answer,
)
from forwarder.upstream.transport.chunk_reader import open_chunk_reader
from forwarder.upstream.transport.connection_errors import describe_broken_answer

_CLIENT_HEADERS = (
    "retry-after", "retry-after-ms", "x-should-retry", "openai-processing-ms", "openai-model",
    "x-reasoning-included",
)  # fmt: skip

_CLIENT_HEADER_PREFIXES = ("x-ratelimit-", "x-codex-")
"""Headers with the client's limits, of providers and of ChatGPT's backend."""

_PRINTABLE_ASCII = re.compile(r"[\x20-\x7e]*")
"""Header values that every server can send."""

_DRAIN_SECONDS = 0.25
"""Seconds to wait after the last event for the end of the body, so that the connection can be
reused, and for late usage."""

_USAGE_WAIT_SECONDS = 2.0
"""Seconds to wait after a finish reason for usage and ``[DONE]``, which not every vendor sends."""

_MAX_VALUES = {EMBEDDINGS.name: MAX_EMBEDDING_VALUES}
"""Protocol -> limit for the JSON values of a whole answer, if it is not ``MAX_ANSWER_VALUES``."""


class UpstreamResponse:
    """An open response of an upstream; ``tap`` wraps its bytes, for example to record them."""

    def __init__(
        self,
        response: httpx2.Response,
        protocol: str,
        streamed: bool,
        settings: UpstreamSettings,
        heartbeat: float,
        choices: int = 1,
        tap: Callable[[Iterator[bytes]], Iterator[bytes]] = iter,
        max_answer: int = MAX_ANSWER_BYTES,
    ) -> None:
        self._max_answer = max_answer
        self._response = response
        self._protocol = protocol
        self._streamed = streamed
        self._settings = settings
        # With several choices, the finish of one says nothing about the others.
        self._has_single_choice = choices == 1
        self._decoder = SseDecoder()
        self._heartbeat = heartbeat
        self._reader = open_chunk_reader(response, heartbeat)
        # Referenced here, so that a reader that stops early does not close the connection.
        self._chunks = tap(self._enforce_timeouts())
        self.headers = redact_headers(select_client_headers(response.headers), settings)

    def saw_done_marker(self) -> bool:
        """Return whether the upstream has sent ``[DONE]``."""
        return self._decoder.saw_done_marker

    def close(self) -> None:
        """Return the connection to its pool, or close it if the answer is not complete."""
        if self._reader.silence_limit is not None:
            self._drain_body()
        self._reader.close()
        self._response.close()
        # Breaks a reference cycle that would keep the request's body until garbage collection.
        self._chunks = iter(())

    def _drain_body(self) -> None:
        """Read the rest of a finished answer, so that its connection can be reused."""
        self._reader.silence_limit = _DRAIN_SECONDS
        # ValueError: another thread is reading; closing ends its read.
        broken = (httpx2.HTTPError, httpx2.StreamError, OSError, UpstreamTimeout, ValueError)
        with contextlib.suppress(*broken):
            for _ in self._chunks:
                pass

    def iter_batches(self) -> EventStream:
        """Yield the events in batches as they arrive, and empty batches as heartbeats.

        Heartbeats are sent during silence, and also while data arrives: middleware may hide events
        from the client, such as reasoning, and comments of the upstream yield no events.
        """
        pieces, decoder = self._chunks, self._decoder
        last_heartbeat = time.monotonic()
        try:
            first = yield from self._read_first_bytes(pieces)
            if is_json_body(first, self._response, self._streamed):
                yield from self._read_whole_answer(first, pieces)
                return
            has_begun = False
            for data in itertools.chain([first] if first else [], pieces):
                now, batch = time.monotonic(), decoder.feed(data)
                if not data:
                    last_heartbeat = now
                # No heartbeat directly before the first event: if that is an error, the client must
                # get it as a status instead of a stream.
                elif now - last_heartbeat >= self._heartbeat and (has_begun or not batch):
                    last_heartbeat = now
                    yield []
                has_begun = has_begun or bool(batch)
                for number, event in enumerate(batch):
                    if has_error(event):
                        batch[number] = redact_secrets(event, self._settings)
                if batch or not data:
                    yield batch
                if decoder.saw_done_marker or (batch and batch[-1].get("type") in TERMINAL_EVENTS):
                    self._reader.silence_limit = _DRAIN_SECONDS
                elif self._has_single_choice and batch and is_finish_chunk(batch[-1]):
                    self._reader.silence_limit = _USAGE_WAIT_SECONDS
            rest = decoder.flush()
            if rest:
                yield list(map(self._redact_error, rest))
        except ShutdownInterrupt:
            raise ShuttingDown from None
        except httpx2.TimeoutException:
            raise self._make_timeout("stopped sending") from None
        except (httpx2.TransportError, httpx2.StreamError, OSError) as error:
            why = describe_broken_answer(error)
            raise UpstreamUnreachable(
                f"The connection to the upstream '{self._settings.name}' broke: {why}.",
                code="upstream_disconnected",
            ) from None

    def _read_first_bytes(self, pieces: Iterator[bytes]) -> Generator[list[Json], None, bytes]:
        """Read until the format of the answer can be detected, however small the pieces are."""
        start = b""
        for piece in pieces:
            start = (start + piece).lstrip()
            if is_format_detectable(start, self._streamed):
                break
            yield []
        return start.removeprefix(BOM)

    def _enforce_timeouts(self) -> Iterator[bytes]:
        """Yield the chunks; raise UpstreamTimeout for long silence or a long answer."""
        idle = self._settings.idle_timeout
        total = self._settings.total_timeout
        patience = idle if self._streamed else self._settings.whole_timeout
        started = heard = time.monotonic()
        for data in self._reader:
            if data:
                patience = idle
            if data and not total:
                heard = 0.0  # the clock is read only during silence
            else:
                now = time.monotonic()
                heard = now if data or not heard else heard
                if total and now - started > total:
                    raise self._make_timeout("took too long")
                if now - heard >= patience:
                    raise self._make_timeout("stopped sending")
            yield data

    def _make_timeout(self, problem: str) -> UpstreamTimeout:
        return UpstreamTimeout(f"The upstream '{self._settings.name}' {problem}.")

    def _read_whole_answer(self, first: bytes, pieces: Iterator[bytes]) -> EventStream:
        """Read a whole JSON answer; yield it as one event, or as the events of a stream."""
        read = io.BytesIO()  # unlike a list of pieces, it returns its bytes without a copy
        size = read.write(first)
        for piece in pieces:
            size += read.write(piece)
            if size > self._max_answer:
                raise self._make_limit_error(describe_oversized_answer(self._max_answer))
            if not piece:
                yield []
        body = read.getvalue()
        del read
        take_turn(size)
        try:
            check_values(body, _MAX_VALUES.get(self._protocol, MAX_ANSWER_VALUES))
        except UnreadableAnswer as error:
            raise self._make_limit_error(str(error)) from None
        take_turn(size)
        answer = parse_json_object(body)
        del body  # it is large, and the generator lives as long as the answer is used
        answer = self._redact_error(answer)
        yield unfold.unfold_answer(self._protocol, answer, self._streamed)

    def _make_limit_error(self, problem: str) -> UpstreamProtocolError:
        return UpstreamProtocolError(f"The upstream '{self._settings.name}' {problem}.")

    def _redact_error(self, event: Json) -> Json:
        """Redact secrets in an event with an error, because errors can quote keys."""
        return redact_secrets(event, self._settings) if has_error(event) else event


def select_client_headers(headers: httpx2.Headers) -> dict[str, str]:
    """Select the response headers for the client, without values that our server cannot send."""
    selected = {
        k: v
        for k, v in headers.items()
        if k in _CLIENT_HEADERS or k.startswith(_CLIENT_HEADER_PREFIXES)
    }
    if "x-request-id" in headers:
        selected["x-upstream-request-id"] = headers["x-request-id"]
    if _PRINTABLE_ASCII.fullmatch("".join(selected.values())):
        return selected
    return {k: v for k, v in selected.items() if _PRINTABLE_ASCII.fullmatch(v)}


def is_finish_chunk(event: Json) -> bool:
    """Return whether ``event`` is a chat chunk with a finish reason or with the final usage."""
    choices = event.get("choices")
    return bool(choices[0].get("finish_reason") if choices else event.get("usage"))


_SSE_FIELDS = (b"data:", b"event:", b"id:", b"retry:", b":")
"""Beginnings of the lines of an event stream."""


def is_format_detectable(start: bytes, streamed: bool) -> bool:
    """Return whether ``start`` is long enough to tell an event stream from a JSON body."""
    if BOM.startswith(start):
        return False
    head = start.removeprefix(BOM).lstrip()
    if streamed or head.startswith(_SSE_FIELDS):
        return bool(head)
    return not any(field.startswith(head) for field in _SSE_FIELDS)


def is_json_body(first: bytes, response: httpx2.Response, streamed: bool) -> bool:
    """Detect a JSON body by its first bytes, because content types are not reliable.

    Raises UpstreamProtocolError if a web page came instead of a stream.
    """
    head = first.lstrip()[:1]
    if not streamed:  # some providers can only stream
        return not first.lstrip().startswith(_SSE_FIELDS)
    if head == b"<" or "text/html" in response.headers.get("content-type", ""):
        raise UpstreamProtocolError("The upstream answered with a page instead of a stream.")
    return head == b"{"


def has_error(event: Json) -> bool:
    """Return whether an event or whole answer contains an error in any vendor's field."""
    if event.get("error") or event.get("base_resp") or "message" in event:
        return True
    if event.get("type") in ("error", "response.failed"):
        return True
    for choice in event.get("choices") or ():  # noqa: SIM110, a generator takes twice as long
        if choice.get("error"):
            return True
    return False


def parse_json_object(body: bytes) -> Json:
    """Parse a body that must be a JSON object.  Raises UpstreamProtocolError."""
    value = parse_json(body)
    if not isinstance(value, dict):
        raise UpstreamProtocolError("The upstream's answer is not a JSON object.")
    return value


def parse_model_list(body: bytes) -> list[Json]:
    """Parse a list of models, which most providers wrap in an object."""
    value = parse_json(body)
    listed = value.get("data") if isinstance(value, dict) else value
    return list(filter(is_model_object, listed)) if isinstance(listed, list) else []


def is_model_object(entry: Any) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get("id"), str) and entry["id"] != ""


def parse_json(body: bytes) -> Any:
    try:
        value = orjson.loads(body)
    except ValueError:
        value = parse_lenient_json(body)
    if json_lenient.is_too_deep(body, value):
        raise UpstreamProtocolError("The upstream's answer is nested too deeply.")
    return value


def parse_lenient_json(body: bytes) -> Any:
    try:
        return json_lenient.parse_lenient(body)
    except ValueError:
        raise UpstreamProtocolError("The upstream's answer is not JSON.") from None
