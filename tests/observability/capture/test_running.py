"""Running exchanges as this worker and other workers list them."""

from __future__ import annotations

import gc
import json
import logging
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from forwarder.context.capture_recorder import RequestHead
from forwarder.context.redaction import Redactor
from forwarder.context.request_context import RequestContext
from forwarder.core.translation_context import LossReport
from forwarder.observability.capture import CaptureObserver, running
from forwarder.observability.capture.running import RunningExchanges, RunningFiles
from forwarder.observability.capture.stores import (
    CaptureLimits,
    FileCaptureStore,
    MemoryCaptureStore,
    generate_name,
)
from tests.observability.capture.test_capture import make_settings

Json = dict[str, Any]
KEY = "sk-client-0123456789"
LIMITS = CaptureLimits(10, 1000)
EVENT = b'data: {"n": %d, "text": "hi"}\n\n'


@pytest.fixture(autouse=True)
def _publish_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "MIN_PUBLISHED_SECONDS", 0.0)


@pytest.fixture
def workers(tmp_path: Path) -> list[CaptureObserver]:
    """Two workers with the same directory."""
    return [CaptureObserver(make_settings(), FileCaptureStore(tmp_path, LIMITS)) for _ in range(2)]


def begin(capture: CaptureObserver, body: bytes | None = b'{"model":"m"}') -> RequestContext:
    """Begin a request as the server does."""
    context = RequestContext("req_1", "chat", LossReport(), observers=[capture], client_key=KEY)
    context.notify_request(lambda name: None)
    context.recorder = capture.make_recorder(
        context, RequestHead("POST", "/v1/chat/completions", [], [])
    )
    if body is not None and context.recorder is not None:
        context.recorder.record_body(body)
    return context


def answer(context: RequestContext, *pieces: bytes) -> None:
    assert context.recorder is not None
    track = context.recorder.record_answer_head(200, [])
    for piece in pieces:
        track.add(piece)


def list_files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


def test_running_exchange_is_listed_until_its_record_is_stored() -> None:
    capture = CaptureObserver(make_settings(), MemoryCaptureStore(LIMITS))
    context = begin(capture)
    context.model, context.upstream = "m", "chat"

    (summary,) = capture.running.list_summaries()
    context.close()

    assert summary["running"] is True
    assert (summary["model"], summary["upstream"], summary["route"]) == ("m", "chat", "chat")
    assert not {"status", "error", "whole"} & summary.keys()
    assert capture.running.list_summaries() == []
    assert capture.store.list_names() == [summary["id"]]


def test_partial_record_has_the_complete_events_so_far() -> None:
    capture = CaptureObserver(make_settings(), MemoryCaptureStore(LIMITS))
    context = begin(capture)
    answer(context, EVENT % 1, EVENT % 2 + b'data: {"secret": "half of a')
    (summary,) = capture.running.list_summaries()

    record = json.loads(capture.running.find_record(summary["id"]) or b"")
    answer(context, EVENT % 3)
    context.close()

    assert [each["data"]["n"] for each in record["client"]["answer"]["events"]] == [1, 2]
    assert record["client"]["request"]["body"] == {"model": "m"}
    assert record["exchange"]["running"] is True
    assert capture.running.find_record(summary["id"]) is None
    final_record = json.loads(capture.store.find(summary["id"]) or b"")
    assert "running" not in final_record["exchange"]
    assert len(final_record["client"]["answer"]["events"]) == 3


def test_request_whose_body_has_not_arrived_is_not_listed() -> None:
    capture = CaptureObserver(make_settings(), MemoryCaptureStore(LIMITS))
    context = begin(capture, body=None)

    assert capture.running.list_summaries() == []
    context.close()


def test_work_that_never_begins_is_forgotten(workers: list[CaptureObserver]) -> None:
    context: RequestContext | None = begin(workers[0])
    workers[0].running.publish()
    assert len(workers[1].running.list_summaries()) == 1

    context = None
    gc.collect()
    workers[0].running.publish()

    assert context is None
    assert workers[1].running.list_summaries() == []


def test_other_workers_see_a_running_exchange(
    workers: list[CaptureObserver], tmp_path: Path
) -> None:
    first_worker, other = workers
    context = begin(first_worker)
    first_worker.running.publish()
    (summary,) = other.running.list_summaries()
    context.model = "m"
    first_worker.running.publish()
    (changed,) = other.running.list_summaries()
    folder = tmp_path / "running"

    assert "model" not in summary
    assert changed["model"] == "m"
    assert list_files(folder) == {f"{summary['id']}.json"}
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}

    context.close()
    assert list_files(folder) == set()
    assert other.running.list_summaries() == []
    assert other.store.list_names() == [summary["id"]]


def test_partial_record_is_written_only_while_a_page_is_open(
    workers: list[CaptureObserver], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first_worker, other = workers
    context = begin(first_worker)
    answer(context, EVENT % 1)
    first_worker.running.publish()
    first_worker.running.publish()
    name = first_worker.running.list_own()[0].name
    record_path = tmp_path / "running" / f"{name}.record"
    assert not record_path.exists()

    first = json.loads(other.running.find_record(name) or b"")
    first_worker.running.publish()
    second = json.loads(other.running.find_record(name) or b"")
    assert first["exchange"]["id"] == second["exchange"]["id"] == name
    assert "answer" not in first["client"]
    assert len(second["client"]["answer"]["events"]) == 1

    record_path.unlink()
    monkeypatch.setattr(running, "WATCH_SECONDS", -1.0)
    first_worker.running.publish()
    assert not record_path.exists()
    context.close()
    assert list_files(tmp_path / "running") == set()
    assert other.running.find_record(name) is None


def test_partial_records_are_written_at_most_once_a_second(
    workers: list[CaptureObserver], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first_worker, other = workers
    context = begin(first_worker)
    first_worker.running.publish()
    name = first_worker.running.list_own()[0].name
    other.running.find_record(name)
    first_worker.running.publish()
    path = tmp_path / "running" / f"{name}.record"
    first = path.stat().st_ino

    first_worker.running.publish()
    assert path.stat().st_ino == first

    monkeypatch.setattr(running, "RECORD_SECONDS", 0.0)
    first_worker.running._next_records.clear()
    first_worker.running.publish()
    assert path.read_bytes().startswith(b'{"exchange":')
    context.close()
    assert first_worker.running._next_records == {}


def test_files_contain_no_secrets(workers: list[CaptureObserver], tmp_path: Path) -> None:
    first_worker, other = workers
    context = begin(first_worker, b'{"messages":[{"content":"my key is %b"}]}' % KEY.encode())
    context.model = f"model-{KEY}"
    first_worker.running.publish()
    name = first_worker.running.list_own()[0].name
    other.running.find_record(name)
    first_worker.running.publish()

    contents = {path.suffix: path.read_bytes() for path in (tmp_path / "running").iterdir()}

    assert b"my key is ***" in contents[".record"]
    assert b"model-***" in contents[".json"]
    assert not any(KEY.encode() in content for content in contents.values())
    context.close()


def test_short_exchanges_leave_no_file(
    workers: list[CaptureObserver], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "MIN_PUBLISHED_SECONDS", 60.0)
    context = begin(workers[0])
    workers[0].running.publish()
    context.close()

    assert not (tmp_path / "running").exists()


def test_files_of_dead_workers_are_ignored_and_removed(
    workers: list[CaptureObserver], tmp_path: Path
) -> None:
    context = begin(workers[0])
    workers[0].running.publish()
    (path,) = (tmp_path / "running").iterdir()
    old = time.time() - running.STALE_SECONDS - 1
    os.utime(path, (old, old))
    (tmp_path / "running" / "notes.txt").write_text("mine")
    os.utime(tmp_path / "running" / "notes.txt", (old, old))

    assert workers[1].running.list_summaries() == []
    workers[1].running.prune()
    assert list_files(tmp_path / "running") == {"notes.txt"}
    context.close()


def test_living_worker_touches_its_files(
    workers: list[CaptureObserver], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = begin(workers[0])
    workers[0].running.publish()
    (path,) = (tmp_path / "running").iterdir()
    content = path.read_bytes()
    os.utime(path, (1, 1))
    monkeypatch.setattr(running, "TOUCH_SECONDS", -1.0)

    workers[0].running.publish()
    assert path.stat().st_mtime > time.time() - 60
    assert path.read_bytes() == content

    path.unlink()  # another worker removed it as stale
    workers[0].running.publish()
    assert len(workers[1].running.list_summaries()) == 1
    context.close()


def test_empty_folder_is_removed(workers: list[CaptureObserver], tmp_path: Path) -> None:
    context = begin(workers[0])
    workers[0].running.publish()
    context.close()
    workers[0].running.prune()

    assert not (tmp_path / "running").exists()


def test_closing_removes_the_files_of_this_worker(
    workers: list[CaptureObserver], tmp_path: Path
) -> None:
    context = begin(workers[0])
    workers[0].running.publish()
    workers[0].close()

    assert list_files(tmp_path / "running") == set()
    context.close()


def test_directory_that_cannot_be_written_does_not_affect_requests(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    files = RunningExchanges(tmp_path / "file" / "running", lambda: Redactor(()), 1000)
    capture = CaptureObserver(make_settings(), MemoryCaptureStore(LIMITS))
    context = begin(capture)
    files.add(context)

    files.publish()

    assert files.list_summaries() == []
    context.close()


@pytest.mark.parametrize("name", ["../../etc/passwd", "", "ex_", "x/y"])
def test_name_cannot_escape_the_folder(
    name: str, workers: list[CaptureObserver], tmp_path: Path
) -> None:
    context = begin(workers[0])
    workers[0].running.publish()
    before = list_files(tmp_path / "running")

    assert workers[1].running.find_record(name) is None
    assert list_files(tmp_path / "running") == before
    context.close()


def test_broken_files_do_not_hide_others(tmp_path: Path) -> None:
    files = RunningFiles(tmp_path)
    name = generate_name(time.time())
    files.write(f"{name}.json", b'{"id":"a"}')
    (tmp_path / f"{generate_name(time.time())}.json").write_text("{")

    assert files.list_summaries() == [{"id": "a"}]


def count_calls(work: Callable[[], object]) -> int:
    """Return how many functions of the module are called."""
    count = 0

    def note_call(frame: FrameType, event: str, argument: object) -> None:
        nonlocal count
        count += event == "call" and frame.f_code.co_filename == running.__file__

    sys.setprofile(note_call)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


def test_chunks_cause_no_function_calls(workers: list[CaptureObserver]) -> None:
    def serve(chunks: int) -> None:
        context = begin(workers[0])
        answer(context, *([EVENT % 1] * chunks))
        context.close()

    calls_for_one, calls_for_many = (
        count_calls(lambda chunks=chunks: serve(chunks)) for chunks in (1, 500)
    )

    assert calls_for_one == calls_for_many
    assert calls_for_one < 10, "more than registration, name and file of the record"


def test_failure_of_one_exchange_does_not_stop_the_others(
    workers: list[CaptureObserver],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    failing, working = begin(workers[0]), begin(workers[0])
    failing.model, working.model = "bad", "good"
    encode = running.encode_running_summary

    def fail(name: str, recorder: Any, context: RequestContext, *arguments: Any) -> bytes:
        if context is failing:
            raise TypeError("Recursion limit reached")
        return encode(name, recorder, context, *arguments)

    monkeypatch.setattr(running, "encode_running_summary", fail)
    with caplog.at_level(logging.ERROR, "forwarder.capture"):
        workers[0].running.publish()

    assert [each["model"] for each in workers[1].running.list_summaries()] == ["good"]
    assert [record.event for record in caplog.records] == ["capture_running_failed"]


def test_summaries_copy_no_recorded_data(
    workers: list[CaptureObserver], monkeypatch: pytest.MonkeyPatch
) -> None:
    context = begin(workers[0])
    monkeypatch.setattr(
        running, "copy_recorder", lambda each: pytest.fail("the recorder was copied")
    )
    monkeypatch.setattr(running, "TOUCH_SECONDS", 0.0)
    for model in ("a", "b", "b"):
        context.model = model
        workers[0].running.publish()

    assert [each["model"] for each in workers[1].running.list_summaries()] == ["b"]
