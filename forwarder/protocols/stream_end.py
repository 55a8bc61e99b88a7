"""One true ending for every stream.

Upstream's side: an end of the stream is a success only when the protocol says so.  Client's side:
a failure after the first byte is told in the client's own protocol, and nothing follows it.
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
from forwarder.protocols.mappings import (
    FAILED_FINISH_REASONS,
    TERMINAL_EVENTS,
    find_error,
    to_response_error,
    to_upstream_error,
)

_CONTENT_FIELDS = frozenset({"content", "refusal", "tool_calls", "function_call", "audio", "images",
                   *REASONING_FIELDS, *REASONING_DETAIL_FIELDS})  # fmt: skip


def require_complete_chat_stream(
    stream: EventStream, saw_done_marker: Callable[[], bool]
) -> EventStream:
    """Pass a chat stream on; raise UpstreamBroken when it ends without having finished.

    ``saw_done_marker`` tells whether ``[DONE]`` came: some vendors send no finish reason, but do say
    that they are done.
    """
    state = ChatStreamState()
    try:
        yield from track_chat_stream(stream, state, saw_done_marker)
    except (UpstreamUnreachable, UpstreamTimeout, ShuttingDown):
        if not state.is_finished:  # what breaks after the finish breaks nothing
            raise
    if state.error:
        return
    state.require_completion(saw_done_marker())
    if state.finish_reason is None:
        yield [state.make_final_chunk()]


def track_chat_stream(
    stream: EventStream, state: ChatStreamState, saw_done_marker: Callable[[], bool]
) -> EventStream:
    for batch in stream:
        for i, chunk in enumerate(batch):
            state.record_chunk(chunk)
            if state.error:
                refusal = to_upstream_error(state.error)
                if (
                    not state.has_sent and not state.seen_fields
                ):  # there is still time for an HTTP status
                    raise refusal
                if is_key_refusal(refusal):
                    yield batch[:i]
                    raise refusal
                yield [*batch[:i], classify_chunk_error(chunk, refusal)]
                return
        if state.is_complete:  # whoever folds a stream asks for nothing after a whole answer
            state.require_completion(saw_done_marker())
        state.has_sent = state.has_sent or bool(batch)
        yield batch


def is_key_refusal(refusal: UpstreamError) -> bool:
    """Does the upstream refuse the key?

    Such an error is always raised: only the caller knows whose key it is.
    """
    return isinstance(refusal, UpstreamRefused) and refusal.kind is ErrorKind.KEY_REFUSED


def classify_chunk_error(chunk: Event, refusal: UpstreamError) -> Event:
    """The chunk with its error as it would be in the body of an HTTP error, if its kind is known.

    One that is not inside an ``error`` is put there.
    """
    known = isinstance(refusal, UpstreamRefused) and refusal.kind is not None
    if known or not chunk.get("error"):
        return {**(chunk if chunk.get("error") else {}), **refusal.make_body()}
    return chunk


class ChatStreamState:
    """What has to be known of a chat stream to tell whether it came to its end."""

    def __init__(self) -> None:
        self.finish_reason: str | None = None
        self._started_choices: set[Any] = set()  # the indexes of the choices that spoke
        self._finished_choices: set[Any] = set()  # and of those that finished
        self.seen_fields: set[str] = set()
        self.is_complete = False
        self.has_sent = False
        self.error: Any = None
        self._last_chunk: Event = {}

    def record_chunk(self, chunk: Event) -> None:
        if "error" in chunk or not chunk.get("choices"):
            self.error = find_error(chunk)
        for choice in chunk.get("choices") or ():
            self.is_complete = "message" in choice and bool(choice.get("finish_reason"))
            delta = choice.get("delta") or choice.get("message") or {}
            for name in delta:  # a chunk has one or two names, of which most are known by now
                if name not in self.seen_fields and name in _CONTENT_FIELDS and delta[name]:
                    self.seen_fields.add(name)
            index = choice.get("index")
            self._started_choices.add(index)
            if choice.get("finish_reason"):
                self.finish_reason = choice["finish_reason"]
                self._finished_choices.add(index)
                if self.finish_reason in FAILED_FINISH_REASONS and choice.get("error"):
                    self.error = choice["error"]
            self._last_chunk = chunk

    @property
    def is_finished(self) -> bool:
        """Every choice that spoke has come to its end, and there was one."""
        return bool(self._finished_choices) and self._started_choices <= self._finished_choices

    def require_completion(self, saw_done_marker: bool) -> None:
        """Raise UpstreamBroken when this cannot be all of an answer."""
        if not self.is_finished and not (self.seen_fields and saw_done_marker):
            raise UpstreamProtocolError(
                "The upstream's stream ended before its answer was finished."
            )

    def make_final_chunk(self) -> Event:
        """The chunk that should have come."""
        finish = "tool_calls" if "tool_calls" in self.seen_fields else "stop"
        return {**self._last_chunk, "choices": [{"index": 0, "delta": {}, "finish_reason": finish}]}


def require_complete_responses_stream(
    stream: EventStream, saw_done_marker: Callable[[], bool]
) -> EventStream:
    """Pass a Responses stream on up to its terminal event; raise when there is none.

    A failure that comes before anything was said is raised, so
    that the client gets the HTTP status that it means where nothing was sent yet.
    """
    failed: Event | None = None
    begun = said = False
    for batch in stream:
        for i, event in enumerate(batch):
            kind = event.get("type")
            if kind in TERMINAL_EVENTS:
                if kind == "response.failed":
                    refusal = to_upstream_error(read_failed_response_error(event))
                    if not (begun or said or _has_output(event)):
                        raise refusal
                    if is_key_refusal(refusal):
                        yield batch[:i]
                        raise refusal
                    event = classify_response_failure(event, refusal)
                yield [*batch[:i], event]
                return
            if kind == "error":
                refusal = to_upstream_error(event.get("error") or event)
                if not said:
                    raise refusal
                if is_key_refusal(refusal):
                    yield batch[:i]
                    raise refusal
                failed = batch[i] = classify_error_event(event, refusal)
            said = said or "response" not in event
        begun = begun or bool(batch)
        yield batch
    if failed is not None:
        raise to_upstream_error(failed.get("error") or failed)
    raise UpstreamProtocolError("The upstream's stream ended before its response was finished.")


def _has_output(event: Event) -> bool:
    return bool((event.get("response") or {}).get("output"))


def read_failed_response_error(event: Event) -> Any:
    """The error of a failed response; some upstreams put it beside the response."""
    response = event.get("response") or {}
    default = {"message": "The upstream's response failed.", "code": "server_error"}
    return response.get("error") or event.get("error") or default


def classify_response_failure(event: Event, refusal: UpstreamError) -> Event:
    """``response.make_failure_events`` with the code of its error's kind, if that is known."""
    if not isinstance(refusal, UpstreamRefused) or refusal.kind is None:
        return event
    error = read_failed_response_error(event)
    own = error if isinstance(error, dict) else {}
    told = {**own, **to_response_error(refusal.make_body()["error"], refusal.status)}
    return {**event, "response": {**(event.get("response") or {}), "error": told}}


def classify_error_event(event: Event, refusal: UpstreamError) -> Event:
    """``error`` with the code of its kind, if that is known, wherever it has one."""
    if not isinstance(refusal, UpstreamRefused) or refusal.kind is None:
        return event
    nested = {"error": refusal.make_body()["error"]} if event.get("error") else {}
    return {**event, "code": refusal.code, "message": refusal.message, **nested}


COMPLETENESS_CHECKS = {
    "chat": require_complete_chat_stream,
    "responses": require_complete_responses_stream,
}


def blame_upstream_for_malformed_events(handler: Handler) -> Handler:
    """Wrap a call so that events which cannot be read are the upstream's fault, not ours."""

    def handle_request(request: Json) -> EventStream:
        return convert_malformed_event_errors(handler(request))

    return handle_request


def convert_malformed_event_errors(stream: EventStream) -> EventStream:
    try:
        yield from stream
    except MALFORMED_EVENT_ERRORS as error:
        raise malformed_event() from error


MALFORMED_EVENT_ERRORS = (AttributeError, TypeError, KeyError, IndexError, ValueError)
"""What it raises to read an event that is not as its protocol says, or to write what it made."""


def malformed_event() -> UpstreamMalformedEvent:
    """The failure to report instead."""
    return UpstreamMalformedEvent("The upstream sent an event that cannot be read.")


# -- the client's side --------------------------------------------------------------------------


InterruptibleStream = Generator[Batch, None, None]
"""A stream into which a failure can be thrown: what was yielded last did not go out then."""


def append_chat_error(stream: EventStream) -> InterruptibleStream:
    """Turn a failure on the way into chat's error frame; the stream ends with it."""
    try:
        for batch in stream:
            yield batch
            if batch and batch[-1].get("error"):
                return
    except ForwarderError as error:
        yield [error.make_body()]


def append_responses_error(stream: EventStream) -> InterruptibleStream:
    """Turn a failure on the way into ``error`` and ``response.make_failure_events``, numbered on."""
    state = ResponseStreamState()
    try:
        for batch in stream:
            yield batch
            state.record_batch(batch)
    except ForwarderError as error:
        yield state.make_failure_events(error)


def append_follower_error(stream: EventStream) -> EventStream:
    """Turn a failure to follow a background response into ``error``, after which nothing comes.

    The response itself goes on: whoever follows it again behind the number of the ``error``, which
    is that of the event before it, misses nothing.
    """
    number = None
    try:
        for batch in stream:
            if batch:
                number = batch[-1].get("sequence_number")
            yield batch
    except ForwarderError as error:
        if number is None:  # there is still time for an HTTP status
            raise
        yield [{**encode_error_event(error.make_error_object()), "sequence_number": number}]


def encode_error_event(detail: Json) -> Event:
    """Both shapes at once: the documented flat one, and the nested one really sent."""
    flat = {k: detail[k] for k in ("code", "message", "param")}
    return {"type": "error", **flat, "error": detail}


def append_ollama_error(stream: EventStream) -> InterruptibleStream:
    """Turn a failure on the way into Ollama's last line, which is a message and nothing else."""
    try:
        yield from stream
    except ForwarderError as error:
        yield [{"error": error.message}]


ERROR_ENCODERS = {
    "chat": append_chat_error,
    "responses": append_responses_error,
    "ollama": append_ollama_error,
    "ollama_generate": append_ollama_error,
}


UNKNOWN_RESPONSE: Json = {
    "id": "resp_unknown",
    "object": "response",
    "created_at": 0,
    "model": "",
    "parallel_tool_calls": True,
    "tool_choice": "auto",
    "tools": [],
}
"""What stands for a response that broke before it began."""


class ResponseStreamState:
    """What has to be known of a Responses stream to end it properly."""

    def __init__(self) -> None:
        self._response = UNKNOWN_RESPONSE
        self._items: list[Json] = []
        self._number = -1
        self._error_sent = False

    def record_batch(self, batch: Batch) -> None:
        """Remember the response, its finished items and the last number."""
        for event in batch:
            kind = event.get("type")
            if kind == "response.output_item.done":
                self._items.append(event.get("item") or {})
            elif kind == "error":
                self._error_sent = True
            elif type(event.get("response")) is dict:
                self._response = event["response"]
        if batch:
            number = batch[-1].get("sequence_number")
            self._number = number if type(number) is int else self._number + len(batch)

    def make_failure_events(self, error: ForwarderError) -> Batch:
        """The closing events for ``error``."""
        detail = error.make_body()["error"]
        events: Batch = []
        if not self._error_sent:
            events.append(encode_error_event(detail))
        response = {**self._response, "status": "failed", "output": self._items}
        response["error"] = to_response_error(detail, error.status)
        events.append({"type": "response.failed", "response": response})
        return [{**e, "sequence_number": self._number + 1 + i} for i, e in enumerate(events)]
