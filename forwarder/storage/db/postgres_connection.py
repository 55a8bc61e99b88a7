"""PostgreSQL connections with a client-side deadline.

``statement_timeout`` is enforced by the server, and TCP timeouts detect a lost machine. Neither
ends the wait for a server process that hangs while its kernel still acknowledges packets. Therefore
the client has a deadline for each operation.
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
"""Seconds after which the server cancels a statement."""

OPERATION_TIMEOUT_SECONDS = 12.0
"""Seconds for one operation, which may consist of several statements."""

TCP_PARAMETERS = {
    "keepalives": "1",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "10000",
}
"""libpq parameters that detect a lost machine within half a minute."""


class CurrentOperation(threading.local):
    """The deadline of the current greenlet's or thread's operation."""

    deadline: float | None = None


_current_operation = CurrentOperation()


@contextmanager
def operation_deadline(seconds: float = OPERATION_TIMEOUT_SECONDS) -> Iterator[None]:
    """Limit all waits for the server inside this context to ``seconds`` in total."""
    before, _current_operation.deadline = _current_operation.deadline, time.monotonic() + seconds
    try:
        yield
    finally:
        _current_operation.deadline = before


class DeadlineConnection(psycopg.Connection[Any]):
    """A connection that is closed if the server does not respond before the deadline."""

    def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        """Like psycopg's own method; raises OperationalError at the deadline."""
        deadline = _current_operation.deadline
        if timeout is not None or deadline is None:
            return super().wait(gen, interval, timeout)
        try:
            return super().wait(gen, interval, max(0.0, deadline - time.monotonic()))
        except _WaitTimeout:
            self.pgconn.finish()  # the next statement would receive the late response
            raise psycopg.OperationalError("the server does not respond") from None


def connect_with_deadlines(engine: sa.Engine) -> None:
    """Make an engine use `DeadlineConnection`, with a statement timeout on the server."""

    @sa.event.listens_for(engine, "do_connect")
    def connect(dialect: Any, record: Any, args: list[Any], parameters: dict[str, Any]) -> Any:
        defaults = {"connect_timeout": CONNECT_TIMEOUT_SECONDS, **TCP_PARAMETERS}
        connection = DeadlineConnection.connect(*args, **{**defaults, **parameters})
        if "statement_timeout" not in str(parameters.get("options")):  # set by the operator
            try:
                connection.execute(f"SET statement_timeout = {STATEMENT_TIMEOUT_SECONDS * 1000}")
                connection.commit()
            except BaseException:
                connection.close()
                raise
        return connection
