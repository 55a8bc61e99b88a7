"""Chat chunks -> Responses events.

Text, reasoning, refusals and images follow each other, so opening one closes the previous one
(``_open_item``).  Tool calls may interleave with anything and stay open until the end (``_calls``).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

from forwarder.core.errors import UpstreamError
from forwarder.core.translation_context import TranslationContext
from forwarder.core.types import Batch, EventStream, Json
from forwarder.protocols import chat_reasoning
from forwarder.protocols.answer_choice import ChoiceSelector, read_delta
from forwarder.protocols.chat_responses_mappings import (
    FAILED_FINISH_REASONS,
    INCLUDE_ENCRYPTED_REASONING,
    INCOMPLETE_REASONS,
    map_moderation_to_responses,
    map_tier_to_responses,
    map_usage_to_responses,
    read_usage,
    to_upstream_error,
)
from forwarder.protocols.signatures import SignatureCollector
from forwarder.translation.responses_over_chat import images, logprobs
from forwarder.translation.responses_over_chat.calls import CALL_DELTA_FIELDS, ToolCallItemWriter
from forwarder.translation.responses_over_chat.citations import CitationBuffer
from forwarder.translation.responses_over_chat.items import MessageItem, OutputItem, ReasoningItem
from forwarder.translation.responses_over_chat.request import TranslatedResponsesRequest
from forwarder.translation.responses_over_chat.response_skeleton import make_response_skeleton


def translate_stream(
    chunks: EventStream, translated: TranslatedResponsesRequest, context: TranslationContext
) -> EventStream:
    """Translate a chat stream to Responses events, batch by batch, numbered from 0.

    Raises UpstreamError if the upstream's stream fails; the events before the failure are sent
    first.
    """
    answer = ResponseBuilder(translated, context)
    counter = itertools.count()
    opening = answer.start()
    for batch in chunks:
        events: Batch = []
        try:
            for chunk in batch:
                events += answer.add_chunk(chunk)
        except UpstreamError:
            if events:  # from chunks of the same batch, before the failure
                yield number_events([*opening, *events], counter)
            raise
        if opening:
            events, opening = [*opening, *events], []
        if events or not batch:  # an empty batch is a heartbeat
            yield number_events(events, counter)
    yield number_events([*opening, *answer.finish()], counter)


def number_events(events: Batch, counter: Iterator[int]) -> Batch:
    """Set the sequence numbers.  All events of the stream pass through here."""
    for event in events:
        event["sequence_number"] = next(counter)
    return events


_RARE_FIELDS = frozenset({"error", "moderation", "x_groq"})
"""Fields of a chunk that few chunks have."""


class ResponseBuilder:
    """Builds the events of one response from its chat chunks."""

    def __init__(self, translated: TranslatedResponsesRequest, context: TranslationContext) -> None:
        self._context = context
        id_source = context.id_source
        self._response = make_response_skeleton(
            translated.client_request, id_source.new_id("resp"), id_source.now()
        )
        include = translated.client_request.get("include") or []
        self._shows_encrypted = INCLUDE_ENCRYPTED_REASONING in include
        self._encrypts = self._shows_encrypted or context.stores_encrypted_reasoning
        # Encrypted reasoning by output index, and items, that are stored but not streamed.
        self._hidden_tokens: dict[int, str] = {}
        self._hidden_items: list[tuple[int, Json]] = []
        self._splitter: chat_reasoning.ThinkTagSplitter | None = chat_reasoning.ThinkTagSplitter()
        self._signatures = SignatureCollector()
        self._items: list[OutputItem] = []
        self._open_item: MessageItem | ReasoningItem | images.ImageItem | None = None
        self._calls = ToolCallItemWriter(
            self._items, translated.toolbox, id_source, self._signatures
        )
        self._logprobs: list[Json] = []  # those that wait for their text
        self._citations = CitationBuffer()
        self._images: set[images.AnswerImage] = set()
        self._blanks: list[str] = []  # white space that may begin a reasoning text
        self._choice_selector = ChoiceSelector()
        self._finish_reason = "stop"
        self._usage: Json | None = None

    def start(self) -> Batch:
        """Return the two events that open every response."""
        response = dict(self._response)
        return [
            {"type": "response.created", "response": response},
            {"type": "response.in_progress", "response": response},
        ]

    def add_chunk(self, chunk: Json) -> Batch:
        """Return the events for one chunk."""
        choices = chunk.get("choices")
        if not choices:
            self._read_side_fields(chunk)
            return []
        tier = chunk.get("service_tier")
        is_new_tier = tier and tier != self._response["service_tier"]
        if is_new_tier or chunk.get("usage") or not _RARE_FIELDS.isdisjoint(chunk):
            self._read_side_fields(chunk)
        choice = self._choice_selector.find(choices)
        if choice is None:
            return []
        delta = choice.get("delta")
        if delta is None:
            delta = read_delta(choice)
        if choice.get("logprobs"):
            self._logprobs += read_text_logprobs(choice, delta)
        content, reasoning = delta.get("content"), delta.get("reasoning_content")
        if len(delta) != 1:
            events = self._read_delta(delta)
        elif type(content) is str:  # the hot path: most deltas are a piece of text or reasoning
            events = self._add_text(content) if content else []
        elif type(reasoning) is str:
            events = self._emit_reasoning(reasoning) if reasoning else []
        else:
            events = self._read_delta(delta)
        if choice.get("finish_reason"):
            self._finish_choice(choice)
        return events

    def _read_side_fields(self, chunk: Json) -> None:
        """Read the error, usage, moderation and service tier of a chunk."""
        if chunk.get("error"):
            raise to_upstream_error(chunk["error"])
        self._usage = read_usage(chunk) or self._usage
        if moderation := map_moderation_to_responses(chunk.get("moderation")):
            self._response["moderation"] = {**self._response.get("moderation", {}), **moderation}
        tier = chunk.get("service_tier")
        if tier and isinstance(tier, str):
            self._response["service_tier"] = map_tier_to_responses(tier)

    def finish(self) -> Batch:
        """Close all items and end the response: completed, or incomplete with a reason."""
        reason = INCOMPLETE_REASONS.get(self._finish_reason)
        status = "incomplete" if reason else "completed"
        events = self._flush_splitter()
        has_text = type(self._open_item) is MessageItem and self._open_item.has_open_text
        if self._citations.waiting and not has_text:
            events += self._emit_text("")  # citations need a text
        # Only the last item of the answer may be incomplete.
        events += self._calls.close(status, is_last=self._open_item is None)
        events += self._close_open_item(status)
        events += self._emit_late_signatures()
        if not self._items:
            # Clients read output[0], but a cut or filtered answer may be empty.
            events += [*self._emit_text(""), *self._close_open_item(status)]
        self._response.update(
            status=status,
            completed_at=None if reason else self._context.id_source.now(),
            incomplete_details={"reason": reason} if reason else None,
            output=self._build_output(),
            usage=map_usage_to_responses(self._usage),
        )
        return [*events, {"type": f"response.{status}", "response": self._response}]

    # -- reading a choice -----------------------------------------------------------------------

    def _read_delta(self, delta: Json) -> Batch:
        events: Batch = []
        self._signatures.add_delta(delta)
        reasoning = chat_reasoning.read_text(delta)
        if reasoning:
            events += self._emit_reasoning(reasoning)
        if delta.get("content"):
            content = delta["content"]
            if isinstance(content, str):
                events += self._add_text(content)
            else:
                events += [event for part in content for event in self._read_part(part)]
        if delta.get("annotations"):
            events += self._add_citations(delta["annotations"])
        if delta.get("images"):
            events += [event for image in delta["images"] for event in self._add_image(image)]
        if delta.get("refusal"):
            opening, message = self._ensure_message()
            events += [*opening, *message.append_refusal("".join(delta["refusal"]))]
        if delta.get("tool_calls") or delta.get("function_call"):
            events += self._add_tool_calls(delta)
        return events

    def _finish_choice(self, choice: Json) -> None:
        self._finish_reason = choice["finish_reason"]
        self._usage = self._usage or choice.get("usage")
        if self._finish_reason in FAILED_FINISH_REASONS:
            error = choice.get("error") or {
                "message": f"The upstream ended with '{self._finish_reason}'."
            }
            raise to_upstream_error(error)

    def _read_part(self, part: Any) -> Batch:
        """Read a part of a content list as Mistral and others send it."""
        reasoning, text = chat_reasoning.split_content([part])
        if reasoning or text:
            return self._emit_reasoning(reasoning) if reasoning else self._add_text(text)
        return self._add_image(part)

    def _add_text(self, text: str) -> Batch:
        if self._splitter is None:
            return self._emit_text(text)
        pieces = list(self._splitter.feed(text))
        if self._splitter.is_reasoning:
            self._logprobs = []  # reasoning items have no field for them
        elif self._logprobs and pieces and len(pieces[-1][1]) < len(text):
            self._logprobs = logprobs.select_last_entries(self._logprobs, pieces[-1][1])
        if self._splitter.is_done:
            self._splitter = None
        return self._emit_pieces(pieces)

    def _emit_pieces(self, pieces: Iterable[tuple[str, str]]) -> Batch:
        events: Batch = []
        for kind, piece in pieces:
            events += self._emit_reasoning(piece) if kind == "reasoning" else self._emit_text(piece)
        return events

    def _flush_splitter(self) -> Batch:
        if self._splitter is None:
            return []
        pieces, self._splitter = list(self._splitter.flush()), None
        return self._emit_pieces(pieces)

    # -- items ----------------------------------------------------------------------------------

    def _emit_text(self, text: str) -> Batch:
        message = self._open_item
        if type(message) is MessageItem and not self._logprobs:
            return message.append_text(text)
        events, message = self._ensure_message()
        if not self._logprobs:
            return [*events, *message.append_text(text)]
        entries, self._logprobs = self._logprobs, []
        return [*events, *message.append_text_with_logprobs(text, entries)]

    def _ensure_message(self) -> tuple[Batch, MessageItem]:
        """Return the open message, and the events that open it if it was not open yet."""
        if type(self._open_item) is MessageItem:
            return [], self._open_item
        events = self._close_open_item("completed")
        if self._signatures.has_message:
            events += self._emit_signatures()
        self._open_item = message = MessageItem(
            self._context.id_source.new_id("msg"), len(self._items)
        )
        self._items.append(message)
        return [*events, *message.open()], message

    def _emit_reasoning(self, text: str) -> Batch:
        if type(self._open_item) is ReasoningItem:
            return self._open_item.append_text(text) if text else []
        if text and not text.strip():  # white space alone opens no item
            self._blanks.append(text)
            return []
        text = "".join([*self._blanks, text])
        events = self._close_open_item("completed")
        item_id = self._context.id_source.new_id("rs")
        self._open_item = item = ReasoningItem(item_id, len(self._items), self._context.reasoning)
        self._items.append(item)
        return [*events, *item.open(), *(item.append_text(text) if text else ())]

    def _add_image(self, part: Any) -> Batch:
        picture = images.read_image(part)
        if picture is None or picture in self._images:  # some vendors send it in two fields
            return []
        self._images.add(picture)
        events = self._flush_splitter()
        if picture.url:
            text = images.make_markdown_image(picture.url)
            if type(self._open_item) is MessageItem and self._open_item.has_open_text:
                text = f"\n\n{text}"  # a paragraph of its own
            return [*events, *self._emit_text(text)]
        if isinstance(self._open_item, images.ImageItem) and self._open_item.is_prefix_of(picture):
            return [*events, *self._open_item.replace_image(picture)]
        events += self._close_open_item("completed")
        self._open_item = images.ImageItem(
            self._context.id_source.new_id("ig"), len(self._items), picture
        )
        self._items.append(self._open_item)
        return [*events, *self._open_item.open()]

    def _add_citations(self, annotations: Any) -> Batch:
        self._citations.add_annotations(annotations)
        message = self._open_item
        if type(message) is MessageItem and message.has_open_text:
            return self._emit_annotations(message)
        return []

    def _emit_annotations(self, message: MessageItem) -> Batch:
        """Annotate the open text, with positions from its start."""
        if not self._citations.waiting:
            return []
        offset = sum(item.text_length for item in self._items if type(item) is MessageItem)
        annotations = self._citations.pop_annotations(offset)
        return [event for each in annotations for event in message.add_annotation(each)]

    def _add_tool_calls(self, delta: Json) -> Batch:
        events = self._flush_splitter() if not self._calls.has_calls else []
        if self._open_item is not None:
            events += self._close_open_item("completed")
        if self._signatures.has_message and not self._calls.has_calls:
            events += self._emit_signatures()
        return [*events, *self._calls.add_delta(delta)]

    # -- closing --------------------------------------------------------------------------------

    def _close_open_item(self, status: str) -> Batch:
        item, self._open_item, self._blanks = self._open_item, None, []
        if item is None:
            return []
        events: Batch = []
        if isinstance(item, ReasoningItem) and self._encrypts:
            encrypted = self._encrypt_reasoning({"reasoning_content": "".join(item.pieces)})
            if self._shows_encrypted:
                item.encrypted_content = encrypted
            else:
                self._hidden_tokens[self._items.index(item)] = encrypted
        if type(item) is MessageItem and item.has_open_text:
            # Log probabilities and annotations that no further text will carry.
            entries, self._logprobs = self._logprobs, []
            events += item.append_text_with_logprobs("", entries) if entries else []
            events += self._emit_annotations(item)
        return [*events, *item.close(status)]

    # -- data that the provider needs back in the next request ----------------------------------

    def _encrypt_reasoning(self, fields: Json) -> str:
        """Encrypt reasoning fields with the pending signatures and their origin."""
        origin = {"origin": self._context.origin} if self._context.origin else {}
        return self._context.encrypt({**fields, **self._signatures.pop_message_fields(), **origin})

    def _emit_signatures(self, **fields: Any) -> Batch:
        """Emit a reasoning item without text, for signatures that arrived without reasoning.

        The item is hidden from a client that did not ask for encrypted reasoning.
        """
        if not self._encrypts:
            if not self._context.caches_signatures:
                reason = "the answer's signatures are neither included nor cached"
                self._context.loss_report.note("output.signatures", reason)
            return []
        item_id, index = self._context.id_source.new_id("rs"), len(self._items)
        item = ReasoningItem(item_id, index, self._context.reasoning)
        item.encrypted_content = self._encrypt_reasoning(fields)
        events = [*item.open(), *item.close("completed")]
        if not self._shows_encrypted:
            self._hidden_items.append((index, item.final_item))
            return []
        self._items.append(item)
        return events

    def _emit_late_signatures(self) -> Batch:
        """Emit signatures that arrived after the message or calls that they belong to."""
        calls = self._calls.signatures
        if not calls and not self._signatures.has_message:
            return []
        return self._emit_signatures(ends_turn=True, **({"calls": calls} if calls else {}))

    def _build_output(self) -> list[Json]:
        """Return all items, including the hidden data that is stored but not sent to the client."""
        output = [item.final_item for item in self._items]
        for index, encrypted in self._hidden_tokens.items():
            output[index] = {**output[index], "encrypted_content": encrypted}
        for index, item in reversed(self._hidden_items):
            output.insert(index, item)
        return output


def read_text_logprobs(choice: Json, delta: Json) -> list[Json]:
    """Return the log probabilities of the text alone, without the rest of the delta."""
    content, reasoning = delta.get("content"), chat_reasoning.read_text(delta)
    has_calls = any(map(delta.get, CALL_DELTA_FIELDS))
    has_more = bool(reasoning or delta.get("refusal") or has_calls)
    if has_more and not content:
        return []
    entries = logprobs.read_entries(choice["logprobs"])
    if not has_more or type(content) is not str:
        return entries
    return logprobs.select_text_entries(entries, reasoning, content, not has_calls)
