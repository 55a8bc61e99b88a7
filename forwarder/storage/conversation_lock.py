"""Locks that allow one turn of a conversation at a time.

Concurrent turns would not contain each other's items.

A turn holds the lock from reading the history until its items are stored. Other turns on any worker
are rejected meanwhile, as OpenAI does. The lock is a lease that its holder renews. If a worker
dies, its locks expire.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass

from forwarder.core.blocking_work import spawn
from forwarder.core.errors import StoreUnavailable
from forwarder.storage.db import Database
from forwarder.storage.db.clock import LEASE_SECONDS
from forwarder.storage.db.conversations import ConversationLease, make_lease
from forwarder.storage.repositories.conversations import ConversationRepository

log = logging.getLogger("forwarder.state")

LOCK_RENEW_SECONDS = LEASE_SECONDS / 5
"""Interval between lease renewals."""


@dataclass(frozen=True, eq=False)
class ConversationLock:
    """One turn's lock of a conversation.

    The lease is acquired and released either here, or in the transaction that stores the turn: then
    call `start_renewal` or `mark_released` afterwards.
    """

    locks: ConversationLocks
    lease: ConversationLease

    def start_renewal(self) -> None:
        """Renew the lease until `mark_released` or `release_now`."""
        self.locks.add(self)

    def mark_released(self) -> bool:
        """Stop the renewal. Returns False if the lock was not being renewed."""
        return self.locks.remove(self)

    def release_now(self) -> None:
        """Release the lock in a transaction of its own, unless it was released before."""
        if self.mark_released():
            self.locks.repository.release_lease(self.lease)


class ConversationLocks:
    """The conversation locks of this process."""

    def __init__(self, database: Database) -> None:
        self.repository = ConversationRepository(database)
        self._active: set[ConversationLock] = set()
        self._lock = threading.Lock()
        self._is_renewing = False

    def new_lock(self, owner: str, conversation: str) -> ConversationLock:
        """Return a lock that is not acquired yet."""
        return ConversationLock(self, make_lease(owner, conversation))

    def acquire(self, owner: str, conversation: str) -> ConversationLock:
        """Return an acquired lock; it locks nothing if the conversation does not exist.

        Raises ConversationLocked if another turn holds it.
        """
        lock = self.new_lock(owner, conversation)
        self.repository.acquire_lock(lock.lease)
        lock.start_renewal()
        return lock

    def add(self, lock: ConversationLock) -> None:
        """Start renewing a lock."""
        with self._lock:
            self._active.add(lock)
            if not self._is_renewing:
                self._is_renewing = True
                spawn(self._run_renewal)

    def remove(self, lock: ConversationLock) -> bool:
        """Stop renewing a lock. Returns whether it was being renewed."""
        with self._lock:
            was_active = lock in self._active
            self._active.discard(lock)
            return was_active

    def _run_renewal(self) -> None:
        while True:
            time.sleep(LOCK_RENEW_SECONDS)
            with self._lock:
                leases = sorted(
                    (lock.lease for lock in self._active), key=lambda lease: lease.holder
                )
                if not leases:
                    self._is_renewing = False
                    return
            try:
                self.repository.renew_leases(leases)
            except StoreUnavailable:
                continue  # the database logged it; the next renewal may succeed
            except Exception:
                log.exception(
                    "could not renew conversation locks", extra={"event": "lock_renewal_failed"}
                )
