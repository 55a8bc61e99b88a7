"""Answers are stored on their way to the client: before the event that says they are over.

Nothing is done for a piece of text but to note it for the log.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa

from forwarder.core.ids import generate_id
from forwarder.core.types import Batch, EventStream, Json
from forwarder.protocols.mappings import TERMINAL_EVENTS
from forwarder.protocols.stream_end import MALFORMED_EVENT_ERRORS, malformed_event
from forwarder.storage import references
from forwarder.storage.conversation_lock import ConversationLock
from forwarder.storage.db import Database, conversations, responses
from forwarder.storage.db.event_log import EventLogChunk, EventLogPacker, InvalidSequenceNumber
from forwarder.storage.db.ids import is_valid_id
from forwarder.storage.db.responses import StoredResponse
from forwarder.storage.include import hide_event_reasoning, wants_encrypted_reasoning
from forwarder.storage.items import derive_id, render_item, to_items
from forwarder.storage.resume import HistoryReference, is_stored, read_history_reference

MAX_EVENTS_PER_CHUNK = 512
"""How many events are one piece of a log."""


class ResponseRecorder:
    """Stores the response that a request gets.

    ``origin`` gives, once the answer has begun, the upstream that keeps it too, or ``None``.
    ``lock`` is that of the conversation; it ends with the answer.  With ``can_store`` false nothing
    is stored, and the response says so whatever its upstream says.
    """

    def __init__(
        self,
        database: Database,
        owner: str,
        request: Json,
        origin: Callable[[], str | None],
        lock: ConversationLock | None = None,
        can_store: bool = True,
    ) -> None:
        self._can_store = can_store
        self._database = database
        self._owner = owner
        self._get_origin = origin
        self._lock = lock
        self._history = read_history_reference(request)
        self._is_stored = can_store and is_stored(request)
        self._input = to_items(request.get("input"))
        self._is_written = self._is_stored or self._history.conversation is not None
        self._logs_events = self._is_stored and bool(request.get("stream"))
        self._shows_encrypted = wants_encrypted_reasoning(request)
        self._own_fields: Json = make_history_fields(self._history, self._is_stored)
        self._upstream_id: str | None = None
        self._packer = EventLogPacker()
        self._chunks: list[EventLogChunk] = []

    def record(self, stream: EventStream) -> EventStream:
        """The stream, whose terminal event comes when the response is stored."""
        if self._can_store and not self._is_stored and not self._history.is_set:
            return stream
        return (
            self._record_stream(stream)
            if self._lock is None
            else self._record_locked(stream, self._lock)
        )

    def _record_locked(self, stream: EventStream, hold: ConversationLock) -> EventStream:
        """The same; who hears how it ends, well or not, may go on with the conversation."""
        try:
            for batch in self._record_stream(stream):
                if batch and batch[-1].get("type") in TERMINAL_EVENTS:
                    hold.release_now()
                yield batch
        finally:
            hold.release_now()

    def _record_stream(self, stream: EventStream) -> EventStream:
        beginning = True
        for batch in stream:
            if not batch:
                yield batch
                continue
            is_over = batch[-1].get("type") in TERMINAL_EVENTS
            try:
                if beginning:
                    count = count_opening_events(batch)
                    batch = [*map(self._set_own_fields, batch[:count]), *batch[count:]]
                    beginning = count == len(batch)
                if is_over:
                    over = self._set_own_fields(batch[-1])
                    batch = [
                        *batch[:-1],
                        over if self._shows_encrypted else hide_event_reasoning(over),
                    ]
                if self._logs_events:
                    self._log_batch(batch)
                if self._is_written and is_over:
                    self._store_response(over["response"])
            except MALFORMED_EVENT_ERRORS as error:
                raise malformed_event() from error
            yield batch

    def _set_own_fields(self, event: Json) -> Json:
        """An event whose response says what it stands on, and has the id that it has here."""
        response = event["response"]
        if self._upstream_id is None:
            self._upstream_id = str(response.get("id"))
            self._own_fields["id"] = self._upstream_id
            keeps_id = self._get_origin() is not None or is_own_response_id(self._upstream_id)
            if self._is_written and not (keeps_id and is_valid_id(self._upstream_id)):
                self._own_fields["id"] = generate_id("resp")
        return {**event, "response": {**response, **self._own_fields}}

    def _log_batch(self, batch: Batch) -> None:
        try:
            self._packer.add_events(batch)
        except InvalidSequenceNumber:  # by an upstream; nobody can ask for them by number
            self._logs_events, self._packer, self._chunks = False, EventLogPacker(), []
        if self._packer.pending_count >= MAX_EVENTS_PER_CHUNK:
            self._pack_events()

    def _pack_events(self) -> None:
        if self._packer.pending_count:
            self._chunks.append(self._packer.pop_chunk())

    def _store_response(self, response: Json) -> None:
        self._pack_events()  # out here: two threads that both want to run cost more than their work
        self._database.write(lambda c: self._write_response(c, response))
        if self._lock is not None:
            self._lock.mark_released()

    def _write_response(self, connection: sa.Connection, response: Json) -> None:
        kept = StoredResponse(
            id=response["id"],
            status=response.get("status") or "completed",
            input=self._input,
            body=response,
            created=time.time(),
            previous=self._history.previous,
            conversation=self._history.conversation,
            before=read_last_item_number(connection, self._owner, self._history.conversation),
            upstream=self._get_origin(),
            upstream_id=self._upstream_id if is_valid_id(self._upstream_id or "") else None,
        )
        if self._is_stored:
            responses.add(connection, self._owner, kept, self._chunks)
        append_to_conversation(connection, self._owner, kept)
        if self._lock is not None:
            self._lock.release(connection)


def count_opening_events(batch: Batch) -> int:
    """How many events with the response as it is come before all others."""
    others = (i for i, event in enumerate(batch) if type(event.get("response")) is not dict)
    return next(others, len(batch))


def make_history_fields(base: HistoryReference, stored: bool) -> Json:
    """What a response says of what it stands on, and of where it is."""
    said: Json = {"store": stored, "previous_response_id": base.previous}
    if base.conversation is not None:
        said["conversation"] = {"id": base.conversation}
    return said


def read_last_item_number(
    connection: sa.Connection, owner: str, conversation: str | None
) -> int | None:
    """The last item of a conversation."""
    if conversation is None:
        return None
    return conversations.read_last_number(connection, owner, conversation)


def append_to_conversation(connection: sa.Connection, owner: str, kept: StoredResponse) -> None:
    """Add what was asked and answered to the conversation; of what failed, nothing."""
    if kept.conversation is None or kept.status not in ("completed", "incomplete"):
        return
    given: list[Any] = [
        *resolve_input_references(connection, owner, kept.input),
        *(kept.body.get("output") or ()),
    ]
    named = [render_item(item, derive_id(item, kept.id, i)) for i, item in enumerate(given)]
    for i, (each, item) in enumerate(zip(named, given, strict=True)):
        if not is_valid_id(each["id"]):  # an upstream's
            each["id"] = derive_id(item, kept.id, i)
    raw = [(each["id"], item) for each, item in zip(named, given, strict=True)]
    conversations.append_items(connection, owner, kept.conversation, raw)


def resolve_input_references(connection: sa.Connection, owner: str, items: list[Any]) -> list[Any]:
    """The items themselves that others refer to, with the ids by which they do."""
    names = references.list_references(items)
    if not names:
        return items
    there = references.find_items(connection, owner, names)
    return references.replace_references(items, {n: {"id": n, **item} for n, item in there.items()})


def is_own_response_id(response_id: str) -> bool:
    """Was an id made here?  Others need not be the only ones of their kind."""
    return response_id.startswith("resp_") and len(response_id) == 37
