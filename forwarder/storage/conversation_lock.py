"""Locks that allow one turn of a conversation at a time; concurrent turns would miss each other.

A turn holds the lock from reading the history until its items are stored. Other turns on any worker
are rejected meanwhile, as OpenAI does. The lock is a lease that its holder renews. If a worker
dies, its locks expire.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass
from functools import partial

import sqlalchemy as sa

from forwarder.core.concurrency import spawn
from forwarder.core.errors import ConversationLocked, StoreUnavailable
from forwarder.core.ids import generate_id
from forwarder.storage.db import Database, conversations
from forwarder.storage.db.clock import LEASE_SECONDS

log = logging.getLogger("forwarder.state")

LOCK_RENEW_SECONDS = LEASE_SECONDS / 5
"""Interval between lease renewals."""


@dataclass(frozen=True, eq=False)
class ConversationLock:
    """One turn's lock of a conversation."""

    locks: ConversationLocks
    owner: str
    conversation: str
    holder_id: str

    def acquire(self, connection: sa.Connection) -> None:
        """Acquire the lock if the conversation exists.

        Raises ConversationLocked if another turn holds it. Call `start_renewal` after the
        transaction.
        """
        place = self.owner, self.conversation
        if conversations.acquire_lease(connection, *place, self.holder_id):
            return
        if conversations.find(connection, *place) is not None:
            raise ConversationLocked

    def start_renewal(self) -> None:
        """Renew the lease until `release` or `release_now`."""
        self.locks.add(self)

    def renew(self, connection: sa.Connection) -> None:
        """Renew the lease."""
        place = self.owner, self.conversation
        conversations.renew_lease(connection, *place, self.holder_id)

    def release(self, connection: sa.Connection) -> None:
        """Release the lock when the transaction commits. Call `mark_released` afterwards."""
        conversations.release_lease(connection, self.owner, self.conversation, self.holder_id)

    def mark_released(self) -> bool:
        """Stop the renewal. Returns False if it was stopped before."""
        return self.locks.remove(self)

    def release_now(self) -> None:
        """Release the lock in a transaction of its own, unless it was released before."""
        if self.mark_released():
            self.locks.database.write(self.release)


class ConversationLocks:
    """The conversation locks of this process."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self._active: set[ConversationLock] = set()
        self._lock = threading.Lock()
        self._is_renewing = False

    def new_lock(self, owner: str, conversation: str) -> ConversationLock:
        """Return a lock that is not acquired yet."""
        return ConversationLock(self, owner, conversation, generate_id("turn"))

    def acquire(self, owner: str, conversation: str) -> ConversationLock:
        """Return an acquired lock. Raises ConversationLocked if another turn holds it."""
        lock = self.new_lock(owner, conversation)
        self.database.write(lock.acquire)
        lock.start_renewal()
        return lock

    def add(self, lock: ConversationLock) -> None:
        """Start to renew a lock."""
        with self._lock:
            self._active.add(lock)
            if not self._is_renewing:
                self._is_renewing = True
                spawn(self._run_renewal)

    def remove(self, lock: ConversationLock) -> bool:
        """Stop to renew a lock. Returns whether it was being renewed."""
        with self._lock:
            was_active = lock in self._active
            self._active.discard(lock)
            return was_active

    def _run_renewal(self) -> None:
        while True:
            time.sleep(LOCK_RENEW_SECONDS)
            with self._lock:
                active = sorted(self._active, key=lambda lock: lock.holder_id)
                if not active:
                    self._is_renewing = False
                    return
            try:
                self.database.write(partial(renew_locks, locks=active))
            except StoreUnavailable:
                continue  # the database logged it; the next renewal may succeed
            except Exception:
                log.exception(
                    "could not renew conversation locks", extra={"event": "lock_renewal_failed"}
                )


def renew_locks(connection: sa.Connection, locks: list[ConversationLock]) -> None:
    for lock in locks:
        lock.renew(connection)
