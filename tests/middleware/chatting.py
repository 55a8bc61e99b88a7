"""Scripted chat handlers for tests of middleware."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from forwarder.core.types import Batch, Event, EventStream

Json = dict[str, Any]

BASE: Json = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
USAGE: Json = {
    "prompt_tokens": 10,
    "completion_tokens": 30,
    "total_tokens": 40,
    "prompt_tokens_details": {"cached_tokens": 4},
    "completion_tokens_details": {"reasoning_tokens": 20},
}
REQUEST: Json = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True}


def make_chunk(
    delta: Json | None = None, finish: str | None = None, index: int = 0, **more: Any
) -> Event:
    """A chunk with one choice."""
    choice = {
        "index": index,
        "delta": delta or {},
        "logprobs": None,
        "finish_reason": finish,
        **more,
    }
    return {**BASE, "choices": [choice]}


def make_text_chunks(*texts: str, finish: str = "stop") -> list[Event]:
    """The chunks of an answer with these pieces of text."""
    opening = make_chunk({"role": "assistant", "content": "", "refusal": None})
    usage = {**BASE, "choices": [], "usage": USAGE}
    return [
        opening,
        *(make_chunk({"content": text}) for text in texts),
        make_chunk({}, finish),
        usage,
    ]


def one_by_one(chunks: list[Event]) -> list[Batch]:
    return [[chunk] for chunk in chunks]


class Scripted:
    """A handler that answers each request with the next script; it raises scripted exceptions.

    ``requests`` lists the received requests, ``open`` counts the streams that are neither exhausted
    nor closed.
    """

    def __init__(self, *scripts: list[Batch | Exception] | list[Batch] | Exception) -> None:
        self.requests: list[Json] = []
        self.open = 0
        self.read = 0
        self._scripts = list(scripts)

    def __call__(self, request: Json) -> EventStream:
        self.requests.append(copy.deepcopy(request))
        script = self._scripts.pop(0)
        if isinstance(script, Exception):
            raise script
        self.open += 1
        stream = self._stream(script)
        next(stream)  # connected
        return stream

    def _stream(self, script: Any) -> Iterator[Batch]:
        try:
            yield []
            for batch in script:
                self.read += 1
                if isinstance(batch, Exception):
                    raise batch
                yield copy.deepcopy(batch)
        finally:
            self.open -= 1
