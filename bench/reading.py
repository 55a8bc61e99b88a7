"""Parses answers as a client does and validates them.

The benchmark checks every answer, so that a fast but wrong answer does not count.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import orjson

from bench.shape import Shape, make_argument_pieces, make_words

Json = dict[str, Any]

_THINKING = re.compile(r"\A\[thinking\](.*?)\[/thinking\]\s*", re.DOTALL)
_TERMINALS = ("response.completed", "response.incomplete", "response.failed", "error")
_DELTAS = {
    "response.output_text.delta": "text",
    "response.reasoning_summary_text.delta": "reasoning",
    "response.reasoning_text.delta": "reasoning",
    "response.function_call_arguments.delta": "arguments",
}
_CONTENT_FIELDS = {"content": "text", "reasoning_content": "reasoning", "reasoning": "reasoning"}


@dataclass
class Answer:
    """The content of an answer, its number of deltas, and its end markers in order of arrival."""

    text: str = ""
    reasoning: str = ""
    arguments: str = ""
    deltas: int = 0
    endings: tuple[str, ...] = ()
    after_end: int = 0

    def add_piece(self, kind: str, piece: object) -> None:
        """Append a piece of content; an empty one is not counted as a delta."""
        if piece:
            setattr(self, kind, getattr(self, kind) + str(piece))
            self.deltas += 1

    def add_ending(self, ending: str) -> None:
        """Record an end marker."""
        self.endings += (ending,)


def make_expected_answer(protocol: str, shape: Shape, streamed: bool) -> Answer:
    """Return the answer that a client of ``protocol`` should receive."""
    if protocol == "chat":
        endings: tuple[str, ...] = ("tool_calls" if shape.arguments else "stop",)
        endings += ("[DONE]",) if streamed else ()
    else:
        endings = ("response.completed",) if streamed else ("completed",)
    return Answer(
        text="".join(make_words(shape.text)),
        reasoning="".join(make_words(shape.reasoning)),
        arguments="".join(make_argument_pieces(shape.arguments)),
        deltas=shape.chunks,
        endings=endings,
    )


def find_fault(body: bytes, protocol: str, shape: Shape, streamed: bool) -> str | None:
    """Return the fault of an answer body, or ``None`` if it is correct."""
    try:
        answer = read_answer(body, protocol, streamed)
    except (ValueError, LookupError, TypeError) as error:
        return f"cannot be read: {error!r}"
    expected = make_expected_answer(protocol, shape, streamed)
    if answer.after_end:
        return f"{answer.after_end} events after the end"
    if streamed and answer.deltas < expected.deltas:
        return f"{answer.deltas} deltas instead of {expected.deltas}"
    for name in ("endings", "text", "reasoning", "arguments"):
        if getattr(answer, name) != getattr(expected, name):
            return f"other {name}: {str(getattr(answer, name))[-80:]!r}"
    return None


def find_failure_fault(body: bytes, protocol: str) -> str | None:
    """Return the fault of a stream that must end with an error, or ``None`` if it does."""
    try:
        events = [p if p == b"[DONE]" else orjson.loads(p) for p in split_payloads(body)]
    except ValueError as error:
        return f"cannot be read: {error!r}"
    endings = [_ENDING_READERS[protocol](event) for event in events]
    terminal_endings = [ending for ending in endings if ending]
    if terminal_endings != ["failed"]:
        return f"endings of a failed stream: {terminal_endings}"
    return None if endings[-1] else "events after the failure"


def read_chunk_ending(chunk: Any) -> str | None:
    if chunk == b"[DONE]":
        return "done"
    if "error" in chunk:
        return "failed"
    return next((c["finish_reason"] for c in chunk["choices"] if c["finish_reason"]), None)


def read_event_ending(event: Any) -> str | None:
    kind: str = event["type"]
    return kind.removeprefix("response.") if kind in _TERMINALS[:3] else None


_ENDING_READERS = {"chat": read_chunk_ending, "responses": read_event_ending}


def read_answer(body: bytes, protocol: str, streamed: bool) -> Answer:
    """Parse the answer in a body; raises ValueError, LookupError or TypeError."""
    answer = Answer()
    if streamed:
        for payload in split_payloads(body):
            _READ_EVENT[protocol](answer, payload)
    else:
        _READ_WHOLE[protocol](answer, orjson.loads(body))
    if protocol == "chat":
        unfold_thinking(answer)
    return answer


def split_payloads(body: bytes) -> list[bytes]:
    """Return the data of each event; comments and event names are skipped."""
    blocks = body.split(b"\n\n")
    if blocks.pop():
        raise ValueError("the last event has no end")
    payloads = (block.partition(b"data: ")[2] for block in blocks)
    return [payload for payload in payloads if payload]


def read_chunk(answer: Answer, payload: bytes) -> None:
    if "[DONE]" in answer.endings:
        answer.after_end += 1
    if payload == b"[DONE]":
        answer.add_ending("[DONE]")
        return
    for choice in orjson.loads(payload)["choices"]:
        read_message(answer, choice["delta"])
        if choice["finish_reason"]:
            answer.add_ending(choice["finish_reason"])


def read_event(answer: Answer, payload: bytes) -> None:
    event = orjson.loads(payload)
    if answer.endings:
        answer.after_end += 1
    if event["type"] in _DELTAS:
        answer.add_piece(_DELTAS[event["type"]], event["delta"])
    elif event["type"] in _TERMINALS:
        answer.add_ending(event["type"])


def read_completion(answer: Answer, completion: Json) -> None:
    (choice,) = completion["choices"]
    read_message(answer, choice["message"])
    answer.add_ending(choice["finish_reason"])


def read_response(answer: Answer, response: Json) -> None:
    for item in response["output"]:
        kind = "reasoning" if item["type"] == "reasoning" else "text"
        for part in item.get("content") or ():
            answer.add_piece(kind, part["text"])
        for part in item.get("summary") or ():
            answer.add_piece("reasoning", part["text"])
        answer.add_piece("arguments", item.get("arguments"))
    answer.add_ending(response["status"])


def read_message(answer: Answer, message: Json) -> None:
    for field, kind in _CONTENT_FIELDS.items():
        answer.add_piece(kind, message.get(field))
    for call in message.get("tool_calls") or ():
        answer.add_piece("arguments", call["function"].get("arguments"))


def unfold_thinking(answer: Answer) -> None:
    """Move reasoning from the head of the content, the forwarder's default style for Chat."""
    block = _THINKING.match(answer.text)
    if block:
        answer.reasoning += block[1]
        answer.text = answer.text[block.end() :]


_READ_EVENT = {"chat": read_chunk, "responses": read_event}
_READ_WHOLE = {"chat": read_completion, "responses": read_response}
