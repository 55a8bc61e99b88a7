"""Background work in a test's own database: what upstreams answer, and what becomes of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from forwarder.context.request_context import RequestContext
from forwarder.core.errors import StoreUnavailable
from forwarder.core.shutdown import InFlightRequests
from forwarder.core.translation_context import LossReport
from forwarder.core.types import Batch, EventStream, Json
from forwarder.storage.background import (
    BackgroundRunner,
    BackgroundTask,
    StreamFollower,
    StreamOpener,
    TakeoverCallbacks,
)
from forwarder.storage.conversation_lock import ConversationLocks
from forwarder.storage.db import background_leases
from forwarder.storage.db.database import SqliteDatabase

ITEM: Json = {"type": "message", "id": "msg_1", "role": "assistant", "content": []}
THEIRS: Json = {"id": "theirs", "status": "in_progress", "output": [], "usage": None}


def event(kind: str, **more: Any) -> Json:
    return {"type": f"response.{kind}", "sequence_number": 77, **more}


ANSWER: list[Batch] = [
    [event("created", response=THEIRS), event("in_progress", response=THEIRS)],
    [event("output_text.delta", delta="x")],
    [event("completed", response={**THEIRS, "status": "completed", "output": [ITEM]})],
]


def task(made: StreamOpener, **more: Any) -> BackgroundTask:
    def unfollowable(origin: background_leases.ResponseOrigin) -> EventStream:
        raise AssertionError

    return BackgroundTask(made, **{"follow_stream": unfollowable, **more})


def start(background: BackgroundRunner, answer: EventStream, **request: Any) -> str:
    asked = {"model": "m", "input": "hi", **request}
    exchange = RequestContext("x", "background", LossReport())
    return str(background.start_job("o", asked, exchange, task(lambda: answer))["id"])


def heard(background: BackgroundRunner, name: str, after: int = -1) -> list[Json]:
    deadline = time.monotonic() + 10

    def waited(seconds: float) -> bool:
        time.sleep(0.01)
        return time.monotonic() < deadline

    told = background.stream_events("o", name, after, 60, waited)
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
        finish = background_leases.finish_work

        def refuse(*given: Any) -> bool:
            self.tries += self.lasts
            if self.lasts:
                raise StoreUnavailable
            return finish(*given)

        monkeypatch.setattr(background_leases, "finish_work", refuse)


def waiting_for(go: threading.Event, answer: list[Batch] | None = None) -> Iterator[Batch]:
    go.wait(10)
    yield from answer or ANSWER


def lapse(database: SqliteDatabase) -> None:
    database.write(lambda c: c.execute(sa.text("UPDATE responses SET lease = lease - 60")))


def serve(
    background: BackgroundRunner,
    revive: Callable[[RequestContext, background_leases.ClaimedWork], BackgroundTask],
    **more: Any,
) -> list[RequestContext]:
    """Take work up from now on; the exchanges that were made for it."""
    admitted: list[RequestContext] = []

    def admit() -> RequestContext:
        admitted.append(RequestContext("again", "background", LossReport()))
        return admitted[-1]

    def refuse_to_cancel(origin: background_leases.ResponseOrigin, request: str | None) -> None:
        raise AssertionError

    given: Any = {
        "new_context": admit,
        "can_decrypt": bool,
        "cancel_upstream": refuse_to_cancel,
        **more,
    }
    background.start_takeover(TakeoverCallbacks(rebuild_task=revive, **given))
    return admitted


def leave_behind(database: SqliteDatabase, made: StreamOpener, **given: Any) -> str:
    """Work of a worker that handles nothing any more; its name."""
    dead = BackgroundRunner(database, InFlightRequests(), ConversationLocks(database))
    asked = {"model": "m", "input": "hi", "metadata": {"a": "b"}, **given}
    told = task(made, encrypted_request="sealed", is_repeatable=True)
    name = str(
        dead.start_job("o", asked, RequestContext("x", "background", LossReport()), told)["id"]
    )
    until(lambda: dead.read_response("o", name).status == "in_progress")
    dead._jobs.clear()  # it renews no lease
    return name


def heard_so_far(background: BackgroundRunner, name: str) -> list[Json]:
    return [
        e for batch in background.stream_events("o", name, -1, 60, lambda _: False) for e in batch
    ]


KEPT: Json = {**THEIRS, "background": True}
NATIVE: list[Batch] = [
    [event("created", response=KEPT)],
    [event("output_text.delta", delta="x"), event("output_text.delta", delta="y")],
    [event("completed", response={**KEPT, "status": "completed", "output": [ITEM]})],
]


def start_native(background: BackgroundRunner, made: StreamOpener, follow: StreamFollower) -> str:
    exchange = RequestContext("x", "background", LossReport(), upstream="up")
    told = task(made, follow_stream=follow, encrypted_request="sealed")
    return str(background.start_job("o", {"model": "m", "input": "hi"}, exchange, told)["id"])
