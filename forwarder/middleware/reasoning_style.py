"""How a chat client wants its answer: the spelling of reasoning, and whether it gets usage.

A wrapper around any call that speaks chat.  Below it, reasoning is ``reasoning_content``; above
it, it is whatever the client's style says.  What a style wrote into an answer is taken out of
the history again when the client sends it back.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from forwarder.core.types import Batch, Call, Event, Json, Stream
from forwarder.core.validate import DICT, optional
from forwarder.protocols import chat_reasoning, unfold
from forwarder.protocols.annotations import Insertions, shifted
from forwarder.protocols.fold import fold_chat

TOLD = frozenset({"reasoning", "reasoning_summary", "schema_error", "files", "partial_images"})
"""What the forwarder tells in a message's ``metadata``; upstreams know no such field."""

_TAGS = {"thinking": ("[thinking]", "[/thinking]\n\n"), "think": ("<think>", "</think>\n\n")}
_BLOCK_START = re.compile(r"(?:\A|\n\n)(\[thinking\]|<think>)")
_BLOCK_ENDS = {
    "[thinking]": re.compile(r"\[/thinking\](?:\n\n|\Z)"),
    "<think>": re.compile(r"</think>(?:\n\n|\Z)"),
}


def as_wished(call: Call, style: str | None) -> Call:
    """Wrap a chat call so that it answers in ``style``; ``None`` leaves reasoning as it comes."""

    def wished(request: Json) -> Stream:
        takes_usage = takes_usage_of(request)
        stream = call(_cleaned(request) if style else with_usage(request))
        if style:
            stream = _styled(stream, _Styler(_fitting(style, request)))
        return stream if takes_usage else without_usage(stream)

    return wished


def _fitting(style: str, request: Json) -> str:
    """Inline styles would spoil an answer that has to be JSON."""
    wanted = optional(request, "response_format", DICT, "response_format") or {}
    kind = wanted.get("type", "text")
    return "none" if kind != "text" and style in ("thinking", "think", "parts") else style


# -- usage --------------------------------------------------------------------------------------


def takes_usage_of(request: Json) -> bool:
    """May a request's answer have its usage?  In a stream it is a chunk of its own."""
    options = optional(request, "stream_options", DICT, "stream_options") or {}
    return bool(options.get("include_usage")) or not request.get("stream")


def with_usage(request: Json) -> Json:
    """Usage is always asked for: the log wants it even when the client does not."""
    if not request.get("stream"):
        return request
    options = {**(request.get("stream_options") or {}), "include_usage": True}
    return {**request, "stream_options": options}


def without_usage(stream: Stream) -> Stream:
    """The stream without the chunk that is there for its usage alone."""
    for batch in stream:
        kept = [chunk for chunk in batch if chunk.get("choices") or not chunk.get("usage")]
        if kept or not batch:
            yield kept


# -- history ------------------------------------------------------------------------------------


def _cleaned(request: Json) -> Json:
    """The request without the blocks that a style wrote, their text kept as a field."""
    request = with_usage(request)
    messages = request.get("messages")
    if not isinstance(messages, list):
        return request
    return {**request, "messages": [_cleaned_message(m) for m in messages]}


def _cleaned_message(message: Any) -> Any:
    if not isinstance(message, dict) or message.get("role") != "assistant":
        return message
    content, thoughts = _cleaned_content(message.get("content"))
    told: Any = message.get("metadata")
    ours = _told_here(told)
    if not ours and not thoughts:
        return message
    kept = {**message, "content": content or None}
    if ours:
        kept["metadata"] = {k: v for k, v in told.items() if k not in TOLD}
        thoughts = thoughts or [str(told.get("reasoning") or "")]
    if kept.get("metadata") == {}:
        del kept["metadata"]
    thought = "\n\n".join(thoughts)
    return {"reasoning_content": thought, **kept} if thought else kept


def _told_here(metadata: Any) -> bool:
    return isinstance(metadata, dict) and not metadata.keys().isdisjoint(TOLD)


def _cleaned_content(content: Any) -> tuple[Any, list[str]]:
    """``(content, thoughts)``: the content without its thinking blocks, and what they said."""
    if isinstance(content, str):
        return _split_blocks(content)
    if not isinstance(content, list):
        return content, []
    thinking = [part for part in content if chat_reasoning.is_thinking(part)]
    rest = [part for part in content if not chat_reasoning.is_thinking(part)]
    return rest, [chat_reasoning.split_parts([part])[0] for part in thinking]


def _split_blocks(content: str) -> tuple[str, list[str]]:
    """``(rest, thoughts)``: a text without its thinking blocks, and the text of each block.

    Linear: each search starts where the last one ended, and a tag that does not come any more is
    searched for once.
    """
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


def _styled(stream: Stream, styler: _Styler) -> Stream:
    for batch in stream:
        out: Batch = []
        for chunk in batch:
            out += styler.take(chunk)
        if out or not batch:
            yield out


class _Styler:
    """Respells the reasoning of one answer, for each choice on its own."""

    def __init__(self, style: str) -> None:
        self._style = style
        self._choices: dict[Any, _Choice] = {}

    def _whole(self, completion: Event) -> Event:
        """A whole answer, respelled as the stream that it could have been."""
        if not any(
            chat_reasoning.read(choice.get("message") or {}) for choice in completion["choices"]
        ):
            return completion
        [chunk] = unfold.events("chat", completion, streamed=True)
        alone = ({**chunk, "choices": [choice]} for choice in chunk["choices"])
        return fold_chat(iter([self.take(one) for one in alone]))

    def take(self, chunk: Event) -> Batch:
        """The chunk, or what becomes of it."""
        choices = chunk.get("choices")
        if not choices:
            return [chunk]
        if "message" in choices[0]:
            return [self._whole(chunk)]
        if len(choices) > 1:
            alone = ({**chunk, "choices": [choice]} for choice in choices)
            return [out for one in alone for out in self.take(one)]
        choice = choices[0]
        index = choice.get("index")
        state = self._choices.get(index)
        if state is None:
            state = self._choices[index] = _Choice(self._style)
        deltas = state.take(choice)
        if deltas is None:
            return [chunk]
        *early, last = deltas or [{}]
        if not deltas and not choice.get("finish_reason"):
            return []
        quiet = [
            {**chunk, "choices": [{**choice, "delta": d, "finish_reason": None, "logprobs": None}]}
            for d in early
        ]
        return [*quiet, {**chunk, "choices": [{**choice, "delta": last}]}]


class _Choice:
    """Where one choice stands: what was thought, and whether an inline block is open."""

    def __init__(self, style: str) -> None:
        self._spell = _SPELLINGS[style]
        self._tags = _TAGS.get(style)
        self._thoughts: list[str] = []
        self._inside = False
        self._said = 0  # characters of the content, without what was put into it
        self._put: Insertions = []

    def take(self, choice: Json) -> list[Json] | None:
        """The deltas that take this one's place; ``None`` when it stays as it is."""
        delta = choice.get("delta") or {}
        content = delta.get("content")
        if content and len(delta) == 1 and not self._inside and not choice.get("finish_reason"):
            self._said += len(content)  # most chunks hold a piece of text and nothing else
            return None
        thought = chat_reasoning.read(delta)
        if thought:
            return self._think(thought, delta, choice)
        if self._inside and _says(delta, choice):
            self._inside = False
            assert self._tags is not None
            return [self._put_in(self._tags[1]), *self._last(delta, choice)]
        if (choice.get("finish_reason") and self._thoughts) or (
            self._put and delta.get("annotations")
        ):
            return self._last(delta, choice)
        if content:
            self._said += len(content)
        return None

    def _think(self, thought: str, delta: Json, choice: Json) -> list[Json]:
        self._thoughts.append(thought)
        rest = {k: v for k, v in delta.items() if k not in _READ}
        deltas = self._spell(self, thought)
        if "role" in rest:  # a message begins with its role
            deltas = [{"role": rest.pop("role"), **(deltas[0] if deltas else {})}]
        if _says(rest, choice):
            return [*deltas, *(self.take({**choice, "delta": rest}) or [rest])]
        return [{**rest, **deltas[0]}] if deltas else []

    def _last(self, delta: Json, choice: Json) -> list[Json]:
        """What is said after a thought; at the finish, all that was thought is told apart."""
        self._said += len(delta.get("content") or "")
        if isinstance(delta.get("annotations"), list):
            notes = [shifted(note, self._put) for note in delta["annotations"]]
            delta = {**delta, "annotations": notes}
        if not choice.get("finish_reason") or not self._thoughts:
            return [delta]
        metadata = {"reasoning": "".join(self._thoughts), **(delta.get("metadata") or {})}
        return [{**delta, "metadata": metadata}]

    def _put_in(self, text: str) -> Json:
        here = self._put and self._put[-1][0] == self._said
        before = self._put.pop()[1] if here else 0
        self._put.append((self._said, before + len(text)))
        return {"content": text}

    # -- one spelling each ----------------------------------------------------------------------

    def inline(self, thought: str) -> list[Json]:
        assert self._tags is not None
        if self._inside:
            return [self._put_in(thought)]
        self._inside = True
        gap = "\n\n" if self._said or self._put else ""
        return [self._put_in(f"{gap}{self._tags[0]}{thought}")]

    def hidden(self, thought: str) -> list[Json]:
        return []

    def field(self, thought: str) -> list[Json]:
        return [{"reasoning_content": thought}]

    def short_field(self, thought: str) -> list[Json]:
        return [{"reasoning": thought}]

    def part(self, thought: str) -> list[Json]:
        return [{"content": [{"type": "thinking", "thinking": thought}]}]


_READ = (*chat_reasoning.FIELDS, *chat_reasoning.DETAILS)

_SPELLINGS: dict[str, Callable[[_Choice, str], list[Json]]] = {
    "thinking": _Choice.inline,
    "think": _Choice.inline,
    "reasoning_content": _Choice.field,
    "reasoning": _Choice.short_field,
    "parts": _Choice.part,
    "none": _Choice.hidden,
}


def _says(delta: Json, choice: Json) -> bool:
    """Does this delta begin something else than reasoning?"""
    spoken = ("content", "refusal", "tool_calls", "function_call")
    return any(delta.get(name) for name in spoken) or bool(choice.get("finish_reason"))
