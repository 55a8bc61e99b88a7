"""The jobs that this process runs, and the memory that their unsaved events take."""

from __future__ import annotations

import logging

from forwarder.core.body_memory import measure_heap
from forwarder.storage.background.job import BackgroundJob

log = logging.getLogger("forwarder.background")


class RunningJobs(dict[tuple[str, str], BackgroundJob]):
    """The jobs of this process, by owner and response id.

    Their unsaved events together take up to ``max_unsaved_bytes`` bytes of memory.
    """

    def __init__(self, max_unsaved_bytes: int) -> None:
        super().__init__()
        self.unsaved_bytes = 0
        self._max_unsaved_bytes = max_unsaved_bytes

    def list_jobs(self) -> list[BackgroundJob]:
        """Return the jobs; a copy, because other threads start and end jobs."""
        return list(self.values())

    def remove_job(self, job: BackgroundJob) -> None:
        """Forget a job that has ended."""
        self.reset_unsaved_bytes(job)
        self.pop(job.key, None)

    def limit_unsaved_bytes(self, job: BackgroundJob) -> None:
        """Add a job's pending events to the unsaved bytes. Over the limit, drop the largest jobs.

        Called only after a failed write, so that measuring costs nothing in normal operation.
        """
        if job.key not in self:
            return  # already dropped
        events = job.pending_events
        size = sum(map(measure_heap, events[job.counted_events :]))
        job.counted_events = len(events)
        job.unsaved_bytes += size
        self.unsaved_bytes += size
        while self.unsaved_bytes > self._max_unsaved_bytes:
            self._drop_job(max(self.values(), key=lambda job: job.unsaved_bytes))

    def reset_unsaved_bytes(self, job: BackgroundJob) -> None:
        """Subtract a job's unsaved bytes: its events are stored, or the job has ended."""
        self.unsaved_bytes -= job.unsaved_bytes
        job.counted_events = job.unsaved_bytes = 0

    def _drop_job(self, job: BackgroundJob) -> None:
        """Discard a job's events. Its lease expires; then the job is repeated or fails."""
        log.error({"event": "background_response_lost", "response": job.id})
        job.is_dropped = True
        self.remove_job(job)
        if not job.is_over:  # otherwise `JobExecutor` tries once more to store it, then gives up
            job.pending_events = []
            job.context.cancel()
