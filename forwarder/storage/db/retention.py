"""What is old, or too much, goes; one worker of all sees to it now and then."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import partial
from typing import NamedTuple

import sqlalchemy as sa

from forwarder.core.concurrency import spawn
from forwarder.core.errors import StoreUnavailable
from forwarder.storage.db import responses, tombstones
from forwarder.storage.db.clock import NOW
from forwarder.storage.db.database import Database
from forwarder.storage.db.tables import chores, completions, conversations, thoughts
from forwarder.storage.db.tables import responses as response_table

log = logging.getLogger("forwarder.store")

_EVERY = 300.0
"""Seconds between two prunings."""

_AT_ONCE = 200
"""Rows that are deleted in one transaction: others want to write too."""

_OLDEST_AT_ONCE = 10_000
"""Rows of one owner that are looked for at once."""

_GAP = 86400.0
"""Seconds without any pruning after which the clock may have jumped.  Nothing is deleted for its
age in as many seconds after that, so that a wrong clock can be put right."""

_WRITES = 20
"""After writing this part of the size limit, a worker prunes at once."""

_LOOKS = 15
"""How often in a round it is looked at how much was written."""

_PRUNE, _STEADY = "prune", "clock"
"""The chores: when to prune next, and from when on the clock is trusted."""

_TABLES = (response_table, conversations, completions, thoughts)


class Pruner:
    """Keeps a store within its limits of age, in seconds, and of size, in bytes.

    What is too much is deleted of the owners that have the most, so that nobody loses anything
    because another one stores much.  Reasoning has an age of its own: ``reasoning_ttl``.
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
        while not self._wait():
            try:
                if self._database.written > self._max_size / _WRITES:
                    self.prune(by_age=False)
                self.prune_if_due()
            except StoreUnavailable:
                continue  # it is in the log, and the next round may go better
            except Exception:
                log.exception("the store could not be pruned")

    def _wait(self) -> bool:
        """Wait until it may be time to prune; True when the database is closed."""
        for _ in range(_LOOKS):
            if self._database.closed.wait(_EVERY / 4 / _LOOKS):
                return True
            if self._database.written > self._max_size / _WRITES:
                break
        return False

    def prune_if_due(self) -> bool:
        """Prune unless that was done lately, by this worker or another; whether it was done."""
        if not self._database.write(_taken):
            return False
        self.prune(by_age=not self._database.read(_may_have_jumped))
        return True

    def prune(self, by_age: bool = True) -> None:
        """Delete what is old, and the oldest of what is too much."""
        self._database.written = 0
        self._database.write(tombstones.forget)
        deleted = (sum(self._aged()) if by_age else 0) + sum(self._excess())
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
        if self._database.read(_total) <= self._max_size:
            return
        sizes = self._database.read(_measure_owners)
        share = compute_share(sizes.values(), self._max_size)
        for owner, size in sizes.items():
            while size > share:
                oldest = self._database.read(partial(_list_oldest, owner=owner, size=size - share))
                if not oldest:
                    break
                for start in range(0, len(oldest), _AT_ONCE):
                    rows = oldest[start : start + _AT_ONCE]
                    yield self._database.write(partial(_delete_rows, owner=owner, rows=rows))
                size -= sum(row.size for row in oldest)

    def _deleted(self, table: sa.Table, which: sa.ColumnElement[bool]) -> int:
        return self._database.write(lambda c: _delete(c, table, which))


def compute_share(sizes: Iterable[int], max_size: int) -> int:
    """How much each owner may have, so that all together have ``max_size``.

    Who has less than that keeps it, and leaves the rest to the others.
    """
    left, share = max_size, 0
    ordered = sorted(sizes)
    for i, size in enumerate(ordered):
        share = left // (len(ordered) - i)
        if size > share:
            break
        left -= size
    return share


def _taken(connection: sa.Connection) -> bool:
    """Is pruning due?  Whoever hears so has taken it on."""
    mine = chores.c.name == _PRUNE
    found = connection.execute(sa.select(chores.c.due, NOW).where(mine)).first()
    if found is None:
        connection.execute(sa.insert(chores).values(name=_PRUNE, due=NOW + _EVERY))
        return False
    due, now = found
    was_set_back = due > now + 2 * _EVERY
    if due > now and not was_set_back:
        return False
    taken = sa.update(chores).where(mine, chores.c.due == due).values(due=NOW + _EVERY)
    if not connection.execute(taken).rowcount:
        return False
    if now > due + _GAP or was_set_back:
        log.warning("the clock has jumped, or nobody has run; for a day nothing is too old")
        connection.execute(sa.delete(chores).where(chores.c.name == _STEADY))
        connection.execute(sa.insert(chores).values(name=_STEADY, due=NOW + _GAP))
    return True


def _may_have_jumped(connection: sa.Connection) -> bool:
    """Is it too early to trust the clock?"""
    soon = (chores.c.name == _STEADY) & (chores.c.due > NOW) & (chores.c.due <= NOW + _GAP)
    return connection.execute(sa.select(chores.c.name).where(soon)).first() is not None


def _total(connection: sa.Connection) -> int:
    sums = [sa.select(sa.func.coalesce(sa.func.sum(table.c.size), 0)) for table in _TABLES]
    return sum(int(connection.scalar(total) or 0) for total in sums)


def _measure_owners(connection: sa.Connection) -> Counter[str]:
    """Owner -> the bytes of all that is stored for it."""
    sizes: Counter[str] = Counter()
    for table in _TABLES:
        found = sa.select(table.c.owner, sa.func.sum(table.c.size)).group_by(table.c.owner)
        for owner, size in connection.execute(found):
            sizes[owner] += int(size)
    return sizes


class _Row(NamedTuple):
    table: sa.Table
    id: str
    used: float
    size: int


def _list_oldest(connection: sa.Connection, owner: str, size: int) -> list[_Row]:
    """Those of an owner that were not used for longest, until they make up ``size`` bytes."""
    rows: list[_Row] = []
    for table in _TABLES:
        found = sa.select(table.c.id, table.c.used, table.c.size).where(table.c.owner == owner)
        oldest = connection.execute(found.order_by(table.c.used).limit(_OLDEST_AT_ONCE))
        rows += [_Row(table, *row) for row in oldest]
    rows.sort(key=lambda row: row.used)
    for i, row in enumerate(rows):
        if size <= 0:
            return rows[:i]
        size -= row.size
    return rows


def _delete_rows(connection: sa.Connection, owner: str, rows: list[_Row]) -> int:
    for table, name, *_ in rows:
        connection.execute(sa.delete(table).where(table.c.owner == owner, table.c.id == name))
    return len(rows)


def _delete(connection: sa.Connection, table: sa.Table, which: sa.ColumnElement[bool]) -> int:
    """Delete some of those not used for longest."""
    found = sa.select(table.c.owner, table.c.id).where(which)
    rows = connection.execute(found.order_by(table.c.used).limit(_AT_ONCE)).all()
    for owner, name in rows:
        connection.execute(sa.delete(table).where(table.c.owner == owner, table.c.id == name))
    return len(rows)
