"""Chat chunks -> Ollama lines.

Text and reasoning stream as they arrive.  Tool calls follow whole, and the last line has token
counts and durations.  The forwarder can measure only its own waiting: the time up to the first
output counts as prompt evaluation, and the load duration is always 0.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from forwarder.core.errors import UpstreamError, UpstreamProtocolError
from forwarder.core.translation_context import TranslationContext
from forwarder.core.types import Batch, Event, EventStream, Json
from forwarder.protocols import chat_reasoning
from forwarder.protocols.answer_choice import ChoiceSelector, read_delta
from forwarder.protocols.chat_responses_mappings import (
    FAILED_FINISH_REASONS,
    INCOMPLETE_REASONS,
    make_non_text_error,
    read_usage,
    to_upstream_error,
)
from forwarder.protocols.tool_call_index import read_call_deltas
from forwarder.translation.ollama_over_chat.calls import OllamaToolCallCollector
from forwarder.translation.ollama_over_chat.request import TranslatedOllamaRequest


def translate_stream(
    chunks: EventStream, translated: TranslatedOllamaRequest, context: TranslationContext
) -> EventStream:
    """Translate a chat stream to Ollama lines, batch by batch.

    A request that only loads or unloads the model gets one final line.  Raises UpstreamError if
    the upstream's stream fails or ends early; the lines before the failure are sent first.
    """
    answer = OllamaBuilder(translated, context)
    if translated.load_action:
        yield [answer.make_line({}, done=True, done_reason=translated.load_action)]
        return
    for batch in chunks:
        lines: Batch = []
        try:
            for chunk in batch:
                lines += answer.add_chunk(chunk)
        except UpstreamError:
            if lines:  # from chunks of the same batch, before the failure
                yield lines
            raise
        if lines or not batch:
            yield lines
    yield answer.finish()


class OllamaBuilder:
    """Builds the lines of one answer from its chat chunks."""

    def __init__(self, translated: TranslatedOllamaRequest, context: TranslationContext) -> None:
        self._translated = translated
        self._id_source = context.id_source
        self._first_output_at = 0  # monotonic nanoseconds
        self._splitter: chat_reasoning.ThinkTagSplitter | None = chat_reasoning.ThinkTagSplitter()
        self._calls = OllamaToolCallCollector()
        self._choice_selector = ChoiceSelector()
        self._images: dict[Any, str] = {}
        self._finish_reason = ""
        self._usage: Json = {}

    def make_line(self, delta: Json, *, done: bool = False, **more: Any) -> Event:
        """Make a line from a delta of ``content``, ``thinking`` or ``tool_calls``."""
        head = {"model": self._translated.model, "created_at": self._id_source.timestamp()}
        return {**head, **self._translated.endpoint.make_line_body(delta), "done": done, **more}

    def add_chunk(self, chunk: Event) -> Batch:
        """Return the lines for one chunk."""
        if chunk.get("error"):
            raise to_upstream_error(chunk["error"])
        self._usage = read_usage(chunk) or self._usage
        choices = chunk.get("choices")
        choice = self._choice_selector.find(choices) if choices else None
        if choice is None:
            return []
        lines = self._read_choice(choice)
        if "delta" not in choice:  # a whole answer
            return lines
        if not self._first_output_at and (lines or self._calls):
            self._first_output_at = self._id_source.monotonic_ns()
        return lines

    def finish(self) -> Batch:
        """Return the text still held back, the images, the tool calls and the final line."""
        if not self._finish_reason:
            raise UpstreamProtocolError(
                "The upstream's stream ended before its answer was finished."
            )
        reason = INCOMPLETE_REASONS.get(self._finish_reason)
        is_cut = reason == "max_output_tokens"
        # The splitter holds back text that may be the start of a <think> tag.
        lines = self._emit_pieces(self._splitter.flush()) if self._splitter else []
        for url in self._images.values():  # Ollama's answers have no field for images
            lines.append(self.make_line({"content": f"\n\n![image]({url})"}))
        calls = self._calls.build_calls(is_cut)
        if calls:
            lines.append(self.make_line({"tool_calls": calls}))
        done_reason = "length" if is_cut else (reason or "stop")
        return [
            *lines,
            self.make_line({}, done=True, done_reason=done_reason, **self._make_metrics()),
        ]

    def _make_metrics(self) -> Json:
        """Return durations in nanoseconds, and token counts if the upstream sent them.

        If the upstream did not stream, the time of the first token is unknown, and the duration of
        the prompt evaluation is 0.
        """
        started_at, ended_at = self._translated.started_at, self._id_source.monotonic_ns()
        first_output_at = self._first_output_at or started_at
        metrics = {
            "prompt_eval_count": self._usage.get("prompt_tokens"),
            "prompt_eval_duration": first_output_at - started_at,
            "eval_count": self._usage.get("completion_tokens"),
            "eval_duration": ended_at - first_output_at,
        }
        known = {name: value for name, value in metrics.items() if type(value) is int}
        return {"total_duration": ended_at - started_at, "load_duration": 0, **known}

    # -- reading a choice -----------------------------------------------------------------------

    def _read_choice(self, choice: Json) -> Batch:
        lines = self._read_delta(read_delta(choice))
        if self._translated.wants_logprobs and choice.get("logprobs"):
            lines = self._attach_logprobs(lines, choice["logprobs"])
        if choice.get("finish_reason"):
            self._finish_choice(choice)
        return lines

    def _read_delta(self, delta: Json) -> Batch:
        lines: Batch = []
        reasoning = chat_reasoning.read_text(delta)
        if reasoning:
            lines += self._emit_reasoning(reasoning)
        content = delta.get("content")
        if content:
            for part in content if isinstance(content, list) else [content]:
                lines += self._read_part(part)
        if delta.get("refusal"):
            lines += self._emit_text("".join(delta["refusal"]))
        for image in delta.get("images") or ():
            self._add_image(image)
        for call in read_call_deltas(delta):
            self._calls.add_delta(call)
        return lines

    def _read_part(self, part: Any) -> Batch:
        """Read a piece of text, or a part of a content list as Mistral and others send it."""
        if isinstance(part, str):
            return self._add_text(part)
        if not isinstance(part, dict):
            raise make_non_text_error()
        reasoning, text = chat_reasoning.split_content([part])
        if not reasoning and not text:
            self._add_image(part)
        return [
            *(self._emit_reasoning(reasoning) if reasoning else ()),
            *(self._add_text(text) if text else ()),
        ]

    def _add_text(self, text: str) -> Batch:
        """Emit text; a ``<think>`` block at the head of the answer becomes thinking."""
        if self._splitter is None:
            return self._emit_text(text)
        lines = self._emit_pieces(self._splitter.feed(text))
        if self._splitter.is_done:
            self._splitter = None
        return lines

    def _emit_pieces(self, pieces: Iterable[tuple[str, str]]) -> Batch:
        lines: Batch = []
        for kind, piece in pieces:
            lines += self._emit_reasoning(piece) if kind == "reasoning" else self._emit_text(piece)
        return lines

    def _emit_text(self, text: str) -> Batch:
        return [self.make_line({"content": text})] if text else []

    def _emit_reasoning(self, reasoning: str) -> Batch:
        return [self.make_line({"thinking": reasoning})] if self._translated.wants_reasoning else []

    def _attach_logprobs(self, lines: Batch, logprobs: Json) -> Batch:
        """Attach log probabilities to the last line, or to a new empty line."""
        entries = [*(logprobs.get("content") or ()), *(logprobs.get("refusal") or ())]
        if not entries:
            return lines
        *before, last = lines or [self.make_line({})]
        return [*before, {**last, "logprobs": entries}]

    # -- images ---------------------------------------------------------------------------------

    def _add_image(self, image: Any) -> None:
        """Keep an image; a later one with the same index replaces it, as the better version."""
        source = image.get("image_url") if isinstance(image, dict) else None
        url = source.get("url") if isinstance(source, dict) else source
        if isinstance(url, str) and url:
            index = image.get("index")
            key = ("no index", len(self._images)) if index is None else index
            self._images[key] = url

    def _finish_choice(self, choice: Json) -> None:
        self._finish_reason = choice["finish_reason"]
        if self._finish_reason in FAILED_FINISH_REASONS:
            error = choice.get("error") or {
                "message": f"The upstream ended with '{self._finish_reason}'."
            }
            raise to_upstream_error(error)
