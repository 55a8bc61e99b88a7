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
    UpstreamBroken,
    UpstreamError,
    UpstreamRefused,
    UpstreamTimeout,
    UpstreamUnreachable,
    UpstreamUnreadable,
)
from forwarder.core.types import Batch, Call, Event, Json, Stream
from forwarder.protocols.chat_reasoning import DETAILS, FIELDS
from forwarder.protocols.mappings import (
    FAILED_FINISHES,
    TERMINALS,
    failure,
    find_error,
    response_error,
)

_SAID = frozenset({"content", "refusal", "tool_calls", "function_call", "audio", "images",
                   *FIELDS, *DETAILS})  # fmt: skip


def honest_chat(stream: Stream, was_done: Callable[[], bool]) -> Stream:
    """Pass a chat stream on; raise UpstreamBroken when it ends without having finished.

    ``was_done`` tells whether ``[DONE]`` came: some vendors send no finish reason, but do say
    that they are done.
    """
    heard = _Heard()
    try:
        yield from _heard_chat(stream, heard, was_done)
    except (UpstreamUnreachable, UpstreamTimeout, ShuttingDown):
        if not heard.finished:  # what breaks after the finish breaks nothing
            raise
    if heard.error:
        return
    heard.judge(was_done())
    if heard.finish is None:
        yield [heard.ending()]


def _heard_chat(stream: Stream, heard: _Heard, was_done: Callable[[], bool]) -> Stream:
    for batch in stream:
        for i, chunk in enumerate(batch):
            heard.note(chunk)
            if heard.error:
                refusal = failure(heard.error)
                if not heard.begun and not heard.said:  # there is still time for an HTTP status
                    raise refusal
                if _is_of_a_key(refusal):
                    yield batch[:i]
                    raise refusal
                yield [*batch[:i], _classify_chunk(chunk, refusal)]
                return
        if heard.whole:  # whoever folds a stream asks for nothing after a whole answer
            heard.judge(was_done())
        heard.begun = heard.begun or bool(batch)
        yield batch


def _is_of_a_key(refusal: UpstreamError) -> bool:
    """Does the upstream refuse the key?

    Such an error is always raised: only the caller knows whose key it is.
    """
    return isinstance(refusal, UpstreamRefused) and refusal.kind is ErrorKind.KEY_REFUSED


def _classify_chunk(chunk: Event, refusal: UpstreamError) -> Event:
    """The chunk with its error as it would be in the body of an HTTP error, if its kind is known.

    One that is not inside an ``error`` is put there.
    """
    known = isinstance(refusal, UpstreamRefused) and refusal.kind is not None
    if known or not chunk.get("error"):
        return {**(chunk if chunk.get("error") else {}), **refusal.body()}
    return chunk


class _Heard:
    """What has to be known of a chat stream to tell whether it came to its end."""

    def __init__(self) -> None:
        self.finish: str | None = None
        self._begun: set[Any] = set()  # the indexes of the choices that spoke
        self._ended: set[Any] = set()  # and of those that finished
        self.said: set[str] = set()
        self.whole = False
        self.begun = False
        self.error: Any = None
        self._last: Event = {}

    def note(self, chunk: Event) -> None:
        if "error" in chunk or not chunk.get("choices"):
            self.error = find_error(chunk)
        for choice in chunk.get("choices") or ():
            self.whole = "message" in choice and bool(choice.get("finish_reason"))
            delta = choice.get("delta") or choice.get("message") or {}
            for name in delta:  # a chunk has one or two names, of which most are known by now
                if name not in self.said and name in _SAID and delta[name]:
                    self.said.add(name)
            index = choice.get("index")
            self._begun.add(index)
            if choice.get("finish_reason"):
                self.finish = choice["finish_reason"]
                self._ended.add(index)
                if self.finish in FAILED_FINISHES and choice.get("error"):
                    self.error = choice["error"]
            self._last = chunk

    @property
    def finished(self) -> bool:
        """Every choice that spoke has come to its end, and there was one."""
        return bool(self._ended) and self._begun <= self._ended

    def judge(self, was_done: bool) -> None:
        """Raise UpstreamBroken when this cannot be all of an answer."""
        if not self.finished and not (self.said and was_done):
            raise UpstreamBroken("The upstream's stream ended before its answer was finished.")

    def ending(self) -> Event:
        """The chunk that should have come."""
        finish = "tool_calls" if "tool_calls" in self.said else "stop"
        return {**self._last, "choices": [{"index": 0, "delta": {}, "finish_reason": finish}]}


def honest_responses(stream: Stream, was_done: Callable[[], bool]) -> Stream:
    """Pass a Responses stream on up to its terminal event; raise when there is none.

    A failure that comes before anything was said is raised, so
    that the client gets the HTTP status that it means where nothing was sent yet.
    """
    failed: Event | None = None
    begun = said = False
    for batch in stream:
        for i, event in enumerate(batch):
            kind = event.get("type")
            if kind in TERMINALS:
                if kind == "response.failed":
                    refusal = failure(_read_failure(event))
                    if not (begun or said or _has_output(event)):
                        raise refusal
                    if _is_of_a_key(refusal):
                        yield batch[:i]
                        raise refusal
                    event = _classify_failure(event, refusal)
                yield [*batch[:i], event]
                return
            if kind == "error":
                refusal = failure(event.get("error") or event)
                if not said:
                    raise refusal
                if _is_of_a_key(refusal):
                    yield batch[:i]
                    raise refusal
                failed = batch[i] = _classify_event(event, refusal)
            said = said or "response" not in event
        begun = begun or bool(batch)
        yield batch
    if failed is not None:
        raise failure(failed.get("error") or failed)
    raise UpstreamBroken("The upstream's stream ended before its response was finished.")


def _has_output(event: Event) -> bool:
    return bool((event.get("response") or {}).get("output"))


def _read_failure(event: Event) -> Any:
    """The error of a failed response; some upstreams put it beside the response."""
    response = event.get("response") or {}
    default = {"message": "The upstream's response failed.", "code": "server_error"}
    return response.get("error") or event.get("error") or default


def _classify_failure(event: Event, refusal: UpstreamError) -> Event:
    """``response.failed`` with the code of its error's kind, if that is known."""
    if not isinstance(refusal, UpstreamRefused) or refusal.kind is None:
        return event
    error = _read_failure(event)
    own = error if isinstance(error, dict) else {}
    told = {**own, **response_error(refusal.body()["error"], refusal.status)}
    return {**event, "response": {**(event.get("response") or {}), "error": told}}


def _classify_event(event: Event, refusal: UpstreamError) -> Event:
    """``error`` with the code of its kind, if that is known, wherever it has one."""
    if not isinstance(refusal, UpstreamRefused) or refusal.kind is None:
        return event
    nested = {"error": refusal.body()["error"]} if event.get("error") else {}
    return {**event, "code": refusal.code, "message": refusal.message, **nested}


HONEST = {"chat": honest_chat, "responses": honest_responses}


def faulting_upstream(call: Call) -> Call:
    """Wrap a call so that events which cannot be read are the upstream's fault, not ours."""

    def read(request: Json) -> Stream:
        return _read(call(request))

    return read


def _read(stream: Stream) -> Stream:
    try:
        yield from stream
    except UNREADABLE as error:
        raise unreadable() from error


UNREADABLE = (AttributeError, TypeError, KeyError, IndexError, ValueError)
"""What it raises to read an event that is not as its protocol says, or to write what it made."""


def unreadable() -> UpstreamUnreadable:
    """The failure to report instead."""
    return UpstreamUnreadable("The upstream sent an event that cannot be read.")


# -- the client's side --------------------------------------------------------------------------


Told = Generator[Batch, None, None]
"""A stream into which a failure can be thrown: what was yielded last did not go out then."""


def told_chat(stream: Stream) -> Told:
    """Turn a failure on the way into chat's error frame; the stream ends with it."""
    try:
        for batch in stream:
            yield batch
            if batch and batch[-1].get("error"):
                return
    except ForwarderError as error:
        yield [error.body()]


def told_responses(stream: Stream) -> Told:
    """Turn a failure on the way into ``error`` and ``response.failed``, numbered on."""
    seen = _Seen()
    try:
        for batch in stream:
            yield batch
            seen.note(batch)
    except ForwarderError as error:
        yield seen.failed(error)


def tell_follower(stream: Stream) -> Stream:
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
        yield [{**_error_event(error.error()), "sequence_number": number}]


def _error_event(detail: Json) -> Event:
    """Both shapes at once: the documented flat one, and the nested one really sent."""
    flat = {k: detail[k] for k in ("code", "message", "param")}
    return {"type": "error", **flat, "error": detail}


def told_ollama(stream: Stream) -> Told:
    """Turn a failure on the way into Ollama's last line, which is a message and nothing else."""
    try:
        yield from stream
    except ForwarderError as error:
        yield [{"error": error.message}]


TOLD = {
    "chat": told_chat,
    "responses": told_responses,
    "ollama": told_ollama,
    "ollama_generate": told_ollama,
}


_UNBEGUN: Json = {
    "id": "resp_unknown",
    "object": "response",
    "created_at": 0,
    "model": "",
    "parallel_tool_calls": True,
    "tool_choice": "auto",
    "tools": [],
}
"""What stands for a response that broke before it began."""


class _Seen:
    """What has to be known of a Responses stream to end it properly."""

    def __init__(self) -> None:
        self._response = _UNBEGUN
        self._items: list[Json] = []
        self._number = -1
        self._error_sent = False

    def note(self, batch: Batch) -> None:
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

    def failed(self, error: ForwarderError) -> Batch:
        """The closing events for ``error``."""
        detail = error.body()["error"]
        events: Batch = []
        if not self._error_sent:
            events.append(_error_event(detail))
        response = {**self._response, "status": "failed", "output": self._items}
        response["error"] = response_error(detail, error.status)
        events.append({"type": "response.failed", "response": response})
        return [{**e, "sequence_number": self._number + 1 + i} for i, e in enumerate(events)]
