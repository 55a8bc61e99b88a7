"""The database's clock, by which leases are granted and judged.

Machines that share a database may disagree about the time; the database does not disagree with
itself.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import GenericFunction

LEASE = 15.0
"""Seconds for which a lease is valid unless it is renewed."""


class _Now(GenericFunction[float]):
    """The time as Unix seconds."""

    type = sa.Double()
    inherit_cache = True


@compiles(_Now, "sqlite")
def _now_in_sqlite(element: _Now, compiler: Any, **given: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(_Now, "postgresql")
def _now_in_postgresql(element: _Now, compiler: Any, **given: Any) -> str:
    # Not now(): that is the beginning of the transaction, which may have waited for a lock.  Not
    # clock_timestamp() either: it is volatile, so that no index is searched for it.
    return "CAST(extract(epoch FROM statement_timestamp()) AS double precision)"


NOW = _Now()
"""The time by the database's clock, in Unix seconds; an SQL expression."""

NEW_LEASE = NOW + LEASE
"""When a lease that is granted now runs out; an SQL expression."""
