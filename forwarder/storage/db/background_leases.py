"""Rows of background responses: ownership by workers, leases, and how responses end.

A worker writes only while it owns a response that has not ended. Cancellation is final.

A response whose lease has expired is taken over by another worker if its ``request`` is stored;
otherwise it fails. If the original worker is alive after all and finishes the response, its answer
replaces that failure. The database clock grants and evaluates leases, and expired leases are
evaluated only after `Database.is_stable`.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

import sqlalchemy as sa

from forwarder.core.types import Batch, Json
from forwarder.protocols.partial_output import collect_output
from forwarder.storage.db import conversations, event_log_encoding, responses
from forwarder.storage.db.clock import NEW_LEASE, NOW
from forwarder.storage.db.compression import SpendCallback, count_written, pack_json
from forwarder.storage.db.responses import RUNNING_STATUSES, StoredResponse, match_response
from forwarder.storage.db.tables import conversations as conversation_table
from forwarder.storage.db.tables import events
from forwarder.storage.db.tables import responses as table

OPENING_EVENT_COUNT = 2
"""Number of initial events (created, queued) in a log; jobs append the others."""

OPENING_EVENTS = ("response.created", "response.queued", "response.in_progress")
"""Events at the start of an upstream answer that a background response has of its own."""

ATTEMPT_KEY = "forwarder.attempt"
"""Metadata key with the number of the attempt, from the second attempt on."""

MAX_WAITING = 8
"""Responses returned by one search, so that several workers share the waiting jobs."""

MAX_UNREADABLE_SECONDS = 3600.0
"""Seconds that a job waits for a worker that can decrypt its request."""

WORKER_DIED_ERROR: Json = {
    "code": "server_error",
    "message": "The worker that made this response died before it was done.",
}
UNREADABLE_REQUEST_ERROR: Json = {
    "code": "server_error",
    "message": "No running worker can read the stored request of this response: it was sealed "
    "under another FORWARDER_SECRET_KEY or by another version of the forwarder.",
}


def match_own_work(owner: str, response_id: str, worker: str) -> sa.ColumnElement[bool]:
    mine = (table.c.owner == owner) & (table.c.id == response_id) & (table.c.worker == worker)
    return mine & table.c.status.in_(RUNNING_STATUSES) & ~table.c.hidden


class ResponseOrigin(NamedTuple):
    """An upstream that stores a response, and the response's id there."""

    upstream: str
    upstream_id: str


def append_progress(
    connection: sa.Connection, owner: str, response_id: str, worker: str, log: Batch
) -> bool:
    """Append events to the log of an own response. False if it belongs to another worker now."""
    chunk = event_log_encoding.pack_events(log)
    values = {"status": "in_progress", "lease": NEW_LEASE, "size": table.c.size + len(chunk.data)}
    mine = sa.update(table).where(match_own_work(owner, response_id, worker)).values(values)
    if connection.execute(mine).rowcount == 0:
        return False
    count_written(connection, len(chunk.data))
    responses.append_events(connection, owner, response_id, chunk)
    return True


def set_origin(
    connection: sa.Connection,
    owner: str,
    response_id: str,
    worker: str,
    origin: ResponseOrigin,
    request: str | None,
) -> bool:
    """Store the origin of an own response, so that another worker can follow it.

    ``request`` is the encrypted request. False if the response belongs to another worker now.
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
    """Store the final response of a job. False if the response has ended in another way.

    Storing the same end again succeeds. An answer replaces a failure that another worker
    stored only because the lease had expired. The output of a failed response contains everything
    that was produced.
    """
    mine = match_response(owner, response_id) & (table.c.worker == worker) & ~table.c.hidden
    status = connection.scalar(sa.select(table.c.status).where(mine).with_for_update())
    if status not in RUNNING_STATUSES:
        stored = responses.find(connection, owner, response_id) if status else None
        failed_by_lease = stored is not None and stored.body.get("error") in (
            WORKER_DIED_ERROR,
            UNREADABLE_REQUEST_ERROR,
        )
        if not failed_by_lease or body["status"] == "failed":
            return bool(status == body["status"])
    if body["status"] == "failed":
        stored = responses.find(connection, owner, response_id)
        before = responses.read_events_after(connection, owner, stored, -1) if stored else []
        body = {**body, "output": collect_output([*before, *log]) or body.get("output") or []}
    write_end(connection, owner, response_id, body, log)
    update = sa.update(table).where(table.c.owner == owner, table.c.id == response_id)
    connection.execute(update.values(upstream=upstream, upstream_id=upstream_id))
    return True


def end_work(
    connection: sa.Connection, owner: str, stored: StoredResponse, status: str, error: Json | None
) -> StoredResponse:
    """End a response of any worker. Returns the stored response; no change if it has ended already.

    Output that was produced so far is kept.
    """
    mine = sa.select(table.c.id).where(
        table.c.owner == owner, table.c.id == stored.id, table.c.status.in_(RUNNING_STATUSES)
    )
    if connection.execute(mine.with_for_update()).first() is None:
        return responses.find(connection, owner, stored.id) or stored
    logged_events = responses.read_events_after(connection, owner, stored, -1)
    body = {
        **stored.body,
        "status": status,
        "output": collect_output(logged_events),
        "error": error,
    }
    number = logged_events[-1]["sequence_number"] + 1 if logged_events else 0
    # There is no event for cancellation: the last event is response.incomplete.
    kind = "response.failed" if status == "failed" else "response.incomplete"
    last = {"type": kind, "sequence_number": number, "response": body}
    write_end(connection, owner, stored.id, body, [last])
    return stored._replace(status=status, body=body, lease=None, is_lost=False)


def write_end(
    connection: sa.Connection, owner: str, response_id: str, body: Json, log: Batch
) -> None:
    data, chunk = pack_json(body), event_log_encoding.pack_events(log)
    count_written(connection, len(data) + len(chunk.data))
    connection.execute(
        sa.update(table)
        .where(table.c.owner == owner, table.c.id == response_id)
        .values(
            status=body["status"],
            body=data,
            lease=None,
            request=None,
            size=table.c.size + len(data) + len(chunk.data),
        )
    )
    responses.append_events(connection, owner, response_id, chunk)
    responses.index_items(connection, owner, response_id, body.get("output") or ())


def fail_lost(connection: sa.Connection, owner: str, response_id: str) -> StoredResponse | None:
    """Fail a response with an expired lease that cannot be repeated. None if it is not lost."""
    return fail_matching(
        connection, owner, response_id, table.c.request.is_(None), WORKER_DIED_ERROR
    )


def fail_unreadable(
    connection: sa.Connection, owner: str, response_id: str
) -> StoredResponse | None:
    """Fail a response that waited too long to be decrypted. None if it may still wait."""
    is_old = table.c.lease < NOW - MAX_UNREADABLE_SECONDS
    return fail_matching(connection, owner, response_id, is_old, UNREADABLE_REQUEST_ERROR)


def fail_matching(
    connection: sa.Connection,
    owner: str,
    response_id: str,
    condition: sa.ColumnElement[bool],
    error: Json,
) -> StoredResponse | None:
    query = sa.select(table.c.id).where(
        match_response(owner, response_id), match_expired(), condition
    )
    if connection.execute(query.with_for_update()).first() is None:
        return None
    stored = responses.find(connection, owner, response_id)
    return end_work(connection, owner, stored, "failed", error) if stored else None


def list_lost(connection: sa.Connection, skip: Collection[str] = ()) -> list[tuple[str, str]]:
    """Return jobs whose lease has expired and that cannot be repeated, as (owner, id).

    Leaves out ids in ``skip``.
    """
    return list_ids(connection, match_expired() & table.c.request.is_(None), skip, None)


def list_waiting(
    connection: sa.Connection, skip: Collection[str] = (), only_released: bool = False
) -> list[tuple[str, str]]:
    """Return released or expired jobs that can be repeated, as (owner, id), at most `MAX_WAITING`.

    Leaves out ids in ``skip``, and responses whose conversation is locked by another turn.
    """
    is_locked = sa.exists().where(
        conversation_table.c.owner == table.c.owner,
        conversation_table.c.id == table.c.conversation,
        conversation_table.c.lease >= NOW,
    )
    condition = match_expired() & table.c.request.is_not(None) & ~is_locked
    if only_released:
        condition &= table.c.worker.is_(None)
    return list_ids(connection, condition, skip, MAX_WAITING)


def is_running(connection: sa.Connection, owner: str, response_id: str) -> bool:
    """Whether a response is queued or in progress."""
    running = table.c.status.in_(RUNNING_STATUSES) & ~table.c.hidden
    query = sa.select(table.c.id).where(match_response(owner, response_id), running)
    return connection.execute(query).first() is not None


def list_own(connection: sa.Connection, worker: str) -> set[tuple[str, str]]:
    """Return the unfinished jobs of a worker, as (owner, id)."""
    running = table.c.lease.is_not(None) & table.c.status.in_(RUNNING_STATUSES) & ~table.c.hidden
    return set(list_ids(connection, running & (table.c.worker == worker), (), None))


def match_expired() -> sa.ColumnElement[bool]:
    is_expired = table.c.lease.is_not(None) & (table.c.lease < NOW)
    return is_expired & table.c.status.in_(RUNNING_STATUSES) & ~table.c.hidden


def list_ids(
    connection: sa.Connection,
    condition: sa.ColumnElement[bool],
    skip: Collection[str],
    limit: int | None,
) -> list[tuple[str, str]]:
    if skip:
        condition &= table.c.id.not_in(skip)
    query = (
        sa.select(table.c.owner, table.c.id).where(condition).order_by(table.c.lease).limit(limit)
    )
    return [(owner, name) for owner, name in connection.execute(query)]


def renew_leases(connection: sa.Connection, worker: str, names: list[str]) -> None:
    """Renew a worker's leases on the responses with these ids."""
    own = (table.c.worker == worker) & table.c.id.in_(names) & table.c.status.in_(RUNNING_STATUSES)
    connection.execute(
        sa.update(table).where(own, table.c.lease.is_not(None)).values(lease=NEW_LEASE)
    )


# -- attempts -------------------------------------------------------------------------------------


class ClaimedWork(NamedTuple):
    """A job that was taken over.

    ``attempt`` is the number of this attempt, ``next_number`` the sequence number of its next
    event. If ``origin`` is set, the upstream is still producing the response, and the worker only
    follows it; the log contains its first ``known_events`` events, without the opening ones.
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
    """Grant the first lease on a new response.

    ``request`` is the encrypted request if the job may be repeated.
    """
    values = {"worker": worker, "lease": NEW_LEASE, "request": request, "attempt": 1}
    connection.execute(sa.update(table).where(match_response(owner, response_id)).values(values))


def find_request(connection: sa.Connection, owner: str, response_id: str) -> str | None:
    """Return the encrypted request of a job that can be repeated."""
    request = connection.scalar(
        sa.select(table.c.request).where(match_response(owner, response_id))
    )
    return None if request is None else str(request)


def release_work(connection: sa.Connection, owner: str, response_id: str, worker: str) -> bool:
    """Release an own job to other workers. False if it cannot be repeated."""
    own = match_own_work(owner, response_id, worker) & table.c.request.is_not(None)
    values = {"worker": None, "lease": NOW - 1.0, "status": "queued"}
    return connection.execute(sa.update(table).where(own).values(values)).rowcount > 0


def claim_work(
    connection: sa.Connection,
    owner: str,
    response_id: str,
    worker: str,
    max_attempts: int,
    spend: SpendCallback | None = None,
) -> ClaimedWork | StoredResponse | None:
    """Take over a waiting job.

    Returns None if another worker claimed it first. After ``max_attempts`` attempts the response
    fails; then the failed response is returned. ``spend`` receives the JSON texts of the job before
    they are parsed.

    Events of earlier attempts are deleted, and the log continues with ``response.queued`` under the
    next number. If the upstream is still producing the response, its log continues unchanged, and
    the takeover counts as an attempt only if a worker has died.
    """
    query = sa.select(table.c.request, table.c.attempt).where(
        match_response(owner, response_id), match_expired(), table.c.request.is_not(None)
    )
    row = connection.execute(query.with_for_update()).first()
    stored = responses.find(connection, owner, response_id, spend=spend) if row else None
    if row is None or stored is None:
        return None
    origin = (
        ResponseOrigin(stored.upstream or "", stored.upstream_id) if stored.upstream_id else None
    )
    was_released = stored.worker is None
    attempt = row.attempt + (0 if origin and was_released else 1)
    if attempt > max_attempts:
        return end_work(connection, owner, stored, "failed", WORKER_DIED_ERROR)
    values = {"worker": worker, "lease": NEW_LEASE, "attempt": attempt}
    mine = sa.update(table).where(match_response(owner, response_id))
    if origin is not None:
        connection.execute(mine.values({**values, "status": "in_progress"}))
        logged_events = responses.read_events_after(connection, owner, stored, -1)
        known = sum(event["type"] not in OPENING_EVENTS for event in logged_events)
        number = logged_events[-1]["sequence_number"] + 1
        return ClaimedWork(stored, row.request, attempt, number, origin, known)
    metadata = {**(stored.body.get("metadata") or {}), ATTEMPT_KEY: str(attempt)}
    body = {**stored.body, "status": "queued", "metadata": metadata}
    number, size = delete_attempt_events(connection, owner, response_id)
    last_number = None
    if stored.conversation is not None:
        last_number = conversations.read_last_number(connection, owner, stored.conversation)
    reset = {
        "status": "queued",
        "request": None if attempt == max_attempts else row.request,
        "body": pack_json(body),
        "before": last_number,
        "size": table.c.size - size,
    }
    connection.execute(mine.values(values | reset))
    queued = {"type": "response.queued", "response": body, "sequence_number": number}
    responses.append_events(
        connection, owner, response_id, event_log_encoding.pack_events([queued])
    )
    return ClaimedWork(
        stored._replace(status="queued", body=body), row.request, attempt, number + 1
    )


def delete_attempt_events(
    connection: sa.Connection, owner: str, response_id: str
) -> tuple[int, int]:
    """Delete the events of an attempt. Returns the next sequence number and the deleted bytes."""
    own = (events.c.owner == owner) & (events.c.response == response_id)
    last = connection.scalar(sa.select(sa.func.max(events.c.last)).where(own))
    is_void = own & (events.c.first >= OPENING_EVENT_COUNT)
    size = sa.select(sa.func.coalesce(sa.func.sum(sa.func.length(events.c.data)), 0))
    freed = connection.scalar(size.where(is_void))
    connection.execute(sa.delete(events).where(is_void))
    return (OPENING_EVENT_COUNT if last is None else int(last) + 1), int(freed or 0)
