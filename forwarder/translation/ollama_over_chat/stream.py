"""Chat chunks -> the lines of Ollama's answers.

Text and thoughts are told as they come, calls whole and behind them, and the last line has what
was counted.  Times are those that can be seen from here: the wait for the first word is told as
the prompt's, and nothing as loading.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from forwarder.core.errors import UpstreamBroken, UpstreamError
from forwarder.core.translation_context import Terms
from forwarder.core.types import Batch, Event, Json, Stream
from forwarder.protocols import chat_reasoning
from forwarder.protocols.answer_choice import AnswerChoice, read_delta
from forwarder.protocols.mappings import (
    FAILED_FINISHES,
    INCOMPLETE_REASONS,
    failure,
    no_text,
    read_usage,
)
from forwarder.translation.ollama_over_chat.calls import Calls
from forwarder.translation.ollama_over_chat.request import Prepared


def translate_stream(chunks: Stream, prepared: Prepared, terms: Terms) -> Stream:
    """Give the lines for a chat stream, batch by batch; when nothing was asked, the one that says
    so."""
    answer = Answer(prepared, terms)
    if prepared.instead:
        yield [answer.line({}, done=True, done_reason=prepared.instead)]
        return
    for batch in chunks:
        lines: Batch = []
        try:
            for chunk in batch:
                lines += answer.take(chunk)
        except UpstreamError:
            if lines:  # what came with the failure came before it
                yield lines
            raise
        if lines or not batch:
            yield lines
    yield answer.finish()


class Answer:
    """One answer in the making."""

    def __init__(self, prepared: Prepared, terms: Terms) -> None:
        self._prepared = prepared
        self._mint = terms.mint
        self._first = 0  # the clock when the first words came
        self._splitter: chat_reasoning.ThinkSplitter | None = chat_reasoning.ThinkSplitter()
        self._calls = Calls()
        self._answer_choice = AnswerChoice()
        self._pictures: dict[Any, str] = {}
        self._finish = ""
        self._usage: Json = {}

    def line(self, said: Json, *, done: bool = False, **more: Any) -> Event:
        """One line that says ``content``, ``thinking`` or ``tool_calls``."""
        head = {"model": self._prepared.model, "created_at": self._mint.stamp()}
        return {**head, **self._prepared.form.said(said), "done": done, **more}

    def take(self, chunk: Event) -> Batch:
        """The lines that one chunk causes."""
        if chunk.get("error"):
            raise failure(chunk["error"])
        self._usage = read_usage(chunk) or self._usage
        choices = chunk.get("choices")
        choice = self._answer_choice.find(choices) if choices else None
        if choice is None:
            return []
        lines = self._choice(choice)
        if "delta" not in choice:  # a whole answer
            return lines
        if not self._first and (lines or self._calls):
            self._first = self._mint.clock()
        return lines

    def finish(self) -> Batch:
        """What is still held back, the calls, and the line that says that it is over."""
        if not self._finish:
            raise UpstreamBroken("The upstream's stream ended before its answer was finished.")
        reason = INCOMPLETE_REASONS.get(self._finish)
        is_cut = reason == "max_output_tokens"
        lines = [*self._rest(), *map(self._shown, self._pictures.values())]
        calls = self._calls.whole(is_cut)
        if calls:
            lines.append(self.line({"tool_calls": calls}))
        done_reason = "length" if is_cut else (reason or "stop")
        return [*lines, self.line({}, done=True, done_reason=done_reason, **self._measured())]

    def _measured(self) -> Json:
        """Nanoseconds and tokens; tokens that the upstream does not tell are not made up.

        A whole answer does not tell when its first word was there.
        """
        began, over = self._prepared.began, self._mint.clock()
        first = self._first or began
        counts = {
            "prompt_eval_count": self._usage.get("prompt_tokens"),
            "prompt_eval_duration": first - began,
            "eval_count": self._usage.get("completion_tokens"),
            "eval_duration": over - first,
        }
        told = {name: value for name, value in counts.items() if type(value) is int}
        return {"total_duration": over - began, "load_duration": 0, **told}

    # -- reading a choice -----------------------------------------------------------------------

    def _choice(self, choice: Json) -> Batch:
        lines = self._delta(read_delta(choice))
        if self._prepared.logprobs and choice.get("logprobs"):
            lines = self._measure(lines, choice["logprobs"])
        if choice.get("finish_reason"):
            self._end(choice)
        return lines

    def _delta(self, delta: Json) -> Batch:
        lines: Batch = []
        thought = chat_reasoning.read(delta)
        if thought:
            lines += self._think(thought)
        content = delta.get("content")
        for part in content if isinstance(content, list) else [content] if content else ():
            lines += self._part(part)
        if delta.get("refusal"):
            lines += self._say("".join(delta["refusal"]))
        for image in delta.get("images") or ():
            self._picture(image)
        for call in delta.get("tool_calls") or ():
            self._calls.add(call)
        return lines

    def _part(self, part: Any) -> Batch:
        """A piece of text, or a part of a content list, as Mistral and others send it."""
        if isinstance(part, str):
            return self._text(part)
        if not isinstance(part, dict):
            raise no_text()
        thought, text = chat_reasoning.split_parts([part])
        if not thought and not text:
            self._picture(part)
        return [*(self._think(thought) if thought else ()), *(self._text(text) if text else ())]

    def _text(self, text: str) -> Batch:
        """Text, of which a block of thoughts may be the head."""
        if self._splitter is None:
            return self._say(text)
        lines = self._split(self._splitter.feed(text))
        if self._splitter.passed:
            self._splitter = None
        return lines

    def _rest(self) -> Batch:
        """What was held back, since it might have been the beginning of thoughts."""
        return self._split(self._splitter.flush()) if self._splitter else []

    def _split(self, pieces: Iterable[tuple[str, str]]) -> Batch:
        lines: Batch = []
        for kind, piece in pieces:
            lines += self._think(piece) if kind == "reasoning" else self._say(piece)
        return lines

    def _say(self, text: str) -> Batch:
        return [self.line({"content": text})] if text else []

    def _think(self, thought: str) -> Batch:
        return [self.line({"thinking": thought})] if self._prepared.thinks else []

    def _measure(self, lines: Batch, logprobs: Json) -> Batch:
        """The lines with log probabilities on the last."""
        entries = [*(logprobs.get("content") or ()), *(logprobs.get("refusal") or ())]
        if not entries:
            return lines
        *before, last = lines or [self.line({})]
        return [*before, {**last, "logprobs": entries}]

    # -- images ---------------------------------------------------------------------------------

    def _picture(self, image: Any) -> None:
        """Keep an image; what comes under the same index is a better one of the same."""
        held = image.get("image_url") if isinstance(image, dict) else None
        url = held.get("url") if isinstance(held, dict) else held
        if isinstance(url, str) and url:
            index = image.get("index")
            self._pictures[("own", len(self._pictures)) if index is None else index] = url

    def _shown(self, url: str) -> Event:
        """An image in the text: messages of Ollama's answers have no place for one."""
        return self.line({"content": f"\n\n![image]({url})"})

    def _end(self, choice: Json) -> None:
        self._finish = choice["finish_reason"]
        if self._finish in FAILED_FINISHES:
            error = choice.get("error") or {"message": f"The upstream ended with '{self._finish}'."}
            raise failure(error)
