"""Answers are stored on their way to the client: before the event that says they are over.

Nothing is done for a piece of text but to note it for the log.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa

from forwarder.core.ids import random_id
from forwarder.core.types import Batch, Json, Stream
from forwarder.protocols.mappings import TERMINALS
from forwarder.protocols.stream_end import UNREADABLE, unreadable
from forwarder.storage import references
from forwarder.storage.conversation_lock import Hold
from forwarder.storage.db import Database, conversations, responses
from forwarder.storage.db.event_log import NotNumbered, Packer, Piece
from forwarder.storage.db.ids import is_valid_id
from forwarder.storage.db.responses import Kept
from forwarder.storage.include import hide_seals, shows_seals
from forwarder.storage.items import as_items, derived_id, shown
from forwarder.storage.resume import Base, base_of, is_stored

_AT_ONCE = 512
"""How many events are one piece of a log."""


class Keeper:
    """Stores the response that a request gets.

    ``origin`` gives, once the answer has begun, the upstream that keeps it too, or ``None``.
    ``hold`` is that of the conversation; it ends with the answer.  With ``can_store`` false nothing
    is stored, and the response says so whatever its upstream says.
    """

    def __init__(
        self,
        database: Database,
        owner: str,
        request: Json,
        origin: Callable[[], str | None],
        hold: Hold | None = None,
        can_store: bool = True,
    ) -> None:
        self._can_store = can_store
        self._database = database
        self._owner = owner
        self._origin = origin
        self._hold = hold
        self._base = base_of(request)
        self._stored = can_store and is_stored(request)
        self._input = as_items(request.get("input"))
        self._lasts = self._stored or self._base.conversation is not None
        self._logs = self._stored and bool(request.get("stream"))
        self._shows_seals = shows_seals(request)
        self._marks: Json = marks(self._base, self._stored)
        self._upstream_id: str | None = None
        self._packer = Packer()
        self._pieces: list[Piece] = []

    def kept(self, stream: Stream) -> Stream:
        """The stream, whose terminal event comes when the response is stored."""
        if self._can_store and not self._stored and not self._base.is_something:
            return stream
        return self._kept(stream) if self._hold is None else self._held(stream, self._hold)

    def _held(self, stream: Stream, hold: Hold) -> Stream:
        """The same; who hears how it ends, well or not, may go on with the conversation."""
        try:
            for batch in self._kept(stream):
                if batch and batch[-1].get("type") in TERMINALS:
                    hold.drop()
                yield batch
        finally:
            hold.drop()

    def _kept(self, stream: Stream) -> Stream:
        beginning = True
        for batch in stream:
            if not batch:
                yield batch
                continue
            is_over = batch[-1].get("type") in TERMINALS
            try:
                if beginning:
                    count = _opening(batch)
                    batch = [*map(self._marked, batch[:count]), *batch[count:]]
                    beginning = count == len(batch)
                if is_over:
                    over = self._marked(batch[-1])
                    batch = [*batch[:-1], over if self._shows_seals else hide_seals(over)]
                if self._logs:
                    self._note(batch)
                if self._lasts and is_over:
                    self._store(over["response"])
            except UNREADABLE as error:
                raise unreadable() from error
            yield batch

    def _marked(self, event: Json) -> Json:
        """An event whose response says what it stands on, and has the id that it has here."""
        response = event["response"]
        if self._upstream_id is None:
            self._upstream_id = str(response.get("id"))
            self._marks["id"] = self._upstream_id
            keeps_id = self._origin() is not None or _is_ours(self._upstream_id)
            if self._lasts and not (keeps_id and is_valid_id(self._upstream_id)):
                self._marks["id"] = random_id("resp")
        return {**event, "response": {**response, **self._marks}}

    def _note(self, batch: Batch) -> None:
        try:
            self._packer.add(batch)
        except NotNumbered:  # by an upstream; nobody can ask for them by number
            self._logs, self._packer, self._pieces = False, Packer(), []
        if self._packer.count >= _AT_ONCE:
            self._pack()

    def _pack(self) -> None:
        if self._packer.count:
            self._pieces.append(self._packer.piece())

    def _store(self, response: Json) -> None:
        self._pack()  # out here: two threads that both want to run cost more than their work
        self._database.write(lambda c: self._write(c, response))
        if self._hold is not None:
            self._hold.done()

    def _write(self, connection: sa.Connection, response: Json) -> None:
        kept = Kept(
            id=response["id"],
            status=response.get("status") or "completed",
            input=self._input,
            body=response,
            created=time.time(),
            previous=self._base.previous,
            conversation=self._base.conversation,
            before=last_said(connection, self._owner, self._base.conversation),
            upstream=self._origin(),
            upstream_id=self._upstream_id if is_valid_id(self._upstream_id or "") else None,
        )
        if self._stored:
            responses.add(connection, self._owner, kept, self._pieces)
        say(connection, self._owner, kept)
        if self._hold is not None:
            self._hold.give_back(connection)


def _opening(batch: Batch) -> int:
    """How many events with the response as it is come before all others."""
    others = (i for i, event in enumerate(batch) if type(event.get("response")) is not dict)
    return next(others, len(batch))


def marks(base: Base, stored: bool) -> Json:
    """What a response says of what it stands on, and of where it is."""
    said: Json = {"store": stored, "previous_response_id": base.previous}
    if base.conversation is not None:
        said["conversation"] = {"id": base.conversation}
    return said


def last_said(connection: sa.Connection, owner: str, conversation: str | None) -> int | None:
    """The last item of a conversation."""
    if conversation is None:
        return None
    return conversations.last_number(connection, owner, conversation)


def say(connection: sa.Connection, owner: str, kept: Kept) -> None:
    """Add what was asked and answered to the conversation; of what failed, nothing."""
    if kept.conversation is None or kept.status not in ("completed", "incomplete"):
        return
    given: list[Any] = [*_resolved(connection, owner, kept.input), *(kept.body.get("output") or ())]
    named = [shown(item, derived_id(item, kept.id, i)) for i, item in enumerate(given)]
    for i, (each, item) in enumerate(zip(named, given, strict=True)):
        if not is_valid_id(each["id"]):  # an upstream's
            each["id"] = derived_id(item, kept.id, i)
    raw = [(each["id"], item) for each, item in zip(named, given, strict=True)]
    conversations.append(connection, owner, kept.conversation, raw)


def _resolved(connection: sa.Connection, owner: str, items: list[Any]) -> list[Any]:
    """The items themselves that others refer to, with the ids by which they do."""
    names = references.wanted(items)
    if not names:
        return items
    there = references.found(connection, owner, names)
    return references.resolved(items, {n: {"id": n, **item} for n, item in there.items()})


def _is_ours(response_id: str) -> bool:
    """Was an id made here?  Others need not be the only ones of their kind."""
    return response_id.startswith("resp_") and len(response_id) == 37
