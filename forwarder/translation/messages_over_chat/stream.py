"""Chat chunks -> events of the Messages API.

Reasoning becomes a thinking block.  Its signature is a seal of the fields that the provider needs
back in the next turn.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from forwarder.core.errors import UpstreamError, UpstreamProtocolError
from forwarder.core.translation_context import TranslationContext
from forwarder.core.types import Batch, EventStream, Json
from forwarder.protocols import chat_reasoning
from forwarder.protocols.answer_choice import ChoiceSelector, read_delta
from forwarder.protocols.chat_responses_mappings import (
    FAILED_FINISH_REASONS,
    make_non_text_error,
    map_usage_to_responses,
    read_usage,
    to_upstream_error,
)
from forwarder.protocols.signatures import SignatureCollector
from forwarder.protocols.tool_call_index import ToolCallIndex, read_call_deltas, stringify_arguments
from forwarder.translation.messages_answer_blocks import (
    CALL,
    TEXT,
    THINKING,
    Block,
    BlockWriter,
    is_complete_input,
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
from forwarder.translation.messages_over_chat.request import MessagesOverChatRequest

_STOP_REASONS = {
    "length": "max_tokens",
    "max_tokens": "max_tokens",
    "model_length": "model_context_window_exceeded",
}
"""Chat finish reason -> ``stop_reason``; all other finish reasons mean a complete answer."""

_MATCHED_STOP_FIELDS = ("stop_reason", "matched_stop")
"""Fields of a choice in which vLLM and SGLang name the stop sequence that ended the answer."""


def translate_stream(
    chunks: EventStream, translated: MessagesOverChatRequest, context: TranslationContext
) -> EventStream:
    """Translate a chat stream to events of the Messages API, batch by batch.

    Raises UpstreamError if the upstream's stream fails; the events before the failure are sent
    first.
    """
    answer = ChatToMessagesBuilder(translated, context)
    has_started = False
    for batch in chunks:
        events: Batch = []
        if batch and not has_started:
            has_started, tier = True, batch[0].get("service_tier")
            events.append(
                make_message_start(context.id_source.new_id("msg"), translated.model, tier)
            )
        try:
            for chunk in batch:
                events += answer.add_chunk(chunk)
        except UpstreamError:
            if events:  # from chunks of the same batch, before the failure
                yield events
            raise
        if events or not batch:  # an empty batch is a heartbeat
            yield events
    yield answer.finish()


class StreamedCall:
    """A call while it streams in; its block is made once the name is known to be complete."""

    def __init__(self) -> None:
        self.call_id = ""
        self.name = ""
        self.early: list[str] = []  # arguments that arrived before the block was made
        self.block: Block | None = None


class ChatToMessagesBuilder:
    """Builds the events of one message from its chat chunks."""

    def __init__(self, translated: MessagesOverChatRequest, context: TranslationContext) -> None:
        self._context = context
        self._translated = translated
        self._blocks = BlockWriter(self._finish_block)
        self._splitter: chat_reasoning.ThinkTagSplitter | None = chat_reasoning.ThinkTagSplitter()
        self._signatures = SignatureCollector()
        self._call_index = ToolCallIndex()
        self._calls: list[StreamedCall] = []
        self._has_call_block = False
        self._unsealed_calls: dict[int, Json] = {}  # number of a call -> its signatures
        self._ids: set[str] = set()
        self._choice_selector = ChoiceSelector()
        self._images: set[str] = set()
        self._refusal: list[str] = []
        self._blanks: list[str] = []  # white space that may begin a reasoning text
        self._finish_reason = ""
        self._stop_sequence: str | None = None
        self._usage: Json | None = None

    def add_chunk(self, chunk: Json) -> Batch:
        """Return the events for one chunk."""
        if chunk.get("error"):
            raise to_upstream_error(chunk["error"])
        if "usage" in chunk or "x_groq" in chunk:
            self._usage = read_usage(chunk) or self._usage
        choices = chunk.get("choices")
        choice = self._choice_selector.find(choices) if choices else None
        if choice is None:
            return []
        delta = choice.get("delta")
        if delta is None:
            delta = read_delta(choice)
        content, reasoning = delta.get("content"), delta.get("reasoning_content")
        if len(delta) != 1:
            events = self._read_delta(delta)
        elif type(content) is str:  # the hot path: most deltas are a piece of text or reasoning
            events = self._add_text(content) if content else []
        elif type(reasoning) is str:
            events = self._emit_thinking(reasoning) if reasoning else []
        else:
            events = self._read_delta(delta)
        if choice.get("finish_reason"):
            self._finish_choice(choice)
        return events

    def finish(self) -> Batch:
        """Close all blocks and end the message."""
        if not self._finish_reason:
            raise UpstreamProtocolError(
                "The upstream's stream ended before its answer was finished."
            )
        events = self._flush_splitter()
        for call in self._calls:
            events += self._open_call(call)
            if call.block is None:
                raise UpstreamProtocolError("The upstream sent a tool call without a name.")
        events += self._emit_late_signatures()
        if self._blocks.is_empty:
            events += self._blocks.begin(make_text_block())
        events += self._blocks.close()
        usage = map_usage(map_usage_to_responses(self._usage))
        return [*events, *make_message_end(self._make_end(), usage)]

    def _make_end(self) -> Json:
        if self._refusal or self._finish_reason == "content_filter":
            return make_refusal_delta("".join(self._refusal))
        reason = _STOP_REASONS.get(self._finish_reason)
        if reason is None and self._stop_sequence is not None:
            return {"stop_reason": "stop_sequence", "stop_sequence": self._stop_sequence}
        return {"stop_reason": reason or ("tool_use" if self._calls else "end_turn")}

    # -- reading a choice -----------------------------------------------------------------------

    def _read_delta(self, delta: Json) -> Batch:
        events: Batch = []
        self._signatures.add_delta(delta)
        reasoning = chat_reasoning.read_text(delta)
        if reasoning:
            events += self._emit_thinking(reasoning)
        content = delta.get("content")
        if content:
            for part in [content] if isinstance(content, str) else content:
                events += self._read_part(part)
        for annotation in delta.get("annotations") or ():
            citation = make_citation(annotation)
            events += self._blocks.add_citation(citation) if citation else []
        for image in delta.get("images") or ():
            events += self._add_image(image)
        if delta.get("refusal"):
            self._refusal.append("".join(delta["refusal"]))
            events += self._emit_text(self._refusal[-1])
        for call in read_call_deltas(delta):
            events += self._add_call(call)
        return events

    def _read_part(self, part: Any) -> Batch:
        """Read a piece of text, or a part of a content list as Mistral and others send it."""
        if isinstance(part, str):
            return self._add_text(part)
        if not isinstance(part, dict):
            raise make_non_text_error()
        reasoning, text = chat_reasoning.split_content([part])
        if reasoning or text:
            return self._emit_thinking(reasoning) if reasoning else self._add_text(text)
        return self._add_image(part)

    def _finish_choice(self, choice: Json) -> None:
        self._finish_reason = choice["finish_reason"]
        self._usage = self._usage or choice.get("usage")
        if self._finish_reason in FAILED_FINISH_REASONS:
            error = choice.get("error") or {
                "message": f"The upstream ended with '{self._finish_reason}'."
            }
            raise to_upstream_error(error)
        matched = (choice.get(name) for name in _MATCHED_STOP_FIELDS)
        stops = self._translated.stop_sequences
        self._stop_sequence = next((each for each in matched if each in stops), None)

    # -- text and reasoning ---------------------------------------------------------------------

    def _add_text(self, text: str) -> Batch:
        """Emit text; a ``<think>`` block at the head of the answer becomes thinking."""
        if self._splitter is None:
            return self._emit_text(text)
        events = self._emit_pieces(self._splitter.feed(text))
        if self._splitter is not None and self._splitter.is_done:
            self._splitter = None
        return events

    def _emit_pieces(self, pieces: Iterable[tuple[str, str]]) -> Batch:
        events: Batch = []
        for kind, piece in pieces:
            events += self._emit_thinking(piece) if kind == "reasoning" else self._emit_text(piece)
        return events

    def _flush_splitter(self) -> Batch:
        if self._splitter is None:
            return []
        pieces, self._splitter = list(self._splitter.flush()), None
        return self._emit_pieces(pieces)

    def _emit_text(self, text: str) -> Batch:
        block = self._blocks.last_block
        if block is not None and block.kind == TEXT:
            return self._blocks.append(block, text)
        if not text:
            return []
        return self._begin_and_append(make_text_block(), text)

    def _emit_thinking(self, text: str) -> Batch:
        if not self._translated.thinking.is_shown:
            return []
        block = self._blocks.last_block
        if block is None or block.kind != THINKING:
            if not text.strip():  # white space alone opens no block
                self._blanks.append(text)
                return []
            text, self._blanks = "".join([*self._blanks, text]), []
            return self._begin_and_append(make_thinking_block(), text)
        if not self._translated.thinking.has_text:
            block.hidden.append(text)
            return []
        return self._blocks.append(block, text)

    def _begin_and_append(self, block: Block, text: str) -> Batch:
        events = self._begin(block)
        if block.kind == THINKING and not self._translated.thinking.has_text:
            block.hidden.append(text)
            return events
        return [*events, *self._blocks.append(block, text)]

    def _begin(self, block: Block) -> Batch:
        """Begin a block.  Text, thinking and calls with complete input before it are done.

        A call with incomplete input may continue, because upstreams may interleave calls; then
        later blocks wait for the end of the answer.

        In Anthropic's answers thinking precedes the calls.  So signatures that are known before the
        first call, also its own, come before it: in the seal of the thinking block that ends here,
        otherwise in a block of their own.  Calls are streamed, so signatures that arrive after the
        first one follow at the end of the answer.
        """
        last = self._blocks.last_block
        self._blanks = []
        if last is not None and (last.kind != CALL or is_complete_input(last.text)):
            last.is_done = True
        events: Batch = []
        is_sealed = last is not None and last.kind == THINKING
        if block.kind != THINKING and not self._has_call_block and not is_sealed:
            events = self._emit_signatures()
        self._has_call_block = self._has_call_block or block.kind == CALL
        return [*events, *self._blocks.begin(block)]

    def _add_image(self, image: Any) -> Batch:
        """Add an image as Markdown: messages of this API have no images of the assistant."""
        source = image.get("image_url") if isinstance(image, dict) else None
        url = source.get("url") if isinstance(source, dict) else source
        if not isinstance(url, str) or not url or url in self._images:
            return []
        self._images.add(url)
        return [*self._flush_splitter(), *self._emit_text(f"\n\n![image]({url})\n\n")]

    # -- calls ----------------------------------------------------------------------------------

    def _add_call(self, delta: Json) -> Batch:
        events = self._flush_splitter() if not self._calls else []
        number = self._call_index.find(delta)
        if number == len(self._calls):
            for earlier in self._calls:  # a further call proves that their names are complete
                events += self._open_call(earlier)
            self._calls.append(StreamedCall())
        self._signatures.add_call(number, delta)
        call, body = self._calls[number], delta.get("function") or delta.get("custom") or {}
        call.call_id = call.call_id or str(delta.get("id") or "")
        name = body.get("name") or ""
        arguments = stringify_arguments(body.get("arguments") or body.get("input"))
        if call.block is not None:
            return [*events, *(self._blocks.append(call.block, arguments) if arguments else ())]
        if name != call.name:  # some vendors repeat the whole name in every delta
            call.name += name
        call.early.append(arguments)
        # A name may arrive in pieces; only arguments prove that it is complete.
        return [*events, *self._open_call(call)] if arguments else events

    def _open_call(self, call: StreamedCall) -> Batch:
        if call.block is not None or not call.name:
            return []
        if not call.call_id or call.call_id in self._ids:  # clients distinguish calls by their ids
            call.call_id = self._context.id_source.new_id("toolu")
        self._ids.add(call.call_id)
        call.block = make_call_block(call.call_id, call.name)
        events, early = self._begin(call.block), "".join(call.early)
        return [*events, *self._blocks.append(call.block, early)] if early else events

    # -- signatures -----------------------------------------------------------------------------

    def _finish_block(self, block: Block) -> None:
        """Sign a thinking block."""
        if block.kind != THINKING:
            return
        fields = {"reasoning_content": "".join(block.hidden)} if block.hidden else {}
        signature = self._seal({**fields, **self._pop_signatures()})
        block.last_deltas.append({"type": "signature_delta", "signature": signature})

    def _seal(self, fields: Json) -> str:
        origin = {"origin": self._context.origin} if self._context.origin else {}
        return self._context.encrypt({**fields, **origin})

    def _pop_signatures(self) -> Json:
        """Return the signatures of the message and of its calls that are in no seal yet."""
        self._unsealed_calls |= self._signatures.pop_calls()
        calls: Json = {}  # id -> signatures
        for number in list(self._unsealed_calls):
            call = self._calls[number]
            if call.block is not None:  # its id is final
                calls[call.call_id] = self._unsealed_calls.pop(number)
        fields = self._signatures.pop_message_fields()
        return {**fields, "calls": calls} if calls else fields

    def _emit_signatures(self) -> Batch:
        """Emit signatures that came without reasoning, in a ``redacted_thinking`` block."""
        if not self._translated.thinking.is_shown:
            return []
        fields = self._pop_signatures()
        return self._blocks.begin(make_redacted_block(self._seal(fields))) if fields else []

    def _emit_late_signatures(self) -> Batch:
        """Emit signatures that arrived after the text or the calls that they belong to."""
        last = self._blocks.last_block
        if last is not None and last.kind == THINKING:
            return []  # the block is signed when it is closed
        if self._translated.thinking.is_shown:
            if last is not None:
                last.is_done = True
            return self._emit_signatures()
        if self._pop_signatures() and not self._context.caches_signatures:
            reason = "the answer's signatures are neither included nor cached"
            self._context.loss_report.note("output.signatures", reason)
        return []
