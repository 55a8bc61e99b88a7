"""Stored responses: storing an answer, reading it and its events, and deleting it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from forwarder.core.stored_data_limit import NO_REQUEST_LIMITS, StoredDataLimit
from forwarder.core.types import Batch
from forwarder.protocols.chat_responses_mappings import TERMINAL_EVENTS
from forwarder.protocols.input_items import list_item_references, replace_item_references
from forwarder.protocols.unfold import unfold_answer
from forwarder.storage.db import Database, conversations, responses
from forwarder.storage.db.compression import SpendCallback
from forwarder.storage.db.conversations import ConversationLease
from forwarder.storage.db.event_log_encoding import EventLogChunk
from forwarder.storage.db.responses import StoredResponse
from forwarder.storage.db.tables import is_valid_id
from forwarder.storage.items import derive_id, render_item
from forwarder.storage.repositories.history import find_items


class ResponseRepository:
    """The responses of a database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def find(
        self, owner: str, response_id: str, spend: SpendCallback | None = None
    ) -> StoredResponse | None:
        """Return a response that is not deleted, without its input.

        Clients poll, and the input of a response may be large.
        """
        return self._database.read(
            lambda c: responses.find(c, owner, response_id, with_input=False, spend=spend)
        )

    def store_answer(
        self,
        owner: str,
        stored: StoredResponse,
        log: Sequence[EventLogChunk] | None,
        lease: ConversationLease | None,
    ) -> None:
        """Store a response with its event log, append it to its conversation, release the lease.

        Without ``log`` the response is only appended to its conversation. A stored response follows
        the items that are in its conversation now.
        """

        def write(connection: sa.Connection) -> None:
            before = read_last_item_number(connection, owner, stored.conversation)
            if log is not None:
                responses.add(connection, owner, stored._replace(before=before), log)
            append_to_conversation(connection, owner, stored)
            if lease is not None:
                conversations.release_lease(connection, *lease)

        self._database.write(write)

    def remove(self, owner: str, response_id: str) -> StoredResponse | None:
        """Delete a response. Returns it as it was, or None if it does not exist."""

        def write(connection: sa.Connection) -> StoredResponse | None:
            stored = responses.find(connection, owner, response_id, lock=True)
            return stored if responses.remove(connection, owner, response_id) else None

        return self._database.write(write)

    def read_events(self, owner: str, stored: StoredResponse, after: int) -> Batch:
        """Return stored events after number ``after``; for a response without a log, make them.

        Terminal events are left to the next poll while ``stored`` is still running: the response
        itself was read before the log and may end differently.
        """
        return self._database.read(lambda c: read_event_log(c, owner, stored, after))


def read_event_log(
    connection: sa.Connection, owner: str, stored: StoredResponse, after: int
) -> Batch:
    logged = responses.read_events_after(connection, owner, stored, after)
    if logged or stored.is_running:
        return [
            event
            for event in logged
            if event["type"] not in TERMINAL_EVENTS or not stored.is_running
        ]
    if responses.read_events_after(connection, owner, stored, -1):
        return []
    return [
        e for e in unfold_answer("responses", stored.body, True) if e["sequence_number"] > after
    ]


def read_last_item_number(
    connection: sa.Connection, owner: str, conversation: str | None
) -> int | None:
    """Return the number of the last item of a conversation."""
    if conversation is None:
        return None
    return conversations.read_last_number(connection, owner, conversation)


def append_to_conversation(connection: sa.Connection, owner: str, stored: StoredResponse) -> None:
    """Append a response's input and output to its conversation, unless the response failed."""
    if stored.conversation is None or stored.status not in ("completed", "incomplete"):
        return
    items: list[Any] = [
        *resolve_input_references(connection, owner, stored.input),
        *(stored.body.get("output") or ()),
    ]
    rendered_items = [
        render_item(item, derive_id(item, stored.id, i)) for i, item in enumerate(items)
    ]
    for i, (rendered, item) in enumerate(zip(rendered_items, items, strict=True)):
        if not is_valid_id(rendered["id"]):  # upstreams may send any id
            rendered["id"] = derive_id(item, stored.id, i)
    raw = [(rendered["id"], item) for rendered, item in zip(rendered_items, items, strict=True)]
    conversations.append_items(connection, owner, stored.conversation, raw)


def resolve_input_references(connection: sa.Connection, owner: str, items: list[Any]) -> list[Any]:
    """Return the items with references replaced by the referenced items, under the same ids."""
    names = list_item_references(items)
    if not names:
        return items
    # The request with these items was within its limits.
    found_items = find_items(connection, owner, names, StoredDataLimit(NO_REQUEST_LIMITS))
    return replace_item_references(items, {n: {"id": n, **item} for n, item in found_items.items()})
