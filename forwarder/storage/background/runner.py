"""The requests of clients for background responses: start, read, stream, cancel and delete."""

from __future__ import annotations

import time
from collections.abc import Callable

from forwarder.context.request_context import RequestContext
from forwarder.core.ids import generate_id
from forwarder.core.in_flight_requests import InFlightRequests
from forwarder.core.types import EventStream, Json
from forwarder.storage.background.execution import JobExecutor
from forwarder.storage.background.job import BackgroundJob, BackgroundLimits, BackgroundTask
from forwarder.storage.background.running_jobs import RunningJobs
from forwarder.storage.background.stopping import JobStopper
from forwarder.storage.background.takeover import JobTakeover, TakeoverCallbacks
from forwarder.storage.conversation_lock import ConversationLocks
from forwarder.storage.db import Database
from forwarder.storage.db.compression import SpendCallback
from forwarder.storage.db.responses import StoredResponse
from forwarder.storage.history_reference import read_history_reference, response_not_found
from forwarder.storage.items import to_items
from forwarder.storage.repositories.background_jobs import BackgroundJobRepository
from forwarder.storage.repositories.responses import ResponseRepository
from forwarder.storage.response_recorder import make_history_fields
from forwarder.translation.responses_over_chat.response_skeleton import make_response_skeleton

POLL_SECONDS = 0.2
"""Interval between reads of the store while a client streams events."""


class BackgroundRunner:
    """All background jobs of a process."""

    def __init__(
        self,
        database: Database,
        running: InFlightRequests,
        locks: ConversationLocks,
        limits: BackgroundLimits | None = None,
        migrate_owner: Callable[[str], str] = str,
    ) -> None:
        limits = limits or BackgroundLimits()
        self._database = database
        self._locks = locks
        self._responses = ResponseRepository(database)
        self._repository = BackgroundJobRepository(database, generate_id("worker"))
        self._jobs = RunningJobs(limits.max_unsaved_bytes)
        self._stopper = JobStopper(self._jobs)
        self._executor = JobExecutor(self._repository, running, limits, self._jobs, self._stopper)
        self._takeover = JobTakeover(
            database=database,
            repository=self._repository,
            running=running,
            locks=locks,
            max_attempts=limits.max_attempts,
            migrate_owner=migrate_owner,
            jobs=self._jobs,
            executor=self._executor,
            stopper=self._stopper,
        )

    @property
    def job_count(self) -> int:
        """The number of jobs that this process runs."""
        return len(self._jobs)

    def start_job(
        self, owner: str, request: Json, context: RequestContext, task: BackgroundTask
    ) -> Json:
        """Store a request and start its job. Returns the queued response.

        ``context`` belongs to the job and outlives the client's request. Raises ConversationLocked.
        """
        reference = read_history_reference(request)
        now = time.time()
        skeleton = make_response_skeleton(request, generate_id("resp"), int(now))
        skeleton |= {"status": "queued", "background": True, **make_history_fields(reference, True)}
        lock = (
            self._locks.new_lock(owner, reference.conversation) if reference.conversation else None
        )
        job = BackgroundJob(owner, skeleton, task, context, lock)
        stored = StoredResponse(
            id=job.id,
            status="queued",
            input=to_items(request.get("input")),
            body=skeleton,
            created=now,
            previous=reference.previous,
            conversation=reference.conversation,
        )
        event_types = ("response.created", "response.queued")
        opening = [
            {"type": kind, "response": skeleton, "sequence_number": i}
            for i, kind in enumerate(event_types)
        ]
        repeated_request = task.encrypted_request if task.is_repeatable else None
        self._repository.add(owner, stored, opening, repeated_request, lock.lease if lock else None)
        self._executor.launch_job(job)
        return skeleton

    def start_takeover(self, callbacks: TakeoverCallbacks) -> None:
        """Take over jobs of other workers until this process shuts down."""
        self._takeover.start(callbacks)

    def cancel_response(self, owner: str, response_id: str) -> StoredResponse:
        """Cancel a background response on any worker. Returns the response.

        Raises NotFound, and InvalidRequest if it is not a background response.
        """
        stored = self._repository.cancel(owner, response_id)
        if stored is None:
            raise response_not_found(response_id)
        self._stop_job(owner, stored)
        return stored

    def remove_response(self, owner: str, response_id: str) -> StoredResponse | None:
        """Delete a response and stop its job. Returns the deleted response, or None."""
        removed = self._responses.remove(owner, response_id)
        if removed is not None:
            self._stop_job(owner, removed)
        return removed

    def _stop_job(self, owner: str, stored: StoredResponse) -> None:
        job = self._jobs.get((owner, stored.id))
        if job is not None and not job.is_over:
            self._stopper.stop_job(job, ends_upstream=stored.upstream_id is None)

    def read_response(
        self, owner: str, response_id: str, spend: SpendCallback | None = None
    ) -> StoredResponse:
        """Return a stored response, without its input.

        If its job is lost and cannot be repeated, the response is marked as failed first.
        ``spend`` receives the JSON text of the response before it is parsed. Raises NotFound.
        """
        stored = self._responses.find(owner, response_id, spend)
        if stored is None:
            raise response_not_found(response_id)
        is_lost = stored.is_lost and (owner, response_id) not in self._jobs
        if is_lost and self._database.is_stable():
            self._takeover.fail_lost_job(owner, response_id)
            return self.read_response(owner, response_id)
        return stored

    def stream_events(
        self,
        owner: str,
        response_id: str,
        after: int,
        heartbeat_seconds: float,
        wait: Callable[[float], bool],
    ) -> EventStream:
        """Yield a response's events after number ``after``, until the response has ended.

        Yields an empty batch after ``heartbeat_seconds`` seconds without an event. ``wait`` sleeps
        for the given seconds and returns whether the client is still connected.

        A new attempt starts with ``response.queued``, numbered after all previous events. Events of
        the previous attempt are void and are no longer sent.
        """
        sent_at = time.monotonic()
        while True:
            stored = self.read_response(owner, response_id)
            batch = self._responses.read_events(owner, stored, after)
            if batch:
                yield batch
                after, sent_at = batch[-1]["sequence_number"], time.monotonic()
            elif time.monotonic() - sent_at >= heartbeat_seconds:
                yield []
                sent_at = time.monotonic()
            if not stored.is_running or not wait(POLL_SECONDS):
                return
