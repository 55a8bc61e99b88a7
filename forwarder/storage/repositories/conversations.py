"""Stored conversations: their metadata, their items, and the leases that lock them."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from forwarder.core.types import Json
from forwarder.storage.db import Database, conversations
from forwarder.storage.db.compression import SpendCallback
from forwarder.storage.db.conversations import Conversation, ConversationItem, ConversationLease
from forwarder.storage.pagination import PageRequest, find_page_start


class ConversationRepository:
    """The conversations of a database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(
        self, owner: str, conversation: Conversation, items: Sequence[tuple[str, Json]] = ()
    ) -> None:
        """Store a conversation with its first items, as (id, item)."""

        def write(connection: sa.Connection) -> None:
            conversations.create(connection, owner, conversation)
            conversations.append_items(connection, owner, conversation.id, items)

        self._database.write(write)

    def find(self, owner: str, conversation_id: str) -> Conversation | None:
        """Return a conversation without its items."""
        return self._database.read(lambda c: conversations.find(c, owner, conversation_id))

    def set_metadata(self, owner: str, conversation_id: str, metadata: Json) -> Conversation | None:
        """Replace the metadata of a conversation. Returns None if it does not exist."""
        return self._database.write(
            lambda c: conversations.set_metadata(c, owner, conversation_id, metadata)
        )

    def remove(self, owner: str, conversation_id: str) -> bool:
        """Delete a conversation with its items. Returns whether it existed."""
        return self._database.write(lambda c: conversations.remove(c, owner, conversation_id))

    # -- items ------------------------------------------------------------------------------------

    def append_items(
        self, owner: str, conversation_id: str, items: Sequence[tuple[str, Json]]
    ) -> list[ConversationItem] | None:
        """Append items, as (id, item), whose ids are not in the conversation yet.

        Returns the items of all given ids, or None if the conversation does not exist.
        """
        return self._database.write(
            lambda c: conversations.append_items(c, owner, conversation_id, items)
        )

    def list_page(
        self, owner: str, conversation_id: str, page: PageRequest, spend: SpendCallback
    ) -> list[ConversationItem]:
        """Return the items of a page, and one more if there is a next page.

        Raises InvalidRequest if the page starts after an unknown item.
        """

        def read(connection: sa.Connection) -> list[ConversationItem]:
            after = find_page_start(
                page,
                lambda x: conversations.find_item_position(connection, owner, conversation_id, x),
            )
            return conversations.list_items(
                connection, owner, conversation_id, after, page.limit + 1, page.is_descending, spend
            )

        return self._database.read(read)

    def find_item(self, owner: str, conversation_id: str, item_id: str) -> ConversationItem | None:
        """Return an item of a conversation."""
        found = self._database.read(
            lambda c: conversations.read_items(c, owner, conversation_id, [item_id])
        )
        return found[0] if found else None

    def remove_item(self, owner: str, conversation_id: str, item_id: str) -> bool:
        """Delete an item. Returns whether it existed."""
        return self._database.write(
            lambda c: conversations.remove_item(c, owner, conversation_id, item_id)
        )

    # -- leases -----------------------------------------------------------------------------------

    def acquire_lock(self, lease: ConversationLease) -> None:
        """Acquire a lease if its conversation exists.

        Raises ConversationLocked if another holder's lease is still valid.
        """
        self._database.write(lambda c: conversations.acquire_lock(c, lease))

    def renew_leases(self, leases: Sequence[ConversationLease]) -> None:
        """Extend the leases that their holders still have."""

        def write(connection: sa.Connection) -> None:
            for lease in leases:
                conversations.renew_lease(connection, *lease)

        self._database.write(write)

    def release_lease(self, lease: ConversationLease) -> None:
        """Release a lease if its holder still has it."""
        self._database.write(lambda c: conversations.release_lease(c, *lease))
