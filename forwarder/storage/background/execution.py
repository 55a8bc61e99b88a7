"""Run a job: send its request to the upstream, and store the final response."""

from __future__ import annotations

import logging
import time

from forwarder.core.blocking_work import spawn
from forwarder.core.errors import (
    ShuttingDown,
    StoreUnavailable,
    UpstreamProtocolError,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from forwarder.core.in_flight_requests import InFlightRequests
from forwarder.core.types import EventStream, Json
from forwarder.protocols.stream_end import append_responses_error
from forwarder.storage.background.job import BackgroundJob, BackgroundLimits
from forwarder.storage.background.progress import ProgressWriter
from forwarder.storage.background.running_jobs import RunningJobs
from forwarder.storage.background.stopping import JobStopper
from forwarder.storage.repositories.background_jobs import BackgroundJobRepository

log = logging.getLogger("forwarder.background")

STORE_RETRY_SECONDS = 1.0
"""Delay before the final response is stored again after a failure."""

RECONNECT_SECONDS = 1.0
"""Delay before a reconnect to an upstream response, times the number of failures."""

MAX_FOLLOW_ATTEMPTS = 5
"""Consecutive reconnects to an upstream response without a new event, before the job fails."""


class JobReleased(Exception):
    """The job was returned to the queue; this worker no longer owns it."""


class JobExecutor:
    """Runs jobs of this process, each in a thread or greenlet of its own."""

    def __init__(
        self,
        repository: BackgroundJobRepository,
        running: InFlightRequests,
        limits: BackgroundLimits,
        jobs: RunningJobs,
        stopper: JobStopper,
    ) -> None:
        self._repository = repository
        self._running = running
        self._limits = limits
        self._jobs = jobs
        self._stopper = stopper
        self._writer = ProgressWriter(repository, jobs, stopper)

    def launch_job(self, job: BackgroundJob) -> None:
        """Start a job that is stored and that this worker owns."""
        if job.lock is not None:
            job.lock.start_renewal()
            job.context.cleanup.add(job.lock.release_now)
        self._jobs[job.key] = job
        spawn(lambda: self._run_job(job))
        self._writer.start()

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
            self._jobs.remove_job(job)
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
                self._store_final(job, response)
                return
            if job.is_unwanted and job.has_received:
                self._stopper.end_job(job)
                return

    def _release_on_shutdown(self, job: BackgroundJob) -> EventStream:
        """Stream a job's batches. Raises JobReleased if the job was released on shutdown.

        If the database is unavailable, the job is not written, and its lease expires.
        """
        try:
            yield from job.context.convert_errors(self._open_stream(job))
        except ShuttingDown:
            try:
                self._writer.flush_job(job)
                is_released = self._repository.release(*job.key)
            except StoreUnavailable:
                is_released = True
            if is_released:
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
            time.sleep(RECONNECT_SECONDS * failures)

    # -- the final response -----------------------------------------------------------------------

    def _store_final(self, job: BackgroundJob, response: Json) -> None:
        """Store the final response. While the database is unavailable, retry within the limits."""
        deadline = time.monotonic() + self._limits.max_unsaved_seconds
        while not self._try_store_final(job, response):
            self._jobs.limit_unsaved_bytes(job)
            run = job.context.run
            is_due = run is not None and self._running.is_due(run)
            if job.is_dropped:
                return
            if is_due or time.monotonic() > deadline:
                log.error({"event": "background_response_lost", "response": job.id})
                return
            time.sleep(STORE_RETRY_SECONDS)

    def _try_store_final(self, job: BackgroundJob, response: Json) -> bool:
        """Store the final response. False if the database is unavailable."""
        try:
            with job.write_lock:
                is_own = self._repository.finish(
                    job.owner,
                    response,
                    job.pending_events,
                    job.context.origin,
                    job.origin.upstream_id if job.origin else None,
                    job.lock.lease if job.lock else None,
                )
        except StoreUnavailable:
            return False
        if not is_own and response["status"] in ("completed", "incomplete"):
            log.warning({"event": "background_answer_discarded", "response": job.id})
        if job.lock is not None:
            job.lock.mark_released()
        return True
