"""Delete old and excess data; one worker at a time prunes regularly."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import chain
from typing import NamedTuple

import sqlalchemy as sa

from forwarder.core.blocking_work import spawn
from forwarder.core.errors import StoreUnavailable
from forwarder.storage.db import files, responses, tombstones, usage, vector_stores
from forwarder.storage.db.clock import NOW
from forwarder.storage.db.database import Database
from forwarder.storage.db.tables import completions, conversations, reasoning, scheduled_jobs
from forwarder.storage.db.tables import files as file_table
from forwarder.storage.db.tables import responses as response_table
from forwarder.storage.db.tables import vector_stores as vector_store_table

log = logging.getLogger("forwarder.store")

PRUNE_SECONDS = 300.0
"""Interval between prunings."""

MAX_DELETED_ROWS = 200
"""Rows deleted per transaction, so that other writers can interleave."""

MAX_OLDEST_ROWS = 10_000
"""Rows of one owner that are listed at once."""

CLOCK_JUMP_SECONDS = 86400.0
"""Seconds without pruning after which the clock may have jumped. For the same time nothing is
deleted by age, so that an operator can correct the clock.
"""

PRUNES_PER_SIZE_LIMIT = 20
"""A worker prunes at once after it has written the size limit divided by this number."""

CHECKS_PER_ROUND = 15
"""Number of checks of the written bytes between two rounds."""

PRUNE_JOB, CLOCK_JOB = "prune", "clock"
"""Scheduled jobs: the next pruning, and the time from which the clock is trusted."""

PRUNED_TABLES = (
    response_table,
    conversations,
    completions,
    reasoning,
    file_table,
    vector_store_table,
)


class Pruner:
    """Keeps the database within its limits: age in seconds and size in bytes.

    Excess data is deleted from the owners with the most data, so that no owner loses data because
    of another one. Reasoning has its own maximum age, ``reasoning_ttl``. Counts of usage have the
    maximum age ``usage_max_age`` and no maximum size, because they are small.
    """

    def __init__(
        self,
        database: Database,
        max_age: float | None,
        max_size: int,
        reasoning_ttl: float = 0.0,
        usage_max_age: float | None = None,
    ) -> None:
        self._database = database
        self._max_ages = dict.fromkeys(PRUNED_TABLES, max_age) | {reasoning: reasoning_ttl}
        self._max_size = max_size
        self._usage_max_age = usage_max_age

    def start(self) -> None:
        """Prune regularly until the database is closed."""
        spawn(self._run_loop)

    def _run_loop(self) -> None:
        while not self._wait_for_round():
            try:
                if self._database.written_bytes > self._max_size / PRUNES_PER_SIZE_LIMIT:
                    self.prune(by_age=False)
                self.prune_if_due()
            except StoreUnavailable:
                continue  # the database logged it; the next round may succeed
            except Exception:
                log.exception("could not prune the database", extra={"event": "pruning_failed"})

    def _wait_for_round(self) -> bool:
        """Wait for the next round. True if the database was closed."""
        for _ in range(CHECKS_PER_ROUND):
            if self._database.close_event.wait(PRUNE_SECONDS / 4 / CHECKS_PER_ROUND):
                return True
            if self._database.written_bytes > self._max_size / PRUNES_PER_SIZE_LIMIT:
                break
        return False

    def prune_if_due(self) -> bool:
        """Prune unless a worker has done so recently. Returns whether this call pruned."""
        if not self._database.write(claim_pruning):
            return False
        self.prune(by_age=not self._database.read(is_clock_untrusted))
        return True

    def prune(self, by_age: bool = True) -> None:
        """Delete expired rows, and the oldest rows above the size limit."""
        self._database.written_bytes = 0
        self._database.write(tombstones.remove_expired)
        by_age_deletions = chain(self._delete_old(), self._delete_expired()) if by_age else ()
        deleted = sum(by_age_deletions) + sum(self._delete_excess())
        if deleted:
            self._database.write(responses.delete_hidden)
            self._database.write(vector_stores.refresh_all_sizes)
            self._database.reclaim_space()
            log.info("pruned %d rows", deleted, extra={"event": "database_pruned"})

    def _delete_old(self) -> Iterator[int]:
        for table, max_age in self._max_ages.items():
            if max_age is None:
                continue
            old = table.c.used < NOW - max_age
            deleted = MAX_DELETED_ROWS
            while deleted == MAX_DELETED_ROWS:
                deleted = self._database.write(partial(delete_matching, table=table, condition=old))
                yield deleted

    def _delete_expired(self) -> Iterator[int]:
        """Delete old usage, and files (also of vector stores) with a time set by their clients."""
        removals = [files.remove_expired, vector_stores.remove_expired]
        if self._usage_max_age is not None:
            removals.append(partial(usage.remove_older, max_age=self._usage_max_age))
        for remove in removals:
            while deleted := self._database.write(remove):
                yield deleted

    def _delete_excess(self) -> Iterator[int]:
        if self._database.read(measure_total) <= self._max_size:
            return
        sizes = self._database.read(measure_owners)
        share = compute_share(sizes.values(), self._max_size)
        for owner, size in sizes.items():
            while size > share:
                oldest = self._database.read(partial(list_oldest, owner=owner, size=size - share))
                if not oldest:
                    break
                for start in range(0, len(oldest), MAX_DELETED_ROWS):
                    rows = oldest[start : start + MAX_DELETED_ROWS]
                    yield self._database.write(partial(delete_rows, owner=owner, rows=rows))
                size -= sum(row.size for row in oldest)


def compute_share(sizes: Iterable[int], max_size: int) -> int:
    """Return the bytes that each owner may keep so that the total is at most ``max_size``.

    Owners below the share keep everything and leave the rest to the others.
    """
    remaining, share = max_size, 0
    ordered = sorted(sizes)
    for i, size in enumerate(ordered):
        share = remaining // (len(ordered) - i)
        if size > share:
            break
        remaining -= size
    return share


def claim_pruning(connection: sa.Connection) -> bool:
    """Claim the next pruning if it is due. Returns whether this worker must prune."""
    mine = scheduled_jobs.c.name == PRUNE_JOB
    row = connection.execute(sa.select(scheduled_jobs.c.due, NOW).where(mine)).first()
    if row is None:
        connection.execute(
            sa.insert(scheduled_jobs).values(name=PRUNE_JOB, due=NOW + PRUNE_SECONDS)
        )
        return False
    due, now = row
    was_set_back = due > now + 2 * PRUNE_SECONDS
    if due > now and not was_set_back:
        return False
    claim = (
        sa.update(scheduled_jobs)
        .where(mine, scheduled_jobs.c.due == due)
        .values(due=NOW + PRUNE_SECONDS)
    )
    if not connection.execute(claim).rowcount:
        return False
    if now > due + CLOCK_JUMP_SECONDS or was_set_back:
        log.warning(
            "the clock has jumped, or no worker was running; nothing expires for a day",
            extra={"event": "clock_jump"},
        )
        connection.execute(sa.delete(scheduled_jobs).where(scheduled_jobs.c.name == CLOCK_JOB))
        connection.execute(
            sa.insert(scheduled_jobs).values(name=CLOCK_JOB, due=NOW + CLOCK_JUMP_SECONDS)
        )
    return True


def is_clock_untrusted(connection: sa.Connection) -> bool:
    """Whether the clock has jumped too recently to delete by age."""
    is_pending = (
        (scheduled_jobs.c.name == CLOCK_JOB)
        & (scheduled_jobs.c.due > NOW)
        & (scheduled_jobs.c.due <= NOW + CLOCK_JUMP_SECONDS)
    )
    return (
        connection.execute(sa.select(scheduled_jobs.c.name).where(is_pending)).first() is not None
    )


def measure_total(connection: sa.Connection) -> int:
    sums = [sa.select(sa.func.coalesce(sa.func.sum(table.c.size), 0)) for table in PRUNED_TABLES]
    return sum(int(connection.scalar(total) or 0) for total in sums)


def measure_owners(connection: sa.Connection) -> Counter[str]:
    """Return the stored bytes by owner."""
    sizes: Counter[str] = Counter()
    for table in PRUNED_TABLES:
        query = sa.select(table.c.owner, sa.func.sum(table.c.size)).group_by(table.c.owner)
        for owner, size in connection.execute(query):
            sizes[owner] += int(size)
    return sizes


class PrunableRow(NamedTuple):
    table: sa.Table
    id: str
    used: float
    size: int


def list_oldest(connection: sa.Connection, owner: str, size: int) -> list[PrunableRow]:
    """Return an owner's least recently used rows that make up ``size`` bytes."""
    rows: list[PrunableRow] = []
    for table in PRUNED_TABLES:
        query = sa.select(table.c.id, table.c.used, table.c.size).where(table.c.owner == owner)
        oldest = connection.execute(query.order_by(table.c.used).limit(MAX_OLDEST_ROWS))
        rows += [PrunableRow(table, *row) for row in oldest]
    rows.sort(key=lambda row: row.used)
    for i, row in enumerate(rows):
        if size <= 0:
            return rows[:i]
        size -= row.size
    return rows


def delete_rows(connection: sa.Connection, owner: str, rows: list[PrunableRow]) -> int:
    for table, name, *_ in rows:
        connection.execute(sa.delete(table).where(table.c.owner == owner, table.c.id == name))
    return len(rows)


def delete_matching(
    connection: sa.Connection, table: sa.Table, condition: sa.ColumnElement[bool]
) -> int:
    """Delete up to `MAX_DELETED_ROWS` of the least recently used matching rows."""
    query = sa.select(table.c.owner, table.c.id).where(condition)
    rows = connection.execute(query.order_by(table.c.used).limit(MAX_DELETED_ROWS)).all()
    for owner, name in rows:
        connection.execute(sa.delete(table).where(table.c.owner == owner, table.c.id == name))
    return len(rows)
