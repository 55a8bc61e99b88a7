"""Stop jobs whose response was cancelled or deleted, also at their upstream."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from forwarder.core.blocking_work import spawn
from forwarder.storage.background.job import BackgroundJob
from forwarder.storage.background.running_jobs import RunningJobs
from forwarder.storage.db.background_leases import ResponseOrigin

ORIGIN_WAIT_SECONDS = 10.0
"""Seconds to wait for the upstream's response id before a cancelled job is dropped."""

ORIGIN_POLL_SECONDS = 0.2
"""Interval between checks for the upstream's response id."""

UpstreamCanceller = Callable[[ResponseOrigin, str | None], None]
"""Cancels a response at its upstream on behalf of the client of the encrypted request; logs errors.
"""


class JobStopper:
    """Stops jobs of this process.

    ``cancel_upstream`` is None until this process takes part in the takeover of jobs; until then no
    response is cancelled at its upstream.
    """

    def __init__(self, jobs: RunningJobs) -> None:
        self._jobs = jobs
        self._lock = threading.Lock()
        self.cancel_upstream: UpstreamCanceller | None = None

    def stop_job(self, job: BackgroundJob, ends_upstream: bool) -> None:
        """Stop a job whose response has ended in the store.

        With ``ends_upstream`` the response is also cancelled at an upstream that continues without
        a connection. This worker must do so if the upstream's response id was not stored when the
        response was ended. If the id is not known yet, the job waits for it.

        Only the first call has an effect: the request that ends a response and the thread that
        writes progress may both notice the end.
        """
        with self._lock:
            if job.is_stopped:
                return
            job.is_stopped = True
            job.is_unwanted = ends_upstream
        if ends_upstream and not job.has_received and job.task.continues_without_connection():
            spawn(lambda: self._end_when_origin_known(job))
        else:
            self.end_job(job)

    def end_job(self, job: BackgroundJob) -> None:
        """Close a job's connection; cancel its response at the upstream if it is unwanted."""
        with self._lock:
            is_unwanted, job.is_unwanted = job.is_unwanted, False
        job.context.cancel()
        if is_unwanted and job.origin is not None:
            self.cancel_origin(job.origin, job.task.encrypted_request)

    def cancel_origin(self, origin: ResponseOrigin, request: str | None) -> None:
        """Cancel a response at its upstream in a separate thread or greenlet."""
        cancel = self.cancel_upstream
        if cancel is not None:
            spawn(lambda: cancel(origin, request))

    def _end_when_origin_known(self, job: BackgroundJob) -> None:
        deadline = time.monotonic() + ORIGIN_WAIT_SECONDS
        while job.is_unwanted and job.key in self._jobs and time.monotonic() < deadline:
            time.sleep(ORIGIN_POLL_SECONDS)
        self.end_job(job)
