"""Store the events of running jobs, renew their leases, and stop jobs that were ended elsewhere."""

from __future__ import annotations

import logging
import threading
import time

from forwarder.core.blocking_work import spawn
from forwarder.core.errors import StoreUnavailable
from forwarder.storage.background.job import BackgroundJob
from forwarder.storage.background.running_jobs import RunningJobs
from forwarder.storage.background.stopping import JobStopper
from forwarder.storage.repositories.background_jobs import BackgroundJobRepository

log = logging.getLogger("forwarder.background")

WRITE_SECONDS = 0.2
"""Interval between writes of job progress."""

LEASE_RENEW_SECONDS = 3.0
"""Interval between lease renewals."""

RETRY_SECONDS = 1.0
"""Additional delay after a failed write."""


class ProgressWriter:
    """Writes the progress of all jobs of this process, while there are jobs."""

    def __init__(
        self, repository: BackgroundJobRepository, jobs: RunningJobs, stopper: JobStopper
    ) -> None:
        self._repository = repository
        self._jobs = jobs
        self._stopper = stopper
        self._start_lock = threading.Lock()
        self._is_writing = False

    def start(self) -> None:
        """Write until there are no jobs; does nothing while a writer is running."""
        with self._start_lock:
            if not self._is_writing:
                self._is_writing = True
                spawn(self._run_writer)

    def flush_job(self, job: BackgroundJob) -> None:
        """Store a job's pending events, and the id of its response at the upstream.

        Raises StoreUnavailable.
        """
        with job.write_lock:
            events = list(job.pending_events)  # the job may add more during the write
            if job.origin is not None and not job.origin_is_stored:
                job.origin_is_stored = self._repository.set_origin(
                    *job.key, job.origin, job.task.encrypted_request
                )
            if not events or job.is_over:
                return  # `JobExecutor` stores all pending events with the final response
            self._repository.append_progress(*job.key, events)
            job.pending_events = job.pending_events[len(events) :]
            self._jobs.reset_unsaved_bytes(job)

    def _run_writer(self) -> None:
        renewed = time.monotonic()
        while True:
            time.sleep(WRITE_SECONDS)
            try:
                self._write_progress()
                if time.monotonic() - renewed > LEASE_RENEW_SECONDS:
                    self._repository.renew_leases([job.id for job in self._jobs.list_jobs()])
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
        jobs = self._jobs.list_jobs()
        for job in jobs:
            try:
                self.flush_job(job)
            except StoreUnavailable:  # the database logged it; events stay pending
                if not job.is_over:
                    self._jobs.limit_unsaved_bytes(job)
            except Exception:  # one broken job must not stop the lease renewal of the others
                log.exception(
                    "could not write the events of the background response %s",
                    job.id,
                    extra={"event": "background_write_failed", "response": job.id},
                )
        self._stop_ended_jobs(jobs)

    def _stop_ended_jobs(self, jobs: list[BackgroundJob]) -> None:
        """Stop jobs that another worker ended or took over."""
        own = self._repository.list_own()
        for job in jobs:
            is_ending = job.is_over or job.is_unwanted or job.context.is_cancelled
            if job.key not in own and job.key in self._jobs and not is_ending:
                is_taken = self._repository.is_running(*job.key)
                self._stopper.stop_job(job, ends_upstream=not is_taken and not job.origin_is_stored)
