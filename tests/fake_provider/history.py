"""Converts the conversation of a request of either protocol to a list of steps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from .answers import Json, ModelRequest

CALLS = {
    "function_call": "function_call_output",
    "custom_tool_call": "custom_tool_call_output",
    "local_shell_call": "local_shell_call_output",
    "shell_call": "shell_call_output",
    "apply_patch_call": "apply_patch_call_output",
    "computer_call": "computer_call_output",
    "tool_search_call": "tool_search_output",
}
"""Type of an input item that is a call -> type of the item that answers it."""

OUTPUTS = {output: call for call, output in CALLS.items()}


@dataclass(frozen=True)
class Turn:
    """A stored response: its own items, and all items before it."""

    before: Sequence[Json] = ()
    output: Sequence[Json] = ()

    @property
    def items(self) -> list[Json]:
        return [*self.before, *self.output]

    @classmethod
    def after(cls, earlier_turn: Turn | None, turn_input: object, output: Sequence[Json]) -> Turn:
        """Return the turn in which ``output`` answers ``turn_input``."""
        earlier_items = earlier_turn.items if earlier_turn else []
        return cls([*earlier_items, *as_items(turn_input)], output)


@dataclass(frozen=True)
class Step:
    """A message of the user, the name of a tool that the model called, or the result of a tool."""

    kind: Literal["user", "call", "result", "other"]
    text: str


def as_items(request_input: object) -> list[Json]:
    """Return a Responses ``input`` as a list of items."""
    if isinstance(request_input, str):
        return [{"role": "user", "content": request_input}]
    return list(request_input) if isinstance(request_input, list) else []


def list_steps(request: ModelRequest, earlier_turn: Turn | None = None) -> list[Step]:
    """Return the steps before this request, in order."""
    if request.protocol == "chat":
        return [step for message in request.body["messages"] for step in _of_message(message)]
    items = [*(earlier_turn.items if earlier_turn else ()), *as_items(request.body.get("input"))]
    return [_of_item(item) for item in items]


def text_of(content: Any) -> str:
    """Return the text of a string or of a list of parts, of either protocol."""
    if isinstance(content, list):
        return "".join(part.get("text") or "" for part in content)
    return content if isinstance(content, str) else ""


def _of_message(message: Json) -> Iterator[Step]:
    calls = message.get("tool_calls") or ()
    if message["role"] in ("tool", "function"):
        yield Step("result", text_of(message.get("content")))
    elif message["role"] == "user":
        yield Step("user", text_of(message.get("content")))
    elif not calls:
        yield Step("other", text_of(message.get("content")))
    for call in calls:
        yield Step("call", call[call["type"]]["name"])


def _of_item(item: Json) -> Step:
    kind = item.get("type") or "message"
    if kind in CALLS:
        return Step("call", str(item.get("name") or kind))
    if kind in OUTPUTS:
        return Step("result", text_of(item.get("output")))
    if item.get("role") == "user":
        return Step("user", text_of(item.get("content")))
    return Step("other", "")
