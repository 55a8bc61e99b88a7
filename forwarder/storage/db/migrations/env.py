"""Alembic runs this module to migrate; `migrate.py` provides the connection and its transaction."""

from __future__ import annotations

from alembic import context

context.configure(connection=context.config.attributes["connection"])
context.run_migrations()
