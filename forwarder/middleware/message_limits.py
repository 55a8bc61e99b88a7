"""Stop sequences and low token limits for clients of the Messages API over Responses upstreams.

The Responses API has no stop sequences and no limit below 16 tokens, so the text of the answer is
cut here.  Thinking and calls are never cut.
"""

from __future__ import annotations

from collections.abc import Callable

from forwarder.core.errors import ForwarderError
from forwarder.core.translation_context import LossReport
from forwarder.core.types import Batch, Event, EventStream, Handler, Json
from forwarder.middleware.chat_chunks import close_stream
from forwarder.middleware.stop_sequences import StopSequenceFinder
from forwarder.middleware.token_limit import TokenBudget
from forwarder.middleware.usage_estimate import EstimatedUsage, estimate_message_input
from forwarder.protocols.token_estimate import sum_text_tokens
from forwarder.translation.messages_over_responses.request import MIN_OUTPUT_TOKENS

_OTHER_TEXTS = ("thinking", "partial_json")
"""Fields of deltas whose texts are never cut."""


def with_message_limits(handler: Handler, record_usage: Callable[[Json], None]) -> Handler:
    """Wrap a handler of the Messages API so that it honours ``stop_sequences`` and ``max_tokens``.

    The upstream's answer is closed at the cut, which saves tokens; the usage is then estimated, and
    recorded for the limits and the budget of the client.
    """

    def handle_request(request: Json) -> EventStream:
        stops, limit = request.get("stop_sequences") or [], request.get("max_tokens")
        # The translation refuses values of other types.
        is_low = type(limit) is int and 0 < limit < MIN_OUTPUT_TOKENS
        if not isinstance(stops, list) or not all(isinstance(s, str) and s for s in stops):
            return handler(request)
        if not stops and not is_low:
            return handler(request)
        inner = {**request, "stream": True} if stops else request
        cutter = MessageCutter(request, stops, limit if is_low else None)
        return cut_stream(handler(inner), cutter, record_usage)

    return handle_request


def cut_stream(
    stream: EventStream, cutter: MessageCutter, record_usage: Callable[[Json], None]
) -> EventStream:
    try:
        for batch in stream:
            out = cutter.cut_batch(batch)
            if cutter.is_cut:
                record_usage(EstimatedUsage(out[-2]["usage"]))
            if out or not batch:
                yield out
            if cutter.is_cut:
                close_stream(stream)
                return
    except ForwarderError:
        if rest := cutter.flush():  # the client gets the received text before the error
            yield rest
        raise


class MessageCutter:
    """Passes on the events of a message up to the cut, and ends the message there.

    ``request`` is that of the client; its tokens are estimated if the answer is cut.
    """

    def __init__(self, request: Json, stops: list[str], limit: int | None) -> None:
        self.is_cut = False
        self._request = request
        self._stops = stops
        self._budget = TokenBudget(limit) if limit is not None else None
        self._finder: StopSequenceFinder | None = None
        self._text_index: int | None = None  # of the open text block
        self._texts: list[str] = []  # all that the model wrote
        self._usage: Json = {}

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
        if kind == "message_start":
            # The last event has no service tier.
            self._usage = {**event["message"]["usage"]}
            self._usage.pop("service_tier", None)
        elif kind == "content_block_start" and event["content_block"]["type"] == "text":
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
        usage = {
            **self._usage,
            "input_tokens": estimate_message_input(self._request, LossReport()),
            "output_tokens": sum_text_tokens(self._texts),
        }
        return [
            *events,
            {"type": "content_block_stop", "index": self._text_index},
            {
                "type": "message_delta",
                "delta": {"stop_reason": reason, "stop_sequence": sequence},
                "usage": usage,
            },
            {"type": "message_stop"},
        ]
