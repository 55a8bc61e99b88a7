"""Background work in the store: whoever ends it first has ended it."""

from __future__ import annotations

import time
from typing import Any

import pytest

from forwarder.store import logs, responses, work
from forwarder.store.database import Sqlite
from forwarder.store.responses import Kept
from forwarder.translate.call import Json

ITEM: Json = {"type": "message", "id": "msg_1"}


def event(number: int, kind: str = "x", **more: Any) -> Json:
    return {"type": kind, "sequence_number": number, **more}


def queue(database: Sqlite, name: str = "a", lease: float = 60.0) -> Kept:
    body = {"id": name, "background": True, "output": []}
    one = Kept(name, "queued", [], body, 1.0, worker="w", lease=time.time() + lease)
    database.write(lambda c: responses.add(c, "o", one, [logs.pack([event(0)])]))
    return found(database, name)


def found(database: Sqlite, name: str = "a") -> Kept:
    kept = database.read(lambda c: responses.find(c, "o", name))
    assert kept is not None
    return kept


def told(database: Sqlite) -> list[Any]:
    one = found(database)
    log = database.read(lambda c: responses.log_after(c, "o", one, -1))
    return [(e["type"], e["sequence_number"]) for e in log]


def finished(database: Sqlite, worker: str = "w") -> bool:
    body = {"id": "a", "status": "completed", "output": [ITEM]}
    last = [event(2, "response.completed", response=body)]
    return database.write(lambda c: work.finish(c, "o", "a", worker, body, "up", last))


def test_work_goes_on_and_ends(database: Sqlite) -> None:
    queue(database)
    assert database.read(lambda c: work.mine(c, "w")) == {("o", "a")}
    assert database.write(lambda c: work.progress(c, "o", "a", "w", [event(1)]))
    assert found(database).status == "in_progress"
    assert finished(database)

    one = found(database)
    assert (one.status, one.upstream, one.lease, one.is_running) == ("completed", "up", None, False)
    assert [number for _, number in told(database)] == [0, 1, 2]
    assert database.read(lambda c: responses.items_named(c, "o", ["msg_1"])) == {"msg_1": ITEM}
    assert database.read(lambda c: work.mine(c, "w")) == set()


@pytest.mark.parametrize("worker", ["other", "w"])
def test_who_has_lost_it_writes_no_more(database: Sqlite, worker: str) -> None:
    one = queue(database)
    if worker == "w":
        database.write(lambda c: work.end(c, "o", one, "cancelled", None))
    before = told(database)

    assert not database.write(lambda c: work.progress(c, "o", "a", worker, [event(7)]))
    assert not finished(database, worker)
    assert told(database) == before


def test_what_was_made_is_kept_when_it_is_cancelled(database: Sqlite) -> None:
    one = queue(database)
    done = event(1, "response.output_item.done", item=ITEM)
    database.write(lambda c: work.progress(c, "o", "a", "w", [done, event(2)]))

    ended = database.write(lambda c: work.end(c, "o", one, "cancelled", None))
    assert ended.body == found(database).body
    assert (ended.body["status"], ended.body["output"]) == ("cancelled", [ITEM])
    assert told(database)[-1] == ("response.incomplete", 3)
    again = database.write(lambda c: work.end(c, "o", one, "failed", None))
    assert again.status == "cancelled"


def test_work_of_the_dead_is_found_and_has_failed(database: Sqlite) -> None:
    alive, dead = queue(database, "b"), queue(database, lease=-1)

    assert (work.is_lost(alive), work.is_lost(dead)) == (False, True)
    assert database.read(work.lost) == [("o", "a")]
    database.write(lambda c: work.bury(c, "o", dead))
    assert (found(database).status, found(database).body["error"]) == ("failed", work.DIED)
    assert told(database)[-1][0] == "response.failed"
    assert database.read(work.lost) == []


def test_a_sign_of_life_keeps_all_of_a_worker_s(database: Sqlite) -> None:
    queue(database, lease=-1)
    database.write(lambda c: work.renew(c, "other"))
    assert database.read(work.lost)
    database.write(lambda c: work.renew(c, "w"))
    assert not database.read(work.lost)
