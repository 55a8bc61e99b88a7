"""Background responses: run a response independently of the client connection.

`docs/state.md` describes the behavior for clients. This package runs, stores, stops and takes over
jobs. Elsewhere are the calls of upstreams and the encryption of requests
(`pipeline/background_work.py`, which passes them in as `BackgroundTask` and `TakeoverCallbacks`),
the routes (`server/serving.py`, `server/stored_answers.py`), and the statements for leases
(`storage/db/background_leases.py`).

**The path of a job**:

1. `BackgroundRunner.start_job` (`runner.py`) stores the queued response, its two opening events and
   a lease of this worker in one transaction. It makes a `BackgroundJob` (`job.py`): the response
   without output, the task, the job's own RequestContext, the lock of its conversation, and the
   list of events that are not stored yet.
2. `execution.py` reads the upstream's stream in a greenlet. `BackgroundJob.add_events` gives each
   event the next sequence number, and the response in an event its own id and history. It drops the
   upstream's opening events. If these show that the upstream runs the response in the background
   too, they give the job its ``origin``: the upstream, and the id of the response there.
3. `progress.py` is one loop per process, while `running_jobs.py` has jobs. Every ``WRITE_SECONDS``
   it appends the pending events of each job, which renews the lease of that job, and stops the jobs
   that this worker no longer owns. Every ``LEASE_RENEW_SECONDS`` it renews the leases of all jobs.
4. `execution.py` stores the terminal event, the final response and the items of its conversation in
   one transaction.

Readers on any worker use the store only: `BackgroundRunner.stream_events` polls it.

**When a worker ends**: on shutdown, a job that may be repeated is released. The lease of a dead
worker expires. `takeover.py` polls the database for such jobs, and there are three cases:

- The job has an origin, and therefore a stored request: the new worker follows it. It reads the
  upstream's stream from the first event and skips the ``known_events``; the log continues. The same
  happens after a broken connection.
- Its encrypted request is stored: the request is sent again. Events of the earlier attempt are
  deleted; the log continues with ``response.queued`` under the next sequence number.
- Otherwise the response fails with the output so far. The request is not stored if a tool may act
  (`is_repeatable` in `stored_request.py`), if only the upstream has the conversation, or if
  FORWARDER_BACKGROUND_ATTEMPTS is 1. It is removed when the last attempt begins.

Rules:

- Each write of a job requires that this worker owns the response and that it has not ended; the
  result False means that another worker has it or a client ended it. Cancellation is final. A late
  answer replaces only the failure that an expired lease caused.
- Expired leases are evaluated only while `Database.is_stable`. Released jobs need not wait.
- ``write_lock`` keeps the writes of one job apart. Events leave ``pending_events`` after their
  write. The store replaces a chunk that begins with the same number, so a commit that was not
  acknowledged stores no event twice.
- Sequence numbers grow over all attempts, so that ``starting_after`` remains valid.
- `stopping.py` stops a job once. The route of ``cancel`` or ``DELETE`` also cancels the response at
  its upstream if the origin is stored; if not, the worker that runs the job does. If that upstream
  has not answered yet, the job waits up to ``ORIGIN_WAIT_SECONDS`` for the origin.
- If the database is not available, events stay in memory. Above FORWARDER_BACKGROUND_UNSAVED_MAX
  the largest job is dropped. A final response is kept for FORWARDER_BACKGROUND_UNSAVED_AGE.
- The request contains the client's key, so it is stored only encrypted, and deleted with the end of
  the job. A worker leaves a request alone that it cannot decrypt or that has other fields than its
  own version; ``MAX_UNREADABLE_SECONDS`` after the end of its lease such a response fails.
- An exception of one job must not end a loop or delay other jobs.
- The job closes its context, which frees its slot and memory and counts its usage.

To add a fact that a new attempt needs, add a field to `StoredRequest`, fill it in
`BackgroundWork.start` and apply it in `BackgroundWork._restore_task`. Older workers cannot read
such requests; without a default, new workers cannot read older ones either. A tool that acts at the
upstream goes into `_ACTING_TOOLS` and into the table of
`tests/storage/background/test_stored_request.py`; no test finds a missing one.
"""

from forwarder.storage.background.job import BackgroundLimits, BackgroundTask
from forwarder.storage.background.runner import BackgroundRunner
from forwarder.storage.background.takeover import TakeoverCallbacks

__all__ = ["BackgroundLimits", "BackgroundRunner", "BackgroundTask", "TakeoverCallbacks"]
