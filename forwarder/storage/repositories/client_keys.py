"""Client keys that were made at run time; they belong to the operator."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from forwarder.storage.db import Database, client_keys
from forwarder.storage.db.change_notifier import read_generation
from forwarder.storage.db.client_keys import ClientKeyRow


class ClientKeyRepository:
    """The client keys of a database. Every method raises StoreUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def list_keys(self) -> list[ClientKeyRow]:
        """Return all keys by name, revoked ones included."""
        return self._database.read(client_keys.list_keys)

    def add(self, row: ClientKeyRow) -> None:
        """Store a new key. Raises KeyNameTaken or TooManyKeys."""
        self._database.write(lambda c: client_keys.add(c, row))

    def change(self, key_id: str, values: Mapping[str, Any]) -> bool:
        """Set columns of a key that is not revoked. False if there is no such key."""
        return self._database.write(lambda c: client_keys.change(c, key_id, values))

    def record_use(self, times: Mapping[str, float]) -> None:
        """Set when keys were last used, in Unix seconds by id."""
        self._database.write(lambda c: client_keys.record_use(c, times))

    def read_generation(self) -> int:
        """Return the number of changes of keys."""
        return self._database.read(lambda c: read_generation(c, client_keys.GENERATION_NAME))
