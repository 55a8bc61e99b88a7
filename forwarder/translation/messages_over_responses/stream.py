"""Responses events -> events of the Messages API, with a table of event handlers.

A reasoning item becomes a thinking block; its signature is a seal of the whole item, which the
upstream gets back in the next turn.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from forwarder.core.errors import UpstreamError, UpstreamProtocolError
from forwarder.core.translation_context import TranslationContext
from forwarder.core.types import Batch, Event, EventStream, Json
from forwarder.protocols.chat_responses_mappings import make_non_text_error, to_upstream_error
from forwarder.protocols.tool_call_index import stringify_arguments
from forwarder.translation import images as pictures
from forwarder.translation.messages_answer_blocks import (
    THINKING,
    Block,
    BlockWriter,
    make_call_block,
    make_citation,
    make_message_end,
    make_message_start,
    make_redacted_block,
    make_refusal_delta,
    make_text_block,
    make_thinking_block,
    map_usage,
)
from forwarder.translation.messages_over_responses.request import MessagesOverResponsesRequest

_CALL_INPUTS = {"function_call": "arguments", "custom_tool_call": "input"}
"""Item type of a call -> the field with the model's text."""

Place = tuple[Any, Any]
"""Output index and index of the part; the second is None for calls, `THINKING` for reasoning."""


def translate_stream(
    events: EventStream, translated: MessagesOverResponsesRequest, context: TranslationContext
) -> EventStream:
    """Translate a Responses stream to events of the Messages API, batch by batch.

    Raises UpstreamError if the upstream's stream fails or ends early; the events before the failure
    are sent first.
    """
    answer = ResponsesToMessagesBuilder(translated, context)
    has_started = False
    for batch in events:
        if not batch:
            yield batch
            continue
        out: Batch = []
        if not has_started:
            has_started, tier = True, (batch[0].get("response") or {}).get("service_tier")
            out.append(make_message_start(context.id_source.new_id("msg"), translated.model, tier))
        try:
            for event in batch:
                handler = EVENT_HANDLERS.get(event.get("type"))
                if handler is not None:
                    out += handler(answer, event)
        except UpstreamError:
            if out:  # from events of the same batch, before the failure
                yield out
            raise
        if out:
            yield out
    if not answer.is_ended:
        raise UpstreamProtocolError("The upstream's stream ended before its response was finished.")


class ResponsesToMessagesBuilder:
    """Builds the events of one message from the events of a response."""

    def __init__(
        self, translated: MessagesOverResponsesRequest, context: TranslationContext
    ) -> None:
        self.is_ended = False
        self._context = context
        self._thinking = translated.thinking
        self._server_calls = tuple(context.server_calls)
        self._writer = BlockWriter()
        self._blocks: dict[Place, Block] = {}
        self._sent: dict[Place, int] = {}  # characters of texts and calls
        # Output index and form of reasoning -> index of each part -> characters that were sent.
        self._sent_reasoning: dict[tuple[Any, str], dict[Any, int]] = {}
        # Output index -> the form and the index of the last reasoning part that was shown.
        self._reasoning_parts: dict[Any, tuple[str, Any]] = {}
        self._finished: set[Any] = set()  # output indexes of items
        self._cited: set[Place] = set()  # texts with sent citations
        self._call_ids: set[str] = set()
        self._refusal: list[str] = []
        self._searches = 0

    # -- lifecycle ------------------------------------------------------------------------------

    def on_completed(self, event: Event) -> Batch:
        """Send everything that was not streamed, then the end of the message."""
        response = event.get("response") or {}
        out: Batch = []
        # Without output indexes, items that were sent already cannot be recognized.
        if all(index is not None for index, _ in self._blocks) and None not in self._finished:
            for index, item in enumerate(response.get("output") or ()):
                if index not in self._finished:
                    out += self._finish_item(index, item)
        if self._writer.is_empty:
            out += self._writer.begin(make_text_block())
        out += self._writer.close()
        self.is_ended = True
        usage = map_usage(response.get("usage"), self._searches)
        return [*out, *make_message_end(self._make_end(event, response), usage)]

    def _make_end(self, event: Event, response: Json) -> Json:
        reason = None
        if event["type"] == "response.incomplete":
            reason = (response.get("incomplete_details") or {}).get("reason") or "max_output_tokens"
        if self._refusal or reason == "content_filter":
            return make_refusal_delta("".join(self._refusal))
        if reason is not None and reason != "steered":
            return {"stop_reason": "max_tokens"}
        return {"stop_reason": "tool_use" if self._call_ids else "end_turn"}

    def on_failed(self, event: Event) -> Batch:
        error = (event.get("response") or {}).get("error")
        raise to_upstream_error(
            error or {"message": "The upstream's response failed.", "code": "server_error"}
        )

    def on_error(self, event: Event) -> Batch:
        raise to_upstream_error(
            event.get("error") or {k: event.get(k) for k in ("message", "code", "param")}
        )

    # -- text -----------------------------------------------------------------------------------

    def on_text(self, event: Event) -> Batch:
        """Send one event for one delta.  This is the hot path."""
        place = (event.get("output_index"), event.get("content_index"))
        delta = event.get("delta") or ""
        if type(delta) is not str:
            raise make_non_text_error()
        return self._append_text(place, delta)

    def on_annotation(self, event: Event) -> Batch:
        self._cited.add((event.get("output_index"), event.get("content_index")))
        return self._add_citation(event.get("annotation"))

    def _add_citation(self, annotation: Any) -> Batch:
        citation = make_citation(annotation)
        return self._writer.add_citation(citation) if citation else []

    def on_refusal(self, event: Event) -> Batch:
        self._refusal.append(str(event.get("delta") or ""))
        return self.on_text(event)

    def on_text_done(self, event: Event) -> Batch:
        place = (event.get("output_index"), event.get("content_index"))
        return self._finish_text(place, event.get("text", event.get("refusal")))

    def on_refusal_done(self, event: Event) -> Batch:
        self._refusal = self._refusal or [str(event.get("refusal") or "")]
        return self.on_text_done(event)

    def _append_text(self, place: Place, text: str) -> Batch:
        if not text:
            return []
        block = self._blocks.get(place)
        self._sent[place] = self._sent.get(place, 0) + len(text)
        if block is not None:
            return self._writer.append(block, text)
        block = self._blocks[place] = make_text_block()
        return [*self._writer.begin(block), *self._writer.append(block, text)]

    def _finish_text(self, place: Place, whole: Any) -> Batch:
        """Send the end of a text that its deltas omitted, and mark its block as done."""
        if type(whole or "") is not str:
            raise make_non_text_error()
        events = self._append_text(place, (whole or "")[self._sent.get(place, 0) :])
        block = self._blocks.get(place)
        return events if block is None else [*events, *self._writer.finish(block)]

    # -- reasoning ------------------------------------------------------------------------------

    def on_reasoning(self, event: Event) -> Batch:
        place = (event.get("output_index"), event.get("content_index") or 0)
        return self._append_reasoning(place, "text", event.get("delta"))

    def on_summary(self, event: Event) -> Batch:
        place = (event.get("output_index"), event.get("summary_index") or 0)
        return self._append_reasoning(place, "summary", event.get("delta"))

    def on_reasoning_done(self, event: Event) -> Batch:
        place = (event.get("output_index"), event.get("content_index") or 0)
        return self._finish_reasoning_part(place, "text", event.get("text"))

    def on_summary_done(self, event: Event) -> Batch:
        place = (event.get("output_index"), event.get("summary_index") or 0)
        return self._finish_reasoning_part(place, "summary", event.get("text"))

    def _append_reasoning(self, place: Place, form: str, delta: Any) -> Batch:
        """Show the first form that an item has, text or summary, with a paragraph for each part."""
        if type(delta or "") is not str:
            raise make_non_text_error()
        index, part = place
        shown = self._reasoning_parts.get(index)
        if not delta or not self._thinking.is_shown or (shown is not None and shown[0] != form):
            return []
        self._reasoning_parts[index] = (form, part)
        sent = self._sent_reasoning.setdefault((index, form), {})
        sent[part] = sent.get(part, 0) + len(delta)
        if shown is not None and shown[1] != part:
            delta = f"\n\n{delta}"
        key = (index, THINKING)
        block = self._blocks.get(key)
        events: Batch = []
        if block is None:
            block = self._blocks[key] = make_thinking_block()
            events = self._writer.begin(block)
        if not self._thinking.has_text:
            return events
        return [*events, *self._writer.append(block, delta)]

    def _finish_reasoning_part(self, place: Place, form: str, whole: Any) -> Batch:
        """Show the end of a part of reasoning that its deltas omitted.

        A part without deltas beside parts that have some waits for the finished item: vLLM numbers
        the events of one part as if each were a part.
        """
        if type(whole or "") is not str:
            raise make_non_text_error()
        index, part = place
        sent = self._sent_reasoning.get((index, form), {})
        if index in self._reasoning_parts and part not in sent:
            return []
        return self._append_reasoning(place, form, (whole or "")[sent.get(part, 0) :])

    def _finish_reasoning(self, index: Any, item: Json) -> Batch:
        """Show the rest of the reasoning and sign it; without any text it is sent as data only."""
        if not self._thinking.is_shown:
            return []
        events: Batch = []
        for form, field in (("text", "content"), ("summary", "summary")):
            parts = item.get(field) or ()
            sent = self._sent_reasoning.get((index, form), {})
            if sent.keys() <= set(range(len(parts))):  # the events number the parts of the item
                for i, part in enumerate(parts):
                    rest = (part.get("text") or "")[sent.get(i, 0) :]
                    events += self._append_reasoning((index, i), form, rest)
        sealed: Json = {"item": item} if item.get("encrypted_content") else {}
        block = self._blocks.get((index, THINKING))
        if block is None:
            if not sealed:
                return events
            return [*events, *self._writer.begin(make_redacted_block(self._seal(sealed)))]
        if not sealed and not self._thinking.has_text:
            parts = item.get("content") or item.get("summary") or ()
            sealed = {"reasoning_content": "\n\n".join(str(p.get("text") or "") for p in parts)}
        signature = self._seal(sealed)
        block.last_deltas.append({"type": "signature_delta", "signature": signature})
        return [*events, *self._writer.finish(block)]

    def _seal(self, fields: Json) -> str:
        origin = {"origin": self._context.origin} if self._context.origin else {}
        return self._context.encrypt({**fields, **origin})

    # -- items ----------------------------------------------------------------------------------

    def on_item_added(self, event: Event) -> Batch:
        item = event.get("item") or {}
        return self._open_call(event.get("output_index"), item) if self._is_call(item) else []

    def on_arguments(self, event: Event) -> Batch:
        index = event.get("output_index")
        if (index, None) not in self._blocks:
            return []  # the item was never announced; its done event has the whole input
        return self._append_input(index, stringify_arguments(event.get("delta")))

    def on_item_done(self, event: Event) -> Batch:
        return self._finish_item(event.get("output_index"), event.get("item") or {})

    def _is_call(self, item: Json) -> bool:
        """Whether ``item`` is a call that the client must answer."""
        is_answered = str(item.get("call_id")).startswith(self._server_calls)
        return item.get("type") in _CALL_INPUTS and not (self._server_calls and is_answered)

    def _open_call(self, index: Any, item: Json) -> Batch:
        if (index, None) in self._blocks:
            return []
        call_id = str(item.get("call_id") or item.get("id") or "")
        if not call_id or call_id in self._call_ids:
            call_id = self._context.id_source.new_id("toolu")
        self._call_ids.add(call_id)
        name = str(item.get("name") or "")
        block = self._blocks[index, None] = make_call_block(call_id, name)
        return self._writer.begin(block)

    def _append_input(self, index: Any, text: str) -> Batch:
        if not text:
            return []
        place = (index, None)
        self._sent[place] = self._sent.get(place, 0) + len(text)
        return self._writer.append(self._blocks[place], text)

    def _finish_item(self, index: Any, item: Json) -> Batch:
        """Send all parts of a finished item that were not sent yet."""
        self._finished.add(index)
        kind = item.get("type")
        if kind == "reasoning":
            return self._finish_reasoning(index, item)
        if kind == "message":
            events: Batch = []
            for i, part in enumerate(item.get("content") or ()):
                if part.get("type") == "refusal" and not self._refusal:
                    self._refusal.append(str(part.get("refusal") or ""))
                events += self._finish_text((index, i), part.get("text", part.get("refusal")))
                if (index, i) not in self._cited:
                    for annotation in part.get("annotations") or ():
                        events += self._add_citation(annotation)
            return events
        if self._is_call(item):
            whole = stringify_arguments(item.get(_CALL_INPUTS[item["type"]]))
            events = self._open_call(index, item)
            events += self._append_input(index, whole[self._sent.get((index, None), 0) :])
            return [*events, *self._writer.finish(self._blocks[index, None])]
        if kind == "image_generation_call" and item.get("result"):
            url = pictures.make_data_url(str(item["result"]), item.get("output_format"))
            return self._finish_text((index, 0), f"![image]({url})")
        if kind == "web_search_call":
            return self._add_search(index, item)
        return []

    def _add_search(self, index: Any, item: Json) -> Batch:
        """Show a search of the upstream or of the forwarder as a use of a server tool."""
        action = item.get("action") if isinstance(item.get("action"), dict) else {}
        assert isinstance(action, dict)
        is_postponed = item.get("status") == "incomplete"  # the model repeats it in the next turn
        if is_postponed or action.get("type", "search") != "search":
            return []
        self._searches += 1
        call_id = self._context.id_source.new_id("srvtoolu")
        queries = action.get("queries")
        query = action.get("query") or (queries[0] if isinstance(queries, list) and queries else "")
        use = {
            "type": "server_tool_use",
            "id": call_id,
            "name": "web_search",
            "input": {"query": str(query)},
        }
        content: Any = [make_search_result(each) for each in action.get("sources") or ()]
        if item.get("status") == "failed":
            content = {"type": "web_search_tool_result_error", "error_code": "unavailable"}
        result = {"type": "web_search_tool_result", "tool_use_id": call_id, "content": content}
        return [
            *self._writer.begin(Block(use, is_done=True)),
            *self._writer.begin(Block(result, is_done=True)),
        ]


def make_search_result(source: Json) -> Json:
    """Return a found page; the content of the page stays at the upstream."""
    url = str(source.get("url") or "")
    title = str(source.get("title") or url)
    return {"type": "web_search_result", "url": url, "title": title, "encrypted_content": ""}


EVENT_HANDLERS: dict[Any, Callable[[ResponsesToMessagesBuilder, Event], Batch]] = {
    "response.completed": ResponsesToMessagesBuilder.on_completed,
    "response.incomplete": ResponsesToMessagesBuilder.on_completed,
    "response.failed": ResponsesToMessagesBuilder.on_failed,
    "error": ResponsesToMessagesBuilder.on_error,
    "response.output_text.delta": ResponsesToMessagesBuilder.on_text,
    "response.output_text.done": ResponsesToMessagesBuilder.on_text_done,
    "response.output_text.annotation.added": ResponsesToMessagesBuilder.on_annotation,
    "response.refusal.delta": ResponsesToMessagesBuilder.on_refusal,
    "response.refusal.done": ResponsesToMessagesBuilder.on_refusal_done,
    "response.reasoning_text.delta": ResponsesToMessagesBuilder.on_reasoning,
    "response.reasoning_text.done": ResponsesToMessagesBuilder.on_reasoning_done,
    # Open Responses has its own names for these two events.
    "response.reasoning.delta": ResponsesToMessagesBuilder.on_reasoning,
    "response.reasoning.done": ResponsesToMessagesBuilder.on_reasoning_done,
    "response.reasoning_summary_text.delta": ResponsesToMessagesBuilder.on_summary,
    "response.reasoning_summary_text.done": ResponsesToMessagesBuilder.on_summary_done,
    "response.output_item.added": ResponsesToMessagesBuilder.on_item_added,
    "response.output_item.done": ResponsesToMessagesBuilder.on_item_done,
    "response.function_call_arguments.delta": ResponsesToMessagesBuilder.on_arguments,
    "response.custom_tool_call_input.delta": ResponsesToMessagesBuilder.on_arguments,
}
"""The handlers of all events that change what the client gets."""
