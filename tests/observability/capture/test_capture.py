"""Selection and storage of captured exchanges."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

from forwarder.config.settings import Settings, UpstreamSettings, make_upstream_settings
from forwarder.context.capture_recorder import RequestHead
from forwarder.context.request_context import RequestContext
from forwarder.core.translation_context import LossReport
from forwarder.observability.capture import (
    CaptureObserver,
    make_capture_observer,
    make_capture_store,
)
from forwarder.observability.capture.stores import (
    CaptureLimits,
    FileCaptureStore,
    MemoryCaptureStore,
)
from tests.helpers.check_cases import check_each

REQUEST_HEAD = RequestHead("POST", "/v1/responses", [], [])


def make_settings(**more: str) -> Settings:
    return Settings.from_env({f"FORWARDER_CAPTURE{k}": v for k, v in more.items()})


def capturing(**more: str) -> CaptureObserver:
    return CaptureObserver(make_settings(**more), MemoryCaptureStore(CaptureLimits(10, 100)))


def capture_request(
    capture: CaptureObserver, route: str, body: bytes | None, **more: Any
) -> list[dict[str, Any]]:
    context = RequestContext("req_1", route, LossReport(), observers=[capture], **more)
    context.recorder = capture.make_recorder(context, REQUEST_HEAD)
    if context.recorder and body:
        context.recorder.record_body(body)
    context.close()
    assert context.recorder is None
    return capture.store.list_newest(10)


def test_capture_is_off_by_default() -> None:
    assert make_capture_observer(make_settings()) is None


def test_settings_select_the_store(tmp_path: Path) -> None:
    assert isinstance(
        make_capture_store(make_settings(_COUNT="5", **{"": "memory"})), MemoryCaptureStore
    )
    assert isinstance(make_capture_store(make_settings(**{"": str(tmp_path)})), FileCaptureStore)


def test_completed_exchange_is_stored() -> None:
    capture = capturing(_REDACT="user")

    (summary,) = capture_request(capture, "responses", b'{"user":"somebody"}')

    record = json.loads(capture.store.find(summary["id"]) or b"")
    assert record["client"]["request"]["body"] == {"user": "***"}


@check_each(
    ("route", "body", "status", "captured"),
    [
        ("responses", b"{}", 200, True),
        ("chat", None, 429, True),
        ("compact", b"{}", 200, True),
        ("background", b"{}", 200, True),
        ("tags", None, 200, False),  # no model request
        ("stored", b"{}", 200, False),
        ("files", None, 404, False),
    ],
)
def test_only_model_requests_are_captured(
    route: str, body: bytes | None, status: int, captured: bool
) -> None:
    assert bool(capture_request(capturing(), route, body, status=status)) is captured


def test_other_secrets_are_redacted() -> None:
    store = MemoryCaptureStore(CaptureLimits(10, 100))
    capture = CaptureObserver(make_settings(), store, other_secrets=frozenset(["sesame-4711"]))

    (summary,) = capture_request(capture, "responses", b'{"input":"I use sesame-4711."}')

    assert b"sesame" not in (capture.store.find(summary["id"]) or b"")


def test_keys_of_registered_models_are_redacted() -> None:
    registered: list[UpstreamSettings] = []
    store = MemoryCaptureStore(CaptureLimits(10, 100))
    capture = CaptureObserver(make_settings(), store, lambda: registered)
    registered.append(
        make_upstream_settings("mine:latest", base_url="https://a/v1", api_key="sk-0123456789")
    )

    (summary,) = capture_request(
        capture, "chat", b'{"messages":[{"content":"is sk-0123456789 right?"}]}'
    )

    assert b"is *** right?" in (store.find(summary["id"]) or b"")


def test_exchange_without_recorder_is_not_stored() -> None:
    capture = capturing()
    RequestContext("req_1", "responses", LossReport(), observers=[capture]).close()

    assert capture.store.list_newest(10) == []


def test_failing_capture_store_does_not_affect_requests(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    store = FileCaptureStore(tmp_path / "file" / "dir", CaptureLimits(1, 1))
    context = RequestContext(
        "req_1", "chat", LossReport(), observers=[CaptureObserver(make_settings(), store)]
    )
    context.recorder = CaptureObserver(make_settings(), store).make_recorder(context, REQUEST_HEAD)
    assert context.recorder is not None
    context.recorder.record_body(b"{}")

    context.close()

    assert not store.list_newest(1)


def test_expired_records_are_pruned_in_the_background() -> None:
    prunes = []

    class FailingStore(MemoryCaptureStore):
        def prune(self) -> None:
            prunes.append(True)
            if len(prunes) > 2:
                threading.Event().wait()
            raise RuntimeError("told")

    capture = CaptureObserver(make_settings(_AGE="0.02"), FailingStore(CaptureLimits(1, 0.02)))
    capture.start()

    deadline = time.monotonic() + 5
    while len(prunes) < 2 and time.monotonic() < deadline:
        time.sleep(0.005)
    assert len(prunes) >= 2, "a failure ends the pruning"


def test_pruning_ends_when_the_observer_is_closed() -> None:
    before = threading.active_count()
    capture = CaptureObserver(make_settings(_AGE="600"), MemoryCaptureStore(CaptureLimits(1, 600)))
    assert threading.active_count() == before
    capture.start()
    assert threading.active_count() == before + 1
    capture.close()
    assert threading.active_count() == before
