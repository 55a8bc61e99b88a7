"""Answers of an upstream as data: one answer is rendered in either protocol.

This module is independent of HTTP: ``chat`` and ``responses`` render an answer, ``wire`` writes it.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

Json = dict[str, Any]
Protocol = Literal["chat", "responses"]
ReasoningField = Literal[
    "reasoning_content", "reasoning", "reasoning_details", "openrouter", "think", "parts"
]

CREATED = 1_760_000_000
"""The time of every answer, in seconds since the epoch."""

SEALED = "gAAAAscripted-"
"""Prefix of this upstream's own ``encrypted_content``. It refuses all other content."""


@dataclass(frozen=True)
class Usage:
    """Tokens of one answer. ``cached`` is part of ``input``, ``reasoning`` of ``output``."""

    input: int = 21
    output: int = 9
    cached: int = 5
    reasoning: int = 4

    def chat(self) -> Json:
        """Return the usage in the format of Chat Completions."""
        return {
            "prompt_tokens": self.input,
            "completion_tokens": self.output,
            "total_tokens": self.input + self.output,
            "prompt_tokens_details": {"cached_tokens": self.cached, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": self.reasoning, "audio_tokens": 0},
        }

    def responses(self) -> Json:
        """Return the usage in the format of the Responses API."""
        return {
            "input_tokens": self.input,
            "input_tokens_details": {"cached_tokens": self.cached, "cache_write_tokens": 0},
            "output_tokens": self.output,
            "output_tokens_details": {"reasoning_tokens": self.reasoning},
            "total_tokens": self.input + self.output,
        }


@dataclass(frozen=True)
class Call:
    """A tool call: of a function with ``arguments``, or of a custom tool with ``input``."""

    name: str
    arguments: str | Json = "{}"
    id: str | None = None
    kind: Literal["function", "custom"] = "function"
    namespace: str | None = None
    input: str = ""

    @property
    def text(self) -> str:
        """The streamed part: the arguments as JSON text, or the input."""
        if self.kind == "custom":
            return self.input
        return self.arguments if isinstance(self.arguments, str) else dumps(self.arguments)


@dataclass(frozen=True)
class Answer:
    """One turn of the model.

    ``finish`` is a chat finish reason (``length`` and ``content_filter`` become an incomplete
    response, ``failed`` a failed one); None derives it from the other fields. ``reasoning_field``
    and ``reasoning_form`` are the forms of reasoning in Chat and in Responses. ``pieces`` is the
    number of deltas of each text.
    """

    text: str | None = None
    reasoning: str | None = None
    reasoning_field: ReasoningField = "reasoning_content"
    reasoning_form: Literal["summary", "text", "both"] = "summary"
    calls: Sequence[Call] = ()
    refusal: str | None = None
    finish: str | None = None
    usage: Usage | None = Usage()
    pieces: int = 3

    def cut_text(self, text: str) -> list[str]:
        """Split ``text`` into at most ``pieces`` parts, none of them empty."""
        size = max(1, -(-len(text) // self.pieces))
        return [text[i : i + size] for i in range(0, len(text), size)]


@dataclass(frozen=True)
class ModelRequest:
    """A request as a renderer sees it; ``serial`` makes the ids of its answer unique."""

    protocol: Protocol
    body: Json
    serial: int = 1

    @property
    def stream(self) -> bool:
        return bool(self.body.get("stream"))

    @property
    def model(self) -> str:
        return str(self.body.get("model") or "scripted")

    def id(self, prefix: str, number: int = 0) -> str:
        """Return an id such as ``msg_00000007scripted01``."""
        return f"{prefix}{self.serial:08x}scripted{number:02x}"

    def call_id(self, call: Call, number: int) -> str:
        """Return the call's own id, or one derived from this request."""
        return call.id or f"call_{number}_{self.serial}"

    def option(self, name: str, default: bool) -> bool:
        """Return one of the ``stream_options``."""
        return bool((self.body.get("stream_options") or {}).get(name, default))


def dumps(value: Any) -> str:
    """Return JSON text as models write it: with spaces and without ASCII escapes."""
    return json.dumps(value, ensure_ascii=False)


def seal(text: str) -> str:
    """Return ``encrypted_content`` that this upstream accepts in later requests."""
    return SEALED + base64.urlsafe_b64encode(text.encode()).decode()


def make_obfuscation(piece: str) -> str:
    """Return padding that hides a delta's length, which OpenAI sends by default."""
    return "x" * (16 - len(piece) % 16)


def make_error(
    message: str,
    type: str = "invalid_request_error",
    *,
    param: str | None = None,
    code: str | None = None,
) -> Json:
    """Return an error body in OpenAI's format."""
    return {"error": {"message": message, "type": type, "param": param, "code": code}}
