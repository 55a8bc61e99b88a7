"""Writes the events of a Messages answer, for the translations from both of OpenAI's APIs.

The blocks of a message follow each other strictly, but upstreams may interleave calls and items.
The open block is streamed; events of later blocks wait until the blocks before them are done.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable
from typing import Any

from forwarder.core.types import Batch, Event, Json
from forwarder.protocols.chat_responses_mappings import read_count

TEXT, THINKING, CALL = "text", "thinking", "tool_use"

_DELTAS = {
    TEXT: ("text_delta", "text"),
    THINKING: ("thinking_delta", "thinking"),
    CALL: ("input_json_delta", "partial_json"),
}
"""Type of a block -> the type of its deltas, and their field."""


class Block:
    """A block of the answer.  ``start`` is the block in its ``content_block_start`` event.

    ``is_done`` is set when the block is complete.  ``hidden`` has pieces of reasoning that the
    client does not see; they become part of the seal that signs the block.  ``last_deltas`` are
    sent before the block is closed.
    """

    __slots__ = ("hidden", "index", "is_done", "kind", "last_deltas", "pieces", "start")

    def __init__(self, start: Json, is_done: bool = False) -> None:
        self.start = start
        self.kind: str = start["type"]
        self.pieces: list[str] = []
        self.hidden: list[str] = []
        self.is_done = is_done
        self.index = -1
        self.last_deltas: list[Json] = []

    @property
    def text(self) -> str:
        return "".join(self.pieces)


def make_text_block() -> Block:
    return Block({"type": TEXT, "text": ""})


def make_thinking_block() -> Block:
    return Block({"type": THINKING, "thinking": "", "signature": ""})


def make_redacted_block(data: str) -> Block:
    return Block({"type": "redacted_thinking", "data": data}, is_done=True)


def make_call_block(call_id: str, name: str) -> Block:
    return Block({"type": CALL, "id": call_id, "name": name, "input": {}})


def is_complete_input(text: str) -> bool:
    """Whether the arguments of a call are complete, that is, a JSON object."""
    try:
        return isinstance(json.loads(text, strict=False), dict)
    except (ValueError, RecursionError):
        return False


class BlockWriter:
    """Writes the blocks of one answer.

    ``finish_block`` is called with each block before it is closed and may add to its last deltas.
    """

    def __init__(self, finish_block: Callable[[Block], None] = lambda block: None) -> None:
        self.open_block: Block | None = None
        self._waiting: deque[Block] = deque()
        self._count = 0
        self._finish_block = finish_block

    @property
    def last_block(self) -> Block | None:
        """The last block, which may still wait for earlier blocks."""
        return self._waiting[-1] if self._waiting else self.open_block

    @property
    def is_empty(self) -> bool:
        """Whether the answer has no blocks."""
        return not self._count and self.open_block is None

    def begin(self, block: Block) -> Batch:
        """Begin a block; the blocks before it that are done are closed."""
        self._waiting.append(block)
        return self._advance()

    def append(self, block: Block, text: str) -> Batch:
        """Append a piece to a block.  This is the hot path: it makes one event."""
        block.pieces.append(text)
        if block is not self.open_block:
            return []
        kind, field = _DELTAS[block.kind]
        delta = {"type": kind, field: text}
        return [{"type": "content_block_delta", "index": block.index, "delta": delta}]

    def add_citation(self, citation: Json) -> Batch:
        """Add a citation to the last block; it is lost if that block is not a text."""
        block, delta = self.last_block, {"type": "citations_delta", "citation": citation}
        if block is None or block.kind != TEXT:
            return []
        if block is self.open_block:
            return [self._make_delta(block, delta)]
        block.last_deltas.append(delta)
        return []

    def finish(self, block: Block) -> Batch:
        """Mark a block as done; close it if later blocks wait for it."""
        block.is_done = True
        return self._advance()

    def close(self) -> Batch:
        """Close all blocks at the end of the answer."""
        events = self._close_open_block() if self.open_block is not None else []
        while self._waiting:
            events += self._open(self._waiting.popleft())
            events += self._close_open_block()
        return events

    def _advance(self) -> Batch:
        events: Batch = []
        while self._waiting:
            if self.open_block is not None:
                if not self.open_block.is_done:
                    return events
                events += self._close_open_block()
            events += self._open(self._waiting.popleft())
        return events

    def _open(self, block: Block) -> Batch:
        block.index, self._count = self._count, self._count + 1
        self.open_block = block
        start = {"type": "content_block_start", "index": block.index, "content_block": block.start}
        if not block.pieces:
            return [start]
        kind, field = _DELTAS[block.kind]
        return [start, self._make_delta(block, {"type": kind, field: block.text})]

    def _close_open_block(self) -> Batch:
        block, self.open_block = self.open_block, None
        assert block is not None
        self._finish_block(block)
        return [
            *(self._make_delta(block, delta) for delta in block.last_deltas),
            {"type": "content_block_stop", "index": block.index},
        ]

    @staticmethod
    def _make_delta(block: Block, delta: Json) -> Event:
        return {"type": "content_block_delta", "index": block.index, "delta": delta}


def make_citation(annotation: Any) -> Json | None:
    """Return the citation for a web page that an annotation of either API cites, else None.

    The cited passage of the page is unknown.
    """
    if not isinstance(annotation, dict) or annotation.get("type") != "url_citation":
        return None
    page = annotation.get("url_citation")
    page = page if isinstance(page, dict) else annotation
    return {
        "type": "web_search_result_location",
        "url": str(page.get("url") or ""),
        "title": str(page.get("title") or ""),
        "cited_text": "",
        "encrypted_index": "",
    }


# -- the message --------------------------------------------------------------------------------


_SERVICE_TIERS = {"priority": "priority", "fast": "priority", "ultrafast": "priority"}


def make_message_start(message_id: str, model: str, tier: Any) -> Event:
    """Return the first event.  ``tier`` is the upstream's service tier, if it is known already.

    The token counts are 0 here; the ``message_delta`` event has the real ones.
    """
    message: Json = {
        "id": message_id,
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {
            "input_tokens": 0,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "output_tokens": 0,
        },
    }
    if tier and isinstance(tier, str):
        message["usage"]["service_tier"] = _SERVICE_TIERS.get(tier, "standard")
    return {"type": "message_start", "message": message}


def make_message_end(delta: Json, usage: Json) -> Batch:
    """Return the last two events; ``delta`` has the ``stop_reason``."""
    return [
        {"type": "message_delta", "delta": {"stop_sequence": None, **delta}, "usage": usage},
        {"type": "message_stop"},
    ]


def make_refusal_delta(explanation: str) -> Json:
    """Return the end of an answer that the model or a filter refused."""
    details = {"type": "refusal", "category": None, "explanation": explanation or None}
    return {"stop_reason": "refusal", "stop_details": details}


def map_usage(usage: Any, searches: int = 0) -> Json:
    """Responses usage -> usage of the Messages API, with input that excludes cached tokens."""
    counts = usage if isinstance(usage, dict) else {}
    details = counts.get("input_tokens_details") or {}
    cached = read_count(details, "cached_tokens")
    written = read_count(details, "cache_write_tokens")
    mapped: Json = {
        "input_tokens": max(0, read_count(counts, "input_tokens") - cached - written),
        "cache_creation_input_tokens": written,
        "cache_read_input_tokens": cached,
        "output_tokens": read_count(counts, "output_tokens"),
    }
    thinking = read_count(counts.get("output_tokens_details") or {}, "reasoning_tokens")
    if thinking:
        mapped["output_tokens_details"] = {"thinking_tokens": thinking}
    if searches:
        mapped["server_tool_use"] = {"web_search_requests": searches, "web_fetch_requests": 0}
    return mapped
