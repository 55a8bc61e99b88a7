"""The history that a request continues, and the items that it refers to."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import sqlalchemy as sa

from forwarder.core.errors import InvalidRequest
from forwarder.core.stored_data_limit import StoredDataLimit, spend_references
from forwarder.core.types import Json
from forwarder.protocols.input_items import (
    is_item_reference,
    list_item_references,
    make_previous_response_error,
)
from forwarder.storage.db import Database, conversations, responses
from forwarder.storage.db.compression import SpendCallback
from forwarder.storage.db.conversations import ConversationItem
from forwarder.storage.db.responses import StoredResponse
from forwarder.storage.db.tables import split_batches
from forwarder.storage.history_reference import (
    HistoryReference,
    UpstreamMemory,
    conversation_not_found,
)
from forwarder.storage.items import derive_id, parse_derived_id, render_item


class StoredHistory(NamedTuple):
    """Earlier items or the upstream's response id, and the stored responses used."""

    items: list[Json]
    upstream_response_id: str | None = None
    used_responses: tuple[StoredResponse, ...] = ()


class ChainEnds(NamedTuple):
    """The id of the first response of a chain, and the origin that stores the last one, if any."""

    first_id: str
    origin: str | None


class HistoryRepository:
    """The history in a database: chains of responses, conversations, and their items."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def read_history(
        self,
        owner: str,
        reference: HistoryReference,
        memory: UpstreamMemory,
        request_input: Any,
        limit: StoredDataLimit,
    ) -> tuple[StoredHistory | None, dict[str, Json]]:
        """Return the stored history, and the items that it and the input refer to, by id.

        The history is None if only the upstream can know it. Raises InvalidRequest or NotFound if
        it does not exist, and TooLarge if it exceeds ``limit``.
        """

        def read(connection: sa.Connection) -> tuple[StoredHistory | None, dict[str, Json]]:
            past = find_history(connection, owner, reference, memory, limit)
            names = list_item_references(request_input) + list_item_references(
                past.items if past else []
            )
            if not names:
                return past, {}
            found_items = find_items(connection, owner, names, limit)
            spend_references(limit, names, found_items)
            return past, found_items

        return self._database.read(read)

    def find_chain(self, owner: str, response_id: str) -> ChainEnds | None:
        """Return the ends of the chain of responses that ends with this one; None if unknown."""
        turns = self._database.read(lambda c: responses.read_chain(c, owner, response_id))
        return ChainEnds(turns[0].id, turns[-1].upstream) if turns else None

    def note_use(self, owner: str, used_responses: Iterable[StoredResponse]) -> None:
        """Update the last use of responses, which protects them from pruning, if possible."""
        stale = [stored.id for stored in used_responses if responses.is_stale(stored)]
        if stale:
            self._database.write_if_possible(lambda c: responses.touch(c, owner, stale))

    def list_input_items(
        self, owner: str, response_id: str, spend: SpendCallback | None = None
    ) -> list[Json] | None:
        """Return the rendered input items of a response, including the history it continues.

        Returns None if the response does not exist.
        """

        def read(connection: sa.Connection) -> list[Json] | None:
            if responses.find(connection, owner, response_id) is None:
                return None
            return read_response_input(connection, owner, response_id, spend)

        return self._database.read(read)


def find_history(
    connection: sa.Connection,
    owner: str,
    reference: HistoryReference,
    memory: UpstreamMemory,
    limit: StoredDataLimit,
) -> StoredHistory | None:
    """Return the history of a request; ``None`` if only the upstream can know it."""
    may_exist_upstream = memory.stores_responses and memory.has_client_key
    if reference.conversation is not None:
        if conversations.find(connection, owner, reference.conversation) is None:
            if may_exist_upstream:
                return None
            raise conversation_not_found(reference.conversation, "conversation")
        stored_items = conversations.read_items(
            connection, owner, reference.conversation, spend=limit.spend
        )
        return StoredHistory([each.data for each in stored_items])
    if reference.previous is None:
        return StoredHistory([])
    turns = responses.read_chain(connection, owner, reference.previous)
    if not turns:
        if may_exist_upstream:
            return None
        raise make_previous_response_error(reference.previous)
    last = turns[-1]
    if last.is_running:
        raise InvalidRequest(
            f"The response '{last.id}' is still in progress.",
            param="previous_response_id",
            code="previous_response_not_completed",
        )
    is_its_own = memory.stores_responses and last.upstream == memory.name
    if is_its_own and memory.can_continue and last.upstream_id:
        return StoredHistory([], last.upstream_id, tuple(turns))
    return StoredHistory(
        read_chain_items(connection, owner, turns, limit.spend), None, tuple(turns)
    )


def read_chain_items(
    connection: sa.Connection, owner: str, turns: list[StoredResponse], spend: SpendCallback
) -> list[Json]:
    """Return the items of a chain of responses, in order."""
    contents = responses.read_contents(connection, owner, [turn.id for turn in turns], spend)
    items: list[Json] = []
    for turn in turns:
        items += [each.data for each in read_conversation_before(connection, owner, turn, spend)]
        turn_input, output = contents[turn.id]
        items += [*turn_input, *output]
    return items


def read_conversation_before(
    connection: sa.Connection, owner: str, turn: StoredResponse, spend: SpendCallback | None
) -> list[ConversationItem]:
    """Return a conversation's items as they were before a response."""
    if turn.conversation is None or not turn.before:
        return []
    conversation, before = turn.conversation, turn.before
    return conversations.read_items(connection, owner, conversation, max_number=before, spend=spend)


def read_response_input(
    connection: sa.Connection, owner: str, response_id: str, spend: SpendCallback | None = None
) -> list[Json]:
    """Return the rendered input items of a response, including the history that it continues.

    Empty if the response does not exist.
    """
    turns = responses.read_chain(connection, owner, response_id)
    contents = responses.read_contents(connection, owner, [turn.id for turn in turns], spend)
    items: list[Json] = []
    for turn in turns:
        earlier = read_conversation_before(connection, owner, turn, spend)
        items += [render_item(each.data, each.id) for each in earlier]
        turn_input, output = contents[turn.id]
        own = turn_input if turn.id == response_id else [*turn_input, *output]
        items += [render_item(item, derive_id(item, turn.id, i)) for i, item in enumerate(own)]
    return items


# -- items by id ----------------------------------------------------------------------------------


def find_items(
    connection: sa.Connection, owner: str, names: list[str], limit: StoredDataLimit
) -> dict[str, Json]:
    """Return the existing items with these ids, by id, from responses or conversations."""
    found_items: dict[str, Json] = {}
    unresolved: list[str] = []
    for batch in split_batches(names):  # removes duplicates
        found_items |= responses.find_items_by_id(connection, owner, batch, limit)
        missing = [name for name in batch if name not in found_items]
        if missing:
            found_items |= conversations.find_items_by_id(connection, owner, missing, limit.spend)
            unresolved += [name for name in missing if name not in found_items]
    places: dict[str, dict[str, int]] = {}  # response -> the derived ids in it, and their places
    for name in unresolved:
        holders, place = parse_derived_id(name)
        for holder in holders:
            places.setdefault(holder, {})[name] = place
    found_items |= responses.find_items_by_place(connection, owner, places, limit)
    return {name: item for name, item in found_items.items() if not is_item_reference(item)}
