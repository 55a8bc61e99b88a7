"""Background responses in a test's own database: upstream streams and helpers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from forwarder.context.request_context import RequestContext
from forwarder.core.errors import StoreUnavailable
from forwarder.core.in_flight_requests import InFlightRequests
from forwarder.core.translation_context import LossReport
from forwarder.core.types import Batch, EventStream, Json
from forwarder.storage.background import (
    BackgroundLimits,
    BackgroundRunner,
    BackgroundTask,
    TakeoverCallbacks,
)
from forwarder.storage.background.job import StreamFollower, StreamOpener
from forwarder.storage.conversation_lock import ConversationLocks
from forwarder.storage.db import background_leases, responses
from forwarder.storage.db.database import SqliteDatabase

ITEM: Json = {"type": "message", "id": "msg_1", "role": "assistant", "content": []}
UPSTREAM_RESPONSE: Json = {"id": "theirs", "status": "in_progress", "output": [], "usage": None}


def make_event(kind: str, **more: Any) -> Json:
    return {"type": f"response.{kind}", "sequence_number": 77, **more}


ANSWER: list[Batch] = [
    [
        make_event("created", response=UPSTREAM_RESPONSE),
        make_event("in_progress", response=UPSTREAM_RESPONSE),
    ],
    [make_event("output_text.delta", delta="x")],
    [
        make_event(
            "completed", response={**UPSTREAM_RESPONSE, "status": "completed", "output": [ITEM]}
        )
    ],
]


def new_task(open_stream: StreamOpener, **more: Any) -> BackgroundTask:
    def refuse_to_follow(origin: background_leases.ResponseOrigin) -> EventStream:
        raise AssertionError

    return BackgroundTask(open_stream, **{"follow_stream": refuse_to_follow, **more})


def start_job(background: BackgroundRunner, answer: EventStream, **request: Any) -> str:
    request = {"model": "m", "input": "hi", **request}
    context = RequestContext("x", "background", LossReport())
    return str(background.start_job("o", request, context, new_task(lambda: answer))["id"])


def read_events(background: BackgroundRunner, name: str, after: int = -1) -> list[Json]:
    deadline = time.monotonic() + 10

    def wait(seconds: float) -> bool:
        time.sleep(0.01)
        return time.monotonic() < deadline

    job_task = background.stream_events("o", name, after, 60, wait)
    return [event for batch in job_task for event in batch]


def wait_until(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 10
    while not (result := condition()):
        assert time.monotonic() < deadline, "the condition was not met in time"
        time.sleep(0.01)
    return result


class Outage:
    """Rejects writes of final responses while it lasts."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.lasts = True
        self.tries = 0
        finish = background_leases.finish_work

        def refuse(*arguments: Any) -> bool:
            self.tries += self.lasts
            if self.lasts:
                raise StoreUnavailable
            return finish(*arguments)

        monkeypatch.setattr(background_leases, "finish_work", refuse)


def answer_after(proceed: threading.Event, answer: list[Batch] | None = None) -> Iterator[Batch]:
    proceed.wait(10)
    yield from answer or ANSWER


def expire_leases(database: SqliteDatabase) -> None:
    database.write(lambda c: c.execute(sa.text("UPDATE responses SET lease = lease - 60")))


def start_takeover(
    background: BackgroundRunner,
    revive: Callable[[RequestContext, background_leases.ClaimedWork], BackgroundTask],
    **more: Any,
) -> list[RequestContext]:
    """Start to take over jobs. Returns the contexts that were created for them."""
    admitted: list[RequestContext] = []

    def admit() -> RequestContext:
        admitted.append(RequestContext("again", "background", LossReport()))
        return admitted[-1]

    def refuse_to_cancel(origin: background_leases.ResponseOrigin, request: str | None) -> None:
        raise AssertionError

    options: Any = {
        "new_context": admit,
        "can_decrypt": bool,
        "cancel_upstream": refuse_to_cancel,
        **more,
    }
    background.start_takeover(TakeoverCallbacks(rebuild_task=revive, **options))
    return admitted


def leave_job_behind(database: SqliteDatabase, open_stream: StreamOpener, **parameters: Any) -> str:
    """Start a job on a worker that then stops. Returns the response id."""
    stopped_runner = BackgroundRunner(database, InFlightRequests(), ConversationLocks(database))
    request = {"model": "m", "input": "hi", "metadata": {"a": "b"}, **parameters}
    job_task = new_task(open_stream, encrypted_request="sealed", is_repeatable=True)
    name = str(
        stopped_runner.start_job(
            "o", request, RequestContext("x", "background", LossReport()), job_task
        )["id"]
    )
    wait_until(lambda: stopped_runner.read_response("o", name).status == "in_progress")
    stopped_runner._jobs.clear()  # no further lease renewal
    return name


def read_stored_events(background: BackgroundRunner, name: str) -> list[Json]:
    return [
        e for batch in background.stream_events("o", name, -1, 60, lambda _: False) for e in batch
    ]


STORED_UPSTREAM: Json = {**UPSTREAM_RESPONSE, "background": True}
NATIVE: list[Batch] = [
    [make_event("created", response=STORED_UPSTREAM)],
    [make_event("output_text.delta", delta="x"), make_event("output_text.delta", delta="y")],
    [
        make_event(
            "completed", response={**STORED_UPSTREAM, "status": "completed", "output": [ITEM]}
        )
    ],
]


def start_upstream_job(
    background: BackgroundRunner, open_stream: StreamOpener, follow: StreamFollower
) -> str:
    context = RequestContext("x", "background", LossReport(), upstream="up")
    job_task = new_task(open_stream, follow_stream=follow, encrypted_request="sealed")
    return str(background.start_job("o", {"model": "m", "input": "hi"}, context, job_task)["id"])


def store_lost_response(database: SqliteDatabase, name: str = "a") -> None:
    """Store a response with an expired lease that cannot be repeated."""
    body = {"id": name, "background": True, "output": []}
    lease = time.time() - 1
    stored = responses.StoredResponse(name, "in_progress", [], body, 1.0, worker="w", lease=lease)
    database.write(lambda c: responses.add(c, "o", stored, []))


def new_runner(
    database: SqliteDatabase, limits: BackgroundLimits | None = None
) -> BackgroundRunner:
    return BackgroundRunner(database, InFlightRequests(), ConversationLocks(database), limits)


def answer_again(
    context: RequestContext, claimed_work: background_leases.ClaimedWork
) -> BackgroundTask:
    return new_task(lambda: iter(ANSWER))


class RecordedCancellations(list[tuple[background_leases.ResponseOrigin, str | None]]):
    """Records cancellations at upstreams."""

    def __call__(self, origin: background_leases.ResponseOrigin, request: str | None) -> None:
        self.append((origin, request))


UPSTREAM_CANCELLATION = (background_leases.ResponseOrigin("up", "theirs"), "sealed")


class WriteFailures:
    """Makes writes fail, either before they run or after they took effect."""

    def __init__(self, database: SqliteDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
        self.before = self.after = False
        write = database._run_write

        def write_or_fail(work: Callable[[sa.Connection], Any]) -> Any:
            if self.before:
                raise sa.exc.OperationalError("x", None, OSError("disk full"))
            done = write(work)
            if self.after:
                raise sa.exc.DBAPIError("COMMIT", None, OSError("no answer"))
            return done

        monkeypatch.setattr(database, "_run_write", write_or_fail)
