"""gunicorn's settings; its own command line and ``GUNICORN_CMD_ARGS`` go before them."""

import atexit
import os
import shutil
import tempfile
from pathlib import Path

worker_class = "forwarder.network.worker.Worker"  # gevent, and it ends what it has begun
worker_connections = 4000  # a stream that waits for its upstream costs little
keepalive = 30  # seconds; agents send one request after the other
control_socket_disable = True  # one path for all instances of a user, and nobody asked for it


# -- where the workers count together, for GET /metrics ------------------------------------------

_COUNTED_IN = "PROMETHEUS_MULTIPROC_DIR"
_ANY = "forwarder-metrics-"
_PREFIX = f"{_ANY}{os.getpid()}-"


def _make_directory() -> None:
    """A private directory for this master, unless the operator names one.

    The client library looks for it when it is imported, which is later, in the workers.
    """
    given = Path(os.environ.get(_COUNTED_IN, ""))
    # One that another master made is removed with that master: it may be about to be replaced.
    foreign = given.name.startswith(_ANY) and not given.name.startswith(_PREFIX)
    if foreign or not given.name:
        os.environ[_COUNTED_IN] = tempfile.mkdtemp(prefix=_PREFIX)
        atexit.register(_remove, os.environ[_COUNTED_IN], os.getpid())
    else:
        given.mkdir(parents=True, exist_ok=True)


def _remove(directory: str, master: int) -> None:
    if os.getpid() == master:  # workers inherit this and must leave it alone
        shutil.rmtree(directory, ignore_errors=True)


def child_exit(server: object, worker: object) -> None:
    """What a worker that is gone had open is open no more."""
    from prometheus_client.multiprocess import mark_process_dead

    mark_process_dead(worker.pid)


_make_directory()
