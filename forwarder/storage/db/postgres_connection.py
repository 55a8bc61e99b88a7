"""Connections to PostgreSQL that wait for a silent server only so long.

``statement_timeout`` is the server's, and TCP's time-outs are for a machine that is gone: neither
ends the wait for a server process that hangs while its kernel still acknowledges every packet.
Hence the client has a deadline too, for everything that it waits for in one operation.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import sqlalchemy as sa
from psycopg.errors import _WaitTimeout

CONNECT_TIMEOUT_SECONDS = 5
STATEMENT_TIMEOUT_SECONDS = 10
"""Seconds after which the server ends a statement."""

OPERATION_TIMEOUT_SECONDS = 12.0
"""Seconds for everything in one operation: it may wait for several statements."""

TCP_PARAMETERS = {
    "keepalives": "1",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "10000",
}
"""libpq's parameters, by which a machine that is gone is noticed within half a minute."""


class CurrentOperation(threading.local):
    """Until when the operation of this greenlet, or thread, may wait."""

    deadline: float | None = None


_current_operation = CurrentOperation()


@contextmanager
def operation_deadline(seconds: float = OPERATION_TIMEOUT_SECONDS) -> Iterator[None]:
    """Let everything inside wait for the server no longer than so many seconds."""
    before, _current_operation.deadline = _current_operation.deadline, time.monotonic() + seconds
    try:
        yield
    finally:
        _current_operation.deadline = before


class DeadlineConnection(psycopg.Connection[Any]):
    """A connection that is closed when the server has said nothing until the deadline."""

    def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        """What psycopg's own does; raises OperationalError at the deadline."""
        deadline = _current_operation.deadline
        if timeout is not None or deadline is None:
            return super().wait(gen, interval, timeout)
        try:
            return super().wait(gen, interval, max(0.0, deadline - time.monotonic()))
        except _WaitTimeout:
            self.pgconn.finish()  # what it says later belongs to no statement any more
            raise psycopg.OperationalError("the server does not answer") from None


def connect_with_deadlines(engine: sa.Engine) -> None:
    """Let an engine make such connections, whose server has a time-out for statements too."""

    @sa.event.listens_for(engine, "do_connect")
    def connect(dialect: Any, record: Any, given: list[Any], parameters: dict[str, Any]) -> Any:
        defaults = {"connect_timeout": CONNECT_TIMEOUT_SECONDS, **TCP_PARAMETERS}
        connection = DeadlineConnection.connect(*given, **{**defaults, **parameters})
        if "statement_timeout" not in str(parameters.get("options")):  # the operator's own
            connection.execute(f"SET statement_timeout = {STATEMENT_TIMEOUT_SECONDS * 1000}")
            connection.commit()
        return connection
