"""Checks how upstream streams end and ends client streams properly.

Upstream side: the end of a stream is a success only if the protocol's end marker arrived.  Client
side: a failure after the first byte becomes an error event of the client's protocol, and the
stream ends with it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

from forwarder.core.error_kinds import ErrorKind
from forwarder.core.errors import (
    ForwarderError,
    ShuttingDown,
    UpstreamError,
    UpstreamMalformedEvent,
    UpstreamProtocolError,
    UpstreamRefused,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from forwarder.core.types import Batch, Event, EventStream, Handler, Json
from forwarder.protocols.chat_reasoning import REASONING_DETAIL_FIELDS, REASONING_FIELDS
from forwarder.protocols.chat_responses_mappings import (
    FAILED_FINISH_REASONS,
    TERMINAL_EVENTS,
    find_error,
    to_response_error,
    to_upstream_error,
)

_CONTENT_FIELDS = frozenset({"content", "refusal", "tool_calls", "function_call", "audio", "images",
                   *REASONING_FIELDS, *REASONING_DETAIL_FIELDS})  # fmt: skip


RefusalConverter = Callable[[UpstreamError], UpstreamError]
"""Returns the exception to raise for an error in an answer.

If the upstream refuses the forwarder's own key, this is UpstreamKeyRefused instead of the error.
"""


CompletenessCheck = Callable[..., EventStream]
"""Wraps a stream.  Takes the stream, ``saw_done_marker`` and optionally a `RefusalConverter`."""


def keep_refusal(refusal: UpstreamError) -> UpstreamError:
    """Return the refusal itself."""
    return refusal


def require_complete_chat_stream(
    stream: EventStream,
    saw_done_marker: Callable[[], bool],
    convert_refusal: RefusalConverter = keep_refusal,
) -> EventStream:
    """Pass a chat stream on; raise UpstreamProtocolError if it ends before its answer.

    ``saw_done_marker`` returns whether ``[DONE]`` arrived: some vendors send it, but no finish
    reason.
    """
    state = ChatStreamState()
    has_sent = False
    try:
        for batch in stream:
            for i, chunk in enumerate(batch):
                state.record_chunk(chunk)
                if state.error:
                    refusal = to_upstream_error(state.error)
                    if not has_sent and not state.seen_fields:
                        # The client can still get an HTTP status.
                        raise convert_refusal(refusal)
                    if is_key_refusal(refusal):
                        yield batch[:i]
                        raise convert_refusal(refusal)
                    yield [*batch[:i], classify_chunk_error(chunk, refusal)]
                    return
            if state.is_complete:  # `fold.py` reads nothing after a complete answer
                state.require_completion(saw_done_marker())
            has_sent = has_sent or bool(batch)
            yield batch
    except (UpstreamUnreachable, UpstreamTimeout, ShuttingDown):
        if not state.is_finished:  # a failure after the last finish reason is harmless
            raise
    state.require_completion(saw_done_marker())
    if state.finish_reason is None:
        yield [state.make_final_chunk()]


def is_key_refusal(refusal: UpstreamError) -> bool:
    """Return True if the upstream refuses the key.

    Such an error is always raised: only the caller knows whether it is the client's key.
    """
    return isinstance(refusal, UpstreamRefused) and refusal.kind is ErrorKind.KEY_REFUSED


def classify_chunk_error(chunk: Event, refusal: UpstreamError) -> Event:
    """Replace a chunk's error by the body of the HTTP error if its kind is known.

    An error outside an ``error`` field moves into it.
    """
    known = isinstance(refusal, UpstreamRefused) and refusal.kind is not None
    if known or not chunk.get("error"):
        fields = chunk if chunk.get("error") else {}
        return {**fields, **refusal.make_body()}
    return chunk


class ChatStreamState:
    """Tracks whether a chat stream has reached the end of its answer."""

    def __init__(self) -> None:
        self.finish_reason: str | None = None
        self._started_choices: set[Any] = set()  # indexes
        self._finished_choices: set[Any] = set()  # indexes
        self.seen_fields: set[str] = set()
        self.is_complete = False
        self.error: Any = None
        self._last_chunk: Event = {}

    def record_chunk(self, chunk: Event) -> None:
        choices = chunk.get("choices")
        if "error" in chunk or not choices:
            self.error = find_error(chunk)
        for choice in choices or ():
            delta = choice.get("delta") or choice.get("message") or {}
            for name in delta:
                if name not in self.seen_fields and name in _CONTENT_FIELDS and delta[name]:
                    self.seen_fields.add(name)
            index, finish = choice.get("index"), choice.get("finish_reason")
            self._started_choices.add(index)
            self.is_complete = bool(finish) and "message" in choice
            if finish:
                self.finish_reason = finish
                self._finished_choices.add(index)
                if finish in FAILED_FINISH_REASONS and choice.get("error"):
                    self.error = choice["error"]
            self._last_chunk = chunk

    @property
    def is_finished(self) -> bool:
        """Whether all choices, and at least one, have a finish reason."""
        return bool(self._finished_choices) and self._started_choices <= self._finished_choices

    def require_completion(self, saw_done_marker: bool) -> None:
        """Raise UpstreamProtocolError if the answer is incomplete."""
        if not self.is_finished and not (self.seen_fields and saw_done_marker):
            raise UpstreamProtocolError(
                "The upstream's stream ended before its answer was finished."
            )

    def make_final_chunk(self) -> Event:
        """Make the chunk with the finish reason that the upstream did not send."""
        finish = "tool_calls" if "tool_calls" in self.seen_fields else "stop"
        return {**self._last_chunk, "choices": [{"index": 0, "delta": {}, "finish_reason": finish}]}


def require_complete_responses_stream(
    stream: EventStream,
    saw_done_marker: Callable[[], bool],
    convert_refusal: RefusalConverter = keep_refusal,
) -> EventStream:
    """Pass a Responses stream on up to its terminal event; raise UpstreamError if it has none.

    A failure before any output is raised too, so that the client can get an HTTP status. If the
    output of the terminal event is empty, it gets the finished items: some gateways send them only
    in their own events, but stored responses and clients read the output.
    """
    failed: Event | None = None
    items: list[tuple[Any, Json]] = []
    has_sent = has_output = False
    for batch in stream:
        for i, event in enumerate(batch):
            kind = event.get("type")
            if kind in TERMINAL_EVENTS:
                event = add_missing_output(event, items)
                if kind == "response.failed":
                    refusal = to_upstream_error(read_failed_response_error(event))
                    output = (event.get("response") or {}).get("output")
                    if not (has_sent or has_output or output):
                        raise convert_refusal(refusal)
                    if is_key_refusal(refusal):
                        yield batch[:i]
                        raise convert_refusal(refusal)
                    event = classify_response_failure(event, refusal)
                yield [*batch[:i], event]
                return
            if kind == "error":
                refusal = to_upstream_error(event.get("error") or event)
                if not has_output:
                    raise convert_refusal(refusal)
                if is_key_refusal(refusal):
                    yield batch[:i]
                    raise convert_refusal(refusal)
                failed = batch[i] = classify_error_event(event, refusal)
            elif kind == "response.output_item.done" and type(event.get("item")) is dict:
                items.append((event.get("output_index"), event["item"]))
            has_output = has_output or "response" not in event
        has_sent = has_sent or bool(batch)
        yield batch
    if failed is not None:
        raise to_upstream_error(failed.get("error") or failed)
    raise UpstreamProtocolError("The upstream's stream ended before its response was finished.")


def add_missing_output(event: Event, items: list[tuple[Any, Json]]) -> Event:
    """Return a terminal event with the finished ``items`` if the output of its response is empty.

    Each item comes with its index. Nothing is added unless these are the places of a whole output,
    because readers identify an item by its place.
    """
    response = event.get("response")
    if not items or type(response) is not dict or response.get("output"):
        return event
    by_index = {index: item for index, item in items if type(index) is int}
    if by_index.keys() != set(range(len(items))):
        return event
    output = [by_index[index] for index in range(len(items))]
    return {**event, "response": {**response, "output": output}}


def read_failed_response_error(event: Event) -> Any:
    """Return the error of a failed response; some upstreams put it beside the response."""
    response = event.get("response") or {}
    default = {"message": "The upstream's response failed.", "code": "server_error"}
    return response.get("error") or event.get("error") or default


def classify_response_failure(event: Event, refusal: UpstreamError) -> Event:
    """Give a ``response.failed`` event the code of its error's kind if the kind is known."""
    if not isinstance(refusal, UpstreamRefused) or refusal.kind is None:
        return event
    error = read_failed_response_error(event)
    fields = error if isinstance(error, dict) else {}
    fields = {**fields, **to_response_error(refusal.make_body()["error"], refusal.status)}
    return {**event, "response": {**(event.get("response") or {}), "error": fields}}


def classify_error_event(event: Event, refusal: UpstreamError) -> Event:
    """Give an ``error`` event the code of its kind if the kind is known."""
    if not isinstance(refusal, UpstreamRefused) or refusal.kind is None:
        return event
    nested = {"error": refusal.make_body()["error"]} if event.get("error") else {}
    return {**event, "code": refusal.code, "message": refusal.message, **nested}


def with_malformed_event_errors(handler: Handler) -> Handler:
    """Wrap a handler: exceptions from malformed events become UpstreamMalformedEvent."""

    def handle_request(request: Json) -> EventStream:
        return convert_malformed_event_errors(handler(request))

    return handle_request


def convert_malformed_event_errors(stream: EventStream) -> EventStream:
    try:
        yield from stream
    except MALFORMED_EVENT_ERRORS as error:
        raise make_malformed_event_error() from error


MALFORMED_EVENT_ERRORS = (AttributeError, TypeError, KeyError, IndexError, ValueError)
"""Exceptions while a malformed event is read, or while the events made from it are encoded."""


def make_malformed_event_error() -> UpstreamMalformedEvent:
    """Return the error to report instead of `MALFORMED_EVENT_ERRORS`."""
    return UpstreamMalformedEvent("The upstream sent an event that cannot be read.")


# -- client side --------------------------------------------------------------------------------


InterruptibleStream = Generator[Batch, None, None]
"""A stream into which the caller throws a failure if it could not send the last batch."""


def append_chat_error(stream: EventStream) -> InterruptibleStream:
    """Convert a failure in the stream to chat's error chunk; the stream ends with it."""
    try:
        for batch in stream:
            yield batch
            if batch and batch[-1].get("error"):
                return
    except ForwarderError as error:
        yield [error.make_body()]


def append_responses_error(stream: EventStream) -> InterruptibleStream:
    """Convert a failure in the stream to ``error`` and ``response.failed``.

    Their sequence numbers continue those of the stream.
    """
    state = ResponseStreamState()
    try:
        for batch in stream:
            yield batch
            state.record_batch(batch)
    except ForwarderError as error:
        yield state.make_failure_events(error)


def append_follower_error(stream: EventStream) -> EventStream:
    """Convert a failure while following a background response to a final ``error`` event.

    The response itself continues.  The ``error`` repeats the sequence number of the event before
    it, so a client that resumes after that number misses no event.
    """
    number = None
    try:
        for batch in stream:
            if batch:
                number = batch[-1].get("sequence_number")
            yield batch
    except ForwarderError as error:
        if number is None:  # the client can still get an HTTP status
            raise
        yield [{**encode_error_event(error.make_error_object()), "sequence_number": number}]


def encode_error_event(detail: Json) -> Event:
    """Encode an error in two forms: the documented flat one and the nested one OpenAI sends."""
    flat = {k: detail[k] for k in ("code", "message", "param")}
    return {"type": "error", **flat, "error": detail}


def append_ollama_error(stream: EventStream) -> InterruptibleStream:
    """Convert a failure in the stream to Ollama's last line, which holds only a message."""
    try:
        yield from stream
    except ForwarderError as error:
        yield [{"error": error.message}]


UNKNOWN_RESPONSE: Json = {
    "id": "resp_unknown",
    "object": "response",
    "created_at": 0,
    "model": "",
    "parallel_tool_calls": True,
    "tool_choice": "auto",
    "tools": [],
}
"""Replaces a response that failed before its first event."""


class ResponseStreamState:
    """Tracks a Responses stream to end it properly after a failure."""

    def __init__(self) -> None:
        self._response = UNKNOWN_RESPONSE
        self._items: list[Json] = []
        self._number = -1
        self._error_sent = False

    def record_batch(self, batch: Batch) -> None:
        """Record the response, its finished items and the last sequence number."""
        for event in batch:
            kind = event.get("type")
            if kind == "response.output_item.done":
                if type(event.get("item")) is dict:
                    self._items.append(event["item"])
            elif kind == "error":
                self._error_sent = True
            elif type(event.get("response")) is dict:
                self._response = event["response"]
        if batch:
            number = batch[-1].get("sequence_number")
            self._number = number if type(number) is int else self._number + len(batch)

    def make_failure_events(self, error: ForwarderError) -> Batch:
        """Make the closing events for ``error``."""
        detail = error.make_body()["error"]
        events: Batch = []
        if not self._error_sent:
            events.append(encode_error_event(detail))
        response = {**self._response, "status": "failed", "output": self._items}
        response["error"] = to_response_error(detail, error.status)
        if error.usage is not None:
            response["usage"] = error.usage
        events.append({"type": "response.failed", "response": response})
        return [{**e, "sequence_number": self._number + 1 + i} for i, e in enumerate(events)]
