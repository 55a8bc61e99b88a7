"""The history of one WebSocket connection, so that clients need not resend earlier items.

``previous_response_id`` can continue any response of the same connection, stored or not: the
forwarder puts the response's input and output before the new items. The history ends with the
connection, or when bodies need its memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson
from cachetools import FIFOCache

from forwarder.core.body_memory import BodyMemory, KeptData
from forwarder.core.stored_data_limit import StoredDataLimit
from forwarder.core.types import Json
from forwarder.core.validate import STR, read_field
from forwarder.protocols.input_items import read_input_items

MAX_CONTINUABLE_RESPONSES = 16
"""Number of responses that clients can continue. The oldest is dropped first."""

SEGMENT_BYTES = 100
"""Bytes that a segment takes in addition to its JSON text."""


@dataclass(frozen=True)
class HistoryEntry:
    """A response that clients can continue, with all items up to its end.

    ``segments`` holds the items as one JSON array per turn, since parsed items need many times the
    memory; ``size`` is their total in bytes. ``conversation`` is the conversation of a turn with
    ``generate: false``, which turns that continue it use too. ``stored_base_id`` is the stored
    response that the first item continues.
    """

    segments: tuple[bytes, ...]
    size: int
    is_stored: bool
    conversation: Any = None
    stored_base_id: Any = None

    @property
    def items(self) -> list[Json]:
        return [item for segment in self.segments for item in orjson.loads(segment)]

    def spend_items(self, limit: StoredDataLimit) -> None:
        """Charge the items to the limit of the request. Raises TooLarge if it is exceeded."""
        for segment in self.segments:
            limit.spend(segment)


class SessionHistory:
    """The latest responses of a connection, limited to ``max_bytes``.

    Their size counts towards ``memory``, which drops all of them if request bodies need the space.
    """

    def __init__(self, max_bytes: int, memory: BodyMemory) -> None:
        self._max_bytes = max_bytes
        self._kept = KeptData(memory, self._forget_all)
        self._forget_all()

    def _forget_all(self) -> None:
        # Another thread may be in the middle of a change, so the old cache is left as it is.
        # Shared segments count for each entry, so the limit is an upper bound of the memory.
        self._entries: FIFOCache[str, HistoryEntry] = FIFOCache(
            self._max_bytes, getsizeof=lambda entry: entry.size
        )

    def close(self) -> None:
        """Forget all responses: the connection has ended."""
        self._kept.close()
        self._forget_all()

    def _measure_kept(self) -> None:
        segments = {id(each): each for entry in self._entries.values() for each in entry.segments}
        self._kept.resize(sum(len(each) + SEGMENT_BYTES for each in segments.values()))

    def find_previous(self, request: Json, keeps_responses: bool) -> HistoryEntry | None:
        """Return the entry that a request continues, or None if it is unknown here.

        With ``keeps_responses``, stored responses return None: the store or the upstream adds them.
        """
        name = read_field(request, "previous_response_id", STR, "previous_response_id")
        entry = self._entries.get(str(name))
        return None if entry is None or (entry.is_stored and keeps_responses) else entry

    def add_response(self, response: Json, entry: HistoryEntry | None, request: Json) -> None:
        """Add a finished response with its request and the entry that it continued."""
        output = [item for item in response.get("output") or () if is_replayable(item)]
        segment = orjson.dumps([*read_input_items(request.get("input")), *output])
        size = (entry.size if entry else 0) + len(segment) + SEGMENT_BYTES
        if size > self._max_bytes or not response.get("id"):
            return
        before = entry.segments if entry else ()
        # Only this connection knows the responses of "generate": false.
        prepared = request.get("generate") is False
        stored = request.get("store") is not False and not prepared
        conversation = read_conversation(request, entry) if prepared else None
        base_id = entry.stored_base_id if entry else request.get("previous_response_id")
        entries = self._entries
        entries[response["id"]] = HistoryEntry(
            (*before, segment), size, stored, conversation, base_id
        )
        while len(entries) > MAX_CONTINUABLE_RESPONSES:
            entries.popitem()
        self._measure_kept()

    def forget_previous(self, request: Json) -> None:
        """Drop the entry that a failed request continued, as OpenAI does."""
        if self._entries.pop(str(request.get("previous_response_id")), None) is not None:
            self._measure_kept()


def expand_history(request: Json, entry: HistoryEntry) -> Json:
    """Return the request with the items of ``entry`` before its own."""
    own = strip_history(request, entry)
    return {**own, "input": [*entry.items, *own["input"]]}


def strip_history(request: Json, entry: HistoryEntry) -> Json:
    """Return the request with its own input as items, without the items of ``entry``.

    It names the conversation or stored response on which ``entry`` is based, so that the store or
    the upstream can add that history.
    """
    rest = {k: v for k, v in request.items() if k != "previous_response_id"}
    conversation = read_conversation(request, entry)
    bases = {"conversation": conversation, "previous_response_id": entry.stored_base_id}
    present = {k: v for k, v in bases.items() if v is not None}
    return {**rest, **present, "input": read_input_items(request.get("input"))}


def read_conversation(request: Json, entry: HistoryEntry | None) -> Any:
    """Return the conversation of a request, by default that of the entry it continues."""
    conversation = request.get("conversation")
    return entry.conversation if conversation is None and entry else conversation


def is_replayable(item: Json) -> bool:
    """Return False for reasoning without content: its upstream no longer knows it."""
    return item.get("type") != "reasoning" or any(
        item.get(name) for name in ("encrypted_content", "content", "summary")
    )
