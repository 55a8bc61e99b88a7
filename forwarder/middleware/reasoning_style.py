"""Presents reasoning to a chat client in its style, and usage only if it asked for usage.

A wrapper around any chat handler. The inner handler returns reasoning as ``reasoning_content``;
the client gets it in its own style. When the client sends an answer back as history, the
middleware removes the reasoning that a style inserted.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from forwarder.core.types import Batch, Event, EventStream, Handler, Json
from forwarder.core.validate import DICT, read_field
from forwarder.protocols import chat_reasoning, unfold
from forwarder.protocols.chat_responses_mappings import Insertions, shift_annotation
from forwarder.protocols.fold import fold_chat

OWN_METADATA_KEYS = frozenset(
    {"reasoning", "reasoning_summary", "schema_error", "files", "partial_images"}
)
"""Keys that the forwarder sets in a message's ``metadata``, which upstreams do not support."""

_TAGS = {"thinking": ("[thinking]", "[/thinking]\n\n"), "think": ("<think>", "</think>\n\n")}
_BLOCK_START = re.compile(r"(?:\A|\n\n)(\[thinking\]|<think>)")
_BLOCK_ENDS = {
    "[thinking]": re.compile(r"\[/thinking\](?:\n\n|\Z)"),
    "<think>": re.compile(r"</think>(?:\n\n|\Z)"),
}


def with_reasoning_style(handler: Handler, style: str | None) -> Handler:
    """Wrap a chat handler so that it answers in ``style``; ``None`` leaves reasoning unchanged."""

    def handle_request(request: Json) -> EventStream:
        sends_usage = wants_usage(request)
        stream = handler(clean_history(request) if style else request_usage(request))
        if style:
            stream = format_stream(stream, ReasoningFormatter(select_style(style, request)))
        return stream if sends_usage else drop_usage_chunks(stream)

    return handle_request


def select_style(style: str, request: Json) -> str:
    """Return ``none`` instead of an inline style if the answer has to be JSON, else the style."""
    response_format = read_field(request, "response_format", DICT, "response_format") or {}
    kind = response_format.get("type", "text")
    return "none" if kind != "text" and style in ("thinking", "think", "parts") else style


# -- usage --------------------------------------------------------------------------------------


def wants_usage(request: Json) -> bool:
    """Return whether the client gets usage: always without streaming, else only on request."""
    options = read_field(request, "stream_options", DICT, "stream_options") or {}
    return bool(options.get("include_usage")) or not request.get("stream")


def request_usage(request: Json) -> Json:
    """Request usage in every stream, because the log and the rate limits need it."""
    if not request.get("stream"):
        return request
    options = {**(request.get("stream_options") or {}), "include_usage": True}
    return {**request, "stream_options": options}


def drop_usage_chunks(stream: EventStream) -> EventStream:
    """Yield the stream without chunks that carry only usage."""
    for batch in stream:
        rest = [chunk for chunk in batch if chunk.get("choices") or not chunk.get("usage")]
        if rest or not batch:
            yield rest


# -- history ------------------------------------------------------------------------------------


def clean_history(request: Json) -> Json:
    """Return the request with inserted thinking blocks moved to ``reasoning_content``."""
    request = request_usage(request)
    messages = request.get("messages")
    if not isinstance(messages, list):
        return request
    return {**request, "messages": [clean_message(m) for m in messages]}


def clean_message(message: Any) -> Any:
    if not isinstance(message, dict) or message.get("role") != "assistant":
        return message
    content, thoughts = clean_content(message.get("content"))
    metadata: Any = message.get("metadata")
    has_own_keys = isinstance(metadata, dict) and not metadata.keys().isdisjoint(OWN_METADATA_KEYS)
    if not has_own_keys and not thoughts:
        return message
    cleaned = {**message, "content": content or None}
    if has_own_keys:
        cleaned["metadata"] = {k: v for k, v in metadata.items() if k not in OWN_METADATA_KEYS}
        thoughts = thoughts or [str(metadata.get("reasoning") or "")]
    if cleaned.get("metadata") == {}:
        del cleaned["metadata"]
    thought = "\n\n".join(thoughts)
    return {"reasoning_content": thought, **cleaned} if thought else cleaned


def clean_content(content: Any) -> tuple[Any, list[str]]:
    """Return ``(content, thoughts)``: the content without thinking blocks, and their texts."""
    if isinstance(content, str):
        return split_thinking_blocks(content)
    if not isinstance(content, list):
        return content, []
    thinking = [part for part in content if chat_reasoning.is_reasoning_part(part)]
    rest = [part for part in content if not chat_reasoning.is_reasoning_part(part)]
    return rest, [chat_reasoning.split_content([part])[0] for part in thinking]


def split_thinking_blocks(content: str) -> tuple[str, list[str]]:
    """Return ``(rest, thoughts)``: a text without thinking blocks, and the text of each block.

    Runs in linear time: each search starts where the last one ended, and a missing end tag is
    searched for only once.
    """
    if "[/" not in content and "</" not in content:
        return content, []  # most texts of a long history
    rest: list[str] = []
    thoughts: list[str] = []
    ends = {k: end for k, end in _BLOCK_ENDS.items() if k[0] + "/" + k[1:] in content}
    copied = position = 0
    while ends and (start := _BLOCK_START.search(content, position)):
        tag, position = start[1], start.end()
        end = ends[tag].search(content, position) if tag in ends else None
        if end is None:
            ends.pop(tag, None)
            continue
        thoughts.append(content[position : end.start()])
        rest.append(content[copied : start.start()])
        copied = position = end.end()
    return "".join([*rest, content[copied:]]), thoughts


# -- styles -------------------------------------------------------------------------------------


def format_stream(stream: EventStream, formatter: ReasoningFormatter) -> EventStream:
    for batch in stream:
        out: Batch = []
        for chunk in batch:
            out += formatter.format_chunk(chunk)
        if out or not batch:
            yield out


class ReasoningFormatter:
    """Rewrites the reasoning of one answer, separately for each choice."""

    def __init__(self, style: str) -> None:
        self._style = style
        self._choices: dict[Any, ChoiceFormatter] = {}

    def _format_whole_answer(self, completion: Event) -> Event:
        """Rewrite a whole answer by unfolding it into chunks and folding the rewritten chunks."""
        if not any(
            chat_reasoning.read_text(choice.get("message") or {})
            for choice in completion["choices"]
        ):
            return completion
        [chunk] = unfold.unfold_answer("chat", completion, streamed=True)
        alone = ({**chunk, "choices": [choice]} for choice in chunk["choices"])
        return fold_chat(iter([self.format_chunk(one) for one in alone]))

    def format_chunk(self, chunk: Event) -> Batch:
        """Return the chunks that replace this one."""
        choices = chunk.get("choices")
        if not choices:
            return [chunk]
        if "message" in choices[0]:
            return [self._format_whole_answer(chunk)]
        if len(choices) > 1:
            alone = ({**chunk, "choices": [choice]} for choice in choices)
            return [out for one in alone for out in self.format_chunk(one)]
        choice = choices[0]
        index = choice.get("index")
        state = self._choices.get(index)
        if state is None:
            state = self._choices[index] = ChoiceFormatter(self._style)
        deltas = state.format_choice(choice)
        if deltas is None:
            return [chunk]
        *early, last = deltas or [{}]
        if not deltas and not choice.get("finish_reason"):
            return []
        inserted = [
            {**chunk, "choices": [{**choice, "delta": d, "finish_reason": None, "logprobs": None}]}
            for d in early
        ]
        return [*inserted, {**chunk, "choices": [{**choice, "delta": last}]}]


class ChoiceFormatter:
    """The state of one choice: its reasoning so far, and whether an inline block is open."""

    def __init__(self, style: str) -> None:
        self._style = style
        self._write = _STYLE_WRITERS[style]
        self._tags = _TAGS.get(style)
        self._reasoning: list[str] = []
        self._in_block = False
        self._text_length = 0  # characters of the content without inserted text
        self._insertions: Insertions = []

    def format_choice(self, choice: Json) -> list[Json] | None:
        """Return the deltas that replace this one; ``None`` if it stays unchanged."""
        delta = choice.get("delta") or {}
        content = delta.get("content")
        if content and len(delta) == 1 and not self._in_block and not choice.get("finish_reason"):
            self._text_length += len(content)  # fast path: most chunks hold only a piece of text
            return None
        thought = chat_reasoning.read_text(delta)
        if thought:
            return self._format_reasoning(thought, delta, choice)
        if self._in_block and has_other_content(delta, choice):
            self._in_block = False
            assert self._tags is not None
            return [self._insert_text(self._tags[1]), *self._format_rest(delta, choice)]
        if (choice.get("finish_reason") and self._reasoning) or (
            self._insertions and delta.get("annotations")
        ):
            return self._format_rest(delta, choice)
        if content:
            self._text_length += len(content)
        return None

    def _format_reasoning(self, thought: str, delta: Json, choice: Json) -> list[Json]:
        self._reasoning.append(thought)
        rest = {k: v for k, v in delta.items() if k not in _REASONING_FIELDS}
        deltas = self._write(self, thought)
        if "role" in rest:  # a message begins with its role
            deltas = [{"role": rest.pop("role"), **(deltas[0] if deltas else {})}]
        if has_other_content(rest, choice):
            return [*deltas, *(self.format_choice({**choice, "delta": rest}) or [rest])]
        return [{**rest, **deltas[0]}] if deltas else []

    def _format_rest(self, delta: Json, choice: Json) -> list[Json]:
        """Shift annotations past inserted text; add the whole reasoning to the last delta."""
        self._text_length += len(delta.get("content") or "")
        if isinstance(delta.get("annotations"), list):
            shifted = [shift_annotation(note, self._insertions) for note in delta["annotations"]]
            delta = {**delta, "annotations": shifted}
        if not choice.get("finish_reason") or not self._reasoning:
            return [delta]
        metadata = {"reasoning": "".join(self._reasoning), **(delta.get("metadata") or {})}
        return [{**delta, "metadata": metadata}]

    def _insert_text(self, text: str) -> Json:
        here = self._insertions and self._insertions[-1][0] == self._text_length
        before = self._insertions.pop()[1] if here else 0
        self._insertions.append((self._text_length, before + len(text)))
        return {"content": text}

    # -- one method for each style --------------------------------------------------------------

    def write_inline(self, thought: str) -> list[Json]:
        assert self._tags is not None
        if self._in_block:
            return [self._insert_text(thought)]
        self._in_block = True
        gap = "\n\n" if self._text_length or self._insertions else ""
        return [self._insert_text(f"{gap}{self._tags[0]}{thought}")]

    def write_nothing(self, thought: str) -> list[Json]:
        return []

    def write_field(self, thought: str) -> list[Json]:
        return [{self._style: thought}]

    def write_part(self, thought: str) -> list[Json]:
        return [{"content": [{"type": "thinking", "thinking": thought}]}]


_REASONING_FIELDS = (*chat_reasoning.REASONING_FIELDS, *chat_reasoning.REASONING_DETAIL_FIELDS)

_STYLE_WRITERS: dict[str, Callable[[ChoiceFormatter, str], list[Json]]] = {
    "thinking": ChoiceFormatter.write_inline,
    "think": ChoiceFormatter.write_inline,
    **dict.fromkeys(chat_reasoning.REASONING_FIELDS, ChoiceFormatter.write_field),
    "parts": ChoiceFormatter.write_part,
    "none": ChoiceFormatter.write_nothing,
}


def has_other_content(delta: Json, choice: Json) -> bool:
    """Return whether this delta contains more than reasoning, or finishes the choice."""
    fields = ("content", "refusal", "tool_calls", "function_call")
    return any(delta.get(name) for name in fields) or bool(choice.get("finish_reason"))
