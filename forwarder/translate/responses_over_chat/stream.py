"""Chat chunks -> Responses events.

What is open is in ``_open`` and ``_calls``; what was made is in ``_items``.  Text, reasoning and
refusals follow each other, so opening one closes the other; calls may interleave with anything
and stay open until the end.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

from forwarder.errors import UpstreamError
from forwarder.translate import reasoning
from forwarder.translate.call import Batch, Event, Json, Stream
from forwarder.translate.callkeys import CallKeys
from forwarder.translate.responses_over_chat.calls import PendingCall
from forwarder.translate.responses_over_chat.echo import blank_response
from forwarder.translate.responses_over_chat.items import Item, Message, Reasoning, ToolCall
from forwarder.translate.responses_over_chat.request import Prepared
from forwarder.translate.terms import Terms
from forwarder.translate.vocabulary import (
    FAILED_FINISHES,
    INCOMPLETE_REASONS,
    failure,
    usage_to_responses,
)


def translate_stream(chunks: Stream, prepared: Prepared, terms: Terms) -> Stream:
    """Give the Responses events for a chat stream, batch by batch, numbered from 0."""
    answer = Answer(prepared, terms)
    number = itertools.count()
    begun = answer.begin()
    for batch in chunks:
        events: Batch = []
        try:
            for chunk in batch:
                events += answer.take(chunk)
        except UpstreamError:
            if events:  # what came with the failure came before it
                yield _numbered([*begun, *events], number)
            raise
        if begun:
            events, begun = [*begun, *events], []
        if events or not batch:  # an empty batch is a heartbeat
            yield _numbered(events, number)
    yield _numbered([*begun, *answer.finish()], number)


def _numbered(events: Batch, number: Iterator[int]) -> Batch:
    """The one door out: sequence numbers are given here."""
    for event in events:
        event["sequence_number"] = next(number)
    return events


class Answer:
    """One response in the making."""

    def __init__(self, prepared: Prepared, terms: Terms) -> None:
        self._terms = terms
        self._toolbox = prepared.toolbox
        mint = terms.mint
        self._response = blank_response(prepared.original, mint.id("resp"), mint.now())
        include = prepared.original.get("include") or []
        self._seals = "reasoning.encrypted_content" in include
        self._splitter: reasoning.ThinkSplitter | None = reasoning.ThinkSplitter()
        self._details: list[Json] = []
        self._items: list[Item] = []
        self._open: Message | Reasoning | None = None
        self._calls: list[PendingCall] = []
        self._call_ids: set[str] = set()
        self._keys = CallKeys()
        self._finish = "stop"
        self._usage: Json | None = None

    def begin(self) -> Batch:
        """The two events that every response starts with."""
        started = dict(self._response)
        return [
            {"type": "response.created", "response": started},
            {"type": "response.in_progress", "response": started},
        ]

    def take(self, chunk: Json) -> Batch:
        """The events that one chunk causes."""
        if chunk.get("error"):
            raise failure(chunk["error"])
        usage = chunk.get("usage") or (chunk.get("x_groq") or {}).get("usage")
        if usage:
            self._usage = usage
        if chunk.get("service_tier"):
            self._response["service_tier"] = chunk["service_tier"]
        choices = chunk.get("choices")
        return self._choice(choices[0]) if choices else []

    def finish(self) -> Batch:
        """Close what is open and end: completed, or incomplete with its reason."""
        reason = INCOMPLETE_REASONS.get(self._finish)
        status = "incomplete" if reason else "completed"
        events = [*self._rest_of_split(), *self._close_all(status)]
        if not self._items:
            # Clients index output[0]; a cut or filtered answer may well be empty.
            events += [*self._say("text", ""), *self._close_open(status)]
        self._response.update(
            status=status,
            completed_at=None if reason else self._terms.mint.now(),
            incomplete_details={"reason": reason} if reason else None,
            output=[item.done for item in self._items],
            usage=usage_to_responses(self._usage),
        )
        return [*events, {"type": f"response.{status}", "response": self._response}]

    # -- reading a choice -----------------------------------------------------------------------

    def _choice(self, choice: Json) -> Batch:
        delta = choice.get("delta") or choice.get("message") or {}
        events: Batch = []
        thought = reasoning.read(delta)
        if thought or delta.get("reasoning_details"):
            reasoning.merge_details(self._details, delta.get("reasoning_details"))
            events += self._think(thought)
        content = delta.get("content")
        if content:
            events += self._content(content)
        if delta.get("refusal"):
            events += self._say("refusal", delta["refusal"])
        if delta.get("tool_calls") or delta.get("function_call"):
            events += self._tool_calls(_calls_of(delta))
        if choice.get("finish_reason"):
            self._end(choice)
        return events

    def _end(self, choice: Json) -> None:
        self._finish = choice["finish_reason"]
        if self._finish in FAILED_FINISHES:
            error = choice.get("error") or {"message": f"The upstream ended with '{self._finish}'."}
            raise failure(error)

    def _content(self, content: Any) -> Batch:
        if not isinstance(content, str):
            thought, text = reasoning.split_parts(content)
            return [*(self._think(thought) if thought else []), *(self._text(text) if text else [])]
        return self._text(content)

    def _text(self, text: str) -> Batch:
        if self._splitter is None:
            return self._say("text", text)
        events = self._split(self._splitter.feed(text))
        if self._splitter.passed:
            self._splitter = None
        return events

    def _split(self, pieces: Iterable[tuple[str, str]]) -> Batch:
        events: Batch = []
        for kind, piece in pieces:
            events += self._think(piece) if kind == "reasoning" else self._say("text", piece)
        return events

    def _rest_of_split(self) -> Batch:
        if self._splitter is None:
            return []
        pieces, self._splitter = list(self._splitter.flush()), None
        return self._split(pieces)

    # -- items ----------------------------------------------------------------------------------

    def _say(self, part: str, text: str) -> Batch:
        message = self._open
        if type(message) is Message:
            return message.text(text) if part == "text" else message.refusal(text)
        events = self._begin_message()
        opened = self._open
        assert isinstance(opened, Message)
        return [*events, *(opened.text(text) if part == "text" else opened.refusal(text))]

    def _begin_message(self) -> Batch:
        events = self._close_open("completed")
        self._open = Message(self._terms.mint.id("msg"), len(self._items))
        self._items.append(self._open)
        return [*events, *self._open.open()]

    def _think(self, text: str) -> Batch:
        events: Batch = []
        if type(self._open) is not Reasoning:
            events = self._close_open("completed")
            item_id = self._terms.mint.id("rs")
            self._open = Reasoning(item_id, len(self._items), self._terms.reasoning)
            self._items.append(self._open)
            events += self._open.open()
        thought = self._open
        assert isinstance(thought, Reasoning)
        return [*events, *thought.grow(text)] if text else events

    def _tool_calls(self, deltas: list[Json]) -> Batch:
        events = self._rest_of_split() if not self._calls else []
        if self._open is not None:
            events += self._close_open("completed")
        for delta in deltas:
            number = self._keys.find(delta)
            if number == len(self._calls):
                events += self._begin_call()
            events += self._calls[number].take(delta, self._make_call)
        return events

    def _begin_call(self) -> Batch:
        """A further call says that the names of those before it are whole."""
        events = [event for call in self._calls for event in call.show(self._make_call)]
        self._calls.append(PendingCall())
        return events

    def _make_call(self, name: str, call_id: str, whole: bool) -> ToolCall | None:
        tool = self._toolbox.find(name)
        if not (tool.kind.streams or whole):
            return None
        item_id = self._terms.mint.id(tool.kind.id_prefix)
        native = self._toolbox.is_native(tool.kind)
        if not call_id or call_id in self._call_ids:  # clients tell calls apart by their ids
            call_id = self._terms.mint.id("call")
        self._call_ids.add(call_id)
        item = ToolCall(item_id, len(self._items), call_id, tool, native)
        self._items.append(item)
        return item

    # -- closing --------------------------------------------------------------------------------

    def _close_all(self, status: str) -> Batch:
        """Close the calls, then what was opened after them: only the last was cut off, if any."""
        last = self._calls[-1] if self._calls and self._open is None else None
        events: Batch = []
        for call in self._calls:
            events += call.close(status if call is last else "completed", self._make_call)
        return [*events, *self._close_open(status)]

    def _close_open(self, status: str) -> Batch:
        item, self._open = self._open, None
        if item is None:
            return []
        if isinstance(item, Reasoning) and self._seals:
            item.sealed = self._seal(item)
        return item.close(status)

    def _seal(self, item: Reasoning) -> str:
        thought: Json = {"reasoning_content": "".join(item.pieces)}
        if self._details:
            thought["reasoning_details"] = self._details
            self._details = []
        return self._terms.seal(thought)


def _calls_of(delta: Json) -> list[Event]:
    """The tool call deltas, the legacy ``function_call`` among them."""
    calls = delta.get("tool_calls")
    if calls:
        return list(calls)
    return [{"index": 0, "function": delta["function_call"]}]
