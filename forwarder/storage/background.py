"""Background responses: run a response independently of the client connection.

The worker that accepts the request stores it, runs it, and writes its events to the store several
times a second. Any worker can serve reads of the response from the store. Each write also renews
the worker's lease on the response.

A worker that shuts down releases its unfinished jobs. If a worker dies, its leases expire. Another
worker then takes the job over and starts a new attempt, provided that the request may be sent to
the upstream twice and attempts remain. Otherwise the response fails. Expired leases are evaluated
in `BackgroundRunner._find_work`, and in `BackgroundRunner._reap_work` when a client reads the
response. Both wait until the database has settled.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import sqlalchemy as sa

from forwarder.context.request_context import RequestContext
from forwarder.core.concurrency import spawn
from forwarder.core.errors import (
    ConversationLocked,
    InvalidRequest,
    NotFound,
    Overloaded,
    ShuttingDown,
    StoreUnavailable,
    UpstreamProtocolError,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from forwarder.core.heap_size import measure_heap
from forwarder.core.ids import generate_id
from forwarder.core.shutdown import InFlightRequests
from forwarder.core.types import Batch, EventStream, Json
from forwarder.protocols.mappings import TERMINAL_EVENTS
from forwarder.protocols.stream_end import append_responses_error
from forwarder.protocols.unfold import unfold_answer
from forwarder.storage.conversation_lock import ConversationLock, ConversationLocks
from forwarder.storage.db import Database, background_leases, conversations, event_log, responses
from forwarder.storage.db.responses import StoredResponse
from forwarder.storage.db.settling import SETTLE_SECONDS
from forwarder.storage.items import to_items
from forwarder.storage.response_recorder import (
    append_to_conversation,
    make_history_fields,
    read_last_item_number,
)
from forwarder.storage.resume import read_history_reference
from forwarder.translation.responses_over_chat.response_skeleton import make_response_skeleton

log = logging.getLogger("forwarder.background")

POLL_SECONDS = 0.2
"""Interval between writes of job progress, and between polls by a client that streams events."""

LEASE_RENEW_SECONDS = 3.0
"""Interval between lease renewals."""

RETRY_SECONDS = 1.0
"""Delay before a failed database write is repeated."""

MAX_FOLLOW_ATTEMPTS = 5
"""Consecutive reconnects to an upstream response without a new event, before the job fails."""

TAKEOVER_POLL_SECONDS = 1.0
"""Interval between searches for jobs to take over."""

SKIP_SECONDS = 60.0
"""Seconds during which a worker ignores a job that it cannot take over."""

ORIGIN_WAIT_SECONDS = 10.0
"""Seconds to wait for the upstream's response id before a cancelled job is dropped."""

StreamOpener = Callable[[], EventStream]
"""Sends the request to the upstream and returns the stream of its answer."""

StreamFollower = Callable[[background_leases.ResponseOrigin], EventStream]
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


class TakeoverCallbacks(NamedTuple):
    """How to take over jobs of other workers, and how to cancel responses at their upstream.

    ``new_context`` creates a request context and raises Overloaded if too many requests are
    running. ``can_decrypt`` returns whether this worker can decrypt a stored request.
    ``rebuild_task`` completes the context and returns the task of a claimed job.
    ``cancel_upstream`` cancels a response at its upstream, on behalf of the client of the encrypted
    request; it logs its errors.
    """

    new_context: Callable[[], RequestContext]
    can_decrypt: Callable[[str], bool]
    rebuild_task: Callable[[RequestContext, background_leases.ClaimedWork], BackgroundTask]
    cancel_upstream: Callable[[background_leases.ResponseOrigin, str | None], None]


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


class JobReleased(Exception):
    """The job was returned to the queue; this worker no longer owns it."""


@dataclass
class BackgroundJob:
    """A response that this worker is producing; ``pending_events`` are not stored yet.

    ``origin`` identifies the response at an upstream that continues without the connection. After a
    disconnect such a response is streamed again from its first event: ``known_events`` is the
    number of events already recorded, ``passed_events`` the number received on the current
    connection.

    ``counted_events`` of the pending events are included in ``unsaved_bytes``, the job's share of
    the memory limit. ``is_dropped`` marks a job over that limit. ``is_unwanted`` marks a job that
    was ended here and that must still be cancelled at its upstream.
    """

    owner: str
    skeleton: Json
    task: BackgroundTask
    context: RequestContext
    lock: ConversationLock | None = None
    pending_events: Batch = field(default_factory=list)
    write_lock: threading.Lock = field(default_factory=threading.Lock)
    next_number: int = 2
    origin: background_leases.ResponseOrigin | None = None
    origin_is_stored: bool = False
    known_events: int = 0
    passed_events: int = 0
    counted_events: int = 0
    unsaved_bytes: int = 0
    has_received: bool = False
    is_dropped: bool = False
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
        """Append upstream events, rewritten for this response. Returns its end, or None."""
        for event in batch:
            self.has_received = True
            if event["type"] in background_leases.OPENING_EVENTS:
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
        if self.context.upstream and response.get("id"):
            self.origin = background_leases.ResponseOrigin(
                self.context.upstream, str(response["id"])
            )

    def _add_event(self, event: Json) -> None:
        self.pending_events.append({**event, "sequence_number": self.next_number})
        self.next_number += 1

    @property
    def _own_fields(self) -> Json:
        names = ("id", "created_at", "model", "background", "store", "previous_response_id")
        own = {name: self.skeleton[name] for name in names}
        return own | {k: v for k, v in self.skeleton.items() if k == "conversation"}

    def _make_attempt_metadata(self, response: Json) -> Json:
        attempt = self.skeleton["metadata"].get(background_leases.ATTEMPT_KEY)
        metadata = response.get("metadata") or {}
        return {"metadata": {**metadata, background_leases.ATTEMPT_KEY: attempt}} if attempt else {}


class BackgroundRunner:
    """All background jobs of a process."""

    def __init__(
        self,
        database: Database,
        running: InFlightRequests,
        locks: ConversationLocks,
        limits: BackgroundLimits | None = None,
        settle_owner: Callable[[str], str] = str,
    ) -> None:
        self._settle_owner = settle_owner
        self._database = database
        self._running = running
        self._locks = locks
        self._limits = limits or BackgroundLimits()
        self._worker_id = generate_id("worker")
        self._jobs: dict[tuple[str, str], BackgroundJob] = {}
        self._start_lock = threading.Lock()
        self._is_writing = False
        self._takeover: TakeoverCallbacks | None = None
        self._skipped_until: dict[str, float] = {}
        self._unsaved_bytes = 0

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
        self._database.write(lambda c: self._store_queued(c, job, stored, opening))
        self._launch_job(job)
        return skeleton

    def _store_queued(
        self, connection: sa.Connection, job: BackgroundJob, stored: StoredResponse, opening: Batch
    ) -> None:
        repeats = job.task.is_repeatable
        if job.lock is not None:
            job.lock.acquire(connection)
            if conversations.find(connection, job.owner, job.lock.conversation) is None:
                repeats = False  # the upstream's own conversation would get the turn twice
        stored = stored._replace(
            before=read_last_item_number(connection, job.owner, stored.conversation)
        )
        responses.add(connection, job.owner, stored, [event_log.pack_events(opening)])
        request = job.task.encrypted_request if repeats else None
        background_leases.grant_lease(connection, job.owner, stored.id, self._worker_id, request)

    def _launch_job(self, job: BackgroundJob) -> None:
        if job.lock is not None:
            job.lock.start_renewal()
            job.context.cleanup.add(job.lock.release_now)
        self._jobs[job.key] = job
        spawn(lambda: self._run_job(job))
        self._start_writer()

    # -- takeover ---------------------------------------------------------------------------------

    def start_takeover(self, takeover: TakeoverCallbacks) -> None:
        """Take over jobs of other workers until this process shuts down."""
        with self._start_lock:
            if self._takeover is None:
                self._takeover = takeover
                spawn(lambda: self._run_takeover(takeover))

    def _run_takeover(self, takeover: TakeoverCallbacks) -> None:
        while (
            not self._database.closed.wait(TAKEOVER_POLL_SECONDS)
            and not self._running.is_shutting_down
        ):
            try:
                self._find_work(takeover)
            except StoreUnavailable:
                continue  # the database logged it
            except Exception:
                log.exception(
                    "could not take over background responses",
                    extra={"event": "background_takeover_failed"},
                )

    def _find_work(self, takeover: TakeoverCallbacks) -> None:
        """Take over waiting jobs, and fail lost jobs that cannot be repeated.

        Until the database has settled, only released jobs are considered: no worker can still renew
        their leases. Jobs of this worker are skipped, because their leases are about to be renewed.
        """
        now = time.monotonic()
        self._skipped_until = {name: end for name, end in self._skipped_until.items() if end > now}
        skip = [*self._skipped_until, *(job.id for job in list(self._jobs.values()))]
        waiting = self._database.read(partial(background_leases.list_waiting, skip=skip))
        lost = self._database.read(partial(background_leases.list_lost, skip=skip))
        if not waiting and not lost:
            return
        if not self._database.has_settled():
            waiting = self._database.read(
                partial(background_leases.list_waiting, skip=skip, only_handed_back=True)
            )
            lost = []
        for take, entries in (
            (self._reap_work, lost),
            (partial(self._take_over, takeover), waiting),
        ):
            for owner, name in entries:
                try:
                    take(owner, name)
                except StoreUnavailable:  # perhaps only this row cannot be written
                    self._skip_work(name, 2 * SETTLE_SECONDS)
                    raise
                except Overloaded:
                    return  # another worker may have room
                except Exception:  # one broken response must not delay the others
                    log.exception(
                        "could not take over the background response %s",
                        name,
                        extra={"event": "background_takeover_failed", "response": name},
                    )
                    self._skip_work(name)

    def _skip_work(self, name: str, seconds: float | None = None) -> None:
        self._skipped_until[name] = time.monotonic() + (seconds or SKIP_SECONDS)

    def _reap_work(self, owner: str, name: str) -> None:
        """Fail a job if its lease has expired and it cannot be repeated."""
        stored = self._database.write(lambda c: background_leases.reap(c, owner, name))
        if stored is not None:
            self._cancel_reaped(stored, None)

    def _cancel_reaped(self, stored: StoredResponse, request: str | None) -> None:
        """Log the failure of a lost job, and cancel its response at the upstream."""
        log.warning({"event": "background_given_up", "response": stored.id})
        if stored.upstream_id is not None:
            self._cancel_upstream(
                background_leases.ResponseOrigin(stored.upstream or "", stored.upstream_id), request
            )

    def _cancel_upstream(
        self, origin: background_leases.ResponseOrigin, request: str | None
    ) -> None:
        """Cancel a response at its upstream in a separate thread or greenlet."""
        takeover = self._takeover
        if takeover is not None:
            spawn(lambda: takeover.cancel_upstream(origin, request))

    def _take_over(self, takeover: TakeoverCallbacks, owner: str, name: str) -> None:
        request = self._database.read(lambda c: background_leases.find_request(c, owner, name))
        if request is None:
            return  # another worker claimed it
        if not takeover.can_decrypt(request):
            self._skip_work(name)
            log.warning({"event": "background_request_unreadable", "response": name})
            stored = self._database.write(
                lambda c: background_leases.reap_unreadable(c, owner, name)
            )
            if stored is not None:
                self._cancel_reaped(stored, request)
            return
        owner = self._settle_owner(owner)
        context = takeover.new_context()
        try:
            claimed, lock = self._database.write(lambda c: self._claim_job(c, owner, name))
            task = (
                takeover.rebuild_task(context, claimed)
                if isinstance(claimed, background_leases.ClaimedWork)
                else None
            )
        except ConversationLocked:
            context.cleanup.close()  # retry when the conversation's current turn has ended
            return
        except BaseException:
            context.cleanup.close()  # a claimed lease expires, and the attempt counts
            raise
        if not isinstance(claimed, background_leases.ClaimedWork) or task is None:
            context.cleanup.close()
            if isinstance(claimed, StoredResponse):
                self._cancel_reaped(claimed, request)
            return
        log.warning(
            {
                "event": "background_taken_up",
                "id": context.id,
                "response": name,
                "attempt": claimed.attempt,
                "follows": claimed.origin is not None,
            }
        )
        job = BackgroundJob(
            owner, claimed.response.body, task, context, lock, next_number=claimed.next_number
        )
        job.origin, job.known_events = claimed.origin, claimed.known_events
        job.origin_is_stored = claimed.origin is not None
        self._launch_job(job)

    def _claim_job(
        self, connection: sa.Connection, owner: str, name: str
    ) -> tuple[background_leases.ClaimedWork | StoredResponse | None, ConversationLock | None]:
        claimed = background_leases.claim_work(
            connection, owner, name, self._worker_id, self._limits.max_attempts
        )
        if (
            not isinstance(claimed, background_leases.ClaimedWork)
            or claimed.response.conversation is None
        ):
            return claimed, None
        lock = self._locks.new_lock(owner, claimed.response.conversation)
        lock.acquire(connection)
        return claimed, lock

    # -- running jobs -----------------------------------------------------------------------------

    def _run_job(self, job: BackgroundJob) -> None:
        try:
            self._produce_events(job)
        except JobReleased:
            log.warning(
                {"event": "background_handed_back", "id": job.context.id, "response": job.id}
            )
        except Exception:
            log.exception(
                "the background response %s failed",
                job.id,
                extra={"event": "background_error", "response": job.id},
            )
        finally:
            self._discount_job(job)
            self._jobs.pop(job.key, None)
            job.context.close()

    def _produce_events(self, job: BackgroundJob) -> None:
        if job.origin is None:
            job.add_in_progress()
        stream = self._release_on_shutdown(job)
        for batch in append_responses_error(stream):
            if job.context.recorder is not None:
                job.context.recorder.record_events(batch)
            response = job.add_events(batch)
            if job.is_dropped:
                return
            if response is not None:
                self._store_end(job, response)
                return
            if job.is_unwanted and job.has_received:
                self._end_job(job)
                return

    def _release_on_shutdown(self, job: BackgroundJob) -> EventStream:
        """Stream a job's batches. Raises JobReleased if the job was released on shutdown.

        If the database is unavailable, the job is not written, and its lease expires.
        """
        try:
            yield from job.context.convert_errors(self._open_stream(job))
        except ShuttingDown:
            try:
                self._flush_job(job)
                own = job.owner, job.id, self._worker_id
                handed_back = self._database.write(
                    lambda c: background_leases.release_work(c, *own)
                )
            except StoreUnavailable:
                handed_back = True
            if handed_back:
                raise JobReleased from None
            raise

    def _open_stream(self, job: BackgroundJob) -> EventStream:
        """Connect lazily, so that connection errors become events like later errors."""
        context = job.context
        context.run = run = self._running.add_request(self._limits.grace_seconds)
        context.cleanup.add(self._running.remove_request, run)
        yield from context.set_response_stream(self._read_upstream(job))

    def _read_upstream(self, job: BackgroundJob) -> EventStream:
        """Stream the upstream's events, reconnecting to a stored response after a disconnect."""
        failures = 0
        while True:
            before = job.passed_events = 0
            try:
                if job.origin is None:
                    yield from job.task.open_stream()
                else:
                    before = job.known_events
                    yield from job.task.follow_stream(job.origin)
                return
            except (UpstreamUnreachable, UpstreamTimeout, UpstreamProtocolError):
                job.known_events = max(job.known_events, job.passed_events)
                failures = 1 if job.known_events > before else failures + 1
                if job.origin is None or job.context.is_cancelled or failures > MAX_FOLLOW_ATTEMPTS:
                    raise
            time.sleep(RETRY_SECONDS * failures)

    def _store_end(self, job: BackgroundJob, response: Json) -> None:
        """Store the final response. While the database is unavailable, retry within the limits."""
        deadline = time.monotonic() + self._limits.max_unsaved_seconds
        while not self._try_store_end(job, response):
            self._count_unsaved_bytes(job)
            run = job.context.run
            is_due = run is not None and self._running.is_due(run)
            if job.is_dropped:
                return
            if is_due or time.monotonic() > deadline:
                log.error({"event": "background_response_lost", "response": job.id})
                return
            time.sleep(RETRY_SECONDS)

    def _count_unsaved_bytes(self, job: BackgroundJob) -> None:
        """Measure a job's pending events. Over the limit, drop the largest jobs.

        Called only after a failed write, so that measuring costs nothing in normal operation.
        """
        if job.key not in self._jobs:
            return  # already dropped
        events = job.pending_events
        size = sum(map(measure_heap, events[job.counted_events :]))
        job.counted_events = len(events)
        job.unsaved_bytes += size
        self._unsaved_bytes += size
        while self._unsaved_bytes > self._limits.max_unsaved_bytes:
            self._drop_job(max(self._jobs.values(), key=lambda job: job.unsaved_bytes))

    def _drop_job(self, job: BackgroundJob) -> None:
        """Discard a job's events. Its lease expires; then the job is repeated or fails."""
        log.error({"event": "background_response_lost", "response": job.id})
        self._discount_job(job)
        job.is_dropped = True
        self._jobs.pop(job.key, None)
        if not job.is_over:  # otherwise _store_end tries once more and then gives up
            job.pending_events = []
            job.context.cancel()

    def _discount_job(self, job: BackgroundJob) -> None:
        self._unsaved_bytes -= job.unsaved_bytes
        job.counted_events = job.unsaved_bytes = 0

    def _try_store_end(self, job: BackgroundJob, response: Json) -> bool:
        """Store the final response. False if the database is unavailable."""
        try:
            with job.write_lock:
                is_own = self._database.write(lambda c: self._write_end(c, job, response))
        except StoreUnavailable:
            return False
        if not is_own and response["status"] in ("completed", "incomplete"):
            log.warning({"event": "background_answer_discarded", "response": job.id})
        if job.lock is not None:
            job.lock.mark_released()
        return True

    def _write_end(self, connection: sa.Connection, job: BackgroundJob, response: Json) -> bool:
        mine = background_leases.finish_work(
            connection, job.owner, job.id, self._worker_id, response, job.context.upstream,
            job.pending_events, job.origin.upstream_id if job.origin else None,
        )  # fmt: skip
        stored = responses.find(connection, job.owner, job.id) if mine else None
        if stored is not None:
            append_to_conversation(connection, job.owner, stored)
        if job.lock is not None:
            job.lock.release(connection)
        return mine

    # -- progress and leases ----------------------------------------------------------------------

    def _start_writer(self) -> None:
        """Run the writer while there are jobs."""
        with self._start_lock:
            if not self._is_writing:
                self._is_writing = True
                spawn(self._run_writer)

    def _run_writer(self) -> None:
        renewed = time.monotonic()
        while True:
            time.sleep(POLL_SECONDS)
            try:
                self._write_progress()
                if time.monotonic() - renewed > LEASE_RENEW_SECONDS:
                    names = [job.id for job in list(self._jobs.values())]
                    self._database.write(
                        partial(background_leases.renew_leases, worker=self._worker_id, names=names)
                    )
                    renewed = time.monotonic()
            except StoreUnavailable:
                time.sleep(RETRY_SECONDS)  # the database logged it; events stay pending
            except Exception:
                log.exception(
                    "could not write background responses",
                    extra={"event": "background_write_failed"},
                )
            with self._start_lock:
                if not self._jobs:
                    self._is_writing = False
                    return

    def _write_progress(self) -> None:
        """Store pending events, and stop jobs that were ended elsewhere."""
        jobs = list(self._jobs.values())
        for job in jobs:
            try:
                self._flush_job(job)
            except StoreUnavailable:  # the database logged it; events stay pending
                if not job.is_over:
                    self._count_unsaved_bytes(job)
            except Exception:  # one broken job must not stop the lease renewal of the others
                log.exception(
                    "could not write the events of the background response %s",
                    job.id,
                    extra={"event": "background_write_failed", "response": job.id},
                )
        mine = self._database.read(lambda c: background_leases.list_own(c, self._worker_id))
        for job in jobs:
            is_left = job.is_over or job.is_unwanted or job.context.is_cancelled
            if job.key not in mine and job.key in self._jobs and not is_left:
                owner, name = job.key
                is_taken = self._database.read(
                    partial(background_leases.is_running, owner=owner, response_id=name)
                )
                self._stop_job(job, ends_upstream=not is_taken and not job.origin_is_stored)

    def _flush_job(self, job: BackgroundJob) -> None:
        with job.write_lock:
            events = list(job.pending_events)  # the job may add more during the write
            if job.origin is not None and not job.origin_is_stored:
                arguments = (
                    job.owner,
                    job.id,
                    self._worker_id,
                    job.origin,
                    job.task.encrypted_request,
                )
                job.origin_is_stored = self._database.write(
                    lambda c: background_leases.set_origin(c, *arguments)
                )
            if not events or job.is_over:
                return  # _write_end stores all pending events
            self._database.write(
                lambda c: background_leases.append_progress(
                    c, job.owner, job.id, self._worker_id, events
                )
            )
            job.pending_events = job.pending_events[len(events) :]
            self._discount_job(job)

    # -- stopping ---------------------------------------------------------------------------------

    def _stop_job(self, job: BackgroundJob, ends_upstream: bool) -> None:
        """Stop a job whose response has ended in the store.

        With ``ends_upstream`` the response is also cancelled at an upstream that continues without
        a connection. This worker must do so if the upstream's response id was not stored when the
        response was ended. If the id is not known yet, the job waits for it.
        """
        job.is_unwanted = ends_upstream
        if ends_upstream and not job.has_received and job.task.continues_without_connection():
            spawn(lambda: self._stop_when_origin_known(job))
        else:
            self._end_job(job)

    def _stop_when_origin_known(self, job: BackgroundJob) -> None:
        deadline = time.monotonic() + ORIGIN_WAIT_SECONDS
        while job.is_unwanted and job.key in self._jobs and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
        self._end_job(job)

    def _end_job(self, job: BackgroundJob) -> None:
        is_unwanted, job.is_unwanted = job.is_unwanted, False
        job.context.cancel()
        if is_unwanted and job.origin is not None:
            self._cancel_upstream(job.origin, job.task.encrypted_request)

    # -- client requests --------------------------------------------------------------------------

    def cancel_response(self, owner: str, response_id: str) -> StoredResponse:
        """Cancel a background response on any worker. Returns the response.

        Raises NotFound, and InvalidRequest if it is not a background response.
        """
        stored = self._database.write(lambda c: cancel_stored_response(c, owner, response_id))
        job = self._jobs.get((owner, response_id))
        if job is not None and not job.is_over:
            self._stop_job(job, ends_upstream=stored.upstream_id is None)
        return stored

    def remove_response(self, owner: str, response_id: str) -> StoredResponse | None:
        """Delete a response and stop its job. Returns the deleted response, or None."""
        removed = self._database.write(lambda c: remove_stored_response(c, owner, response_id))
        job = self._jobs.get((owner, response_id))
        if removed is not None and job is not None and not job.is_over:
            self._stop_job(job, ends_upstream=removed.upstream_id is None)
        return removed

    def read_response(self, owner: str, response_id: str) -> StoredResponse:
        """Return a stored response. A lost job that cannot be repeated is failed first.

        Raises NotFound.
        """
        stored = self._database.read(lambda c: responses.find(c, owner, response_id))
        if stored is None:
            raise response_not_found(response_id)
        is_lost = stored.is_lost and (owner, response_id) not in self._jobs
        if is_lost and self._database.has_settled():
            self._reap_work(owner, response_id)
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
        heard = time.monotonic()
        while True:
            stored = self.read_response(owner, response_id)
            batch = self._database.read(
                partial(read_event_log, owner=owner, stored=stored, after=after)
            )
            if batch:
                yield batch
                after, heard = batch[-1]["sequence_number"], time.monotonic()
            elif time.monotonic() - heard >= heartbeat_seconds:
                yield []
                heard = time.monotonic()
            if not stored.is_running or not wait(POLL_SECONDS):
                return


def read_event_log(
    connection: sa.Connection, owner: str, stored: StoredResponse, after: int
) -> Batch:
    """Return stored events after number ``after``; for a response without a log, synthesize them.

    Terminal events are left to the next poll while ``stored`` is still running: the response itself
    was read before the log and may end differently.
    """
    logged = responses.read_events_after(connection, owner, stored, after)
    if logged or stored.is_running:
        return [
            event
            for event in logged
            if event["type"] not in TERMINAL_EVENTS or not stored.is_running
        ]
    if responses.read_events_after(connection, owner, stored, -1):
        return []
    return [
        e for e in unfold_answer("responses", stored.body, True) if e["sequence_number"] > after
    ]


def remove_stored_response(
    connection: sa.Connection, owner: str, response_id: str
) -> StoredResponse | None:
    stored = responses.find(connection, owner, response_id, lock=True)
    return stored if responses.remove(connection, owner, response_id) else None


def cancel_stored_response(
    connection: sa.Connection, owner: str, response_id: str
) -> StoredResponse:
    stored = responses.find(connection, owner, response_id, lock=True)
    if stored is None:
        raise response_not_found(response_id)
    if not stored.body.get("background"):
        raise InvalidRequest("Only background responses can be cancelled.", param="response_id")
    return background_leases.end_work(connection, owner, stored, "cancelled", None)


def response_not_found(name: str) -> NotFound:
    """The response does not exist, or belongs to another client."""
    return NotFound(f"Response with id '{name[:64]}' not found.", param="response_id")
