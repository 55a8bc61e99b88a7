"""Owner keys, and the transfer of data between owners."""

from __future__ import annotations

from collections.abc import Callable

import sqlalchemy as sa

from forwarder.storage.db import Database, owners


class OwnerRepository:
    """The owners of a database, and the encrypted keys from which they are derived."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def list_keys(self) -> list[tuple[str, str]]:
        """Return the owner keys as (name, encrypted key), oldest first."""
        return self._database.read(owners.list_keys)

    def add_key_unless(
        self, is_usable: Callable[[list[tuple[str, str]]], object], sealed: str
    ) -> list[tuple[str, str]]:
        """Store an owner key, unless the existing ones are usable. Returns all keys.

        Workers take turns, so that only the first one stores its key.
        """

        def write(connection: sa.Connection) -> list[tuple[str, str]]:
            owners.take_transaction_lock(connection, "owner key")
            if not is_usable(owners.list_keys(connection)):
                owners.add_key(connection, sealed)
            return owners.list_keys(connection)

        return self._database.write(write)

    def replace_key(self, name: str, sealed: str) -> None:
        """Replace the encrypted form of an owner key."""
        self._database.write(lambda c: owners.replace_key(c, name, sealed))

    def list_owners(self) -> set[str]:
        """Return all owners with stored data."""
        return self._database.read(owners.list_owners)

    def has_rows(self, owner: str) -> bool:
        """Whether an owner has any stored data."""
        return self._database.read(lambda c: owners.has_rows(c, owner))

    def move_owner(self, old_owner: str, new_owner: str) -> bool:
        """Move all data of ``old_owner`` to ``new_owner``. False if conversations had to stay.

        Conversations stay while a turn is running in one of them.
        """
        return self._database.write_without_timeout(
            lambda c: owners.move_owner(c, old_owner, new_owner)
        )

    def move_idle_owner(self, old_owner: str, new_owner: str) -> bool:
        """Move all data of an owner at once. False if it must stay, because a turn is running."""

        def write(connection: sa.Connection) -> bool:
            if owners.has_running_turn(connection, old_owner):
                return False
            owners.move_owner(connection, old_owner, new_owner)
            return True

        return self._database.write_without_timeout(write)
