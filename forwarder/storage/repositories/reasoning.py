"""Cached reasoning: opaque bytes by owner and name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from forwarder.storage.db import Database, reasoning
from forwarder.storage.db.reasoning import StoredReasoning


class ReasoningRepository:
    """The cached reasoning of a database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def find(self, owner: str, names: Iterable[str], since: float) -> dict[str, StoredReasoning]:
        """Return existing values by name, unless they were last used before ``since``."""
        return self._database.read(lambda c: reasoning.find(c, owner, names, since))

    def add(self, owner: str, values: Mapping[str, bytes]) -> None:
        """Store values, replacing those with the same names."""
        self._database.write(lambda c: reasoning.add(c, owner, values))

    def touch(self, owner: str, names: Iterable[str]) -> None:
        """Update the last use of values, which protects them from pruning."""
        self._database.write(lambda c: reasoning.touch(c, owner, names))
