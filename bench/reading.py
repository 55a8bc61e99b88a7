"""Parses answers as a client does and validates them.

The benchmark checks every answer, so that a fast but wrong answer does not count.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import orjson

from bench.shape import Shape, pieces, words

Json = dict[str, Any]

_THINKING = re.compile(r"\A\[thinking\](.*?)\[/thinking\]\s*", re.DOTALL)
_TERMINALS = ("response.completed", "response.incomplete", "response.failed", "error")
_DELTAS = {
    "response.output_text.delta": "text",
    "response.reasoning_summary_text.delta": "reasoning",
    "response.reasoning_text.delta": "reasoning",
    "response.function_call_arguments.delta": "arguments",
}
_SAID = {"content": "text", "reasoning_content": "reasoning", "reasoning": "reasoning"}


@dataclass
class Answer:
    """The content of an answer, its number of deltas, and its end markers in order of arrival."""

    text: str = ""
    reasoning: str = ""
    arguments: str = ""
    deltas: int = 0
    endings: tuple[str, ...] = ()
    after_end: int = 0

    def say(self, kind: str, piece: object) -> None:
        """Append a piece of content; an empty one is not counted as a delta."""
        if piece:
            setattr(self, kind, getattr(self, kind) + str(piece))
            self.deltas += 1

    def end(self, how: str) -> None:
        """Record an end marker."""
        self.endings += (how,)


def expected(protocol: str, shape: Shape, streamed: bool) -> Answer:
    """Return the answer that a client of ``protocol`` should receive."""
    if protocol == "chat":
        endings: tuple[str, ...] = ("tool_calls" if shape.arguments else "stop",)
        endings += ("[DONE]",) if streamed else ()
    else:
        endings = ("response.completed",) if streamed else ("completed",)
    return Answer(
        text="".join(words(shape.text)),
        reasoning="".join(words(shape.reasoning)),
        arguments="".join(pieces(shape.arguments)),
        deltas=shape.chunks,
        endings=endings,
    )


def fault(body: bytes, protocol: str, shape: Shape, streamed: bool) -> str | None:
    """Return the fault of an answer body, or ``None`` if it is correct."""
    try:
        got = read(body, protocol, streamed)
    except (ValueError, LookupError, TypeError) as error:
        return f"cannot be read: {error!r}"
    want = expected(protocol, shape, streamed)
    if got.after_end:
        return f"{got.after_end} events after the end"
    if streamed and got.deltas < want.deltas:
        return f"{got.deltas} deltas instead of {want.deltas}"
    for name in ("endings", "text", "reasoning", "arguments"):
        if getattr(got, name) != getattr(want, name):
            return f"other {name}: {str(getattr(got, name))[-80:]!r}"
    return None


def failure_fault(body: bytes, protocol: str) -> str | None:
    """Return the fault of a stream that must end with an error, or ``None`` if it does."""
    try:
        events = [p if p == b"[DONE]" else orjson.loads(p) for p in _payloads(body)]
    except ValueError as error:
        return f"cannot be read: {error!r}"
    endings = [_TOLD_BY[protocol](event) for event in events]
    told = [ending for ending in endings if ending]
    if told != ["failed"]:
        return f"endings of a failed stream: {told}"
    return None if endings[-1] else "events after the failure"


def _told_by_chunk(chunk: Any) -> str | None:
    if chunk == b"[DONE]":
        return "done"
    if "error" in chunk:
        return "failed"
    return next((c["finish_reason"] for c in chunk["choices"] if c["finish_reason"]), None)


def _told_by_event(event: Any) -> str | None:
    kind: str = event["type"]
    return kind.removeprefix("response.") if kind in _TERMINALS[:3] else None


_TOLD_BY = {"chat": _told_by_chunk, "responses": _told_by_event}


def read(body: bytes, protocol: str, streamed: bool) -> Answer:
    """Parse the answer in a body; raises ValueError, LookupError or TypeError."""
    answer = Answer()
    if streamed:
        for payload in _payloads(body):
            _READ_EVENT[protocol](answer, payload)
    else:
        _READ_WHOLE[protocol](answer, orjson.loads(body))
    if protocol == "chat":
        _unfold_thinking(answer)
    return answer


def _payloads(body: bytes) -> list[bytes]:
    """Return the data of each event; comments and event names are skipped."""
    blocks = body.split(b"\n\n")
    if blocks.pop():
        raise ValueError("the last event has no end")
    found = (block.partition(b"data: ")[2] for block in blocks)
    return [payload for payload in found if payload]


def _read_chunk(answer: Answer, payload: bytes) -> None:
    if "[DONE]" in answer.endings:
        answer.after_end += 1
    if payload == b"[DONE]":
        answer.end("[DONE]")
        return
    for choice in orjson.loads(payload)["choices"]:
        _read_message(answer, choice["delta"])
        if choice["finish_reason"]:
            answer.end(choice["finish_reason"])


def _read_event(answer: Answer, payload: bytes) -> None:
    event = orjson.loads(payload)
    if answer.endings:
        answer.after_end += 1
    if event["type"] in _DELTAS:
        answer.say(_DELTAS[event["type"]], event["delta"])
    elif event["type"] in _TERMINALS:
        answer.end(event["type"])


def _read_completion(answer: Answer, whole: Json) -> None:
    (choice,) = whole["choices"]
    _read_message(answer, choice["message"])
    answer.end(choice["finish_reason"])


def _read_response(answer: Answer, whole: Json) -> None:
    for item in whole["output"]:
        kind = "reasoning" if item["type"] == "reasoning" else "text"
        for part in item.get("content") or ():
            answer.say(kind, part["text"])
        for part in item.get("summary") or ():
            answer.say("reasoning", part["text"])
        answer.say("arguments", item.get("arguments"))
    answer.end(whole["status"])


def _read_message(answer: Answer, message: Json) -> None:
    for field, kind in _SAID.items():
        answer.say(kind, message.get(field))
    for call in message.get("tool_calls") or ():
        answer.say("arguments", call["function"].get("arguments"))


def _unfold_thinking(answer: Answer) -> None:
    """Move reasoning from the head of the content, the forwarder's default style for Chat."""
    block = _THINKING.match(answer.text)
    if block:
        answer.reasoning += block[1]
        answer.text = answer.text[block.end() :]


_READ_EVENT = {"chat": _read_chunk, "responses": _read_event}
_READ_WHOLE = {"chat": _read_completion, "responses": _read_response}
