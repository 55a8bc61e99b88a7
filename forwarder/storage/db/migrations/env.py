"""Alembic runs this to migrate; the connection, in a transaction, is given by `migrate.py`."""

from __future__ import annotations

from alembic import context

context.configure(connection=context.config.attributes["connection"])
context.run_migrations()
