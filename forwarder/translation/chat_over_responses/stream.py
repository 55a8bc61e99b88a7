"""Responses events -> Chat chunks: a table of handlers, one for each event that says something.

Reasoning comes out as ``reasoning_content``; the wishes of the client decide its final spelling.
State is kept per output item, never for "the current call": items may interleave.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import takewhile
from typing import Any

from forwarder.core.errors import UpstreamBroken, UpstreamError
from forwarder.core.translation_context import Terms
from forwarder.core.types import Batch, Event, Json, Stream
from forwarder.protocols.mappings import (
    FINISH_REASONS,
    failure,
    moderation_to_chat,
    no_text,
    tier_to_chat,
    usage_to_chat,
)
from forwarder.translation.chat_over_responses import logprobs
from forwarder.translation.chat_over_responses.calls import Calls
from forwarder.translation.chat_over_responses.images import CALL as IMAGE
from forwarder.translation.chat_over_responses.images import Images
from forwarder.translation.chat_over_responses.reasoning import Thoughts
from forwarder.translation.chat_over_responses.request import Prepared
from forwarder.translation.chat_over_responses.side_data import NOTES, Notes


def translate_stream(events: Stream, prepared: Prepared, terms: Terms) -> Stream:
    """Give the chat chunks for a Responses stream, batch by batch, the usage chunk included."""
    answer = Answer(prepared, terms)
    handlers = MEASURED if prepared.logprobs else HANDLERS
    for batch in events:
        if not batch:
            yield batch
            continue
        chunks: Batch = []
        try:
            for event in batch:
                handler = handlers.get(event.get("type"))
                if handler is not None:
                    chunks += handler(answer, event)
        except UpstreamError:
            if chunks:  # what came with the failure came before it
                yield chunks
            raise
        if chunks:
            yield chunks
    if not answer.ended:
        raise UpstreamBroken("The upstream's stream ended before its response was finished.")


class Answer:
    """One chat completion in the making."""

    def __init__(self, prepared: Prepared, terms: Terms) -> None:
        self.ended = False
        self._base: Json = {
            "id": terms.mint.id("chatcmpl").replace("_", "-"),
            "object": "chat.completion.chunk",
            "created": terms.mint.now(),
            "model": prepared.responses["model"],
        }
        self._greeted = False
        self._calls = Calls(prepared.legacy, terms.server_calls)
        self._sent: dict[tuple[Any, Any], int] = {}  # place of a text -> characters sent
        self._thoughts = Thoughts()
        self._notes = Notes(terms.link)
        self._images = Images()
        self._cut = prepared.cut
        self._wants_logprobs = prepared.logprobs
        self._measured: set[tuple[Any, Any]] = set()  # places whose log probabilities are told

    # -- chunks ---------------------------------------------------------------------------------

    def _chunk(self, delta: Json, finish: str | None = None) -> Event:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return {**self._base, "choices": [choice]}

    def _say(self, delta: Json) -> Batch:
        """One chunk, with the role in front of the first."""
        if self._greeted:
            return [self._chunk(delta)]
        self._greeted = True
        content = None if "tool_calls" in delta or "function_call" in delta else ""
        opening = {"role": "assistant", "content": content, "refusal": None}
        return [self._chunk(opening), self._chunk(delta)]

    def _say_each(self, deltas: list[Json]) -> Batch:
        return [chunk for delta in deltas for chunk in self._say(delta)]

    # -- lifecycle ------------------------------------------------------------------------------

    def created(self, event: Event) -> Batch:
        response = event.get("response") or {}
        model, tier = response.get("model"), response.get("service_tier")
        if model and isinstance(model, str):
            self._base["model"] = model
        if tier and isinstance(tier, str):
            self._base["service_tier"] = tier_to_chat(tier)
        if isinstance(response.get("id"), str):
            self._base["id"] = "chatcmpl-" + response["id"].removeprefix("resp_")
        created = response.get("created_at")
        if isinstance(created, int | float) and 0 < created < 2**53:
            self._base["created"] = int(created)
        return []

    def completed(self, event: Event) -> Batch:
        """The end: whatever was not streamed comes now, then the reason, then the usage."""
        response = event.get("response") or {}
        chunks: Batch = []
        streamed = {index for index, _ in self._sent} | self._calls.indexes
        streamed |= self._thoughts.indexes | self._images.told
        if not streamed:  # a whole answer, or a stream without deltas
            self.created(event)
        if None not in streamed:  # without indexes there is no telling what has been sent
            for index, item in enumerate(response.get("output") or ()):
                if index not in streamed:
                    chunks += self._whole_item(index, item)
        self.ended = True
        if not self._greeted:
            chunks += self._say({"content": ""})[:1]
        chunks += self._note()
        if self._notes.annotations and not self._cut:  # all at once: the SDK cannot add lists up
            chunks += self._say({"annotations": self._notes.annotations})
        words = {} if self._cut else self._last_words()
        last = self._chunk(words, self._finish_reason(event, response))
        moderation = moderation_to_chat(response.get("moderation"))
        chunks.append({**last, "moderation": moderation} if moderation else last)
        usage = usage_to_chat(response.get("usage"))
        return [*chunks, {**self._base, "choices": [], "usage": usage}] if usage else chunks

    def failed(self, event: Event) -> Batch:
        error = (event.get("response") or {}).get("error")
        raise failure(
            error or {"message": "The upstream's response failed.", "code": "server_error"}
        )

    def error(self, event: Event) -> Batch:
        raise failure(event.get("error") or {k: event.get(k) for k in ("message", "code", "param")})

    def _finish_reason(self, event: Event, response: Json) -> str:
        if event["type"] == "response.incomplete":
            reason = (response.get("incomplete_details") or {}).get("reason")
            return FINISH_REASONS.get(str(reason), "length")
        return self._calls.finish_reason

    def _note(self) -> Batch:
        """All that is known beside the text so far, for who cuts the answer."""
        if not self._cut:
            return []
        summary = {"reasoning_summary": self._thoughts.apart} if self._thoughts.apart else {}
        notes = {**self._notes.placed, "metadata": summary}
        return [self._chunk({NOTES: notes})] if any(notes.values()) else []

    def _last_words(self) -> Json:
        metadata: Json = {}
        if self._thoughts.apart:
            metadata["reasoning_summary"] = self._thoughts.apart
        if self._notes.files:
            metadata["files"] = self._notes.files
        return {"metadata": metadata} if metadata else {}

    # -- text -----------------------------------------------------------------------------------

    def text(self, event: Event) -> Batch:
        """The hot path: one chunk for one delta."""
        place = (event.get("output_index"), event.get("content_index"))
        delta = event.get("delta") or ""
        if type(delta) is not str:
            raise no_text()
        self._sent[place] = self._sent.get(place, 0) + len(delta)
        return self._say({"content": delta}) if delta else []

    def text_done(self, event: Event) -> Batch:
        place = (event.get("output_index"), event.get("content_index"))
        return self._late(self._missing(place, event.get("text"), "content"), place, event)

    def measured_text(self, event: Event) -> Batch:
        """A delta with its log probabilities."""
        place = (event.get("output_index"), event.get("content_index"))
        return self._measure(self.text(event), place, event.get("logprobs"))

    def _measure(self, chunks: Batch, place: tuple[Any, Any], entries: Any) -> Batch:
        """The chunks with log probabilities on the last, if there are any."""
        if not entries:
            return chunks
        self._measured.add(place)
        return logprobs.on_last(chunks or self._say({}), entries)

    def _late(self, chunks: Batch, place: tuple[Any, Any], done: Json) -> Batch:
        """The chunks with the log probabilities that come only when a text is done."""
        if not self._wants_logprobs or place in self._measured:
            return chunks
        return self._measure(chunks, place, done.get("logprobs"))

    def refusal(self, event: Event) -> Batch:
        place = (event.get("output_index"), event.get("content_index"))
        delta = event.get("delta") or ""
        if type(delta) is not str:
            raise no_text()
        self._sent[place] = self._sent.get(place, 0) + len(delta)
        return self._say({"refusal": delta}) if delta else []

    def refusal_done(self, event: Event) -> Batch:
        place = (event.get("output_index"), event.get("content_index"))
        return self._missing(place, event.get("refusal"), "refusal")

    def annotation(self, event: Event) -> Batch:
        place = (event.get("output_index"), event.get("content_index"))
        self._annotate(place, event.get("annotation"))
        return self._note()

    def _annotate(self, place: tuple[Any, Any], annotation: Any) -> None:
        earlier = takewhile(lambda sent: sent[0] != place, self._sent.items())
        before = sum(length for _, length in earlier)
        self._notes.add(place, annotation, before, self._said)

    @property
    def _said(self) -> int:
        return sum(self._sent.values())

    def _missing(self, place: tuple[Any, Any], whole: Any, key: str) -> Batch:
        """What of a text the deltas left out; nothing, normally."""
        sent = self._sent.get(place, 0)
        if type(whole or "") is not str:
            raise no_text()
        rest = (whole or "")[sent:]
        self._sent[place] = sent + len(rest)
        return self._say({key: rest}) if rest else []

    # -- reasoning ------------------------------------------------------------------------------

    def thought(self, event: Event) -> Batch:
        return self._think(self._thoughts.grow(event, "text"))

    def summary(self, event: Event) -> Batch:
        return self._think(self._thoughts.grow(event, "summary"))

    def thought_done(self, event: Event) -> Batch:
        return self._think(self._thoughts.finish(event, "text"))

    def summary_done(self, event: Event) -> Batch:
        return self._think(self._thoughts.finish(event, "summary"))

    def _think(self, text: str) -> Batch:
        return self._say({"reasoning_content": text}) if text else []

    # -- items ----------------------------------------------------------------------------------

    def item_added(self, event: Event) -> Batch:
        item = event.get("item") or {}
        if not self._calls.has(item):
            return []
        return self._say_each(self._calls.open(event.get("output_index"), item))

    def item_done(self, event: Event) -> Batch:
        item = event.get("item") or {}
        return [*self._whole_item(event.get("output_index"), item), *self._note()]

    def arguments(self, event: Event) -> Batch:
        return self._say_each(self._calls.grow(event))

    def draft(self, event: Event) -> Batch:
        return self._say_each(self._images.draft(event))

    def _whole_item(self, index: Any, item: Json) -> Batch:
        """Whatever of a finished item has not been sent."""
        kind = item.get("type")
        chunks: Batch = []
        if self._calls.has(item):
            chunks = self._say_each(self._calls.finish(index, item))
        elif kind == "message":
            for i, part in enumerate(item.get("content") or ()):
                chunks += self._whole_part((index, i), part)
        elif kind == IMAGE:
            chunks = self._say_each(self._images.finished(index, item))
        elif kind == "code_interpreter_call":
            self._notes.add_outputs(item.get("outputs"), self._said)
        elif kind == "reasoning":
            chunks = self._think(self._thoughts.finish_item(index, item))
        return chunks

    def _whole_part(self, place: tuple[Any, Any], part: Json) -> Batch:
        if part.get("type") == "refusal":
            return self._missing(place, part.get("refusal"), "refusal")
        rest = self._missing(place, part.get("text"), "content")
        if place not in self._notes:
            for annotation in part.get("annotations") or ():
                self._annotate(place, annotation)
        return self._late(rest, place, part)


HANDLERS: dict[Any, Callable[[Answer, Event], Batch]] = {
    "response.created": Answer.created,
    "response.completed": Answer.completed,
    "response.incomplete": Answer.completed,
    "response.failed": Answer.failed,
    "error": Answer.error,
    "response.output_text.delta": Answer.text,
    "response.output_text.done": Answer.text_done,
    "response.output_text.annotation.added": Answer.annotation,
    "response.refusal.delta": Answer.refusal,
    "response.refusal.done": Answer.refusal_done,
    "response.reasoning_text.delta": Answer.thought,
    "response.reasoning_text.done": Answer.thought_done,
    # Open Responses' own names for the same two
    "response.reasoning.delta": Answer.thought,
    "response.reasoning.done": Answer.thought_done,
    "response.reasoning_summary_text.delta": Answer.summary,
    "response.reasoning_summary_text.done": Answer.summary_done,
    "response.output_item.added": Answer.item_added,
    "response.output_item.done": Answer.item_done,
    "response.function_call_arguments.delta": Answer.arguments,
    "response.custom_tool_call_input.delta": Answer.arguments,
    "response.image_generation_call.partial_image": Answer.draft,
}

MEASURED = {**HANDLERS, "response.output_text.delta": Answer.measured_text}
"""The handlers for a client that wants log probabilities; others need not pay for them."""
