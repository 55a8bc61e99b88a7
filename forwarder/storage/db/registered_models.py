"""Rows of registered models."""

from __future__ import annotations

from typing import NamedTuple

import sqlalchemy as sa

from forwarder.core.types import Json
from forwarder.storage.db.change_notifier import increment_generation
from forwarder.storage.db.compression import pack_json, unpack_json
from forwarder.storage.db.tables import models

GENERATION_NAME = "models"


class ModelRow(NamedTuple):
    """A model row; ``sealed`` is ``None`` if the model has no credentials."""

    name: str
    version: str
    created: float
    modified: float
    told: Json
    sealed: str | None


_COLUMNS = [models.c[name] for name in ModelRow._fields]


def list_models(connection: sa.Connection) -> list[ModelRow]:
    """Return all models by name."""
    rows = connection.execute(sa.select(*_COLUMNS).order_by(models.c.name))
    return [to_model_row(*row) for row in rows]


def to_model_row(
    name: str, version: str, created: float, modified: float, told: bytes, sealed: str | None
) -> ModelRow:
    return ModelRow(name, version, created, modified, unpack_json(told), sealed)


def put(connection: sa.Connection, row: ModelRow) -> None:
    """Store a model, replacing one with the same name but keeping its creation time."""
    # First, so that concurrent writers wait for each other.
    increment_generation(connection, GENERATION_NAME)
    values = {**row._asdict(), "told": pack_json(row.told)}
    created = connection.scalar(sa.select(models.c.created).where(models.c.name == row.name))
    if created is not None:
        values["created"] = created
        delete_row(connection, row.name)
    connection.execute(sa.insert(models).values(values))


def remove(connection: sa.Connection, name: str) -> bool:
    """Delete a model. False if it does not exist."""
    removed = delete_row(connection, name)
    if removed:
        increment_generation(connection, GENERATION_NAME)
    return removed


def delete_row(connection: sa.Connection, name: str) -> bool:
    return bool(connection.execute(sa.delete(models).where(models.c.name == name)).rowcount)
