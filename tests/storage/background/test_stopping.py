"""Stopping a job, and cancelling its response at the upstream."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from forwarder.context.request_context import RequestContext
from forwarder.core.errors import (
    StoreUnavailable,
    UpstreamUnreachable,
)
from forwarder.core.translation_context import LossReport
from forwarder.core.types import Batch, EventStream
from forwarder.storage.background import BackgroundRunner
from forwarder.storage.db import background_leases as work
from forwarder.storage.db.database import SqliteDatabase
from tests.storage.background.helpers import (
    ANSWER,
    NATIVE,
    UPSTREAM_CANCELLATION,
    RecordedCancellations,
    answer_after,
    answer_again,
    new_runner,
    new_task,
    read_events,
    start_takeover,
    start_upstream_job,
    wait_until,
)

with_short_intervals = pytest.mark.usefixtures("_short_intervals")


def test_cancellation_closes_the_upstream_stream(background: BackgroundRunner) -> None:
    cleaned_up = threading.Event()
    stop = threading.Event()

    def yield_answer() -> Iterator[Batch]:
        yield ANSWER[0]
        stop.wait(10)
        yield ANSWER[2]

    context = RequestContext("x", "background", LossReport())
    context.cleanup.add(cleaned_up.set)
    request = {"model": "m", "input": "hi"}
    response_id = background.start_job("o", request, context, new_task(yield_answer))["id"]

    assert background.cancel_response("o", response_id).status == "cancelled"
    assert cleaned_up.is_set()
    stop.set()
    assert read_events(background, response_id)[-1]["response"]["status"] == "cancelled"
    assert background.cancel_response("o", response_id).status == "cancelled"


# -- responses at an upstream ---------------------------------------------------------------------


@with_short_intervals
def test_cancelled_response_is_not_followed(background: BackgroundRunner) -> None:
    go = threading.Event()
    followed: list[work.ResponseOrigin] = []

    def open_stream() -> EventStream:
        yield NATIVE[0]
        go.wait(10)
        raise UpstreamUnreachable("It was closed.")

    def follow(origin: work.ResponseOrigin) -> EventStream:
        followed.append(origin)
        yield from NATIVE

    response_id = start_upstream_job(background, open_stream, follow)
    wait_until(lambda: background.read_response("o", response_id).upstream_id)
    stored = background.cancel_response("o", response_id)
    go.set()
    wait_until(lambda: not background._jobs)

    assert (stored.status, stored.upstream, stored.upstream_id) == ("cancelled", "up", "theirs")
    assert followed == []


@with_short_intervals
@pytest.mark.parametrize("ends", ["cancel_response", "remove_response"])
@pytest.mark.parametrize("by_other_worker", [False, True])
def test_end_before_the_origin_is_stored_cancels_upstream(
    ends: str,
    by_other_worker: bool,
    background: BackgroundRunner,
    database: SqliteDatabase,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cancels, stored, note_origin = RecordedCancellations(), threading.Event(), work.set_origin
    start_takeover(background, answer_again, cancel_upstream=cancels)

    def note_later(*arguments: Any) -> bool:
        if not stored.is_set():
            raise StoreUnavailable
        return note_origin(*arguments)

    def open_stream() -> EventStream:
        yield NATIVE[0]
        yield from answer_after(threading.Event(), NATIVE[2:])

    monkeypatch.setattr(work, "set_origin", note_later)
    name = start_upstream_job(background, open_stream, lambda origin: iter(()))
    job = background._jobs["o", name]
    wait_until(lambda: job.origin)
    getattr(new_runner(database) if by_other_worker else background, ends)("o", name)
    stored.set()

    wait_until(lambda: cancels)
    wait_until(lambda: job.context.is_cancelled)
    time.sleep(0.15)
    assert cancels == [UPSTREAM_CANCELLATION]


@with_short_intervals
def test_end_before_the_upstream_answers_cancels_upstream(background: BackgroundRunner) -> None:
    go, cancels = threading.Event(), RecordedCancellations()
    start_takeover(background, answer_again, cancel_upstream=cancels)

    def open_stream() -> EventStream:
        yield []
        go.wait(10)
        yield NATIVE[0]
        raise UpstreamUnreachable("It was read on.")

    context = RequestContext("x", "background", LossReport(), upstream="up")
    job_task = new_task(
        open_stream, encrypted_request="sealed", continues_without_connection=lambda: True
    )
    name = background.start_job("o", {"model": "m", "input": "hi"}, context, job_task)["id"]
    background.cancel_response("o", name)
    time.sleep(0.15)
    assert (context.is_cancelled, cancels) == (False, [])
    go.set()

    wait_until(lambda: cancels)
    assert cancels == [UPSTREAM_CANCELLATION]
    wait_until(lambda: not background._jobs)
    assert context.is_cancelled


@with_short_intervals
def test_silent_upstream_is_abandoned_after_a_timeout(
    background: BackgroundRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("forwarder.storage.background.stopping.ORIGIN_WAIT_SECONDS", 0.2)
    context = RequestContext("x", "background", LossReport(), upstream="up")
    job_task = new_task(
        lambda: answer_after(threading.Event()), continues_without_connection=lambda: True
    )
    name = background.start_job("o", {"model": "m", "input": "hi"}, context, job_task)["id"]
    background.cancel_response("o", name)

    assert not context.is_cancelled
    wait_until(lambda: context.is_cancelled)


@with_short_intervals
def test_job_taken_over_by_another_worker_is_not_cancelled(
    background: BackgroundRunner, database: SqliteDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work, "set_origin", lambda *arguments: False)
    cancels = RecordedCancellations()
    start_takeover(background, answer_again, cancel_upstream=cancels)

    def open_stream() -> EventStream:
        yield NATIVE[0]
        yield from answer_after(threading.Event(), NATIVE[2:])

    name = start_upstream_job(background, open_stream, lambda origin: iter(()))
    job = background._jobs["o", name]
    wait_until(lambda: job.origin)
    database.write(lambda c: c.execute(sa.text("UPDATE responses SET worker = 'other'")))
    wait_until(lambda: job.context.is_cancelled)
    time.sleep(0.1)

    assert cancels == []
