"""Stored responses: what was asked and answered, chains of them, and their event logs."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import orjson
import sqlalchemy as sa

from forwarder.core.types import Batch, Json
from forwarder.storage.db import event_log
from forwarder.storage.db.clock import NOW
from forwarder.storage.db.compression import SpendCallback, count_written, pack_json, unpack_json
from forwarder.storage.db.event_log import EventLogChunk
from forwarder.storage.db.ids import is_valid_id, split_batches
from forwarder.storage.db.statements import make_insert, make_upsert
from forwarder.storage.db.tables import events, items, responses

RUNNING_STATUSES = ("queued", "in_progress")
"""The states in which a response of background work is not over."""

MAX_CHAIN_LENGTH = 5000
"""How many responses a chain may have; what is before them is forgotten."""

MAX_LOADED_RESPONSES = 20
"""How many responses are loaded by one query when items of many of them are wanted."""

TOUCH_SECONDS = 86400.0
"""Seconds for which a use need not be noted again."""


class StoredResponse(NamedTuple):
    """A stored response.

    ``input`` is the request's own, as the client gave it, and ``previous`` what it continues;
    ``conversation`` is where it was said, after the item numbered ``before``.  ``upstream_id`` is
    its id at ``upstream``.  ``worker`` and ``lease`` (until when it is believed to be alive, in
    Unix seconds by the database's clock) are those of background work, and ``attempt`` counts how
    often it was begun.  ``is_lost`` is background work whose lease has run out and that cannot be
    begun anew; it is found out by the database, and not stored.
    """

    id: str
    status: str
    input: list[Json]
    body: Json
    created: float
    previous: str | None = None
    conversation: str | None = None
    before: int | None = None
    upstream: str | None = None
    upstream_id: str | None = None
    worker: str | None = None
    lease: float | None = None
    used: float = 0.0
    hidden: bool = False
    attempt: int | None = None
    is_lost: bool = False

    @property
    def is_running(self) -> bool:
        return self.status in RUNNING_STATUSES


INSERT_RESPONSE = make_insert(responses, "ON CONFLICT (owner, id) DO NOTHING")
INSERT_EVENTS = make_insert(events, "ON CONFLICT (owner, response, first) DO NOTHING")
UPSERT_ITEM = make_upsert(items)

_COLUMNS = StoredResponse._fields[:-1]
_IS_LOST = (
    responses.c.status.in_(RUNNING_STATUSES)
    & responses.c.lease.is_not(None)
    & (responses.c.lease < NOW)
    & responses.c.request.is_(None)
)
_FULL_COLUMNS = [*(responses.c[name] for name in _COLUMNS), _IS_LOST]
_CONTENT_COLUMNS = (responses.c.input, responses.c.body)
_CONTENT_NAMES = ("input", "body")
_HEAD_COLUMNS = [
    *(sa.null() if n in _CONTENT_NAMES else responses.c[n] for n in _COLUMNS),
    _IS_LOST,
]
"""The same columns without the large ones."""

ROWS_PER_FETCH = 4
"""Rows with large columns that a server sends at once."""


def match_response(owner: str, response_id: str) -> sa.ColumnElement[bool]:
    return (responses.c.owner == owner) & (responses.c.id == response_id)


def find(
    connection: sa.Connection, owner: str, response_id: str, lock: bool = False
) -> StoredResponse | None:
    """A response that was not deleted; with ``lock`` nobody changes it until the transaction ends.

    (SQLite has one writer, and so nothing to lock.)
    """
    found = sa.select(*_FULL_COLUMNS).where(match_response(owner, response_id), ~responses.c.hidden)
    row = connection.execute(found.with_for_update() if lock else found).first()
    return to_stored_response(row) if row else None


def find_all(
    connection: sa.Connection, owner: str, names: Iterable[str]
) -> Iterator[StoredResponse]:
    """The responses of these ids that were not deleted, a few of them in memory at once."""
    waiting = iter(dict.fromkeys(names))
    while some := list(itertools.islice(waiting, MAX_LOADED_RESPONSES)):
        rows = connection.execute(
            sa.select(*_FULL_COLUMNS).where(
                responses.c.owner == owner, responses.c.id.in_(some), ~responses.c.hidden
            )
        )
        yield from map(to_stored_response, rows)


def read_chain(connection: sa.Connection, owner: str, response_id: str) -> list[StoredResponse]:
    """A response and what it continues, oldest first; empty when there is no such response.

    Their inputs and bodies are left out; `read_contents` has them.
    """
    start = sa.select(responses.c.previous, responses.c.id, sa.literal(0).label("depth")).where(
        match_response(owner, response_id), ~responses.c.hidden
    )
    walk = start.cte("walk", recursive=True)
    step = sa.select(responses.c.previous, responses.c.id, walk.c.depth + 1).where(
        responses.c.owner == owner,
        responses.c.id == walk.c.previous,
        walk.c.depth < MAX_CHAIN_LENGTH,
    )
    walk = walk.union_all(step)
    found = sa.select(*_HEAD_COLUMNS).join(
        walk, (responses.c.owner == owner) & (responses.c.id == walk.c.id)
    )
    rows = connection.execute(found.order_by(walk.c.depth.desc())).all()
    return [to_stored_response(row) for row in rows]


def to_stored_response(row: Sequence[Any]) -> StoredResponse:
    kept = StoredResponse(*row)
    if row[3] is None:  # a head
        return kept._replace(input=[], body={})
    body = {**unpack_json(row[3]), "status": kept.status}
    return kept._replace(input=unpack_json(row[2]), body=body)


def read_contents(
    connection: sa.Connection, owner: str, names: Iterable[str], spend: SpendCallback | None = None
) -> dict[str, tuple[list[Json], list[Json]]]:
    """Responses by their ids: the input and the output of each."""
    which = (responses.c.owner == owner) & responses.c.id.in_(list(names))
    found = sa.select(responses.c.id, *_CONTENT_COLUMNS).where(which)
    contents: dict[str, tuple[list[Json], list[Json]]] = {}
    for name, given, body in connection.execute(found.execution_options(yield_per=ROWS_PER_FETCH)):
        output = unpack_json(body).get("output") or []
        if spend is not None:
            spend(orjson.dumps(output))
        contents[name] = unpack_json(given, spend), output
    return contents


def add(
    connection: sa.Connection, owner: str, kept: StoredResponse, log: Sequence[EventLogChunk]
) -> None:
    """Store a response, in place of one with its id, and what is known of its events."""
    given, body = pack_json(kept.input), pack_json(kept.body)
    whole = log[0].data if len(log) == 1 and not kept.is_running else None
    row = {name: getattr(kept, name) for name in _COLUMNS} | {
        "owner": owner,
        "request": None,
        "input": given,
        "body": body,
        "used": kept.created,
        "log": whole,
        "size": len(given) + len(body) + sum(len(piece.data) for piece in log),
    }
    count_written(connection, row["size"])
    if not INSERT_RESPONSE.run(connection, row):  # some upstreams give an id twice
        connection.execute(sa.delete(responses).where(match_response(owner, kept.id)))
        INSERT_RESPONSE.run(connection, row)
    if whole is None:
        append_events(connection, owner, kept.id, *log)
    index_input(connection, owner, kept)
    index_items(connection, owner, kept.id, kept.body.get("output") or ())


def index_input(connection: sa.Connection, owner: str, kept: StoredResponse) -> None:
    """Note where items are that came with ids; those that a response gave are known."""
    given = {item["id"] for item in kept.input if has_own_id(item)}
    if given:
        fresh = set(given)
        for some in split_batches(given):
            there = sa.select(items.c.id).where(items.c.owner == owner, items.c.id.in_(some))
            fresh.difference_update(connection.scalars(there))
        index_items(connection, owner, kept.id, [{"id": name} for name in fresh])


def has_own_id(item: Any) -> bool:
    is_item = isinstance(item, dict) and item.get("type", "message") != "item_reference"
    return is_item and isinstance(item.get("id"), str)


def append_events(
    connection: sa.Connection, owner: str, response_id: str, *log: EventLogChunk
) -> None:
    """Store pieces of a response's event log.

    A piece with the same first event is replaced: it was stored by a commit that took effect but
    was not acknowledged, and its writer has repeated it, perhaps with more events.
    """
    own = {"owner": owner, "response": response_id}
    for piece in log:
        if not INSERT_EVENTS.run(connection, row := own | piece._asdict()):
            cut_log(connection, owner, response_id, piece.first)
            INSERT_EVENTS.run(connection, row)


def cut_log(connection: sa.Connection, owner: str, response_id: str, first: int) -> None:
    """Delete the pieces of a response's event log that begin with this event or a later one."""
    cut = (events.c.owner == owner) & (events.c.response == response_id) & (events.c.first >= first)
    size = sa.select(sa.func.coalesce(sa.func.sum(sa.func.length(events.c.data)), 0))
    freed = int(connection.scalar(size.where(cut)) or 0)
    connection.execute(sa.delete(events).where(cut))
    smaller = sa.update(responses).where(match_response(owner, response_id))
    connection.execute(smaller.values(size=responses.c.size - freed))


def index_items(connection: sa.Connection, owner: str, of: str, output: Iterable[Json]) -> None:
    """Note where items are; one that is given once more is where it was given last."""
    names = sorted(filter(is_valid_id, {str(item["id"]) for item in output if item.get("id")}))
    if names:
        UPSERT_ITEM.run(
            connection, *({"owner": owner, "id": name, "response": of} for name in names)
        )


def touch(connection: sa.Connection, owner: str, names: list[str]) -> None:
    """Note that responses are in use, which keeps them."""
    connection.execute(
        sa.update(responses)
        .where(responses.c.owner == owner, responses.c.id.in_(names))
        .values(used=time.time())
    )


def is_stale(kept: StoredResponse) -> bool:
    """Is it time to note that it is in use?"""
    return kept.used < time.time() - TOUCH_SECONDS


def remove(connection: sa.Connection, owner: str, response_id: str) -> bool:
    """Delete a response; one that others continue is only hidden, as long as there are others."""
    found = sa.select(responses.c.id).where(match_response(owner, response_id), ~responses.c.hidden)
    if connection.execute(found).first() is None:
        return False
    connection.execute(
        sa.update(responses)
        .where(match_response(owner, response_id))
        .values(hidden=True, lease=None, request=None)
    )
    connection.execute(
        sa.delete(items).where(items.c.owner == owner, items.c.response == response_id)
    )
    reap_hidden(connection, owner)
    return True


def reap_hidden(connection: sa.Connection, owner: str | None = None) -> None:
    """Delete what is hidden and that nothing stands on any more, of one owner or of all."""
    later = responses.alias("later")
    continued = sa.exists().where(
        later.c.owner == responses.c.owner, later.c.previous == responses.c.id
    )
    buried = sa.delete(responses).where(responses.c.hidden, ~continued)
    if owner is not None:
        buried = buried.where(responses.c.owner == owner)
    while connection.execute(buried).rowcount > 0:
        pass  # what it stood on may be next


def find_items_by_id(
    connection: sa.Connection, owner: str, names: Iterable[str], spend: SpendCallback | None = None
) -> dict[str, Json]:
    """Items by their ids, as far as responses gave any, or were asked with them."""
    wanted = set(names)
    holders = sa.select(items.c.response).where(items.c.owner == owner, items.c.id.in_(wanted))
    found = sa.select(responses.c.input, responses.c.body).where(
        responses.c.owner == owner, responses.c.id.in_(holders.distinct())
    )
    asked: dict[str, Json] = {}
    told: dict[str, Json] = {}
    for given, body in connection.execute(found.execution_options(yield_per=ROWS_PER_FETCH)):
        output = unpack_json(body).get("output") or ()
        fresh = {i["id"]: i for i in output if has_own_id(i) and i["id"] in wanted}
        told |= fresh
        for item in filter(has_own_id, unpack_json(given)):
            name = item["id"]
            if name in wanted and name not in told and name not in asked:
                fresh[name] = item
        asked = {**fresh, **asked}
        if spend is not None:
            for item in fresh.values():
                spend(orjson.dumps(item))
    return asked | told


def read_events_after(
    connection: sa.Connection, owner: str, kept: StoredResponse, number: int
) -> Batch:
    """The events of a response with higher numbers."""
    whole = sa.select(responses.c.log).where(
        match_response(owner, kept.id), responses.c.log.is_not(None)
    )
    pieces = (
        sa.select(events.c.data)
        .where(events.c.owner == owner, events.c.response == kept.id, events.c.last > number)
        .order_by(events.c.first)
    )
    data = [*connection.scalars(whole), *connection.scalars(pieces)]
    found = (e for piece in data for e in event_log.unpack_events(piece, kept.body))
    return [event for event in found if event["sequence_number"] > number]
