"""Rows of stored responses, chains of responses, and their event logs."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import orjson
import sqlalchemy as sa

from forwarder.core.stored_data_limit import StoredDataLimit
from forwarder.core.types import Batch, Json
from forwarder.storage.db import event_log_encoding
from forwarder.storage.db.clock import NOW
from forwarder.storage.db.compression import (
    SpendCallback,
    count_written,
    pack_json,
    unpack_json,
    unpack_text,
)
from forwarder.storage.db.event_log_encoding import EventLogChunk
from forwarder.storage.db.statements import make_insert, make_upsert
from forwarder.storage.db.tables import events, is_valid_id, items, responses, split_batches

RUNNING_STATUSES = ("queued", "in_progress")
"""Statuses of a background response that has not ended."""

MAX_CHAIN_LENGTH = 5000
"""Maximum number of responses in a chain; earlier ones are ignored."""

TOUCH_SECONDS = 86400.0
"""Seconds until a further use of a response is recorded."""


class StoredResponse(NamedTuple):
    """A response row.

    ``input`` is the request's own input as received, and ``previous`` the response that it
    continues. ``conversation`` is its conversation, in which it follows the item numbered
    ``before``. ``upstream_id`` is its id at ``upstream``. Background responses have ``worker``,
    ``lease`` (expiry time in Unix seconds by the database clock) and ``attempt``, the number of
    attempts. ``is_lost`` is computed by the query: the lease has expired and the job cannot be
    repeated.
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
_BODY_COLUMNS = [sa.null() if c is responses.c.input else c for c in _FULL_COLUMNS]
"""The same columns without the input, which may be much larger than the body."""

_CONTENT_COLUMNS = (responses.c.input, responses.c.body)
_CONTENT_NAMES = ("input", "body")
_HEAD_COLUMNS = [
    *(sa.null() if n in _CONTENT_NAMES else responses.c[n] for n in _COLUMNS),
    _IS_LOST,
]
"""The same columns without the input and the body."""

ROWS_PER_FETCH = 4
"""Rows with large columns that a database server sends at once."""


def match_response(owner: str, response_id: str) -> sa.ColumnElement[bool]:
    return (responses.c.owner == owner) & (responses.c.id == response_id)


def find(
    connection: sa.Connection,
    owner: str,
    response_id: str,
    lock: bool = False,
    with_input: bool = True,
    spend: SpendCallback | None = None,
) -> StoredResponse | None:
    """Return a response that is not deleted; ``lock`` locks its row until the transaction ends.

    SQLite has a single writer and needs no row lock. Without ``with_input``, the input is empty.
    """
    columns = _FULL_COLUMNS if with_input else _BODY_COLUMNS
    query = sa.select(*columns).where(match_response(owner, response_id), ~responses.c.hidden)
    row = connection.execute(query.with_for_update() if lock else query).first()
    return to_stored_response(row, spend) if row else None


def read_chain(connection: sa.Connection, owner: str, response_id: str) -> list[StoredResponse]:
    """Return a response and those that it continues, oldest first; empty if it does not exist.

    Inputs and bodies are left out; `read_contents` returns them.
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
    query = sa.select(*_HEAD_COLUMNS).join(
        walk, (responses.c.owner == owner) & (responses.c.id == walk.c.id)
    )
    rows = connection.execute(query.order_by(walk.c.depth.desc())).all()
    return [to_stored_response(row) for row in rows]


def to_stored_response(row: Sequence[Any], spend: SpendCallback | None = None) -> StoredResponse:
    stored = StoredResponse(*row)
    if row[3] is None:  # selected by `_HEAD_COLUMNS`
        return stored._replace(input=[], body={})
    body = {**unpack_json(row[3], spend), "status": stored.status}
    response_input = [] if row[2] is None else unpack_json(row[2], spend)
    return stored._replace(input=response_input, body=body)


def read_contents(
    connection: sa.Connection, owner: str, names: Iterable[str], spend: SpendCallback | None = None
) -> dict[str, tuple[list[Json], list[Json]]]:
    """Return (input, output) of responses, by id."""
    condition = (responses.c.owner == owner) & responses.c.id.in_(list(names))
    query = sa.select(responses.c.id, *_CONTENT_COLUMNS).where(condition)
    contents: dict[str, tuple[list[Json], list[Json]]] = {}
    for name, input_data, body in connection.execute(
        query.execution_options(yield_per=ROWS_PER_FETCH)
    ):
        output = unpack_json(body).get("output") or []
        if spend is not None:
            spend(orjson.dumps(output))
        contents[name] = unpack_json(input_data, spend), output
    return contents


def add(
    connection: sa.Connection, owner: str, stored: StoredResponse, log: Sequence[EventLogChunk]
) -> None:
    """Store a response with its event log, replacing one with the same id."""
    packed_input, body = pack_json(stored.input), pack_json(stored.body)
    whole = log[0].data if len(log) == 1 and not stored.is_running else None
    row = {name: getattr(stored, name) for name in _COLUMNS} | {
        "owner": owner,
        "request": None,
        "input": packed_input,
        "body": body,
        "used": stored.created,
        "log": whole,
        "size": len(packed_input) + len(body) + sum(len(chunk.data) for chunk in log),
    }
    count_written(connection, row["size"])
    if not INSERT_RESPONSE.run(connection, row):  # some upstreams reuse ids
        connection.execute(sa.delete(responses).where(match_response(owner, stored.id)))
        INSERT_RESPONSE.run(connection, row)
    if whole is None:
        append_events(connection, owner, stored.id, *log)
    index_input(connection, owner, stored)
    index_items(connection, owner, stored.id, stored.body.get("output") or ())


def index_input(connection: sa.Connection, owner: str, stored: StoredResponse) -> None:
    """Index input items with ids, except those that are in the index already."""
    item_ids = {item["id"] for item in stored.input if has_own_id(item)}
    if item_ids:
        new_ids = set(item_ids)
        for batch in split_batches(item_ids):
            known_ids = sa.select(items.c.id).where(items.c.owner == owner, items.c.id.in_(batch))
            new_ids.difference_update(connection.scalars(known_ids))
        index_items(connection, owner, stored.id, [{"id": name} for name in new_ids])


def has_own_id(item: Any) -> bool:
    is_item = isinstance(item, dict) and item.get("type", "message") != "item_reference"
    return is_item and isinstance(item.get("id"), str)


def append_events(
    connection: sa.Connection, owner: str, response_id: str, *log: EventLogChunk
) -> None:
    """Store chunks of a response's event log.

    A chunk with the same first event is replaced: an earlier commit took effect without being
    acknowledged, and the writer has repeated it, possibly with more events.
    """
    own = {"owner": owner, "response": response_id}
    for chunk in log:
        if not INSERT_EVENTS.run(connection, row := own | chunk._asdict()):
            cut_log(connection, owner, response_id, chunk.first)
            INSERT_EVENTS.run(connection, row)


def cut_log(connection: sa.Connection, owner: str, response_id: str, first: int) -> None:
    """Delete the chunks of a response's event log that start at event ``first`` or later."""
    cut = (events.c.owner == owner) & (events.c.response == response_id) & (events.c.first >= first)
    size = sa.select(sa.func.coalesce(sa.func.sum(sa.func.length(events.c.data)), 0))
    freed = int(connection.scalar(size.where(cut)) or 0)
    connection.execute(sa.delete(events).where(cut))
    smaller = sa.update(responses).where(match_response(owner, response_id))
    connection.execute(smaller.values(size=responses.c.size - freed))


def index_items(
    connection: sa.Connection, owner: str, response_id: str, output: Iterable[Json]
) -> None:
    """Record which response contains each item; the latest response wins."""
    names = sorted(filter(is_valid_id, {str(item["id"]) for item in output if item.get("id")}))
    if names:
        UPSERT_ITEM.run(
            connection, *({"owner": owner, "id": name, "response": response_id} for name in names)
        )


def touch(connection: sa.Connection, owner: str, names: list[str]) -> None:
    """Update the last use of responses, which protects them from pruning."""
    connection.execute(
        sa.update(responses)
        .where(responses.c.owner == owner, responses.c.id.in_(names))
        .values(used=time.time())
    )


def is_stale(stored: StoredResponse) -> bool:
    """Whether the last use should be updated."""
    return stored.used < time.time() - TOUCH_SECONDS


def remove(connection: sa.Connection, owner: str, response_id: str) -> bool:
    """Delete a response; hide it while other responses continue it. Returns whether it existed."""
    query = sa.select(responses.c.id).where(match_response(owner, response_id), ~responses.c.hidden)
    if connection.execute(query).first() is None:
        return False
    connection.execute(
        sa.update(responses)
        .where(match_response(owner, response_id))
        .values(hidden=True, lease=None, request=None)
    )
    connection.execute(
        sa.delete(items).where(items.c.owner == owner, items.c.response == response_id)
    )
    delete_hidden(connection, owner)
    return True


def delete_hidden(connection: sa.Connection, owner: str | None = None) -> None:
    """Delete hidden responses that no response continues, of one owner or of all."""
    later = responses.alias("later")
    continued = sa.exists().where(
        later.c.owner == responses.c.owner, later.c.previous == responses.c.id
    )
    deletion = sa.delete(responses).where(responses.c.hidden, ~continued)
    if owner is not None:
        deletion = deletion.where(responses.c.owner == owner)
    while connection.execute(deletion).rowcount > 0:
        pass  # repeat: the previous response of a deleted one may have no successor any more


def find_items_by_id(
    connection: sa.Connection, owner: str, names: Iterable[str], limit: StoredDataLimit
) -> dict[str, Json]:
    """Return existing items by id, from outputs and inputs of responses.

    An input is loaded only if the output of its response lacks a wanted item.
    """
    query = sa.select(items.c.response, items.c.id)
    wanted: dict[str, set[str]] = {}  # response -> ids of its items
    for response, name in connection.execute(
        query.where(items.c.owner == owner, items.c.id.in_(list(names)))
    ):
        wanted.setdefault(response, set()).add(name)
    found_items: dict[str, Json] = {}
    for column in (responses.c.body, responses.c.input):
        for response, data in read_column(connection, owner, column, wanted):
            text = unpack_text(data)
            with limit.reserve_search(text):
                content = orjson.loads(text)
                all_items = content if column is responses.c.input else content.get("output") or ()
                own = filter(has_own_id, all_items)
                matches = {item["id"]: item for item in own if item["id"] in wanted[response]}
                del content, all_items
            spend_items(limit, matches)
            found_items |= matches
            wanted[response] -= matches.keys()
        wanted = {response: missing for response, missing in wanted.items() if missing}
    return found_items


def find_items_by_place(
    connection: sa.Connection,
    owner: str,
    places: Mapping[str, Mapping[str, int]],
    limit: StoredDataLimit,
) -> dict[str, Json]:
    """Return items by name, from responses that are not deleted.

    ``places`` maps a response id to the positions of the wanted items, by name. Positions count the
    input and then the output. An output is loaded only for positions after the input.
    """
    found_items: dict[str, Json] = {}
    beyond: dict[str, dict[str, int]] = {}
    for response, data in read_column(connection, owner, responses.c.input, places):
        text = unpack_text(data)
        with limit.reserve_search(text):
            all_items = orjson.loads(text)
            count = len(all_items)
            inside = {name: i for name, i in places[response].items() if i < count}
            matches = {name: all_items[i] for name, i in inside.items()}
            del all_items
        spend_items(limit, matches)
        found_items |= matches
        rest = {name: i - count for name, i in places[response].items() if i >= count}
        if rest:
            beyond[response] = rest
    for response, data in read_column(connection, owner, responses.c.body, beyond):
        text = unpack_text(data)
        with limit.reserve_search(text):
            output = orjson.loads(text).get("output") or ()
            matches = {n: output[i] for n, i in beyond[response].items() if i < len(output)}
            del output
        spend_items(limit, matches)
        found_items |= matches
    return found_items


def read_column(
    connection: sa.Connection, owner: str, column: sa.Column[Any], names: Iterable[str]
) -> Iterator[tuple[str, bytes]]:
    """Yield (id, value of a column) of the responses ``names`` that are not deleted."""
    for batch in split_batches(names):
        query = sa.select(responses.c.id, column).where(
            responses.c.owner == owner, responses.c.id.in_(batch), ~responses.c.hidden
        )
        rows = connection.execute(query.execution_options(yield_per=ROWS_PER_FETCH))
        yield from ((name, value) for name, value in rows)


def spend_items(limit: StoredDataLimit, found_items: Mapping[str, Json]) -> None:
    """Count items that become part of the request. Raises the errors of `StoredDataLimit.spend`."""
    for item in found_items.values():
        limit.spend_value(item)


def read_events_after(
    connection: sa.Connection, owner: str, stored: StoredResponse, number: int
) -> Batch:
    """Return the events of a response with sequence numbers above ``number``."""
    whole = sa.select(responses.c.log).where(
        match_response(owner, stored.id), responses.c.log.is_not(None)
    )
    chunks = (
        sa.select(events.c.data)
        .where(events.c.owner == owner, events.c.response == stored.id, events.c.last > number)
        .order_by(events.c.first)
    )
    data = [*connection.scalars(whole), *connection.scalars(chunks)]
    logged = (e for chunk in data for e in event_log_encoding.unpack_events(chunk, stored.body))
    return [event for event in logged if event["sequence_number"] > number]
