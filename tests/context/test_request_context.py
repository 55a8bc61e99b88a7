"""The request context: recorded outcome, cleanup and log line."""

from __future__ import annotations

import gc
import logging
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from forwarder.context.capture_recorder import NULL_ATTEMPT_RECORDER
from forwarder.context.request_context import RequestContext, RequestObserver
from forwarder.core.errors import (
    ClientDisconnected,
    ForwarderError,
    InternalError,
    ShuttingDown,
    UpstreamMalformedEvent,
    UpstreamRefused,
    UpstreamTimeout,
)
from forwarder.core.in_flight_requests import InFlightRequest, ShutdownInterrupt
from forwarder.core.translation_context import LossReport
from forwarder.core.types import EventStream
from forwarder.middleware.usage_estimate import EstimatedUsage
from forwarder.protocols.stream_end import with_malformed_event_errors
from tests.helpers.check_cases import check_each
from tests.observability.capture.taping import UPSTREAM, URL, make_recorder

Json = dict[str, Any]


@pytest.fixture
def log_messages() -> Iterator[list[Any]]:
    """The log messages of request contexts during the test."""
    messages: list[Any] = []

    class RecordingHandler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.msg)

    log, handler = logging.getLogger("forwarder.exchange"), RecordingHandler()
    before = log.level
    log.addHandler(handler)
    log.setLevel("INFO")
    yield messages
    log.removeHandler(handler)
    log.setLevel(before)


def make_context(**more: Any) -> RequestContext:
    return RequestContext(id="req_1", route="chat", loss_report=LossReport(), **more)


def meter(context: RequestContext, *batches: list[Json]) -> list[list[Json]]:
    return list(context.with_metering(lambda request: iter(batches))({}))


def test_metering_passes_batches_unchanged() -> None:
    batches = [[{"a": 1}], [], [{"b": 2}, {"c": 3}]]

    assert meter(make_context(), *batches) == batches


def test_empty_batches_do_not_count_as_first_event(log_messages: list[Any]) -> None:
    empty_context, answered_context = make_context(), make_context()
    meter(empty_context, [], [])
    meter(answered_context, [], [{"a": 1}])

    assert empty_context.first_event_at is None
    assert answered_context.first_event_at is not None
    answered_context.close()
    assert 0 <= log_messages[0]["first_event_ms"] <= log_messages[0]["duration_ms"]


@pytest.mark.parametrize(
    "event",
    [
        {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 4}},
        {"choices": [], "usage": EstimatedUsage(prompt_tokens=3, completion_tokens=4)},
        {
            "type": "response.completed",
            "response": {"usage": {"input_tokens": 3, "output_tokens": 4}},
        },
    ],
)
def test_usage_is_recorded_for_both_protocols(event: Json, log_messages: list[Any]) -> None:
    counted = make_context()
    meter(counted, [{"usage": None}], [event])

    counted.close()

    assert (log_messages[0]["input_tokens"], log_messages[0]["output_tokens"]) == (3, 4)


def test_closing_logs_one_line(log_messages: list[Any]) -> None:
    done = make_context(upstream="qwen", model="m", client_key="sk-client", client_name="alice")
    done.loss_report.drop("seed", "why")

    done.close()

    [line] = log_messages
    assert line.pop("duration_ms") >= 0
    assert line == {
        "event": "request_done",
        "id": "req_1",
        "route": "chat",
        "client": "alice",
        "upstream": "qwen",
        "model": "m",
        "status": 200,
        "dropped": ["seed"],
    }


def test_closing_runs_the_cleanup() -> None:
    closed: list[str] = []
    context = make_context()
    context.cleanup.add(closed.append, "reply")

    context.close()

    assert closed == ["reply"]


def test_second_close_has_no_effect(log_messages: list[Any]) -> None:
    completed: list[RequestContext] = []

    class Observer(RequestObserver):
        def on_complete(self, context: RequestContext, seconds: float) -> None:
            completed.append(context)

    context = make_context(observers=[Observer()])
    context.close()
    context.close()

    assert (len(completed), len(log_messages)) == (1, 1)


def test_cancel_ends_waits_and_closes_resources() -> None:
    closed: list[str] = []
    context = make_context()
    context.cleanup.add(closed.append, "reply")
    context.cancel_callbacks.add(lambda: closed.append("connection"))
    assert context.wait(0.001)
    assert not context.is_cancelled

    context.cancel()

    assert closed == ["connection", "reply"]
    assert context.is_cancelled
    assert not context.wait(60)


def test_closing_frees_an_unread_stream_without_garbage_collection() -> None:
    """The generator of an answer and the context refer to each other."""
    freed_objects: list[str] = []

    def answer() -> Iterator[list[Json]]:
        try:
            yield [{"a": 1}]
            yield [{"a": 2}]
        finally:
            freed_objects.append("answer")

    def abandon_answer() -> None:
        context = make_context(run=InFlightRequest())
        stream = context.set_response_stream(context.convert_errors(answer()))
        next(stream)
        context.close()

    gc.disable()
    try:
        abandon_answer()
        assert freed_objects == ["answer"]
    finally:
        gc.enable()


def test_cancel_interrupts_a_wait() -> None:
    context = make_context()
    threading.Timer(0.05, context.cancel).start()
    began = time.monotonic()

    assert not context.wait(60)
    assert time.monotonic() - began < 5


def test_failure_after_disconnect_is_client_disconnected(log_messages: list[Any]) -> None:
    context = make_context()
    context.cancel()

    with pytest.raises(ClientDisconnected):
        list(context.convert_errors(break_stream_with(UpstreamTimeout("late"))))

    context.close()
    assert (log_messages[0]["status"], log_messages[0]["error"]) == (499, "client_left")


def test_crash_after_disconnect_stays_an_internal_error() -> None:
    context = make_context()
    context.cancel()

    assert isinstance(context.record_failure(ValueError("a bug")), InternalError)


def test_disconnect_is_recorded_unless_the_request_failed_before(log_messages: list[Any]) -> None:
    cancelled, failed = make_context(), make_context()
    failed.record_failure(UpstreamTimeout("late"))
    for each in (cancelled, failed):
        each.record_disconnect()
        each.close()

    assert [(line["status"], line.get("left")) for line in log_messages] == [
        (499, True),
        (504, None),
    ]


@check_each("invalid_count", ["3", -1, 2.5, True, None, {}])
def test_invalid_token_count_is_none(invalid_count: object) -> None:
    counted = make_context()
    meter(counted, [{"usage": {"prompt_tokens": invalid_count, "completion_tokens": 4}}])

    assert counted.token_counts == (None, 4)


def test_new_attempt_resets_losses_and_headers(log_messages: list[Any]) -> None:
    context = make_context(upstream="first", model="m")
    context.loss_report.strict = True
    context.loss_report.losses["seed"] = "why"
    context.reply_headers = {"retry-after": "3"}

    context.start_attempt("second", "n")

    assert (context.upstream, context.model) == ("second", "n")
    assert (context.loss_report.strict, context.loss_report.losses, context.reply_headers) == (
        True,
        {},
        {},
    )


def test_log_line_has_retries_and_fallbacks(log_messages: list[Any]) -> None:
    context = make_context(upstream="second", retries=2, failed_upstreams=["first"])

    context.close()

    assert (log_messages[0]["retries"], log_messages[0]["failed"]) == (2, ["first"])


def break_stream_with(error: BaseException) -> EventStream:
    yield [{"a": 1}]
    raise error


def test_forwarder_errors_are_recorded_and_reraised(log_messages: list[Any]) -> None:
    error = UpstreamTimeout("late")
    failing = make_context()
    stream = failing.convert_errors(break_stream_with(error))

    assert next(stream) == [{"a": 1}]
    with pytest.raises(ForwarderError) as raised:
        next(stream)

    assert raised.value is error
    failing.close()
    assert (log_messages[0]["status"], log_messages[0]["error"]) == (504, "upstream_timeout")
    assert log_messages[0]["detail"] == "late"


def test_log_line_does_not_quote_an_upstream_error(log_messages: list[Any]) -> None:
    """An upstream's error message may quote the request."""
    failing = make_context()

    with pytest.raises(ForwarderError):
        list(
            failing.convert_errors(
                break_stream_with(UpstreamRefused(400, {"message": "You said: secret"}))
            )
        )

    failing.close()
    assert "detail" not in log_messages[0]


def test_unexpected_exception_becomes_internal_error_and_is_logged(log_messages: list[Any]) -> None:
    failing = make_context()
    stream = failing.convert_errors(break_stream_with(KeyError("secret detail")))
    next(stream)

    with pytest.raises(InternalError) as raised:
        next(stream)

    assert "secret detail" not in raised.value.message
    assert "unexpected error" in log_messages[0]
    failing.close()
    assert log_messages[1]["status"] == 500


def test_bodies_are_logged_only_if_enabled(log_messages: list[Any]) -> None:
    make_context().log_request({"said": 1})
    make_context(log_bodies=True).log_request({"said": 2})

    assert log_messages == [{"event": "request_body", "id": "req_1", "request": {"said": 2}}]


def test_keys_in_logged_bodies_are_redacted(log_messages: list[Any]) -> None:
    body = {"remote_api_key": "sk-1", "remote_headers": {"X-Auth": "sk-2"}, "max_tokens": 3}

    make_context(log_bodies=True).log_request(body)

    redacted = {"remote_api_key": "***", "remote_headers": {"X-Auth": "***"}, "max_tokens": 3}
    assert log_messages == [{"event": "request_body", "id": "req_1", "request": redacted}]
    assert body["remote_api_key"] == "sk-1"


def test_error_message_is_not_a_log_field_but_an_attribute_of_the_record(
    monkeypatch: pytest.MonkeyPatch, log_messages: list[Any]
) -> None:
    """A message may quote the request; only the text format for terminals shows it."""
    records: list[logging.LogRecord] = []
    monkeypatch.setattr(logging.getLogger("forwarder.exchange"), "handle", records.append)
    refused = make_context(client_key="sk-client-key", method="POST", requested_model="asked")
    refused.record_failure(UpstreamRefused(401, {"message": "bad key sk-client-key"}))

    refused.close()

    [record] = records
    assert isinstance(record.msg, dict)
    assert (record.msg["method"], record.msg["requested_model"]) == ("POST", "asked")
    assert "bad key" not in str(record.msg)
    assert vars(record)["error_message"] == "bad key ***"


@check_each(
    "event",
    [
        {"error": {"message": "too long"}},
        {"type": "error", "message": "too long"},
        {"type": "response.failed", "response": {"error": {"message": "too long"}}},
    ],
)
def test_error_event_is_the_message_of_the_request(event: Json) -> None:
    private, open_ = make_context(), make_context(log_bodies=True)
    for context in (private, open_):
        meter(context, [event])
        context.close()

    assert (private.error, private.error_message, private.detail) == (
        "upstream_failed",
        "too long",
        None,
    )
    assert open_.detail == "too long"


@check_each(
    "event",
    [{"error": "boom"}, {"type": "response.failed", "response": {}}, {"error": {"message": 1}}],
)
def test_error_event_without_a_message_is_recorded_too(event: Json) -> None:
    failed = make_context()
    meter(failed, [event])

    assert (failed.error, failed.error_message) == ("upstream_failed", None)


def test_detail_includes_messages_if_bodies_are_logged(log_messages: list[Any]) -> None:
    refused = make_context(log_bodies=True)
    refused.record_failure(UpstreamRefused(400, {"message": "the prompt is too long"}))

    refused.close()

    assert log_messages[0]["detail"] == "the prompt is too long"


def test_sampled_events_log_only_their_type(log_messages: list[Any]) -> None:
    events = [{"type": "response.created", "x": 1}, {"object": "chat.completion.chunk", "x": 1}]

    meter(make_context(), events)
    meter(make_context(log_sample_rate=1.0), events)

    kinds = [{"type": "response.created"}, {"type": "chat.completion.chunk"}]
    assert [line["sample"] for line in log_messages] == kinds


def test_sampled_events_are_complete_if_bodies_are_logged(log_messages: list[Any]) -> None:
    meter(make_context(log_sample_rate=1.0, log_bodies=True), [{"type": "x", "y": 1}])

    assert log_messages[0]["sample"] == {"type": "x", "y": 1}


class RecordingObserver(RequestObserver):
    def __init__(self) -> None:
        self.notifications: list[Any] = []

    def on_stream_start(self, context: RequestContext) -> None:
        self.notifications.append("streams")

    def on_complete(self, context: RequestContext, seconds: float) -> None:
        self.notifications.append(
            (context.event_count, context.token_counts, context.error_class, seconds >= 0)
        )


class FailingObserver(RequestObserver):
    def on_stream_start(self, context: RequestContext) -> None:
        raise KeyError("streams")

    def on_complete(self, context: RequestContext, seconds: float) -> None:
        raise KeyError("ended")


def test_observers_receive_start_and_completion() -> None:
    observer = RecordingObserver()
    watched = make_context(observers=[observer])
    watched.notify_stream_start()
    meter(watched, [{"a": 1}, {"b": 2}], [{"usage": {"input_tokens": 3, "output_tokens": 4}}])
    watched.record_failure(UpstreamTimeout("late"))

    watched.close()

    assert observer.notifications == ["streams", (3, (3, 4), UpstreamTimeout, True)]


@pytest.mark.usefixtures("log_messages")  # resets the log level
def test_traceback_of_a_malformed_event_is_logged_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A malformed event may be a bug of the parser."""
    records: list[logging.LogRecord] = []
    monkeypatch.setattr(logging.getLogger("forwarder.exchange"), "handle", records.append)
    broken = make_context()

    with pytest.raises(UpstreamMalformedEvent) as caught:
        list(broken.convert_errors(_read_stream(iter([[{}]]))))
    broken.record_failure(caught.value)

    [record] = [r for r in records if r.levelno >= logging.WARNING]
    assert "req_1" in record.getMessage()
    assert record.exc_info
    assert "KeyError: 'delta'" in logging.Formatter().formatException(record.exc_info)


def _read_stream(stream: Any) -> Any:
    handler = with_malformed_event_errors(lambda request: (batch[0]["delta"] for batch in stream))
    return handler({})


def test_observer_exception_is_logged_and_ignored(log_messages: list[Any]) -> None:
    observer = RecordingObserver()
    watched = make_context(observers=[FailingObserver(), observer])

    watched.notify_stream_start()
    watched.close()

    assert [notification for notification in observer.notifications if notification == "streams"]
    assert observer.notifications[-1][0] == 0
    assert sum("observer failed" in str(line) for line in log_messages) == 2
    assert log_messages[-1]["status"] == 200


def test_observer_methods_default_to_no_op() -> None:
    observer = RequestObserver()

    results = [
        observer.on_retry("up", "503"),
        observer.on_failure("up", UpstreamTimeout("late")),
        observer.on_fallback("up", "other", "503"),
        observer.on_breaker_change("up", "open"),
        observer.on_rejection("overloaded"),
        observer.on_rejection("upstream_unavailable", "up"),
    ]

    assert results == [None] * 6


def test_shutdown_is_reported_as_shutting_down(log_messages: list[Any]) -> None:
    stopped = make_context()

    with pytest.raises(ShuttingDown):
        list(stopped.convert_errors(break_stream_with(ShutdownInterrupt())))

    stopped.close()
    assert (log_messages[0]["status"], log_messages[0]["error"]) == (503, "shutting_down")


def test_attempts_are_not_recorded_without_a_recorder() -> None:
    assert (
        make_context().record_attempt(UPSTREAM, "generic", "chat", URL, b"{}")
        is NULL_ATTEMPT_RECORDER
    )


def test_recorder_receives_attempts_and_resumed_body() -> None:
    recorder = make_recorder()
    context = make_context(recorder=recorder)
    recorder.record_body(b'{"previous_response_id":"r"}')

    list(context.with_metering(lambda request: iter([]))({"input": ["before"]}))
    context.record_attempt(UPSTREAM, "generic", "chat", URL, b"{}")

    assert recorder.resumed_body is not None
    assert recorder.resumed_body.data == b'{"input":["before"]}'
    assert [attempt.url for attempt in recorder.attempts] == [URL]
