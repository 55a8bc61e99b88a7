"""Take over the jobs of workers that have stopped, or fail those that cannot be repeated.

Expired leases are evaluated in `JobTakeover._find_work`, and in `JobTakeover.fail_lost_job` when a
client reads the response. Both wait until the database is stable.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from forwarder.context.request_context import RequestContext
from forwarder.core.blocking_work import spawn
from forwarder.core.errors import ConversationLocked, Overloaded, StoreUnavailable
from forwarder.core.in_flight_requests import InFlightRequests
from forwarder.storage.background.execution import JobExecutor
from forwarder.storage.background.job import BackgroundJob, BackgroundTask
from forwarder.storage.background.running_jobs import RunningJobs
from forwarder.storage.background.stopping import JobStopper, UpstreamCanceller
from forwarder.storage.conversation_lock import ConversationLock, ConversationLocks
from forwarder.storage.db import Database
from forwarder.storage.db.background_leases import ClaimedWork, ResponseOrigin
from forwarder.storage.db.lease_expiry import MIN_STABLE_SECONDS
from forwarder.storage.db.responses import StoredResponse
from forwarder.storage.repositories.background_jobs import BackgroundJobRepository

log = logging.getLogger("forwarder.background")

TAKEOVER_POLL_SECONDS = 1.0
"""Interval between searches for jobs to take over."""

SKIP_SECONDS = 60.0
"""Seconds during which a worker ignores a job that it cannot take over."""


class TakeoverCallbacks(NamedTuple):
    """How to take over jobs of other workers, and how to cancel responses at their upstream.

    ``new_context`` creates a request context and raises Overloaded if too many requests are
    running. ``can_decrypt`` returns whether this worker can decrypt a stored request.
    ``rebuild_task`` completes the context and returns the task of a claimed job.
    """

    new_context: Callable[[], RequestContext]
    can_decrypt: Callable[[str], bool]
    rebuild_task: Callable[[RequestContext, ClaimedWork], BackgroundTask]
    cancel_upstream: UpstreamCanceller


class JobTakeover:
    """Searches for jobs of other workers, and takes them over.

    ``migrate_owner`` moves the data of an earlier owner and returns the current owner.
    """

    def __init__(
        self,
        *,
        database: Database,
        repository: BackgroundJobRepository,
        running: InFlightRequests,
        locks: ConversationLocks,
        max_attempts: int,
        migrate_owner: Callable[[str], str],
        jobs: RunningJobs,
        executor: JobExecutor,
        stopper: JobStopper,
    ) -> None:
        self._database = database
        self._repository = repository
        self._running = running
        self._locks = locks
        self._max_attempts = max_attempts
        self._migrate_owner = migrate_owner
        self._jobs = jobs
        self._executor = executor
        self._stopper = stopper
        self._start_lock = threading.Lock()
        self._is_started = False
        self._skipped_until: dict[str, float] = {}

    def start(self, callbacks: TakeoverCallbacks) -> None:
        """Take over jobs of other workers until this process shuts down."""
        with self._start_lock:
            if not self._is_started:
                self._is_started = True
                self._stopper.cancel_upstream = callbacks.cancel_upstream
                spawn(lambda: self._run_takeover(callbacks))

    def fail_lost_job(self, owner: str, response_id: str) -> None:
        """Fail a job if its lease has expired and it cannot be repeated."""
        stored = self._repository.fail_lost(owner, response_id)
        if stored is not None:
            self._cancel_failed(stored, None)

    def _run_takeover(self, callbacks: TakeoverCallbacks) -> None:
        while (
            not self._database.close_event.wait(TAKEOVER_POLL_SECONDS)
            and not self._running.is_shutting_down
        ):
            try:
                self._find_work(callbacks)
            except StoreUnavailable:
                continue  # the database logged it
            except Exception:
                log.exception(
                    "could not take over background responses",
                    extra={"event": "background_takeover_failed"},
                )

    def _find_work(self, callbacks: TakeoverCallbacks) -> None:
        """Take over waiting jobs, and fail lost jobs that cannot be repeated.

        Until the database is stable, only released jobs are considered: no worker can still renew
        their leases. Jobs of this worker are skipped, because their leases are about to be renewed.
        """
        now = time.monotonic()
        self._skipped_until = {name: end for name, end in self._skipped_until.items() if end > now}
        skip = [*self._skipped_until, *(job.id for job in self._jobs.list_jobs())]
        waiting, lost = self._repository.list_waiting(skip), self._repository.list_lost(skip)
        if not waiting and not lost:
            return
        if not self._database.is_stable():
            waiting, lost = self._repository.list_waiting(skip, only_released=True), []
        for handle, entries in (
            (self.fail_lost_job, lost),
            (partial(self._take_over, callbacks), waiting),
        ):
            for owner, name in entries:
                try:
                    handle(owner, name)
                except StoreUnavailable:  # perhaps only this row cannot be written
                    self._skip_job(name, 2 * MIN_STABLE_SECONDS)
                    raise
                except Overloaded:
                    return  # another worker may have room
                except Exception:  # one broken response must not delay the others
                    log.exception(
                        "could not take over the background response %s",
                        name,
                        extra={"event": "background_takeover_failed", "response": name},
                    )
                    self._skip_job(name)

    def _skip_job(self, name: str, seconds: float | None = None) -> None:
        self._skipped_until[name] = time.monotonic() + (seconds or SKIP_SECONDS)

    def _take_over(self, callbacks: TakeoverCallbacks, owner: str, name: str) -> None:
        request = self._repository.find_request(owner, name)
        if request is None:
            return  # another worker claimed it
        if not callbacks.can_decrypt(request):
            self._leave_unreadable_job(owner, name, request)
            return
        owner = self._migrate_owner(owner)
        context = callbacks.new_context()
        try:
            memory = context.reserve_memory()
            claimed, lease = self._repository.claim(owner, name, self._max_attempts, memory)
            if isinstance(claimed, ClaimedWork):
                task = callbacks.rebuild_task(context, claimed)
        except ConversationLocked:
            context.cleanup.close()  # retry when the conversation's current turn has ended
            return
        except BaseException:
            context.cleanup.close()  # a claimed lease expires, and the attempt counts
            raise
        if not isinstance(claimed, ClaimedWork):
            context.cleanup.close()
            if claimed is not None:
                self._cancel_failed(claimed, request)
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
            owner,
            claimed.response.body,
            task,
            context,
            ConversationLock(self._locks, lease) if lease is not None else None,
            next_number=claimed.next_number,
            origin=claimed.origin,
            origin_is_stored=claimed.origin is not None,
            known_events=claimed.known_events,
        )
        self._executor.launch_job(job)

    def _leave_unreadable_job(self, owner: str, name: str, request: str) -> None:
        """Leave a job to workers that can decrypt its request. If it waited too long, fail it."""
        self._skip_job(name)
        log.warning({"event": "background_request_unreadable", "response": name})
        stored = self._repository.fail_unreadable(owner, name)
        if stored is not None:
            self._cancel_failed(stored, request)

    def _cancel_failed(self, stored: StoredResponse, request: str | None) -> None:
        """Log the failure of a job, and cancel its response at the upstream."""
        log.warning({"event": "background_given_up", "response": stored.id})
        if stored.upstream_id is not None:
            self._stopper.cancel_origin(
                ResponseOrigin(stored.upstream or "", stored.upstream_id), request
            )
