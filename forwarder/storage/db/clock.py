"""The database's clock, by which leases are granted and judged.

Machines that share a database may disagree about the time; the database does not disagree with
itself.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import GenericFunction

LEASE_SECONDS = 15.0
"""Seconds for which a lease is valid unless it is renewed."""


class DatabaseTime(GenericFunction[float]):
    """The time as Unix seconds."""

    type = sa.Double()
    inherit_cache = True


@compiles(DatabaseTime, "sqlite")
def compile_time_for_sqlite(element: DatabaseTime, compiler: Any, **given: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(DatabaseTime, "postgresql")
def compile_time_for_postgresql(element: DatabaseTime, compiler: Any, **given: Any) -> str:
    # Not now(): that is the beginning of the transaction, which may have waited for a lock.  Not
    # clock_timestamp() either: it is volatile, so that no index is searched for it.
    return "CAST(extract(epoch FROM statement_timestamp()) AS double precision)"


NOW = DatabaseTime()
"""The time by the database's clock, in Unix seconds; an SQL expression."""

NEW_LEASE = NOW + LEASE_SECONDS
"""When a lease that is granted now runs out; an SQL expression."""
