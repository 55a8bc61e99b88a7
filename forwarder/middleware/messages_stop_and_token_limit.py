"""Stop sequences and low token limits for clients of the Messages API over Responses upstreams.

The Responses API has no stop sequences and no limit below 16 tokens, so the text of the answer is
cut here.  Thinking and calls are never cut.
"""

from __future__ import annotations

from collections.abc import Callable, Generator

from forwarder.core.errors import ForwarderError
from forwarder.core.translation_context import LossReport
from forwarder.core.types import Batch, Event, EventStream, Handler, Json
from forwarder.middleware.chat_chunks import close_stream
from forwarder.middleware.stop_sequences import StopSequenceFinder
from forwarder.middleware.token_limit import TokenBudget
from forwarder.middleware.usage_estimate import EstimatedUsage, estimate_message_input
from forwarder.protocols.token_estimate import sum_text_tokens
from forwarder.protocols.types import MIN_OUTPUT_TOKENS
from forwarder.translation.messages_answer_blocks import make_message_end

_OTHER_TEXTS = ("thinking", "partial_json")
"""Fields of deltas whose texts are never cut."""


def with_messages_limits(
    handler: Handler, drain: bool, record_usage: Callable[[Json], None]
) -> Handler:
    """Wrap a handler of the Messages API so that it honours ``stop_sequences`` and ``max_tokens``.

    Without ``drain``, an answer with a stop sequence is closed at the cut, which saves tokens. Its
    usage is then estimated, and recorded for the limits and the budget of the client. With
    ``drain``, and if the limit is low, the answer is read to its end for its usage.
    """

    def handle_request(request: Json) -> EventStream:
        stops, limit = request.get("stop_sequences") or [], request.get("max_tokens")
        # The translation refuses values of other types.
        is_low = type(limit) is int and 0 < limit < MIN_OUTPUT_TOKENS
        if not isinstance(stops, list) or not all(isinstance(s, str) and s for s in stops):
            return handler(request)
        if not stops and not is_low:
            return handler(request)
        inner = request if drain or is_low else {**request, "stream": True}
        cutter = MessageCutter(stops, limit if is_low else None)
        return cut_stream(handler(inner), cutter, request, drain or is_low, record_usage)

    return handle_request


def cut_stream(
    stream: EventStream,
    cutter: MessageCutter,
    request: Json,
    drain: bool,
    record_usage: Callable[[Json], None],
) -> EventStream:
    try:
        for batch in stream:
            out = cutter.cut_batch(batch)
            if cutter.is_cut:
                break
            if out or not batch:
                yield out
        else:
            return
    except ForwarderError:
        if rest := cutter.flush():  # the client gets the received text before the error
            yield rest
        raise
    usage = find_usage(batch)
    if usage is None and drain:
        yield out
        out, usage = [], (yield from drain_stream(stream))
    close_stream(stream)
    if usage is None:
        usage = cutter.estimate_usage(request)
        record_usage(EstimatedUsage(usage))
    yield [*out, *cutter.make_end(usage)]


def find_usage(batch: Batch) -> Json | None:
    """Return the usage of the message if this batch ends it and the upstream reported any."""
    usages = (event["usage"] for event in batch if event["type"] == "message_delta")
    return next((usage for usage in usages if usage["output_tokens"]), None)


def drain_stream(stream: EventStream) -> Generator[Batch, None, Json | None]:
    """Read the rest for the usage; errors are ignored because the answer is complete."""
    try:
        for batch in stream:
            usage = find_usage(batch)
            if usage is not None:
                return usage
            if not batch:  # a heartbeat
                yield batch
    except ForwarderError:
        pass
    return None


class MessageCutter:
    """Passes on the events of a message up to the cut, and builds the end of a cut message."""

    def __init__(self, stops: list[str], limit: int | None) -> None:
        self.is_cut = False
        self._delta: Json = {}  # why the answer was cut
        self._stops = stops
        self._limit = limit
        self._budget = TokenBudget(limit) if limit is not None else None
        self._finder: StopSequenceFinder | None = None
        self._text_index: int | None = None  # of the open text block
        self._texts: list[str] = []  # all that the model wrote

    def cut_batch(self, batch: Batch) -> Batch:
        out: Batch = []
        for event in batch:
            out += self._cut_event(event)
            if self.is_cut:
                return out
        return out

    def flush(self) -> Batch:
        """Return the text that is held back."""
        rest = self._finder.flush() if self._finder is not None else ""
        return [self._make_delta(rest)] if rest else []

    def _cut_event(self, event: Event) -> Batch:
        kind = event["type"]
        if kind == "content_block_start" and event["content_block"]["type"] == "text":
            self._text_index = event["index"]
            self._finder = StopSequenceFinder(self._stops) if self._stops else None
        elif kind == "content_block_delta":
            delta = event["delta"]
            if event["index"] == self._text_index and delta["type"] == "text_delta":
                return self._cut_text(delta["text"])
            self._texts += [delta[name] for name in _OTHER_TEXTS if name in delta]
        elif kind == "content_block_stop" and event["index"] == self._text_index:
            rest = self.flush()
            if self._finder is not None and self._finder.is_hit:
                return self._end(rest, "stop_sequence", self._finder.hit)
            self._text_index, self._finder = None, None
            return [*rest, event]
        return [event]

    def _cut_text(self, text: str) -> Batch:
        finder = self._finder
        if finder is not None:
            text = finder.feed(text)
        kept = text if self._budget is None else self._budget.take_text("text", text)
        self._texts.append(kept)
        out = [self._make_delta(kept)] if kept else []
        if self._budget is not None and self._budget.is_spent:
            return self._end(out, "max_tokens", None)
        if finder is not None and finder.is_hit:
            return self._end(out, "stop_sequence", finder.hit)
        return out

    def _make_delta(self, text: str) -> Event:
        delta = {"type": "text_delta", "text": text}
        return {"type": "content_block_delta", "index": self._text_index, "delta": delta}

    def _end(self, events: Batch, reason: str, sequence: str | None) -> Batch:
        self.is_cut = True
        self._delta = {"stop_reason": reason, "stop_sequence": sequence}
        return [*events, {"type": "content_block_stop", "index": self._text_index}]

    def estimate_usage(self, request: Json) -> Json:
        try:
            input_tokens = estimate_message_input(request, LossReport())
        except ForwarderError:  # the upstream has accepted a form that Chat Completions lacks
            input_tokens = 0
        return {
            "input_tokens": input_tokens,
            "output_tokens": sum_text_tokens(self._texts),
        }

    def make_end(self, usage: Json) -> Batch:
        """Return the last two events of a message that was cut."""
        if self._limit is not None and usage["output_tokens"] > self._limit:
            usage = {**usage, "output_tokens": self._limit}
            usage.pop("output_tokens_details", None)
        return make_message_end(self._delta, usage)
