"""Responses events -> Chat chunks, with a table of event handlers.

Reasoning becomes ``reasoning_content``; the reasoning style middleware gives it its final form.
All state is per output item, because items may interleave.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import takewhile
from typing import Any

from forwarder.core.errors import UpstreamError, UpstreamProtocolError
from forwarder.core.translation_context import TranslationContext
from forwarder.core.types import Batch, Event, EventStream, Json
from forwarder.protocols.chat_responses_mappings import (
    FINISH_REASONS,
    make_non_text_error,
    map_moderation_to_chat,
    map_tier_to_chat,
    map_usage_to_chat,
    to_upstream_error,
)
from forwarder.translation.chat_over_responses import logprobs
from forwarder.translation.chat_over_responses.calls import ToolCallDeltaWriter
from forwarder.translation.chat_over_responses.citations_and_files import SIDE_DATA, SideData
from forwarder.translation.chat_over_responses.images import IMAGE_CALL_TYPE as IMAGE
from forwarder.translation.chat_over_responses.images import ImageDeltaWriter
from forwarder.translation.chat_over_responses.reasoning import ReasoningText
from forwarder.translation.chat_over_responses.request import TranslatedChatRequest


def translate_stream(
    events: EventStream, translated: TranslatedChatRequest, context: TranslationContext
) -> EventStream:
    """Translate a Responses stream to chat chunks, batch by batch, with a final usage chunk.

    Raises UpstreamError if the upstream's stream fails or ends early; the chunks before the
    failure are sent first.
    """
    answer = ChatCompletionBuilder(translated, context)
    handlers = LOGPROB_EVENT_HANDLERS if translated.wants_logprobs else EVENT_HANDLERS
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
            if chunks:  # from events of the same batch, before the failure
                yield chunks
            raise
        if chunks:
            yield chunks
    if not answer.is_ended:
        raise UpstreamProtocolError("The upstream's stream ended before its response was finished.")


class ChatCompletionBuilder:
    """Builds the chunks of one chat completion from the events of a response."""

    def __init__(self, translated: TranslatedChatRequest, context: TranslationContext) -> None:
        self.is_ended = False
        self._chunk_base: Json = {
            "id": context.id_source.new_id("chatcmpl").replace("_", "-"),
            "object": "chat.completion.chunk",
            "created": context.id_source.now(),
            "model": translated.upstream_request["model"],
        }
        self._role_sent = False
        self._calls = ToolCallDeltaWriter(translated.uses_function_call, context.server_calls)
        self._sent: dict[tuple[Any, Any], int] = {}  # place of a text -> characters sent
        self._reasoning = ReasoningText()
        self._side_data = SideData(context.make_client_url)
        self._images = ImageDeltaWriter()
        self._is_cut = translated.is_cut
        self._wants_logprobs = translated.wants_logprobs
        self._places_with_logprobs: set[tuple[Any, Any]] = set()  # texts with sent logprobs

    # -- chunks ---------------------------------------------------------------------------------

    def _make_chunk(self, delta: Json, finish: str | None = None) -> Event:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return {**self._chunk_base, "choices": [choice]}

    def _emit_delta(self, delta: Json) -> Batch:
        """Make a chunk, preceded by the role chunk if it is the first.  This is the hot path."""
        if self._role_sent:
            choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}
            return [{**self._chunk_base, "choices": [choice]}]
        self._role_sent = True
        content = None if "tool_calls" in delta or "function_call" in delta else ""
        opening = {"role": "assistant", "content": content, "refusal": None}
        return [self._make_chunk(opening), self._make_chunk(delta)]

    def _emit_deltas(self, deltas: list[Json]) -> Batch:
        return [chunk for delta in deltas for chunk in self._emit_delta(delta)]

    # -- lifecycle ------------------------------------------------------------------------------

    def on_created(self, event: Event) -> Batch:
        response = event.get("response") or {}
        model, tier = response.get("model"), response.get("service_tier")
        if model and isinstance(model, str):
            self._chunk_base["model"] = model
        if tier and isinstance(tier, str):
            self._chunk_base["service_tier"] = map_tier_to_chat(tier)
        if isinstance(response.get("id"), str):
            self._chunk_base["id"] = "chatcmpl-" + response["id"].removeprefix("resp_")
        created = response.get("created_at")
        if isinstance(created, int | float) and 0 < created < 2**53:
            self._chunk_base["created"] = int(created)
        return []

    def on_completed(self, event: Event) -> Batch:
        """Send everything that was not streamed, then the finish reason, then the usage."""
        response = event.get("response") or {}
        chunks: Batch = []
        streamed = {index for index, _ in self._sent} | self._calls.output_indexes
        streamed |= self._reasoning.output_indexes | self._images.sent_indexes
        if not streamed:  # a whole answer, or a stream without deltas
            self.on_created(event)
        # Without output indexes, items that were sent already cannot be recognized.
        if None not in streamed:
            for index, item in enumerate(response.get("output") or ()):
                if index not in streamed:
                    chunks += self._emit_item_rest(index, item)
        self.is_ended = True
        if not self._role_sent:
            chunks += self._emit_delta({"content": ""})[:1]
        chunks += self._emit_side_data()
        if self._side_data.annotations and not self._is_cut:
            # One delta for all: the SDK cannot merge lists of several deltas.
            chunks += self._emit_delta({"annotations": self._side_data.annotations})
        delta = {} if self._is_cut else self._make_final_delta()
        last = self._make_chunk(delta, self._map_finish_reason(event, response))
        moderation = map_moderation_to_chat(response.get("moderation"))
        chunks.append({**last, "moderation": moderation} if moderation else last)
        usage = map_usage_to_chat(response.get("usage"))
        return [*chunks, {**self._chunk_base, "choices": [], "usage": usage}] if usage else chunks

    def on_failed(self, event: Event) -> Batch:
        error = (event.get("response") or {}).get("error")
        raise to_upstream_error(
            error or {"message": "The upstream's response failed.", "code": "server_error"}
        )

    def on_error(self, event: Event) -> Batch:
        raise to_upstream_error(
            event.get("error") or {k: event.get(k) for k in ("message", "code", "param")}
        )

    def _map_finish_reason(self, event: Event, response: Json) -> str:
        if event["type"] == "response.incomplete":
            reason = (response.get("incomplete_details") or {}).get("reason")
            return FINISH_REASONS.get(str(reason), "length")
        return self._calls.finish_reason

    def _emit_side_data(self) -> Batch:
        """Send all side data known so far, for the middleware that cuts the answer."""
        if not self._is_cut:
            return []
        summary = self._reasoning.separate_summary
        metadata = {"reasoning_summary": summary} if summary else {}
        side_data = {**self._side_data.placement, "metadata": metadata}
        return [self._make_chunk({SIDE_DATA: side_data})] if any(side_data.values()) else []

    def _make_final_delta(self) -> Json:
        metadata: Json = {}
        if self._reasoning.separate_summary:
            metadata["reasoning_summary"] = self._reasoning.separate_summary
        if self._side_data.files:
            metadata["files"] = self._side_data.files
        return {"metadata": metadata} if metadata else {}

    # -- text -----------------------------------------------------------------------------------

    def on_text(self, event: Event) -> Batch:
        """Send one chunk for one delta.  This is the hot path."""
        place = (event.get("output_index"), event.get("content_index"))
        delta = event.get("delta") or ""
        if type(delta) is not str:
            raise make_non_text_error()
        self._sent[place] = self._sent.get(place, 0) + len(delta)
        return self._emit_delta({"content": delta}) if delta else []

    def on_text_done(self, event: Event) -> Batch:
        place = (event.get("output_index"), event.get("content_index"))
        return self._attach_late_logprobs(
            self._emit_missing_text(place, event.get("text"), "content"), place, event
        )

    def on_text_with_logprobs(self, event: Event) -> Batch:
        """Send a delta with its log probabilities."""
        place = (event.get("output_index"), event.get("content_index"))
        return self._attach_logprobs(self.on_text(event), place, event.get("logprobs"))

    def _attach_logprobs(self, chunks: Batch, place: tuple[Any, Any], entries: Any) -> Batch:
        """Attach log probabilities, if any, to the last chunk."""
        if not entries:
            return chunks
        self._places_with_logprobs.add(place)
        return logprobs.attach_logprobs(chunks or self._emit_delta({}), entries)

    def _attach_late_logprobs(self, chunks: Batch, place: tuple[Any, Any], done: Json) -> Batch:
        """Attach the log probabilities that an upstream sends only when a text is done."""
        if not self._wants_logprobs or place in self._places_with_logprobs:
            return chunks
        return self._attach_logprobs(chunks, place, done.get("logprobs"))

    def on_refusal(self, event: Event) -> Batch:
        place = (event.get("output_index"), event.get("content_index"))
        delta = event.get("delta") or ""
        if type(delta) is not str:
            raise make_non_text_error()
        self._sent[place] = self._sent.get(place, 0) + len(delta)
        return self._emit_delta({"refusal": delta}) if delta else []

    def on_refusal_done(self, event: Event) -> Batch:
        place = (event.get("output_index"), event.get("content_index"))
        return self._emit_missing_text(place, event.get("refusal"), "refusal")

    def on_annotation(self, event: Event) -> Batch:
        place = (event.get("output_index"), event.get("content_index"))
        self._add_annotation(place, event.get("annotation"))
        return self._emit_side_data()

    def _add_annotation(self, place: tuple[Any, Any], annotation: Any) -> None:
        earlier = takewhile(lambda sent: sent[0] != place, self._sent.items())
        before = sum(length for _, length in earlier)
        self._side_data.add_annotation(place, annotation, before, self._text_length)

    @property
    def _text_length(self) -> int:
        return sum(self._sent.values())

    def _emit_missing_text(self, place: tuple[Any, Any], whole: Any, key: str) -> Batch:
        """Send the end of a text that its deltas omitted; normally there is nothing to send."""
        sent = self._sent.get(place, 0)
        if type(whole or "") is not str:
            raise make_non_text_error()
        rest = (whole or "")[sent:]
        self._sent[place] = sent + len(rest)
        return self._emit_delta({key: rest}) if rest else []

    # -- reasoning ------------------------------------------------------------------------------

    def on_reasoning(self, event: Event) -> Batch:
        return self._emit_reasoning(self._reasoning.add_delta(event, "text"))

    def on_summary(self, event: Event) -> Batch:
        return self._emit_reasoning(self._reasoning.add_delta(event, "summary"))

    def on_reasoning_done(self, event: Event) -> Batch:
        return self._emit_reasoning(self._reasoning.finish_part(event, "text"))

    def on_summary_done(self, event: Event) -> Batch:
        return self._emit_reasoning(self._reasoning.finish_part(event, "summary"))

    def _emit_reasoning(self, text: str) -> Batch:
        return self._emit_delta({"reasoning_content": text}) if text else []

    # -- items ----------------------------------------------------------------------------------

    def on_item_added(self, event: Event) -> Batch:
        item = event.get("item") or {}
        if not self._calls.is_client_call(item):
            return []
        return self._emit_deltas(self._calls.open_call(event.get("output_index"), item))

    def on_item_done(self, event: Event) -> Batch:
        item = event.get("item") or {}
        return [*self._emit_item_rest(event.get("output_index"), item), *self._emit_side_data()]

    def on_arguments(self, event: Event) -> Batch:
        return self._emit_deltas(self._calls.append_input(event))

    def on_image_draft(self, event: Event) -> Batch:
        return self._emit_deltas(self._images.write_draft(event))

    def _emit_item_rest(self, index: Any, item: Json) -> Batch:
        """Send all parts of a finished item that were not sent yet."""
        kind = item.get("type")
        chunks: Batch = []
        if self._calls.is_client_call(item):
            chunks = self._emit_deltas(self._calls.finish_call(index, item))
        elif kind == "message":
            for i, part in enumerate(item.get("content") or ()):
                chunks += self._emit_part_rest((index, i), part)
        elif kind == IMAGE:
            chunks = self._emit_deltas(self._images.write_image(index, item))
        elif kind == "code_interpreter_call":
            self._side_data.add_output_images(item.get("outputs"), self._text_length)
        elif kind == "reasoning":
            chunks = self._emit_reasoning(self._reasoning.finish_item(index, item))
        return chunks

    def _emit_part_rest(self, place: tuple[Any, Any], part: Json) -> Batch:
        if part.get("type") == "refusal":
            return self._emit_missing_text(place, part.get("refusal"), "refusal")
        rest = self._emit_missing_text(place, part.get("text"), "content")
        if place not in self._side_data:
            for annotation in part.get("annotations") or ():
                self._add_annotation(place, annotation)
        return self._attach_late_logprobs(rest, place, part)


EVENT_HANDLERS: dict[Any, Callable[[ChatCompletionBuilder, Event], Batch]] = {
    "response.created": ChatCompletionBuilder.on_created,
    "response.completed": ChatCompletionBuilder.on_completed,
    "response.incomplete": ChatCompletionBuilder.on_completed,
    "response.failed": ChatCompletionBuilder.on_failed,
    "error": ChatCompletionBuilder.on_error,
    "response.output_text.delta": ChatCompletionBuilder.on_text,
    "response.output_text.done": ChatCompletionBuilder.on_text_done,
    "response.output_text.annotation.added": ChatCompletionBuilder.on_annotation,
    "response.refusal.delta": ChatCompletionBuilder.on_refusal,
    "response.refusal.done": ChatCompletionBuilder.on_refusal_done,
    "response.reasoning_text.delta": ChatCompletionBuilder.on_reasoning,
    "response.reasoning_text.done": ChatCompletionBuilder.on_reasoning_done,
    # Open Responses has its own names for these two events.
    "response.reasoning.delta": ChatCompletionBuilder.on_reasoning,
    "response.reasoning.done": ChatCompletionBuilder.on_reasoning_done,
    "response.reasoning_summary_text.delta": ChatCompletionBuilder.on_summary,
    "response.reasoning_summary_text.done": ChatCompletionBuilder.on_summary_done,
    "response.output_item.added": ChatCompletionBuilder.on_item_added,
    "response.output_item.done": ChatCompletionBuilder.on_item_done,
    "response.function_call_arguments.delta": ChatCompletionBuilder.on_arguments,
    "response.custom_tool_call_input.delta": ChatCompletionBuilder.on_arguments,
    "response.image_generation_call.partial_image": ChatCompletionBuilder.on_image_draft,
}

LOGPROB_EVENT_HANDLERS = {
    **EVENT_HANDLERS,
    "response.output_text.delta": ChatCompletionBuilder.on_text_with_logprobs,
}
"""The handlers for a client that wants log probabilities; without them, deltas are cheaper."""
