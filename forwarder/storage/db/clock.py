"""The database clock, which grants and evaluates all leases.

The clocks of machines that share a database may differ; the database has only one.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import GenericFunction

LEASE_SECONDS = 15.0
"""Seconds until a lease expires without renewal."""


class DatabaseTime(GenericFunction[float]):
    """The current time in Unix seconds."""

    type = sa.Double()
    inherit_cache = True


@compiles(DatabaseTime, "sqlite")
def compile_time_for_sqlite(element: DatabaseTime, compiler: Any, **options: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(DatabaseTime, "postgresql")
def compile_time_for_postgresql(element: DatabaseTime, compiler: Any, **options: Any) -> str:
    # Not now(): it returns the start of the transaction, which may have waited for a lock. Not
    # clock_timestamp(): it is volatile, so that comparisons with it use no index.
    return "CAST(extract(epoch FROM statement_timestamp()) AS double precision)"


NOW = DatabaseTime()
"""The current time by the database clock, in Unix seconds; an SQL expression."""

NEW_LEASE = NOW + LEASE_SECONDS
"""The expiry time of a lease granted now; an SQL expression."""
