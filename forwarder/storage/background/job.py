"""A background job: how to run it, its limits, and the events that it has produced."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from forwarder.context.request_context import RequestContext
from forwarder.core.types import Batch, EventStream, Json
from forwarder.protocols.chat_responses_mappings import TERMINAL_EVENTS
from forwarder.storage.conversation_lock import ConversationLock
from forwarder.storage.db.background_leases import ATTEMPT_KEY, OPENING_EVENTS, ResponseOrigin

StreamOpener = Callable[[], EventStream]
"""Sends the request to the upstream and returns the stream of its answer."""

StreamFollower = Callable[[ResponseOrigin], EventStream]
"""Streams a response that its upstream is already producing, from the first event."""


class BackgroundTask(NamedTuple):
    """How to run a job: ``open_stream`` sends the request, ``follow_stream`` resumes the response.

    ``encrypted_request`` is the encrypted request from which another worker can rebuild the task.
    ``is_repeatable`` is true if the request may be sent to the upstream twice.
    ``continues_without_connection`` returns whether the current upstream keeps producing the
    response after the connection closes.
    """

    open_stream: StreamOpener
    follow_stream: StreamFollower
    encrypted_request: str | None = None
    is_repeatable: bool = False
    continues_without_connection: Callable[[], bool] = lambda: False


class BackgroundLimits(NamedTuple):
    """Limits of background jobs.

    ``max_attempts`` is the number of attempts per response. ``grace_seconds`` is the time that a
    job gets to finish on shutdown (``None``: the same as any other request). A finished response
    that cannot be stored is kept in memory for ``max_unsaved_seconds``. The unsaved events of all
    jobs together take up to ``max_unsaved_bytes`` bytes of memory.
    """

    max_attempts: int = 3
    grace_seconds: float | None = None
    max_unsaved_seconds: float = 900.0
    max_unsaved_bytes: int = 64 << 20


@dataclass
class BackgroundJob:
    """A response that this worker is producing; ``pending_events`` are not stored yet.

    ``origin`` identifies the response at an upstream that continues without the connection. After a
    disconnect such a response is streamed again from its first event: ``known_events`` is the
    number of events already recorded, ``passed_events`` the number received on the current
    connection.

    ``counted_events`` of the pending events are included in ``unsaved_bytes``, the job's share of
    the memory limit. ``is_dropped`` marks a job over that limit. ``is_stopped`` marks a job
    whose response was ended, ``is_unwanted`` one that must still be cancelled at its upstream.
    """

    owner: str
    skeleton: Json
    task: BackgroundTask
    context: RequestContext
    lock: ConversationLock | None = None
    pending_events: Batch = field(default_factory=list)
    write_lock: threading.Lock = field(default_factory=threading.Lock)
    next_number: int = 2
    origin: ResponseOrigin | None = None
    origin_is_stored: bool = False
    known_events: int = 0
    passed_events: int = 0
    counted_events: int = 0
    unsaved_bytes: int = 0
    has_received: bool = False
    is_dropped: bool = False
    is_stopped: bool = False
    is_unwanted: bool = False

    def add_in_progress(self) -> None:
        """Append the ``response.in_progress`` event."""
        response = {**self.skeleton, "status": "in_progress"}
        self._add_event({"type": "response.in_progress", "response": response})

    @property
    def id(self) -> str:
        return str(self.skeleton["id"])

    @property
    def key(self) -> tuple[str, str]:
        return self.owner, self.id

    @property
    def is_over(self) -> bool:
        """Whether the terminal event is pending, so that only storing it remains."""
        return bool(self.pending_events) and self.pending_events[-1]["type"] in TERMINAL_EVENTS

    def add_events(self, batch: Batch) -> Json | None:
        """Append upstream events, rewritten for this response.

        Returns the final response if the batch ends it, otherwise None.
        """
        for event in batch:
            self.has_received = True
            if event["type"] in OPENING_EVENTS:
                self._record_origin(event)
                continue  # this job has its own opening events
            self.passed_events += 1
            if self.passed_events <= self.known_events:
                continue
            if type(event.get("response")) is dict:
                response = event["response"]
                own = self._own_fields | self._make_attempt_metadata(response)
                event = {**event, "response": {**self.skeleton, **response, **own}}
            self._add_event(event)
            if event["type"] in TERMINAL_EVENTS:
                ended: Json = event["response"]
                return ended
        return None

    def _record_origin(self, event: Json) -> None:
        response = event.get("response")
        if self.origin or type(response) is not dict or response.get("background") is not True:
            return
        if self.context.origin and response.get("id"):
            self.origin = ResponseOrigin(self.context.origin, str(response["id"]))

    def _add_event(self, event: Json) -> None:
        self.pending_events.append({**event, "sequence_number": self.next_number})
        self.next_number += 1

    @property
    def _own_fields(self) -> Json:
        names = ("id", "created_at", "model", "background", "store", "previous_response_id")
        own = {name: self.skeleton[name] for name in names}
        return own | {k: v for k, v in self.skeleton.items() if k == "conversation"}

    def _make_attempt_metadata(self, response: Json) -> Json:
        attempt = self.skeleton["metadata"].get(ATTEMPT_KEY)
        metadata = response.get("metadata") or {}
        return {"metadata": {**metadata, ATTEMPT_KEY: attempt}} if attempt else {}
