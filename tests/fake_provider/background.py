"""Background work in a test's own database: what upstreams answer, and what becomes of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from forwarder.context.request_context import Exchange
from forwarder.core.errors import StoreUnavailable
from forwarder.core.shutdown import Running
from forwarder.core.translation_context import Ledger
from forwarder.core.types import Batch, Json, Stream
from forwarder.storage.background import Background, Follow, Made, Takeover, Task
from forwarder.storage.conversation_lock import Holds
from forwarder.storage.db import background_leases
from forwarder.storage.db.database import Sqlite

ITEM: Json = {"type": "message", "id": "msg_1", "role": "assistant", "content": []}
THEIRS: Json = {"id": "theirs", "status": "in_progress", "output": [], "usage": None}


def event(kind: str, **more: Any) -> Json:
    return {"type": f"response.{kind}", "sequence_number": 77, **more}


ANSWER: list[Batch] = [
    [event("created", response=THEIRS), event("in_progress", response=THEIRS)],
    [event("output_text.delta", delta="x")],
    [event("completed", response={**THEIRS, "status": "completed", "output": [ITEM]})],
]


def task(made: Made, **more: Any) -> Task:
    def unfollowable(origin: background_leases.Origin) -> Stream:
        raise AssertionError

    return Task(made, **{"follow": unfollowable, **more})


def start(background: Background, answer: Stream, **request: Any) -> str:
    asked = {"model": "m", "input": "hi", **request}
    exchange = Exchange("x", "background", Ledger())
    return str(background.start("o", asked, exchange, task(lambda: answer))["id"])


def heard(background: Background, name: str, after: int = -1) -> list[Json]:
    deadline = time.monotonic() + 10

    def waited(seconds: float) -> bool:
        time.sleep(0.01)
        return time.monotonic() < deadline

    told = background.told("o", name, after, 60, waited)
    return [event for batch in told for event in batch]


def until(holds: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 10
    while not (found := holds()):
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.01)
    return found


class Outage:
    """While it lasts, a database takes no end of any work."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.lasts = True
        self.tries = 0
        finish = background_leases.finish

        def refuse(*given: Any) -> bool:
            self.tries += self.lasts
            if self.lasts:
                raise StoreUnavailable
            return finish(*given)

        monkeypatch.setattr(background_leases, "finish", refuse)


def waiting_for(go: threading.Event, answer: list[Batch] | None = None) -> Iterator[Batch]:
    go.wait(10)
    yield from answer or ANSWER


def lapse(database: Sqlite) -> None:
    database.write(lambda c: c.execute(sa.text("UPDATE responses SET lease = lease - 60")))


def serve(
    background: Background, revive: Callable[[Exchange, background_leases.Taken], Task], **more: Any
) -> list[Exchange]:
    """Take work up from now on; the exchanges that were made for it."""
    admitted: list[Exchange] = []

    def admit() -> Exchange:
        admitted.append(Exchange("again", "background", Ledger()))
        return admitted[-1]

    def refuse_to_cancel(origin: background_leases.Origin, request: str | None) -> None:
        raise AssertionError

    given: Any = {"admit": admit, "can_read": bool, "cancel": refuse_to_cancel, **more}
    background.serve(Takeover(revive=revive, **given))
    return admitted


def leave_behind(database: Sqlite, made: Made, **given: Any) -> str:
    """Work of a worker that handles nothing any more; its name."""
    dead = Background(database, Running(), Holds(database))
    asked = {"model": "m", "input": "hi", "metadata": {"a": "b"}, **given}
    told = task(made, request="sealed", repeats=True)
    name = str(dead.start("o", asked, Exchange("x", "background", Ledger()), told)["id"])
    until(lambda: dead.found("o", name).status == "in_progress")
    dead._jobs.clear()  # it renews no lease
    return name


def heard_so_far(background: Background, name: str) -> list[Json]:
    return [e for batch in background.told("o", name, -1, 60, lambda _: False) for e in batch]


KEPT: Json = {**THEIRS, "background": True}
NATIVE: list[Batch] = [
    [event("created", response=KEPT)],
    [event("output_text.delta", delta="x"), event("output_text.delta", delta="y")],
    [event("completed", response={**KEPT, "status": "completed", "output": [ITEM]})],
]


def start_native(background: Background, made: Made, follow: Follow) -> str:
    exchange = Exchange("x", "background", Ledger(), upstream="up")
    told = task(made, follow=follow, request="sealed")
    return str(background.start("o", {"model": "m", "input": "hi"}, exchange, told)["id"])
