"""Stored chat completions."""

from __future__ import annotations

import sqlalchemy as sa

from forwarder.core.types import Json
from forwarder.storage.db import Database, completions
from forwarder.storage.db.completions import StoredCompletion
from forwarder.storage.db.compression import SpendCallback
from forwarder.storage.pagination import PageRequest, find_page_start


class CompletionRepository:
    """The chat completions of a database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, owner: str, completion: StoredCompletion) -> None:
        """Store a completion, replacing one with the same id."""
        self._database.write(lambda c: completions.add(c, owner, completion))

    def find(
        self, owner: str, completion_id: str, spend: SpendCallback | None = None
    ) -> StoredCompletion | None:
        """Return a completion; ``spend`` receives its JSON texts before they are parsed."""
        return self._database.read(lambda c: completions.find(c, owner, completion_id, spend))

    def set_metadata(
        self, owner: str, completion_id: str, metadata: Json
    ) -> StoredCompletion | None:
        """Replace the metadata of a completion. Returns None if it does not exist."""
        return self._database.write(
            lambda c: completions.set_metadata(c, owner, completion_id, metadata)
        )

    def remove(self, owner: str, completion_id: str) -> bool:
        """Delete a completion. Returns whether it existed."""
        return self._database.write(lambda c: completions.remove(c, owner, completion_id))

    def list_page(
        self,
        owner: str,
        page: PageRequest,
        model: str | None,
        metadata: Json,
        spend: SpendCallback,
    ) -> list[StoredCompletion]:
        """Return the completions of a page, and one more if there is a next page.

        ``model`` and ``metadata`` filter the result. The messages are left out. Raises
        InvalidRequest if the page starts after an unknown completion.
        """

        def read(connection: sa.Connection) -> list[StoredCompletion]:
            after = find_page_start(page, lambda x: completions.find_position(connection, owner, x))
            return completions.list_page(
                connection,
                owner,
                after,
                page.limit + 1,
                page.is_descending,
                model,
                metadata,
                spend,
            )

        return self._database.read(read)
