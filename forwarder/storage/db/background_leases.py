"""Background work in the store: which worker does it, whether that worker lives, how it ends.

A worker writes only as long as the response is its own and not over.  Cancelling it ends it for
good.

Work whose lease has run out is taken up by another worker if its ``request`` is stored; otherwise
it has failed.  If the worker lives nevertheless and has finished the response, its answer replaces
that failure.  Leases are granted and judged by the database's clock, and only after
`Database.has_settled`.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

import sqlalchemy as sa

from forwarder.core.types import Batch, Json
from forwarder.protocols.partial_output import collect_output
from forwarder.storage.db import conversations, event_log, responses
from forwarder.storage.db.clock import NEW_LEASE, NOW
from forwarder.storage.db.compression import count_written, pack_json
from forwarder.storage.db.responses import RUNNING_STATUSES, StoredResponse
from forwarder.storage.db.tables import conversations as conversation_table
from forwarder.storage.db.tables import events
from forwarder.storage.db.tables import responses as table

OPENING_EVENT_COUNT = 2
"""How many events of a log tell that a response was created and queued; work adds the others."""

OPENING_EVENTS = ("response.created", "response.queued", "response.in_progress")
"""Events that an answer begins with, and which are told before there is one."""

ATTEMPT_KEY = "forwarder.attempt"
"""The key of a response's metadata that says which attempt it is, from the second one on."""

MAX_WAITING = 8
"""How many responses one look finds, so that several workers share what is waiting."""

MAX_UNREADABLE_SECONDS = 3600.0
"""Seconds for which work waits for a worker that can read its request."""

WORKER_DIED_ERROR: Json = {
    "code": "server_error",
    "message": "The worker that made this response died before it was done.",
}
UNREADABLE: Json = {
    "code": "server_error",
    "message": "No running worker can read the stored request of this response: it was sealed "
    "under another FORWARDER_SECRET_KEY or by another version of the forwarder.",
}


def match_own_work(owner: str, response_id: str, worker: str) -> sa.ColumnElement[bool]:
    mine = (table.c.owner == owner) & (table.c.id == response_id) & (table.c.worker == worker)
    return mine & table.c.status.in_(RUNNING_STATUSES) & ~table.c.hidden


class ResponseOrigin(NamedTuple):
    """Where a response is made that its upstream keeps: the upstream, and its id there."""

    upstream: str
    upstream_id: str


def append_progress(
    connection: sa.Connection, owner: str, response_id: str, worker: str, log: Batch
) -> bool:
    """Store more events of one's own work; False when it is not one's own any more."""
    piece = event_log.pack_events(log)
    values = {"status": "in_progress", "lease": NEW_LEASE, "size": table.c.size + len(piece.data)}
    mine = sa.update(table).where(match_own_work(owner, response_id, worker)).values(values)
    if connection.execute(mine).rowcount == 0:
        return False
    count_written(connection, len(piece.data))
    responses.append_events(connection, owner, response_id, piece)
    return True


def set_origin(
    connection: sa.Connection,
    owner: str,
    response_id: str,
    worker: str,
    origin: ResponseOrigin,
    request: str | None,
) -> bool:
    """Store where one's own work is made, so that others can follow it with this request.

    False if it is not one's own any more.
    """
    values = {**origin._asdict(), "request": request}
    own = sa.update(table).where(match_own_work(owner, response_id, worker))
    return connection.execute(own.values(values)).rowcount > 0


def finish_work(
    connection: sa.Connection,
    owner: str,
    response_id: str,
    worker: str,
    body: Json,
    upstream: str | None,
    log: Batch,
    upstream_id: str | None = None,
) -> bool:
    """Store how one's own work has ended, and where; False if it has another end.

    An end that is stored already may be stored again.  An answer replaces a failure whose only
    reason is that the lease had run out.  The output of work that has failed is all that was made
    of it.
    """
    mine = match_response(owner, response_id) & (table.c.worker == worker) & ~table.c.hidden
    status = connection.scalar(sa.select(table.c.status).where(mine).with_for_update())
    if status not in RUNNING_STATUSES:
        kept = responses.find(connection, owner, response_id) if status else None
        is_buried = kept is not None and kept.body.get("error") in (WORKER_DIED_ERROR, UNREADABLE)
        if not is_buried or body["status"] == "failed":
            return bool(status == body["status"])
    if body["status"] == "failed":
        kept = responses.find(connection, owner, response_id)
        before = responses.read_events_after(connection, owner, kept, -1) if kept else []
        body = {**body, "output": collect_output([*before, *log]) or body.get("output") or []}
    write_end(connection, owner, response_id, body, log)
    told = sa.update(table).where(table.c.owner == owner, table.c.id == response_id)
    connection.execute(told.values(upstream=upstream, upstream_id=upstream_id))
    return True


def end_work(
    connection: sa.Connection, owner: str, kept: StoredResponse, status: str, error: Json | None
) -> StoredResponse:
    """End work that is not one's own; gives it as it is then.

    What it had made is kept.  Nothing is done when it is over.
    """
    mine = sa.select(table.c.id).where(
        table.c.owner == owner, table.c.id == kept.id, table.c.status.in_(RUNNING_STATUSES)
    )
    if connection.execute(mine.with_for_update()).first() is None:
        return responses.find(connection, owner, kept.id) or kept
    told = responses.read_events_after(connection, owner, kept, -1)
    body = {**kept.body, "status": status, "output": collect_output(told), "error": error}
    number = told[-1]["sequence_number"] + 1 if told else 0
    # There is no event for what was cancelled: it ends incomplete, and its response says why.
    kind = "response.failed" if status == "failed" else "response.incomplete"
    last = {"type": kind, "sequence_number": number, "response": body}
    write_end(connection, owner, kept.id, body, [last])
    return kept._replace(status=status, body=body, lease=None, is_lost=False)


def write_end(
    connection: sa.Connection, owner: str, response_id: str, body: Json, log: Batch
) -> None:
    data, piece = pack_json(body), event_log.pack_events(log)
    count_written(connection, len(data) + len(piece.data))
    connection.execute(
        sa.update(table)
        .where(table.c.owner == owner, table.c.id == response_id)
        .values(
            status=body["status"],
            body=data,
            lease=None,
            request=None,
            size=table.c.size + len(data) + len(piece.data),
        )
    )
    responses.append_events(connection, owner, response_id, piece)
    responses.index_items(connection, owner, response_id, body.get("output") or ())


def reap(connection: sa.Connection, owner: str, response_id: str) -> StoredResponse | None:
    """End work whose lease has run out and that cannot be begun anew; None if it is not so."""
    return reap_matching(
        connection, owner, response_id, table.c.request.is_(None), WORKER_DIED_ERROR
    )


def reap_unreadable(
    connection: sa.Connection, owner: str, response_id: str
) -> StoredResponse | None:
    """End work that has waited too long for a worker that can read it; None if it has not."""
    is_old = table.c.lease < NOW - MAX_UNREADABLE_SECONDS
    return reap_matching(connection, owner, response_id, is_old, UNREADABLE)


def reap_matching(
    connection: sa.Connection,
    owner: str,
    response_id: str,
    which: sa.ColumnElement[bool],
    error: Json,
) -> StoredResponse | None:
    found = sa.select(table.c.id).where(match_response(owner, response_id), match_lapsed(), which)
    if connection.execute(found.with_for_update()).first() is None:
        return None
    kept = responses.find(connection, owner, response_id)
    return end_work(connection, owner, kept, "failed", error) if kept else None


def list_lost(connection: sa.Connection, skip: Collection[str] = ()) -> list[tuple[str, str]]:
    """Work whose lease has run out and that cannot be begun anew, as (owner, id).

    Without the responses whose ids are in ``skip``.
    """
    return list_ids(connection, match_lapsed() & table.c.request.is_(None), skip, None)


def list_waiting(
    connection: sa.Connection, skip: Collection[str] = (), only_handed_back: bool = False
) -> list[tuple[str, str]]:
    """Work that was handed back or whose lease has run out, and that can be begun anew.

    As (owner, id), at most MAX_WAITING, and without the responses whose ids are in ``skip`` and
    those whose conversation is held by another turn.
    """
    held = sa.exists().where(
        conversation_table.c.owner == table.c.owner,
        conversation_table.c.id == table.c.conversation,
        conversation_table.c.lease >= NOW,
    )
    which = match_lapsed() & table.c.request.is_not(None) & ~held
    if only_handed_back:
        which &= table.c.worker.is_(None)
    return list_ids(connection, which, skip, MAX_WAITING)


def is_running(connection: sa.Connection, owner: str, response_id: str) -> bool:
    """Does any worker make this response, or will one?"""
    running = table.c.status.in_(RUNNING_STATUSES) & ~table.c.hidden
    found = sa.select(table.c.id).where(match_response(owner, response_id), running)
    return connection.execute(found).first() is not None


def list_own(connection: sa.Connection, worker: str) -> set[tuple[str, str]]:
    """The unfinished work of a worker, as (owner, id)."""
    running = table.c.lease.is_not(None) & table.c.status.in_(RUNNING_STATUSES) & ~table.c.hidden
    return set(list_ids(connection, running & (table.c.worker == worker), (), None))


def match_lapsed() -> sa.ColumnElement[bool]:
    lapsed = table.c.lease.is_not(None) & (table.c.lease < NOW)
    return lapsed & table.c.status.in_(RUNNING_STATUSES) & ~table.c.hidden


def list_ids(
    connection: sa.Connection,
    which: sa.ColumnElement[bool],
    skip: Collection[str],
    limit: int | None,
) -> list[tuple[str, str]]:
    if skip:
        which &= table.c.id.not_in(skip)
    found = sa.select(table.c.owner, table.c.id).where(which).order_by(table.c.lease).limit(limit)
    return [(owner, name) for owner, name in connection.execute(found)]


def renew_leases(connection: sa.Connection, worker: str, names: list[str]) -> None:
    """Renew the leases of a worker's responses with these ids, and of no others."""
    own = (table.c.worker == worker) & table.c.id.in_(names) & table.c.status.in_(RUNNING_STATUSES)
    connection.execute(
        sa.update(table).where(own, table.c.lease.is_not(None)).values(lease=NEW_LEASE)
    )


# -- attempts -------------------------------------------------------------------------------------


class ClaimedWork(NamedTuple):
    """Work that was taken up.

    ``attempt`` counts the times that it was begun, ``next_number`` is that of its next event.
    ``origin`` is there when the upstream still makes the response, which is then only to be
    followed; its first ``known_events`` events, the opening ones not counted, are in the log.
    """

    response: StoredResponse
    request: str
    attempt: int
    next_number: int
    origin: ResponseOrigin | None = None
    known_events: int = 0


def grant_lease(
    connection: sa.Connection, owner: str, response_id: str, worker: str, request: str | None
) -> None:
    """Grant the first lease of a response that was just stored.

    ``request`` is its sealed request, if the work may be begun anew.
    """
    values = {"worker": worker, "lease": NEW_LEASE, "request": request, "attempt": 1}
    connection.execute(sa.update(table).where(match_response(owner, response_id)).values(values))


def find_request(connection: sa.Connection, owner: str, response_id: str) -> str | None:
    """The sealed request of work that can be begun anew."""
    request = connection.scalar(
        sa.select(table.c.request).where(match_response(owner, response_id))
    )
    return None if request is None else str(request)


def release_work(connection: sa.Connection, owner: str, response_id: str, worker: str) -> bool:
    """Let another worker take up one's own work; False if it cannot be begun anew."""
    own = match_own_work(owner, response_id, worker) & table.c.request.is_not(None)
    values = {"worker": None, "lease": NOW - 1.0, "status": "queued"}
    return connection.execute(sa.update(table).where(own).values(values)).rowcount > 0


def claim_work(
    connection: sa.Connection, owner: str, response_id: str, worker: str, max_attempts: int
) -> ClaimedWork | StoredResponse | None:
    """Make waiting work one's own; ``None`` if another worker was faster.

    After ``max_attempts`` attempts it fails: then the result is the response as it is stored.

    The events of earlier attempts are deleted, and the log goes on with ``response.queued`` under
    the next number.  Work that its upstream still does is no further attempt, unless a worker died
    over it: its log just goes on.
    """
    found = sa.select(table.c.request, table.c.attempt).where(
        match_response(owner, response_id), match_lapsed(), table.c.request.is_not(None)
    )
    row = connection.execute(found.with_for_update()).first()
    kept = responses.find(connection, owner, response_id) if row else None
    if row is None or kept is None:
        return None
    origin = ResponseOrigin(kept.upstream or "", kept.upstream_id) if kept.upstream_id else None
    was_handed_back = kept.worker is None
    attempt = row.attempt + (0 if origin and was_handed_back else 1)
    if attempt > max_attempts:
        return end_work(connection, owner, kept, "failed", WORKER_DIED_ERROR)
    values = {"worker": worker, "lease": NEW_LEASE, "attempt": attempt}
    mine = sa.update(table).where(match_response(owner, response_id))
    if origin is not None:
        connection.execute(mine.values({**values, "status": "in_progress"}))
        told = responses.read_events_after(connection, owner, kept, -1)
        known = sum(event["type"] not in OPENING_EVENTS for event in told)
        number = told[-1]["sequence_number"] + 1
        return ClaimedWork(kept, row.request, attempt, number, origin, known)
    metadata = {**(kept.body.get("metadata") or {}), ATTEMPT_KEY: str(attempt)}
    body = {**kept.body, "status": "queued", "metadata": metadata}
    number, size = delete_attempt_events(connection, owner, response_id)
    more = {
        "status": "queued",
        "request": None if attempt == max_attempts else row.request,
        "body": pack_json(body),
        "before": read_last_item_number(connection, owner, kept.conversation),
        "size": table.c.size - size,
    }
    connection.execute(mine.values(values | more))
    queued = {"type": "response.queued", "response": body, "sequence_number": number}
    responses.append_events(connection, owner, response_id, event_log.pack_events([queued]))
    return ClaimedWork(kept._replace(status="queued", body=body), row.request, attempt, number + 1)


def read_last_item_number(
    connection: sa.Connection, owner: str, conversation: str | None
) -> int | None:
    if conversation is None:
        return None
    return conversations.read_last_number(connection, owner, conversation)


def delete_attempt_events(
    connection: sa.Connection, owner: str, response_id: str
) -> tuple[int, int]:
    """Delete the events of an attempt; the number of the next event, and the size of these."""
    own = (events.c.owner == owner) & (events.c.response == response_id)
    last = connection.scalar(sa.select(sa.func.max(events.c.last)).where(own))
    void = own & (events.c.first >= OPENING_EVENT_COUNT)
    size = sa.select(sa.func.coalesce(sa.func.sum(sa.func.length(events.c.data)), 0))
    freed = connection.scalar(size.where(void))
    connection.execute(sa.delete(events).where(void))
    return (OPENING_EVENT_COUNT if last is None else int(last) + 1), int(freed or 0)


def match_response(owner: str, response_id: str) -> sa.ColumnElement[bool]:
    return (table.c.owner == owner) & (table.c.id == response_id)
