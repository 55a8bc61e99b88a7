"""Store responses while they are streamed to the client, before the terminal event is sent.

Because there are many text deltas, they are only appended to the event log and not inspected.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from forwarder.core.ids import generate_id
from forwarder.core.types import Batch, EventStream, Json
from forwarder.protocols.chat_responses_mappings import TERMINAL_EVENTS
from forwarder.protocols.stream_end import MALFORMED_EVENT_ERRORS, make_malformed_event_error
from forwarder.storage.conversation_lock import ConversationLock
from forwarder.storage.db.event_log_encoding import (
    EventLogChunk,
    EventLogPacker,
    InvalidSequenceNumber,
)
from forwarder.storage.db.responses import StoredResponse
from forwarder.storage.db.tables import is_valid_id
from forwarder.storage.history_reference import (
    HistoryReference,
    is_stored,
    read_history_reference,
)
from forwarder.storage.include_filter import hide_event_reasoning, wants_encrypted_reasoning
from forwarder.storage.items import to_items
from forwarder.storage.repositories.responses import ResponseRepository

MAX_EVENTS_PER_CHUNK = 512
"""Maximum number of events in one chunk of an event log."""


class ResponseRecorder:
    """Stores the response of one request.

    ``origin`` returns the upstream that stores the response too, or ``None``, once the answer has
    begun. ``lock`` is the lock of the conversation; the recorder releases it at the end. With
    ``can_store`` false nothing is stored, and the response says ``store: false``.
    """

    def __init__(
        self,
        responses: ResponseRepository,
        owner: str,
        request: Json,
        origin: Callable[[], str | None],
        lock: ConversationLock | None = None,
        can_store: bool = True,
    ) -> None:
        self._can_store = can_store
        self._responses = responses
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
        """Pass a stream on, and store the response before its terminal event."""
        if self._can_store and not self._is_stored and not self._history.is_set:
            return stream
        return (
            self._record_stream(stream)
            if self._lock is None
            else self._record_locked(stream, self._lock)
        )

    def _record_locked(self, stream: EventStream, lock: ConversationLock) -> EventStream:
        """Record the stream, and release the lock before the client receives the terminal event."""
        try:
            for batch in self._record_stream(stream):
                if batch and batch[-1].get("type") in TERMINAL_EVENTS:
                    lock.release_now()
                yield batch
        finally:
            lock.release_now()

    def _record_stream(self, stream: EventStream) -> EventStream:
        is_opening = True
        for batch in stream:
            if not batch:
                yield batch
                continue
            is_over = batch[-1].get("type") in TERMINAL_EVENTS
            try:
                if is_opening:
                    count = count_opening_events(batch)
                    batch = [*map(self._set_opening_fields, batch[:count]), *batch[count:]]
                    is_opening = count == len(batch)
                if is_over:
                    final_event = self._set_own_fields(batch[-1])
                    shown = final_event
                    if not self._shows_encrypted:
                        shown = hide_event_reasoning(final_event)
                    batch = [*batch[:-1], shown]
                if self._logs_events:
                    self._log_batch(batch)
                if self._is_written and is_over:
                    self._store_response(final_event["response"])
            except MALFORMED_EVENT_ERRORS as error:
                raise make_malformed_event_error() from error
            yield batch

    def _set_opening_fields(self, event: Json) -> Json:
        has_response = type(event.get("response")) is dict
        return self._set_own_fields(event) if has_response else event

    def _set_own_fields(self, event: Json) -> Json:
        """Return an event with this server's id and history fields in its response."""
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
        except InvalidSequenceNumber:  # from an upstream; the log could not be read by number
            self._logs_events, self._packer, self._chunks = False, EventLogPacker(), []
        if self._packer.pending_count >= MAX_EVENTS_PER_CHUNK:
            self._pack_events()

    def _pack_events(self) -> None:
        if self._packer.pending_count:
            self._chunks.append(self._packer.pop_chunk())

    def _store_response(self, response: Json) -> None:
        self._pack_events()  # outside the writer thread: it would compete with this one for the GIL
        stored = StoredResponse(
            id=response["id"],
            status=response.get("status") or "completed",
            input=self._input,
            body=response,
            created=time.time(),
            previous=self._history.previous,
            conversation=self._history.conversation,
            upstream=self._get_origin(),
            upstream_id=self._upstream_id if is_valid_id(self._upstream_id or "") else None,
        )
        self._responses.store_answer(
            self._owner,
            stored,
            self._chunks if self._is_stored else None,
            self._lock.lease if self._lock else None,
        )
        if self._lock is not None:
            self._lock.mark_released()


def count_opening_events(batch: Batch) -> int:
    """Return the number of events at the start of a batch that come before the first item.

    They contain the response object, except for events such as OpenAI's ``keepalive``.
    """
    items = (i for i, event in enumerate(batch) if "output_index" in event)
    return next(items, len(batch))


def make_history_fields(reference: HistoryReference, stored: bool) -> Json:
    """Return the response fields that describe its history and whether it is stored."""
    fields: Json = {"store": stored, "previous_response_id": reference.previous}
    if reference.conversation is not None:
        fields["conversation"] = {"id": reference.conversation}
    return fields


def is_own_response_id(response_id: str) -> bool:
    """Whether this server generated an id. Ids of upstreams may collide."""
    return response_id.startswith("resp_") and len(response_id) == 37
