"""What is old, or too much, goes; one worker of all sees to it now and then."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from functools import partial

import sqlalchemy as sa

from forwarder.errors import StoreUnavailable
from forwarder.network.aside import spawn
from forwarder.store import gone, responses, work
from forwarder.store.clock import NOW
from forwarder.store.database import Database
from forwarder.store.tables import chores, completions, conversations, thoughts
from forwarder.store.tables import responses as response_table

log = logging.getLogger("forwarder.store")

_EVERY = 300.0
"""Seconds between two prunings, and the most that work of a dead worker stays unnoticed by all."""

_AT_ONCE = 200
"""Rows that are deleted in one transaction: others want to write too."""

_TABLES = (response_table, conversations, completions, thoughts)


class Pruner:
    """Keeps a store within its limits of age, in seconds, and of size, in bytes.

    Reasoning has an age of its own: ``reasoning_ttl``.
    """

    def __init__(
        self,
        database: Database,
        max_age: float | None,
        max_size: int,
        reasoning_ttl: float = 0.0,
    ) -> None:
        self._database = database
        self._max_ages = dict.fromkeys(_TABLES, max_age) | {thoughts: reasoning_ttl}
        self._max_size = max_size

    def start(self) -> None:
        """Prune from now on, until the database is closed."""
        spawn(self._run)

    def _run(self) -> None:
        while not self._database.closed.wait(_EVERY / 4):
            try:
                self.prune_if_due()
            except StoreUnavailable:
                continue  # it is in the log, and the next round may go better
            except Exception:
                log.exception("the store could not be pruned")

    def prune_if_due(self) -> bool:
        """Prune unless that was done lately, by this worker or another; whether it was done."""
        if not self._database.write(_taken):
            return False
        self.prune()
        return True

    def prune(self) -> None:
        """End what the dead left, delete what is old, and the oldest of what is too much."""
        for owner, name in self._database.read(work.lost):
            self._database.write(partial(_end_lost, owner=owner, name=name))
        self._database.write(gone.forget)
        deleted = sum(self._aged()) + sum(self._excess())
        if deleted:
            self._database.write(responses.bury)
            self._database.tidy()
            log.info("forgot %d stored objects", deleted)

    def _aged(self) -> Iterator[int]:
        for table, max_age in self._max_ages.items():
            if max_age is None:
                continue
            old = table.c.used < NOW - max_age
            deleted = _AT_ONCE
            while deleted == _AT_ONCE:
                deleted = self._deleted(table, old)
                yield deleted

    def _excess(self) -> Iterator[int]:
        while (excess := self._database.read(_total) - self._max_size) > 0:
            table = self._database.read(_oldest)
            if table is None:
                return
            yield self._deleted(table, sa.true(), excess)

    def _deleted(
        self, table: sa.Table, which: sa.ColumnElement[bool], excess: int | None = None
    ) -> int:
        return self._database.write(lambda c: _delete(c, table, which, excess))


def _taken(connection: sa.Connection) -> bool:
    """Is pruning due?  Whoever hears so has taken it on."""
    due = sa.update(chores).where(chores.c.name == "prune")
    if connection.execute(due.where(chores.c.due <= NOW).values(due=NOW + _EVERY)).rowcount:
        return True
    there = connection.execute(sa.select(chores.c.name).where(chores.c.name == "prune")).first()
    if there is None:
        connection.execute(sa.insert(chores).values(name="prune", due=NOW + _EVERY))
    return False


def _end_lost(connection: sa.Connection, owner: str, name: str) -> None:
    kept = responses.find(connection, owner, name)
    if kept is not None and kept.is_lost:
        work.bury(connection, owner, kept)


def _total(connection: sa.Connection) -> int:
    sums = [sa.select(sa.func.coalesce(sa.func.sum(table.c.size), 0)) for table in _TABLES]
    return sum(int(connection.scalar(total) or 0) for total in sums)


def _oldest(connection: sa.Connection) -> sa.Table | None:
    """The table with what was not used for longest."""
    used = [(connection.scalar(sa.select(sa.func.min(t.c.used))), t) for t in _TABLES]
    there = [(at, table) for at, table in used if at is not None]
    return min(there, key=lambda pair: pair[0])[1] if there else None


def _delete(
    connection: sa.Connection,
    table: sa.Table,
    which: sa.ColumnElement[bool],
    excess: int | None,
) -> int:
    """Delete some of those not used for longest: no more than make up the ``excess``."""
    found = sa.select(table.c.owner, table.c.id, table.c.size).where(which)
    rows = connection.execute(found.order_by(table.c.used).limit(_AT_ONCE)).all()
    deleted = 0
    for owner, name, size in rows:
        if excess is not None and excess <= 0:
            break
        connection.execute(sa.delete(table).where(table.c.owner == owner, table.c.id == name))
        excess = None if excess is None else excess - size
        deleted += 1
    return deleted
