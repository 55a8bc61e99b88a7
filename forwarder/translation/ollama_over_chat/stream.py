"""Chat chunks -> the lines of Ollama's answers.

Text and thoughts are told as they come, calls whole and behind them, and the last line has what
was counted.  Times are those that can be seen from here: the wait for the first word is told as
the prompt's, and nothing as loading.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from forwarder.core.errors import UpstreamError, UpstreamProtocolError
from forwarder.core.translation_context import TranslationContext
from forwarder.core.types import Batch, Event, EventStream, Json
from forwarder.protocols import chat_reasoning
from forwarder.protocols.answer_choice import ChoiceSelector, read_delta
from forwarder.protocols.mappings import (
    FAILED_FINISH_REASONS,
    INCOMPLETE_REASONS,
    non_text_content,
    read_usage,
    to_upstream_error,
)
from forwarder.translation.ollama_over_chat.calls import OllamaToolCallCollector
from forwarder.translation.ollama_over_chat.request import TranslatedOllamaRequest


def translate_stream(
    chunks: EventStream, translated: TranslatedOllamaRequest, context: TranslationContext
) -> EventStream:
    """Give the lines for a chat stream, batch by batch; when nothing was asked, the one that says
    so."""
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
            if lines:  # what came with the failure came before it
                yield lines
            raise
        if lines or not batch:
            yield lines
    yield answer.finish()


class OllamaBuilder:
    """One answer in the making."""

    def __init__(self, translated: TranslatedOllamaRequest, context: TranslationContext) -> None:
        self._translated = translated
        self._id_source = context.id_source
        self._first_output_at = 0  # the clock when the first words came
        self._splitter: chat_reasoning.ThinkTagSplitter | None = chat_reasoning.ThinkTagSplitter()
        self._calls = OllamaToolCallCollector()
        self._choice_selector = ChoiceSelector()
        self._images: dict[Any, str] = {}
        self._finish_reason = ""
        self._usage: Json = {}

    def make_line(self, said: Json, *, done: bool = False, **more: Any) -> Event:
        """One line that says ``content``, ``thinking`` or ``tool_calls``."""
        head = {"model": self._translated.model, "created_at": self._id_source.timestamp()}
        return {**head, **self._translated.endpoint.make_line_body(said), "done": done, **more}

    def add_chunk(self, chunk: Event) -> Batch:
        """The lines that one chunk causes."""
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
        """What is still held back, the calls, and the line that says that it is over."""
        if not self._finish_reason:
            raise UpstreamProtocolError(
                "The upstream's stream ended before its answer was finished."
            )
        reason = INCOMPLETE_REASONS.get(self._finish_reason)
        is_cut = reason == "max_output_tokens"
        lines = [*self._rest(), *map(self._make_image_line, self._images.values())]
        calls = self._calls.build_calls(is_cut)
        if calls:
            lines.append(self.make_line({"tool_calls": calls}))
        done_reason = "length" if is_cut else (reason or "stop")
        return [
            *lines,
            self.make_line({}, done=True, done_reason=done_reason, **self._make_metrics()),
        ]

    def _make_metrics(self) -> Json:
        """Nanoseconds and tokens; tokens that the upstream does not tell are not made up.

        A whole answer does not tell when its first word was there.
        """
        began, over = self._translated.started_at, self._id_source.monotonic_ns()
        first = self._first_output_at or began
        counts = {
            "prompt_eval_count": self._usage.get("prompt_tokens"),
            "prompt_eval_duration": first - began,
            "eval_count": self._usage.get("completion_tokens"),
            "eval_duration": over - first,
        }
        told = {name: value for name, value in counts.items() if type(value) is int}
        return {"total_duration": over - began, "load_duration": 0, **told}

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
        thought = chat_reasoning.read_text(delta)
        if thought:
            lines += self._emit_reasoning(thought)
        content = delta.get("content")
        for part in content if isinstance(content, list) else [content] if content else ():
            lines += self._read_part(part)
        if delta.get("refusal"):
            lines += self._emit_text("".join(delta["refusal"]))
        for image in delta.get("images") or ():
            self._add_image(image)
        for call in delta.get("tool_calls") or ():
            self._calls.add_delta(call)
        return lines

    def _read_part(self, part: Any) -> Batch:
        """A piece of text, or a part of a content list, as Mistral and others send it."""
        if isinstance(part, str):
            return self._add_text(part)
        if not isinstance(part, dict):
            raise non_text_content()
        thought, text = chat_reasoning.split_content([part])
        if not thought and not text:
            self._add_image(part)
        return [
            *(self._emit_reasoning(thought) if thought else ()),
            *(self._add_text(text) if text else ()),
        ]

    def _add_text(self, text: str) -> Batch:
        """Text, of which a block of thoughts may be the head."""
        if self._splitter is None:
            return self._emit_text(text)
        lines = self._emit_pieces(self._splitter.feed(text))
        if self._splitter.is_done:
            self._splitter = None
        return lines

    def _rest(self) -> Batch:
        """What was held back, since it might have been the beginning of thoughts."""
        return self._emit_pieces(self._splitter.flush()) if self._splitter else []

    def _emit_pieces(self, pieces: Iterable[tuple[str, str]]) -> Batch:
        lines: Batch = []
        for kind, piece in pieces:
            lines += self._emit_reasoning(piece) if kind == "reasoning" else self._emit_text(piece)
        return lines

    def _emit_text(self, text: str) -> Batch:
        return [self.make_line({"content": text})] if text else []

    def _emit_reasoning(self, thought: str) -> Batch:
        return [self.make_line({"thinking": thought})] if self._translated.wants_reasoning else []

    def _attach_logprobs(self, lines: Batch, logprobs: Json) -> Batch:
        """The lines with log probabilities on the last."""
        entries = [*(logprobs.get("content") or ()), *(logprobs.get("refusal") or ())]
        if not entries:
            return lines
        *before, last = lines or [self.make_line({})]
        return [*before, {**last, "logprobs": entries}]

    # -- images ---------------------------------------------------------------------------------

    def _add_image(self, image: Any) -> None:
        """Keep an image; what comes under the same index is a better one of the same."""
        held = image.get("image_url") if isinstance(image, dict) else None
        url = held.get("url") if isinstance(held, dict) else held
        if isinstance(url, str) and url:
            index = image.get("index")
            self._images[("own", len(self._images)) if index is None else index] = url

    def _make_image_line(self, url: str) -> Event:
        """An image in the text: messages of Ollama's answers have no place for one."""
        return self.make_line({"content": f"\n\n![image]({url})"})

    def _finish_choice(self, choice: Json) -> None:
        self._finish_reason = choice["finish_reason"]
        if self._finish_reason in FAILED_FINISH_REASONS:
            error = choice.get("error") or {
                "message": f"The upstream ended with '{self._finish_reason}'."
            }
            raise to_upstream_error(error)
