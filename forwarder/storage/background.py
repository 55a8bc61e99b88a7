"""Background work: a response that is made whether its client waits or not.

It is queued in the store, made by the worker that took the request, and read from the store by
whoever asks, on any worker.  What a job has made is written a few times a second, and with it a
lease.

Work that has not ended when its worker goes is handed back, and the lease of a worker that died
runs out: another worker then takes the work up and begins it anew, if the upstream may be asked
twice and not too many attempts were made.  Otherwise it has failed.  Leases that have run out are
judged in one place, `BackgroundRunner._find_work`, and in `BackgroundRunner._reap_work` for a client that asks;
both wait until the database has settled.
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
from forwarder.protocols.unfold import unfold_answer as whole_events
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
"""Seconds between two writes of what jobs have made, and between two looks of who reads it."""

LEASE_RENEW_SECONDS = 3.0
"""Seconds between two signs of life."""

RETRY_SECONDS = 1.0
"""Seconds after which a write is tried again that the database did not take."""

MAX_FOLLOW_ATTEMPTS = 5
"""How often in a row a response at its upstream is followed anew without hearing anything new."""

TAKEOVER_POLL_SECONDS = 1.0
"""Seconds between two looks for work that waits to be taken up."""

SKIP_SECONDS = 60.0
"""Seconds for which a worker leaves alone the work that it cannot take up."""

ORIGIN_WAIT_SECONDS = 10.0
"""Seconds for which the id of a response that is cancelled is awaited from its upstream."""

StreamOpener = Callable[[], EventStream]
"""Asks the upstream, and gives its answer."""

StreamFollower = Callable[[background_leases.ResponseOrigin], EventStream]
"""Follows a response that its upstream makes already, from its first event."""


class BackgroundTask(NamedTuple):
    """What is to be done: ``open_stream`` asks the upstream, ``follow_stream`` follows what it makes already.

    ``encrypted_request`` is sealed, for another worker; ``is_repeatable`` says whether the upstream may be asked
    twice.  ``continues_without_connection`` tells whether the upstream that is being asked works on when the connection
    is closed.
    """

    open_stream: StreamOpener
    follow_stream: StreamFollower
    encrypted_request: str | None = None
    is_repeatable: bool = False
    continues_without_connection: Callable[[], bool] = lambda: False


class TakeoverCallbacks(NamedTuple):
    """How work that others have left is taken up, and stopped at its upstream.

    ``new_context`` makes the exchange; raises Overloaded when there are too many.  ``can_decrypt`` tells
    whether this worker can read a sealed request.  ``rebuild_task`` completes the exchange and gives the
    task again.  ``cancel`` cancels a response at its upstream, for the client of a sealed request;
    what fails of that goes to the log.
    """

    new_context: Callable[[], RequestContext]
    can_decrypt: Callable[[str], bool]
    rebuild_task: Callable[[RequestContext, background_leases.ClaimedWork], BackgroundTask]
    cancel_upstream: Callable[[background_leases.ResponseOrigin, str | None], None]


class BackgroundLimits(NamedTuple):
    """What background work may cost.

    ``max_attempts`` is how often it is begun, and ``grace_seconds`` how many seconds it has when the process
    goes (``None``: as many as all answers).  A finished response that cannot be stored is kept for
    ``max_unsaved_seconds`` seconds.  What cannot be stored, of finished and of running work together, takes
    up to ``max_unsaved_bytes`` bytes of memory.
    """

    max_attempts: int = 3
    grace_seconds: float | None = None
    max_unsaved_seconds: float = 900.0
    max_unsaved_bytes: int = 64 << 20


class JobReleased(Exception):
    """The work is in the queue again, and not this worker's any more."""


@dataclass
class BackgroundJob:
    """One response in the making; ``pending_events`` are its events that are not yet stored.

    ``origin`` is where its upstream makes it, if that goes on without us.  Such a response is
    followed from its first event again when the connection breaks: ``known_events`` is how many events
    are told already, and ``passed_events`` how many have come over this connection.

    ``counted_events`` of the pending events, ``unsaved_bytes`` bytes of memory, count for the limit of what the
    database does not take.  ``is_dropped`` is work beyond that limit.  ``is_unwanted`` is work that
    was ended here, and that its upstream has still to be told to end.
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
    has_heard: bool = False
    is_dropped: bool = False
    is_unwanted: bool = False

    def add_in_progress(self) -> None:
        """Note that work on it has begun."""
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
        """Has it ended, and only that is still to be stored?"""
        return bool(self.pending_events) and self.pending_events[-1]["type"] in TERMINAL_EVENTS

    def add_events(self, batch: Batch) -> Json | None:
        """Note events as those of this response; its response when they end it."""
        for event in batch:
            self.has_heard = True
            if event["type"] in background_leases.OPENING_EVENTS:
                self._record_origin(event)
                continue  # that was told when it began
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
        """The metadata of a response, with the attempt that it comes from."""
        attempt = self.skeleton["metadata"].get(background_leases.ATTEMPT_KEY)
        metadata = response.get("metadata") or {}
        return {"metadata": {**metadata, background_leases.ATTEMPT_KEY: attempt}} if attempt else {}


class BackgroundRunner:
    """All background work of a process."""

    def __init__(
        self,
        database: Database,
        running: InFlightRequests,
        holds: ConversationLocks,
        limits: BackgroundLimits | None = None,
        settle_owner: Callable[[str], str] = str,
    ) -> None:
        self._settle_owner = settle_owner
        self._database = database
        self._running = running
        self._locks = holds
        self._limits = limits or BackgroundLimits()
        self._worker_id = generate_id("worker")
        self._jobs: dict[tuple[str, str], BackgroundJob] = {}
        self._start_lock = threading.Lock()
        self._is_writing = False
        self._takeover: TakeoverCallbacks | None = None
        self._skipped_until: dict[str, float] = {}
        self._unsaved_bytes = 0

    def start_job(
        self, owner: str, request: Json, exchange: RequestContext, task: BackgroundTask
    ) -> Json:
        """Queue a request and begin with it; the response as it is now.

        ``context`` is that of the work, which outlives the one of the client.  Raises
        ConversationLocked.
        """
        base = read_history_reference(request)
        now = time.time()
        blank = make_response_skeleton(request, generate_id("resp"), int(now))
        blank |= {"status": "queued", "background": True, **make_history_fields(base, True)}
        hold = self._locks.new_lock(owner, base.conversation) if base.conversation else None
        job = BackgroundJob(owner, blank, task, exchange, hold)
        kept = StoredResponse(
            id=job.id,
            status="queued",
            input=to_items(request.get("input")),
            body=blank,
            created=now,
            previous=base.previous,
            conversation=base.conversation,
        )
        told = ("response.created", "response.queued")
        opening = [
            {"type": kind, "response": blank, "sequence_number": i} for i, kind in enumerate(told)
        ]
        self._database.write(lambda c: self._store_queued(c, job, kept, opening))
        self._launch_job(job)
        return blank

    def _store_queued(
        self, connection: sa.Connection, job: BackgroundJob, kept: StoredResponse, opening: Batch
    ) -> None:
        repeats = job.task.is_repeatable
        if job.lock is not None:
            job.lock.acquire(connection)
            if conversations.find(connection, job.owner, job.lock.conversation) is None:
                repeats = False  # it is the upstream's, and would have what is asked twice
        kept = kept._replace(before=read_last_item_number(connection, job.owner, kept.conversation))
        responses.add(connection, job.owner, kept, [event_log.pack_events(opening)])
        request = job.task.encrypted_request if repeats else None
        background_leases.grant_lease(connection, job.owner, kept.id, self._worker_id, request)

    def _launch_job(self, job: BackgroundJob) -> None:
        """Work on what is this worker's in the store."""
        if job.lock is not None:
            job.lock.start_renewal()
            job.context.cleanup.add(job.lock.release_now)
        self._jobs[job.key] = job
        spawn(lambda: self._run_job(job))
        self._start_writer()

    # -- taking work up ---------------------------------------------------------------------------

    def start_takeover(self, takeover: TakeoverCallbacks) -> None:
        """Take up from now on what others have left, until the process is about to go."""
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
                continue  # it is in the log
            except Exception:
                log.exception("background work could not be taken up")

    def _find_work(self, takeover: TakeoverCallbacks) -> None:
        """Take up work that waits, and bury work that nobody may take up.

        Work that was handed back has no worker that could still renew its lease.  All other waits
        until the database has settled.  This worker's own is about to be renewed.
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
        for take, found in ((self._reap_work, lost), (partial(self._take_over, takeover), waiting)):
            for owner, name in found:
                try:
                    take(owner, name)
                except StoreUnavailable:  # it may refuse this one alone
                    self._skip_work(name, 2 * SETTLE_SECONDS)
                    raise
                except Overloaded:
                    return  # another worker may have room
                except Exception:  # of one response; the others must not wait for it
                    log.exception("the background response %s could not be taken up", name)
                    self._skip_work(name)

    def _skip_work(self, name: str, seconds: float | None = None) -> None:
        self._skipped_until[name] = time.monotonic() + (seconds or SKIP_SECONDS)

    def _reap_work(self, owner: str, name: str) -> None:
        """End work that nobody may take up, if it is lost."""
        kept = self._database.write(lambda c: background_leases.reap(c, owner, name))
        if kept is not None:
            self._cancel_reaped(kept, None)

    def _cancel_reaped(self, kept: StoredResponse, request: str | None) -> None:
        """Let an upstream that still makes a response that was given up here end it, too."""
        log.warning({"event": "background_given_up", "response": kept.id})
        if kept.upstream_id is not None:
            self._cancel_upstream(
                background_leases.ResponseOrigin(kept.upstream or "", kept.upstream_id), request
            )

    def _cancel_upstream(
        self, origin: background_leases.ResponseOrigin, request: str | None
    ) -> None:
        """Cancel a response at its upstream, without waiting for its answer."""
        takeover = self._takeover
        if takeover is not None:
            spawn(lambda: takeover.cancel_upstream(origin, request))

    def _take_over(self, takeover: TakeoverCallbacks, owner: str, name: str) -> None:
        request = self._database.read(lambda c: background_leases.find_request(c, owner, name))
        if request is None:
            return  # another worker was faster
        if not takeover.can_decrypt(request):
            self._skip_work(name)
            log.warning({"event": "background_request_unreadable", "response": name})
            kept = self._database.write(lambda c: background_leases.reap_unreadable(c, owner, name))
            if kept is not None:
                self._cancel_reaped(kept, request)
            return
        owner = self._settle_owner(owner)
        exchange = takeover.new_context()
        try:
            taken, hold = self._database.write(lambda c: self._claim_job(c, owner, name))
            task = (
                takeover.rebuild_task(exchange, taken)
                if isinstance(taken, background_leases.ClaimedWork)
                else None
            )
        except ConversationLocked:
            exchange.cleanup.close()  # another turn goes on, and this one waits for its end
            return
        except BaseException:
            exchange.cleanup.close()  # if it was claimed, the lease runs out; the attempt counts
            raise
        if not isinstance(taken, background_leases.ClaimedWork) or task is None:
            exchange.cleanup.close()
            if isinstance(taken, StoredResponse):
                self._cancel_reaped(taken, request)
            return
        said = {"event": "background_taken_up", "id": exchange.id, "response": name}
        log.warning({**said, "attempt": taken.attempt, "follows": taken.origin is not None})
        job = BackgroundJob(
            owner, taken.response.body, task, exchange, hold, next_number=taken.next_number
        )
        job.origin, job.known_events = taken.origin, taken.known_events
        job.origin_is_stored = taken.origin is not None
        self._launch_job(job)

    def _claim_job(
        self, connection: sa.Connection, owner: str, name: str
    ) -> tuple[background_leases.ClaimedWork | StoredResponse | None, ConversationLock | None]:
        taken = background_leases.claim_work(
            connection, owner, name, self._worker_id, self._limits.max_attempts
        )
        if (
            not isinstance(taken, background_leases.ClaimedWork)
            or taken.response.conversation is None
        ):
            return taken, None
        hold = self._locks.new_lock(owner, taken.response.conversation)
        hold.acquire(connection)
        return taken, hold

    # -- the work itself --------------------------------------------------------------------------

    def _run_job(self, job: BackgroundJob) -> None:
        try:
            self._produce_events(job)
        except JobReleased:
            said = {"event": "background_handed_back", "id": job.context.id}
            log.warning({**said, "response": job.id})
        except Exception:
            log.exception("the background response %s broke", job.id)
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
            if job.is_unwanted and job.has_heard:
                self._end_job(job)
                return

    def _release_on_shutdown(self, job: BackgroundJob) -> EventStream:
        """The stream of a job; raises _HandedBack if the process ends first, unless it has failed.

        While the database is away nothing is handed back, and the lease runs out.
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
        """Connects in here, so that what fails before the answer begins is told like the rest."""
        exchange = job.context
        exchange.run = run = self._running.add_request(self._limits.grace_seconds)
        exchange.cleanup.add(self._running.remove_request, run)
        yield from exchange.set_response_stream(self._read_upstream(job))

    def _read_upstream(self, job: BackgroundJob) -> EventStream:
        """The stream of a job; one that its upstream makes without us is followed to its end."""
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
        """Store the end of a job; while the database is away, keep it within the limits."""
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
        """Count the memory of what a job has pending; while that is too much, drop the largest.

        Called only when the database has not taken it, so that nothing is measured in good times.
        """
        if job.key not in self._jobs:
            return  # it was dropped
        events = job.pending_events
        size = sum(map(measure_heap, events[job.counted_events :]))
        job.counted_events = len(events)
        job.unsaved_bytes += size
        self._unsaved_bytes += size
        while self._unsaved_bytes > self._limits.max_unsaved_bytes:
            self._drop_job(max(self._jobs.values(), key=lambda job: job.unsaved_bytes))

    def _drop_job(self, job: BackgroundJob) -> None:
        """Lose what a job has made; its lease runs out, and it is begun anew or has failed."""
        log.error({"event": "background_response_lost", "response": job.id})
        self._discount_job(job)
        job.is_dropped = True
        self._jobs.pop(job.key, None)
        if not job.is_over:  # else it is about to be stored, and given up if that fails
            job.pending_events = []
            job.context.cancel()

    def _discount_job(self, job: BackgroundJob) -> None:
        """Count nothing of a job any more: it is stored, or lost."""
        self._unsaved_bytes -= job.unsaved_bytes
        job.counted_events = job.unsaved_bytes = 0

    def _try_store_end(self, job: BackgroundJob, response: Json) -> bool:
        """Is the end of a job stored, or settled in another way?"""
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
        kept = responses.find(connection, job.owner, job.id) if mine else None
        if kept is not None:
            append_to_conversation(connection, job.owner, kept)
        if job.lock is not None:
            job.lock.release(connection)
        return mine

    # -- signs of life ----------------------------------------------------------------------------

    def _start_writer(self) -> None:
        """Have what the jobs make written, as long as there are any."""
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
                time.sleep(RETRY_SECONDS)  # it is in the log; what is pending waits
            except Exception:
                log.exception("background work could not be written")
            with self._start_lock:
                if not self._jobs:
                    self._is_writing = False
                    return

    def _write_progress(self) -> None:
        """Store what is new, and leave what has been ended by others."""
        jobs = list(self._jobs.values())
        for job in jobs:
            try:
                self._flush_job(job)
            except StoreUnavailable:  # it is in the log; what is pending waits
                if not job.is_over:
                    self._count_unsaved_bytes(job)
            except Exception:  # of one job; the leases of its neighbours must be renewed
                log.exception("the events of background work could not be written")
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
            events = list(job.pending_events)  # more may come while these are written
            if job.origin is not None and not job.origin_is_stored:
                given = job.owner, job.id, self._worker_id, job.origin, job.task.encrypted_request
                job.origin_is_stored = self._database.write(
                    lambda c: background_leases.set_origin(c, *given)
                )
            if not events or job.is_over:
                return  # the end is written with all that is pending
            self._database.write(
                lambda c: background_leases.append_progress(
                    c, job.owner, job.id, self._worker_id, events
                )
            )
            job.pending_events = job.pending_events[len(events) :]
            self._discount_job(job)

    # -- stopping ---------------------------------------------------------------------------------

    def _stop_job(self, job: BackgroundJob, ends_upstream: bool) -> None:
        """Leave a job that has ended in the store.

        With ``ends_upstream`` its upstream, if that works on without a connection, is told to end
        it.  The one that ended the job in the store could not do so: the upstream's id of the
        response was not stored then.  If that id is not known yet, it is awaited.
        """
        job.is_unwanted = ends_upstream
        if ends_upstream and not job.has_heard and job.task.continues_without_connection():
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

    # -- asking for it ----------------------------------------------------------------------------

    def cancel_response(self, owner: str, response_id: str) -> StoredResponse:
        """End a job, wherever it runs; the response as it is then.

        Raises NotFound, and InvalidRequest for what was no background work.
        """
        kept = self._database.write(lambda c: cancel_stored_response(c, owner, response_id))
        job = self._jobs.get((owner, response_id))
        if job is not None and not job.is_over:
            self._stop_job(job, ends_upstream=kept.upstream_id is None)
        return kept

    def remove_response(self, owner: str, response_id: str) -> StoredResponse | None:
        """Delete a response, and end what works on it; the response as it was, if there is one."""
        removed = self._database.write(lambda c: remove_stored_response(c, owner, response_id))
        job = self._jobs.get((owner, response_id))
        if removed is not None and job is not None and not job.is_over:
            self._stop_job(job, ends_upstream=removed.upstream_id is None)
        return removed

    def read_response(self, owner: str, response_id: str) -> StoredResponse:
        """A stored response; lost work that nobody may take up has failed.

        Raises NotFound.
        """
        kept = self._database.read(lambda c: responses.find(c, owner, response_id))
        if kept is None:
            raise response_not_found(response_id)
        is_lost = kept.is_lost and (owner, response_id) not in self._jobs
        if is_lost and self._database.has_settled():
            self._reap_work(owner, response_id)
            return self.read_response(owner, response_id)
        return kept

    def stream_events(
        self,
        owner: str,
        response_id: str,
        after: int,
        heartbeat_seconds: float,
        wait: Callable[[float], bool],
    ) -> EventStream:
        """The events of a response behind a number, those to come included.

        Yields an empty batch when there was none for ``heartbeat_seconds`` seconds.  ``wait`` waits for
        some seconds, and says whether there is still somebody who wants to hear.

        A fresh attempt begins with ``response.queued``, under a number behind all that were told;
        what the attempt before it had made is void, and not told any more.
        """
        heard = time.monotonic()
        while True:
            kept = self.read_response(owner, response_id)
            batch = self._database.read(
                partial(read_event_log, owner=owner, kept=kept, after=after)
            )
            if batch:
                yield batch
                after, heard = batch[-1]["sequence_number"], time.monotonic()
            elif time.monotonic() - heard >= heartbeat_seconds:
                yield []
                heard = time.monotonic()
            if not kept.is_running or not wait(POLL_SECONDS):
                return


def read_event_log(
    connection: sa.Connection, owner: str, kept: StoredResponse, after: int
) -> Batch:
    """What is stored of the events; of an answer that was given as a whole, what would have been.

    What was stored since ``kept`` was read is left for the next look: it may have another end.
    """
    logged = responses.read_events_after(connection, owner, kept, after)
    if logged or kept.is_running:
        return [
            event for event in logged if event["type"] not in TERMINAL_EVENTS or not kept.is_running
        ]
    if responses.read_events_after(connection, owner, kept, -1):
        return []
    return [e for e in whole_events("responses", kept.body, True) if e["sequence_number"] > after]


def remove_stored_response(
    connection: sa.Connection, owner: str, response_id: str
) -> StoredResponse | None:
    kept = responses.find(connection, owner, response_id, lock=True)
    return kept if responses.remove(connection, owner, response_id) else None


def cancel_stored_response(
    connection: sa.Connection, owner: str, response_id: str
) -> StoredResponse:
    kept = responses.find(connection, owner, response_id, lock=True)
    if kept is None:
        raise response_not_found(response_id)
    if not kept.body.get("background"):
        raise InvalidRequest("Only background responses can be cancelled.", param="response_id")
    return background_leases.end_work(connection, owner, kept, "cancelled", None)


def response_not_found(name: str) -> NotFound:
    """There is none of this name, or not for this client."""
    return NotFound(f"Response with id '{name[:64]}' not found.", param="response_id")
