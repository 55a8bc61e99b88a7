"""Chat chunks -> Responses events.

What is open is in ``_open_item`` and ``_calls``; what was made is in ``_items``.  Text, reasoning,
refusals and images follow each other, so opening one closes the other; calls may interleave with
anything and stay open until the end.
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
from forwarder.protocols.mappings import (
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
    """Give the Responses events for a chat stream, batch by batch, numbered from 0."""
    answer = ResponseBuilder(translated, context)
    number = itertools.count()
    begun = answer.start()
    for batch in chunks:
        events: Batch = []
        try:
            for chunk in batch:
                events += answer.add_chunk(chunk)
        except UpstreamError:
            if events:  # what came with the failure came before it
                yield number_events([*begun, *events], number)
            raise
        if begun:
            events, begun = [*begun, *events], []
        if events or not batch:  # an empty batch is a heartbeat
            yield number_events(events, number)
    yield number_events([*begun, *answer.finish()], number)


def number_events(events: Batch, number: Iterator[int]) -> Batch:
    """The one door out: sequence numbers are given here."""
    for event in events:
        event["sequence_number"] = next(number)
    return events


_RARE_FIELDS = frozenset({"error", "moderation", "x_groq"})
"""What hardly a chunk has."""


class ResponseBuilder:
    """One response in the making."""

    def __init__(self, translated: TranslatedResponsesRequest, context: TranslationContext) -> None:
        self._context = context
        mint = context.id_source
        self._response = make_response_skeleton(
            translated.client_request, mint.new_id("resp"), mint.now()
        )
        include = translated.client_request.get("include") or []
        self._shows_encrypted = INCLUDE_ENCRYPTED_REASONING in include
        self._encrypts = self._shows_encrypted or context.stores_encrypted_reasoning
        # By their places in the output: what is stored but not streamed.
        self._hidden_tokens: dict[int, str] = {}
        self._hidden_items: list[tuple[int, Json]] = []
        self._splitter: chat_reasoning.ThinkTagSplitter | None = chat_reasoning.ThinkTagSplitter()
        self._signatures = SignatureCollector()
        self._items: list[OutputItem] = []
        self._open_item: MessageItem | ReasoningItem | images.ImageItem | None = None
        self._calls = ToolCallItemWriter(self._items, translated.toolbox, mint, self._signatures)
        self._logprobs: list[Json] = []  # until their text comes
        self._citations = CitationBuffer()
        self._images: set[images.AnswerImage] = set()
        self._blanks: list[str] = []  # white space that may begin a thought
        self._choice_selector = ChoiceSelector()
        self._finish_reason = "stop"
        self._usage: Json | None = None

    def start(self) -> Batch:
        """The two events that every response starts with."""
        started = dict(self._response)
        return [
            {"type": "response.created", "response": started},
            {"type": "response.in_progress", "response": started},
        ]

    def add_chunk(self, chunk: Json) -> Batch:
        """The events that one chunk causes."""
        choices = chunk.get("choices")
        if not choices:
            self._read_side_fields(chunk)
            return []
        tier = chunk.get("service_tier")
        fresh = tier and tier != self._response["service_tier"]
        if fresh or chunk.get("usage") or not _RARE_FIELDS.isdisjoint(chunk):
            self._read_side_fields(chunk)
        choice = self._choice_selector.find(choices)
        return self._read_choice(choice) if choice else []

    def _read_side_fields(self, chunk: Json) -> None:
        """What a chunk tells beside its choice."""
        if chunk.get("error"):
            raise to_upstream_error(chunk["error"])
        self._usage = read_usage(chunk) or self._usage
        if moderation := map_moderation_to_responses(chunk.get("moderation")):
            self._response["moderation"] = {**self._response.get("moderation", {}), **moderation}
        tier = chunk.get("service_tier")
        if tier and isinstance(tier, str):
            self._response["service_tier"] = map_tier_to_responses(tier)

    def finish(self) -> Batch:
        """Close what is open and end: completed, or incomplete with its reason."""
        reason = INCOMPLETE_REASONS.get(self._finish_reason)
        status = "incomplete" if reason else "completed"
        events = [*self._flush_splitter(), *self._emit_lone_citations(), *self._close_all(status)]
        events += self._emit_late_signatures()
        if not self._items:
            # Clients index output[0]; a cut or filtered answer may well be empty.
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

    def _read_choice(self, choice: Json) -> Batch:
        delta = read_delta(choice)
        content = delta.get("content")
        if choice.get("logprobs") and (content or not has_more_than_text(delta)):
            self._logprobs += read_text_logprobs(choice, delta)
        events = (
            self._read_delta(delta) if len(delta) > 1 else self._read_single_field(delta, content)
        )
        if choice.get("finish_reason"):
            self._finish_choice(choice)
        return events

    def _read_single_field(self, delta: Json, content: Any) -> Batch:
        """The hot path: most chunks hold a piece of text or of a thought, and nothing else."""
        if type(content) is str:
            return self._add_text(content) if content else []
        thought = delta.get("reasoning_content")
        return (
            self._emit_reasoning(thought)
            if thought and type(thought) is str
            else self._read_delta(delta)
        )

    def _read_delta(self, delta: Json) -> Batch:
        events: Batch = []
        self._signatures.add_delta(delta)
        thought = chat_reasoning.read_text(delta)
        if thought:
            events += self._emit_reasoning(thought)
        if delta.get("content"):
            events += self._read_content(delta["content"])
        if delta.get("annotations"):
            events += self._add_citations(delta["annotations"])
        if delta.get("images"):
            events += [event for image in delta["images"] for event in self._add_image(image)]
        if delta.get("refusal"):
            events += self._emit_refusal("".join(delta["refusal"]))
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

    def _read_content(self, content: Any) -> Batch:
        if isinstance(content, str):
            return self._add_text(content)
        return [event for part in content for event in self._read_part(part)]

    def _read_part(self, part: Any) -> Batch:
        """A part of a content list, as Mistral and others send it."""
        thought, text = chat_reasoning.split_content([part])
        if thought or text:
            return self._emit_reasoning(thought) if thought else self._add_text(text)
        return self._add_image(part)

    def _add_text(self, text: str) -> Batch:
        if self._splitter is None:
            return self._emit_text(text)
        pieces = list(self._splitter.feed(text))
        if self._splitter.is_reasoning:
            self._logprobs = []  # thoughts have no place for them
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

    def _emit_refusal(self, text: str) -> Batch:
        events, message = self._ensure_message()
        return [*events, *message.append_refusal(text)]

    def _ensure_message(self) -> tuple[Batch, MessageItem]:
        """The open message, and the events of its beginning when it was not yet."""
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
        if text and not text.strip():  # white space alone is no thought
            self._blanks.append(text)
            return []
        text = "".join([*self._blanks, text])
        events = self._close_open_item("completed")
        item_id = self._context.id_source.new_id("rs")
        self._open_item = thought = ReasoningItem(
            item_id, len(self._items), self._context.reasoning
        )
        self._items.append(thought)
        return [*events, *thought.open(), *(thought.append_text(text) if text else ())]

    def _add_image(self, given: Any) -> Batch:
        picture = images.read_image(given)
        if picture is None or picture in self._images:  # said twice, in two places
            return []
        self._images.add(picture)
        events = self._flush_splitter()
        if picture.url:
            return [
                *events,
                *self._emit_text(self._make_paragraph(images.make_markdown_image(picture.url))),
            ]
        if isinstance(self._open_item, images.ImageItem) and self._open_item.is_prefix_of(picture):
            return [*events, *self._open_item.replace_image(picture)]
        events += self._close_open_item("completed")
        self._open_item = images.ImageItem(
            self._context.id_source.new_id("ig"), len(self._items), picture
        )
        self._items.append(self._open_item)
        return [*events, *self._open_item.open()]

    def _make_paragraph(self, text: str) -> str:
        """As a paragraph of its own behind the text that is open."""
        return (
            f"\n\n{text}"
            if type(self._open_item) is MessageItem and self._open_item.has_open_text
            else text
        )

    def _add_citations(self, annotations: Any) -> Batch:
        self._citations.add_annotations(annotations)
        message = self._open_item
        return (
            self._emit_annotations(message)
            if type(message) is MessageItem and message.has_open_text
            else []
        )

    def _emit_annotations(self, message: MessageItem) -> Batch:
        """Annotate the text that is open; positions are told from its own beginning."""
        if not self._citations.waiting:
            return []
        before = sum(item.text_length for item in self._items if type(item) is MessageItem)
        given = self._citations.pop_annotations(before)
        return [event for annotation in given for event in message.add_annotation(annotation)]

    def _add_tool_calls(self, delta: Json) -> Batch:
        events = self._flush_splitter() if not self._calls.has_calls else []
        if self._open_item is not None:
            events += self._close_open_item("completed")
        if self._signatures.has_message and not self._calls.has_calls:
            events += self._emit_signatures()
        return [*events, *self._calls.add_delta(delta)]

    # -- closing --------------------------------------------------------------------------------

    def _close_all(self, status: str) -> Batch:
        """Close the calls, then what was opened after them: only the last was cut off, if any."""
        return [*self._calls.close(status, self._open_item is None), *self._close_open_item(status)]

    def _emit_lone_citations(self) -> Batch:
        """Annotations whose text is closed, or never came, get an empty one."""
        said = type(self._open_item) is MessageItem and self._open_item.has_open_text
        return self._emit_text("") if self._citations.waiting and not said else []

    def _close_open_item(self, status: str) -> Batch:
        item, self._open_item, self._blanks = self._open_item, None, []
        if item is None:
            return []
        if isinstance(item, ReasoningItem) and self._encrypts:
            self._attach_encrypted_reasoning(item)
        late = (
            self._emit_late_data(item) if type(item) is MessageItem and item.has_open_text else []
        )
        return [*late, *item.close(status)]

    def _emit_late_data(self, message: MessageItem) -> Batch:
        """What came beside the text of a message that is to be closed, with no text after it."""
        entries, self._logprobs = self._logprobs, []
        weighed = message.append_text_with_logprobs("", entries) if entries else []
        return [*weighed, *self._emit_annotations(message)]

    # -- what the provider wants back -----------------------------------------------------------

    def _encrypt_reasoning(self, thought: Json) -> str:
        """Seal a thought together with the signatures that came with it."""
        origin = {"origin": self._context.origin} if self._context.origin else {}
        return self._context.encrypt({**thought, **self._signatures.pop_message_fields(), **origin})

    def _attach_encrypted_reasoning(self, item: ReasoningItem) -> None:
        sealed = self._encrypt_reasoning({"reasoning_content": "".join(item.pieces)})
        if self._shows_encrypted:
            item.encrypted_content = sealed
        else:
            self._hidden_tokens[self._items.index(item)] = sealed

    def _emit_signatures(self, **more: Any) -> Batch:
        """A reasoning item without a text, for signatures that came with none.

        A client that did not ask for seals does not see it.
        """
        if not self._encrypts:
            if not self._context.caches_signatures:
                reason = "the answer has signatures, which are neither included nor remembered"
                self._context.loss_report.note("output.signatures", reason)
            return []
        item_id, index = self._context.id_source.new_id("rs"), len(self._items)
        item = ReasoningItem(item_id, index, self._context.reasoning)
        item.encrypted_content = self._encrypt_reasoning(more)
        events = [*item.open(), *item.close("completed")]
        if not self._shows_encrypted:
            self._hidden_items.append((index, item.final_item))
            return []
        self._items.append(item)
        return events

    def _emit_late_signatures(self) -> Batch:
        """Seal signatures that are known only behind what they belong to."""
        calls = self._calls.signatures
        if not calls and not self._signatures.has_message:
            return []
        return self._emit_signatures(ends_turn=True, **({"calls": calls} if calls else {}))

    def _build_output(self) -> list[Json]:
        """All items, with what is hidden from the client until it is stored."""
        output = [item.final_item for item in self._items]
        for index, sealed in self._hidden_tokens.items():
            output[index] = {**output[index], "encrypted_content": sealed}
        for index, item in reversed(self._hidden_items):
            output.insert(index, item)
        return output


def read_text_logprobs(choice: Json, delta: Json) -> list[Json]:
    """The log probabilities of a text, without those of what is said along with it."""
    entries, content = logprobs.read_entries(choice["logprobs"]), delta.get("content")
    if type(content) is not str or not has_more_than_text(delta):
        return entries
    is_last = not any(map(delta.get, CALL_DELTA_FIELDS))
    return logprobs.select_text_entries(entries, chat_reasoning.read_text(delta), content, is_last)


def has_more_than_text(delta: Json) -> bool:
    """Log probabilities that come with this delta may be those of something else than a text."""
    return bool(
        chat_reasoning.read_text(delta) or any(map(delta.get, ("refusal", *CALL_DELTA_FIELDS)))
    )
