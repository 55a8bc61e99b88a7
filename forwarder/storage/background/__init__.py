"""Background responses: run a response independently of the client connection.

The worker that accepts the request stores it, runs it, and writes its events to the store several
times a second. Any worker can serve reads of the response from the store. Each write also renews
the worker's lease on the response.

A worker that shuts down releases its unfinished jobs. If a worker dies, its leases expire. Another
worker then takes the job over and starts a new attempt, provided that the request may be sent to
the upstream twice and attempts remain. Otherwise the response fails.

- `runner.py` serves the requests of clients: start, read, stream, cancel, delete.
- `execution.py` runs a job, `progress.py` stores its events and renews its lease, `stopping.py`
  stops it. `running_jobs.py` holds the jobs of the process and limits their memory.
- `takeover.py` takes over the jobs of other workers.
- `job.py` and `stored_request.py` are shared by all of these.
"""

from forwarder.storage.background.job import BackgroundLimits, BackgroundTask
from forwarder.storage.background.runner import BackgroundRunner
from forwarder.storage.background.takeover import TakeoverCallbacks

__all__ = ["BackgroundLimits", "BackgroundRunner", "BackgroundTask", "TakeoverCallbacks"]
