"""One turn of a conversation at a time: two at once would each miss what the other says.

A turn holds its conversation from before its history is read until its items are added, on
whichever worker; another one that is asked for meanwhile is refused, as OpenAI refuses it.  Who
holds says so again and again: what a worker held that has died is free after a while.
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
"""Seconds between two signs of life."""


@dataclass(frozen=True, eq=False)
class ConversationLock:
    """A turn's hold of a conversation."""

    locks: ConversationLocks
    owner: str
    conversation: str
    holder_id: str

    def acquire(self, connection: sa.Connection) -> None:
        """Take the conversation, if there is one; raises ConversationLocked while another has it.

        To be followed by `start_renewal`.
        """
        place = self.owner, self.conversation
        if conversations.acquire_lease(connection, *place, self.holder_id):
            return
        if conversations.find(connection, *place) is not None:
            raise ConversationLocked

    def start_renewal(self) -> None:
        """Hold it from now on, until `release` or `release_now`."""
        self.locks.add(self)

    def renew(self, connection: sa.Connection) -> None:
        """Say that the turn goes on."""
        place = self.owner, self.conversation
        conversations.renew_lease(connection, *place, self.holder_id)

    def release(self, connection: sa.Connection) -> None:
        """Let the next turn begin as soon as the connection's transaction is over.

        To be followed by `mark_released`.
        """
        conversations.release_lease(connection, self.owner, self.conversation, self.holder_id)

    def mark_released(self) -> bool:
        """Note that it was given back; was that still to be noted?"""
        return self.locks.remove(self)

    def release_now(self) -> None:
        """Give it back now, unless that is done."""
        if self.mark_released():
            self.locks.database.write(self.release)


class ConversationLocks:
    """What the turns of a process hold."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self._active: set[ConversationLock] = set()
        self._lock = threading.Lock()
        self._is_renewing = False

    def new_lock(self, owner: str, conversation: str) -> ConversationLock:
        """A hold that is still to be taken."""
        return ConversationLock(self, owner, conversation, generate_id("turn"))

    def acquire(self, owner: str, conversation: str) -> ConversationLock:
        """A hold; raises ConversationLocked while another turn has the conversation."""
        hold = self.new_lock(owner, conversation)
        self.database.write(hold.acquire)
        hold.start_renewal()
        return hold

    def add(self, hold: ConversationLock) -> None:
        """Say from now on that it is held."""
        with self._lock:
            self._active.add(hold)
            if not self._is_renewing:
                self._is_renewing = True
                spawn(self._run_renewal)

    def remove(self, hold: ConversationLock) -> bool:
        """Say so no longer; was it said?"""
        with self._lock:
            held = hold in self._active
            self._active.discard(hold)
            return held

    def _run_renewal(self) -> None:
        while True:
            time.sleep(LOCK_RENEW_SECONDS)
            with self._lock:
                held = sorted(self._active, key=lambda hold: hold.holder_id)
                if not held:
                    self._is_renewing = False
                    return
            try:
                self.database.write(partial(renew_locks, held=held))
            except StoreUnavailable:
                continue  # it is in the log, and the next may go better
            except Exception:
                log.exception("conversations could not be held")


def renew_locks(connection: sa.Connection, held: list[ConversationLock]) -> None:
    for hold in held:
        hold.renew(connection)
