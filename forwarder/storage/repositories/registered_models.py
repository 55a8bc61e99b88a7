"""Registered models, which belong to the operator and not to a client."""

from __future__ import annotations

from forwarder.storage.db import Database, registered_models
from forwarder.storage.db.change_notifier import read_generation
from forwarder.storage.db.registered_models import ModelRow


class ModelRepository:
    """The registered models of a database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def list_models(self) -> list[ModelRow]:
        """Return all models by name."""
        return self._database.read(registered_models.list_models)

    def put(self, row: ModelRow) -> None:
        """Store a model, replacing one with the same name but keeping its creation time."""
        self._database.write(lambda c: registered_models.put(c, row))

    def remove(self, name: str) -> bool:
        """Delete a model. False if it does not exist."""
        return self._database.write(lambda c: registered_models.remove(c, name))

    def read_generation(self) -> int:
        """Return the number of changes to models."""
        return self._database.read(lambda c: read_generation(c, registered_models.GENERATION_NAME))
