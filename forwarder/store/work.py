"""Background work in the store: who does it, whether that one lives, and how it ends.

Whoever works writes only as long as the response is its own and not over; cancelling it, or
finding its worker dead, ends it for good, whatever that worker still has to say.
"""

from __future__ import annotations

import time

import sqlalchemy as sa

from forwarder.store import logs, responses
from forwarder.store.packing import packed
from forwarder.store.responses import RUNNING, Kept
from forwarder.store.tables import responses as table
from forwarder.translate.call import Batch, Json

LEASE = 15.0
"""Seconds after which a worker that has said nothing is taken for dead."""


def lease() -> float:
    """Until when one is alive who says so now."""
    return time.time() + LEASE


def is_lost(kept: Kept) -> bool:
    """Is it unfinished work of a worker that has died?"""
    return kept.is_running and kept.lease is not None and kept.lease < time.time()


def _own(owner: str, response_id: str, worker: str) -> sa.ColumnElement[bool]:
    mine = (table.c.owner == owner) & (table.c.id == response_id) & (table.c.worker == worker)
    return mine & table.c.status.in_(RUNNING) & ~table.c.hidden


def progress(
    connection: sa.Connection, owner: str, response_id: str, worker: str, log: Batch
) -> bool:
    """Store more events of one's own work; False when it is not one's own any more."""
    piece = logs.pack(log)
    values = {"status": "in_progress", "lease": lease(), "size": table.c.size + len(piece.data)}
    mine = sa.update(table).where(_own(owner, response_id, worker)).values(values)
    if connection.execute(mine).rowcount == 0:
        return False
    responses.more(connection, owner, response_id, piece)
    return True


def finish(
    connection: sa.Connection,
    owner: str,
    response_id: str,
    worker: str,
    body: Json,
    upstream: str | None,
    log: Batch,
) -> bool:
    """Store how one's own work has ended, and where; False when it was ended before."""
    mine = sa.select(table.c.id).where(_own(owner, response_id, worker)).with_for_update()
    if connection.execute(mine).first() is None:
        return False
    _end(connection, owner, response_id, body, log)
    told = sa.update(table).where(table.c.owner == owner, table.c.id == response_id)
    connection.execute(told.values(upstream=upstream))
    return True


def end(connection: sa.Connection, owner: str, kept: Kept, status: str, error: Json | None) -> Kept:
    """End work that is not one's own; gives it as it is then.

    What it had made is kept.  Nothing is done when it is over.
    """
    mine = sa.select(table.c.id).where(
        table.c.owner == owner, table.c.id == kept.id, table.c.status.in_(RUNNING)
    )
    if connection.execute(mine.with_for_update()).first() is None:
        return responses.find(connection, owner, kept.id) or kept
    told = responses.log_after(connection, owner, kept, -1)
    output = [e["item"] for e in told if e["type"] == "response.output_item.done"]
    body = {**kept.body, "status": status, "output": output, "error": error}
    number = told[-1]["sequence_number"] + 1 if told else 0
    # There is no event for what was cancelled: it ends incomplete, and its response says why.
    kind = "response.failed" if status == "failed" else "response.incomplete"
    last = {"type": kind, "sequence_number": number, "response": body}
    _end(connection, owner, kept.id, body, [last])
    return kept._replace(status=status, body=body, lease=None)


def _end(connection: sa.Connection, owner: str, response_id: str, body: Json, log: Batch) -> None:
    data, piece = packed(body), logs.pack(log)
    connection.execute(
        sa.update(table)
        .where(table.c.owner == owner, table.c.id == response_id)
        .values(
            status=body["status"],
            body=data,
            lease=None,
            size=table.c.size + len(data) + len(piece.data),
        )
    )
    responses.more(connection, owner, response_id, piece)
    responses.index(connection, owner, response_id, body.get("output") or ())


DIED: Json = {
    "code": "server_error",
    "message": "The worker that made this response died before it was done.",
}


def bury(connection: sa.Connection, owner: str, kept: Kept) -> Kept:
    """End the work of a worker that has died."""
    return end(connection, owner, kept, "failed", DIED)


def lost(connection: sa.Connection) -> list[tuple[str, str]]:
    """The unfinished work of workers that have died, as (owner, id)."""
    late = table.c.lease.is_not(None) & (table.c.lease < time.time())
    found = sa.select(table.c.owner, table.c.id).where(late, table.c.status.in_(RUNNING))
    return [(owner, name) for owner, name in connection.execute(found)]


def mine(connection: sa.Connection, worker: str) -> set[tuple[str, str]]:
    """The unfinished work of a worker, as (owner, id)."""
    found = sa.select(table.c.owner, table.c.id).where(
        table.c.lease.is_not(None),
        table.c.worker == worker,
        table.c.status.in_(RUNNING),
        ~table.c.hidden,
    )
    return {(owner, name) for owner, name in connection.execute(found)}


def renew(connection: sa.Connection, worker: str) -> None:
    """Say that a worker is alive."""
    connection.execute(
        sa.update(table)
        .where(table.c.lease.is_not(None), table.c.worker == worker, table.c.status.in_(RUNNING))
        .values(lease=lease())
    )
