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
from forwarder.core.ids import random_id
from forwarder.storage.db import Database, conversations
from forwarder.storage.db.clock import LEASE

log = logging.getLogger("forwarder.state")

_RENEW = LEASE / 5
"""Seconds between two signs of life."""


@dataclass(frozen=True, eq=False)
class Hold:
    """A turn's hold of a conversation."""

    holds: Holds
    owner: str
    conversation: str
    name: str

    def take(self, connection: sa.Connection) -> None:
        """Take the conversation, if there is one; raises ConversationLocked while another has it.

        To be followed by `keep`.
        """
        place = self.owner, self.conversation
        if conversations.take(connection, *place, self.name):
            return
        if conversations.find(connection, *place) is not None:
            raise ConversationLocked

    def keep(self) -> None:
        """Hold it from now on, until `give_back` or `drop`."""
        self.holds.add(self)

    def renew(self, connection: sa.Connection) -> None:
        """Say that the turn goes on."""
        place = self.owner, self.conversation
        conversations.renew(connection, *place, self.name)

    def give_back(self, connection: sa.Connection) -> None:
        """Let the next turn begin as soon as the connection's transaction is over.

        To be followed by `done`.
        """
        conversations.release(connection, self.owner, self.conversation, self.name)

    def done(self) -> bool:
        """Note that it was given back; was that still to be noted?"""
        return self.holds.remove(self)

    def drop(self) -> None:
        """Give it back now, unless that is done."""
        if self.done():
            self.holds.database.write(self.give_back)


class Holds:
    """What the turns of a process hold."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self._held: set[Hold] = set()
        self._lock = threading.Lock()
        self._renewing = False

    def of(self, owner: str, conversation: str) -> Hold:
        """A hold that is still to be taken."""
        return Hold(self, owner, conversation, random_id("turn"))

    def taken(self, owner: str, conversation: str) -> Hold:
        """A hold; raises ConversationLocked while another turn has the conversation."""
        hold = self.of(owner, conversation)
        self.database.write(hold.take)
        hold.keep()
        return hold

    def add(self, hold: Hold) -> None:
        """Say from now on that it is held."""
        with self._lock:
            self._held.add(hold)
            if not self._renewing:
                self._renewing = True
                spawn(self._renew_on)

    def remove(self, hold: Hold) -> bool:
        """Say so no longer; was it said?"""
        with self._lock:
            held = hold in self._held
            self._held.discard(hold)
            return held

    def _renew_on(self) -> None:
        while True:
            time.sleep(_RENEW)
            with self._lock:
                held = sorted(self._held, key=lambda hold: hold.name)
                if not held:
                    self._renewing = False
                    return
            try:
                self.database.write(partial(_renew, held=held))
            except StoreUnavailable:
                continue  # it is in the log, and the next may go better
            except Exception:
                log.exception("conversations could not be held")


def _renew(connection: sa.Connection, held: list[Hold]) -> None:
    for hold in held:
        hold.renew(connection)
