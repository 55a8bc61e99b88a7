"""What a connection remembers of its own responses, so that a client need not send all again.

``previous_response_id`` continues a response of the same connection, stored or not: the items
that led to it, and those it gave, go before the new ones.  What is kept ends with the connection.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import orjson

from forwarder.core.errors import InvalidRequest, shorten_value
from forwarder.core.read_limit import ReadLimit
from forwarder.core.types import Json
from forwarder.core.validate import LIST, STR, check_type, read_field

MAX_CONTINUABLE_RESPONSES = 16
"""Responses that can be continued; of more the oldest is forgotten."""


@dataclass(frozen=True)
class HistoryEntry:
    """A response that can be continued: all items up to its end; ``size`` is theirs, in bytes.

    ``segments`` are lists of items as JSON, one for each turn: parsed items would take many times
    their size, for as long as the connection lies idle.
    ``conversation`` is that of a turn which is only prepared: what continues it is said there.
    ``stored_base_id`` is the response that the first of the items continue, which is stored elsewhere.
    """

    segments: tuple[bytes, ...]
    size: int
    is_stored: bool
    conversation: Any = None
    stored_base_id: Any = None

    @property
    def items(self) -> list[Json]:
        return [item for segment in self.segments for item in orjson.loads(segment)]

    def spend_items(self, limit: ReadLimit) -> None:
        """Count the items as a part of the request that continues them.  Raises TooLarge."""
        for segment in self.segments:
            limit.spend(segment)


class SessionHistory:
    """The latest responses of a connection, as many as fit into ``max_bytes``."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._entries: OrderedDict[str, HistoryEntry] = OrderedDict()

    def find_previous(self, request: Json, elsewhere: bool) -> HistoryEntry | None:
        """What a request continues, if it is remembered here.

        With ``elsewhere`` a stored response is left to those who store it.
        """
        name = read_field(request, "previous_response_id", STR, "previous_response_id")
        link = self._entries.get(str(name))
        return None if link is None or (link.is_stored and elsewhere) else link

    def add_response(self, response: Json, link: HistoryEntry | None, request: Json) -> None:
        """Remember a response that is over, what it continued, and what was asked for it."""
        asked = read_input_items(request)
        given = [item for item in response.get("output") or () if is_replayable(item)]
        segment = orjson.dumps([*asked, *given])
        size = (link.size if link else 0) + len(segment)
        if size > self._max_bytes or not response.get("id"):
            return
        before = link.segments if link else ()
        # What was only prepared is known to this connection alone.
        prepared = request.get("generate") is False
        stored = request.get("store") is not False and not prepared
        where = read_conversation(request, link) if prepared else None
        behind = link.stored_base_id if link else request.get("previous_response_id")
        self._entries[response["id"]] = HistoryEntry(
            (*before, segment), size, stored, where, behind
        )
        while len(self._entries) > MAX_CONTINUABLE_RESPONSES or self._total_size > self._max_bytes:
            self._entries.popitem(last=False)

    @property
    def _total_size(self) -> int:
        """No less than what all links hold; what several hold counts for each."""
        return sum(link.size for link in self._entries.values())

    def forget_previous(self, request: Json) -> None:
        """What a failed request continued cannot be continued any more."""
        self._entries.pop(str(request.get("previous_response_id")), None)


def expand_history(request: Json, link: HistoryEntry) -> Json:
    """The request with all that it continues spelled out."""
    own = strip_history(request, link)
    return {**own, "input": [*link.items, *own["input"]]}


def strip_history(request: Json, link: HistoryEntry) -> Json:
    """The request without the items that it continues, and its input as items.

    What those continue that is stored elsewhere is for whoever stores it to put before them.
    """
    rest = {k: v for k, v in request.items() if k != "previous_response_id"}
    where = read_conversation(request, link)
    there = {"conversation": where, "previous_response_id": link.stored_base_id}
    given = {k: v for k, v in there.items() if v is not None}
    return {**rest, **given, "input": read_input_items(request)}


def read_conversation(request: Json, link: HistoryEntry | None) -> Any:
    """The conversation that a request names, or the prepared turn that it continues."""
    given = request.get("conversation")
    return link.conversation if given is None and link else given


def read_input_items(request: Json) -> list[Any]:
    """A request's input as a list of items."""
    given = request.get("input")
    if given is None:
        return []
    if isinstance(given, str):
        return [{"type": "message", "role": "user", "content": given}]
    items: list[Any] = check_type(given, LIST, "input")
    return items


def previous_response_not_found(name: Any) -> InvalidRequest:
    """The error for a response that nobody remembers."""
    return InvalidRequest(
        f"Previous response with id '{shorten_value(name)}' not found.",
        param="previous_response_id",
        code="previous_response_not_found",
    )


def is_replayable(item: Json) -> bool:
    """Reasoning that was neither stored nor sealed is not known to its upstream any more."""
    return item.get("type") != "reasoning" or any(
        item.get(name) for name in ("encrypted_content", "content", "summary")
    )
