"""The record of one exchange: what it notes, what it closes, the line it leaves."""

from __future__ import annotations

import gc
import logging
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from forwarder.context.recorder import NULL_ATTEMPT_RECORDER
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
from forwarder.core.shutdown import InFlightRequest, ShutdownInterrupt
from forwarder.core.translation_context import LossReport
from forwarder.core.types import EventStream
from forwarder.middleware.usage_estimate import EstimatedUsage
from forwarder.protocols.stream_end import blame_upstream_for_malformed_events
from tests.observability.capture.taping import UPSTREAM, URL, tape

Json = dict[str, Any]


@pytest.fixture
def logged() -> Iterator[list[Any]]:
    """What exchanges log while the test runs."""
    messages: list[Any] = []

    class Keeper(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.msg)

    log, keeper = logging.getLogger("forwarder.exchange"), Keeper()
    before = log.level
    log.addHandler(keeper)
    log.setLevel("INFO")
    yield messages
    log.removeHandler(keeper)
    log.setLevel(before)


def exchange(**more: Any) -> RequestContext:
    return RequestContext(id="req_1", route="chat", loss_report=LossReport(), **more)


def metered(of: RequestContext, *batches: list[Json]) -> list[list[Json]]:
    return list(of.meter(lambda request: iter(batches))({}))


def test_metering_changes_nothing() -> None:
    batches = [[{"a": 1}], [], [{"b": 2}, {"c": 3}]]

    assert metered(exchange(), *batches) == batches


def test_the_first_event_is_noted_and_not_the_silence_before(logged: list[Any]) -> None:
    silent, spoken = exchange(), exchange()
    metered(silent, [], [])
    metered(spoken, [], [{"a": 1}])

    assert silent.first_event_at is None
    assert spoken.first_event_at is not None
    spoken.close()
    assert 0 <= logged[0]["first_event_ms"] <= logged[0]["duration_ms"]


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
def test_usage_is_noted_in_either_protocol(event: Json, logged: list[Any]) -> None:
    counted = exchange()
    metered(counted, [{"usage": None}], [event])

    counted.close()

    assert (logged[0]["input_tokens"], logged[0]["output_tokens"]) == (3, 4)


def test_one_line_says_what_became_of_it(logged: list[Any]) -> None:
    done = exchange(upstream="qwen", model="m", client_key="sk-client")
    done.loss_report.drop("seed", "why")

    done.close()

    [line] = logged
    assert line.pop("duration_ms") >= 0
    assert line == {
        "id": "req_1",
        "route": "chat",
        "upstream": "qwen",
        "model": "m",
        "status": 200,
        "dropped": ["seed"],
    }


def test_closing_closes_what_was_opened() -> None:
    closed: list[str] = []
    opened = exchange()
    opened.cleanup.add(closed.append, "reply")

    opened.close()

    assert closed == ["reply"]


def test_a_client_that_leaves_ends_what_waits_and_what_is_open() -> None:
    closed: list[str] = []
    leaving = exchange()
    leaving.cleanup.add(closed.append, "reply")
    leaving.cancel_callbacks.add(lambda: closed.append("connection"))
    assert leaving.wait(0.001)
    assert not leaving.is_cancelled

    leaving.cancel()

    assert closed == ["connection", "reply"]
    assert leaving.is_cancelled
    assert not leaving.wait(60)


def test_closing_frees_an_unread_answer_without_the_garbage_collector() -> None:
    """The generator that makes an answer knows the exchange, which knows the generator."""
    freed: list[str] = []

    def answer() -> Iterator[list[Json]]:
        try:
            yield [{"a": 1}]
            yield [{"a": 2}]
        finally:
            freed.append("answer")

    def abandon_answer() -> None:
        of = exchange(run=InFlightRequest())
        stream = of.set_response_stream(of.convert_errors(answer()))
        next(stream)
        of.close()

    gc.disable()
    try:
        abandon_answer()
        assert freed == ["answer"]
    finally:
        gc.enable()


def test_a_wait_ends_when_the_client_leaves() -> None:
    leaving = exchange()
    threading.Timer(0.05, leaving.cancel).start()
    began = time.monotonic()

    assert not leaving.wait(60)
    assert time.monotonic() - began < 5


def test_what_breaks_since_the_client_has_gone_is_nobody_s_failure(logged: list[Any]) -> None:
    leaving = exchange()
    leaving.cancel()

    with pytest.raises(ClientDisconnected):
        list(leaving.convert_errors(breaking(UpstreamTimeout("late"))))

    leaving.close()
    assert (logged[0]["status"], logged[0]["error"]) == (499, "client_left")


def test_a_mistake_of_ours_is_one_whoever_has_gone() -> None:
    leaving = exchange()
    leaving.cancel()

    assert isinstance(leaving.record_failure(ValueError("a bug")), InternalError)


def test_an_answer_that_was_not_taken_is_told_of_unless_it_failed(logged: list[Any]) -> None:
    taken, failed = exchange(), exchange()
    failed.record_failure(UpstreamTimeout("late"))
    for each in (taken, failed):
        each.record_disconnect()
        each.close()

    assert [(line["status"], line.get("left")) for line in logged] == [(499, True), (504, None)]


@pytest.mark.parametrize("odd", ["3", -1, 2.5, True, None, {}])
def test_what_is_no_number_of_tokens_is_none(odd: object) -> None:
    counted = exchange()
    metered(counted, [{"usage": {"prompt_tokens": odd, "completion_tokens": 4}}])

    assert counted.token_counts == (None, 4)


def test_another_upstream_is_a_new_leaf(logged: list[Any]) -> None:
    going = exchange(upstream="first", model="m")
    going.loss_report.strict = True
    going.loss_report.losses["seed"] = "why"
    going.reply_headers = {"retry-after": "3"}

    going.new_attempt("second", "n")

    assert (going.upstream, going.model) == ("second", "n")
    assert (going.loss_report.strict, going.loss_report.losses, going.reply_headers) == (
        True,
        {},
        {},
    )


def test_the_line_tells_of_retries_and_fallbacks(logged: list[Any]) -> None:
    tried = exchange(upstream="second", retries=2, failed_upstreams=["first"])

    tried.close()

    assert (logged[0]["retries"], logged[0]["failed"]) == (2, ["first"])


def breaking(error: BaseException) -> EventStream:
    yield [{"a": 1}]
    raise error


def test_known_failures_pass_and_are_noted(logged: list[Any]) -> None:
    error = UpstreamTimeout("late")
    failing = exchange()
    stream = failing.convert_errors(breaking(error))

    assert next(stream) == [{"a": 1}]
    with pytest.raises(ForwarderError) as raised:
        next(stream)

    assert raised.value is error
    failing.close()
    assert (logged[0]["status"], logged[0]["error"]) == (504, "upstream_timeout")
    assert logged[0]["detail"] == "late"


def test_the_line_quotes_no_refusal(logged: list[Any]) -> None:
    """An upstream's words may quote the request."""
    failing = exchange()

    with pytest.raises(ForwarderError):
        list(
            failing.convert_errors(breaking(UpstreamRefused(400, {"message": "You said: secret"})))
        )

    failing.close()
    assert "detail" not in logged[0]


def test_unforeseen_failures_are_ours_and_leave_a_trace(logged: list[Any]) -> None:
    failing = exchange()
    stream = failing.convert_errors(breaking(KeyError("secret detail")))
    next(stream)

    with pytest.raises(InternalError) as raised:
        next(stream)

    assert "secret detail" not in raised.value.message
    assert "broke" in logged[0]
    failing.close()
    assert logged[1]["status"] == 500


def test_bodies_are_logged_only_when_asked(logged: list[Any]) -> None:
    exchange().log_request({"said": 1})
    exchange(log_bodies=True).log_request({"said": 2})

    assert logged == [{"id": "req_1", "request": {"said": 2}}]


def test_keys_are_not_logged_with_the_bodies_that_hold_them(logged: list[Any]) -> None:
    body = {"remote_api_key": "sk-1", "remote_headers": {"X-Auth": "sk-2"}, "max_tokens": 3}

    exchange(log_bodies=True).log_request(body)

    blotted = {"remote_api_key": "***", "remote_headers": {"X-Auth": "***"}, "max_tokens": 3}
    assert logged == [{"id": "req_1", "request": blotted}]
    assert body["remote_api_key"] == "sk-1"


def test_events_are_sampled_by_their_kind_alone(logged: list[Any]) -> None:
    events = [{"type": "response.created", "x": 1}, {"object": "chat.completion.chunk", "x": 1}]

    metered(exchange(), events)
    metered(exchange(log_sample_rate=1.0), events)

    kinds = [{"type": "response.created"}, {"type": "chat.completion.chunk"}]
    assert [line["event"] for line in logged] == kinds


def test_whole_events_are_sampled_when_bodies_may_be_seen(logged: list[Any]) -> None:
    metered(exchange(log_sample_rate=1.0, log_bodies=True), [{"type": "x", "y": 1}])

    assert logged[0]["event"] == {"type": "x", "y": 1}


class Watching(RequestObserver):
    def __init__(self) -> None:
        self.told: list[Any] = []

    def on_stream_start(self, exchange: RequestContext) -> None:
        self.told.append("streams")

    def on_complete(self, exchange: RequestContext, seconds: float) -> None:
        self.told.append(
            (exchange.event_count, exchange.token_counts, exchange.error_class, seconds >= 0)
        )


class Broken(RequestObserver):
    def on_stream_start(self, exchange: RequestContext) -> None:
        raise KeyError("streams")

    def on_complete(self, exchange: RequestContext, seconds: float) -> None:
        raise KeyError("ended")


def test_observers_are_told_when_it_is_over() -> None:
    watching = Watching()
    watched = exchange(observers=[watching])
    watched.notify_stream_start()
    metered(watched, [{"a": 1}, {"b": 2}], [{"usage": {"input_tokens": 3, "output_tokens": 4}}])
    watched.record_failure(UpstreamTimeout("late"))

    watched.close()

    assert watching.told == ["streams", (3, (3, 4), UpstreamTimeout, True)]


@pytest.mark.usefixtures("logged")  # whatever level another test has set
def test_the_trace_of_what_cannot_be_read_is_logged_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be the forwarder that cannot read."""
    records: list[logging.LogRecord] = []
    monkeypatch.setattr(logging.getLogger("forwarder.exchange"), "handle", records.append)
    broken = exchange()

    with pytest.raises(UpstreamMalformedEvent) as caught:
        list(broken.convert_errors(_read(iter([[{}]]))))
    broken.record_failure(caught.value)

    [record] = [r for r in records if r.levelno >= logging.WARNING]
    assert "req_1" in record.getMessage()
    assert record.exc_info
    assert "KeyError: 'delta'" in logging.Formatter().formatException(record.exc_info)


def _read(stream: Any) -> Any:
    call = blame_upstream_for_malformed_events(
        lambda request: (batch[0]["delta"] for batch in stream)
    )
    return call({})


def test_an_observer_s_mistake_is_not_the_client_s(logged: list[Any]) -> None:
    watching = Watching()
    watched = exchange(observers=[Broken(), watching])

    watched.notify_stream_start()
    watched.close()

    assert [told for told in watching.told if told == "streams"]
    assert watching.told[-1][0] == 0
    assert sum("observed" in str(line) for line in logged) == 2
    assert logged[-1]["status"] == 200


def test_whoever_does_not_want_to_know_need_not() -> None:
    observer = RequestObserver()

    heard = [
        observer.on_retry("up", "503"),
        observer.on_failure("up", UpstreamTimeout("late")),
        observer.on_fallback("up", "other", "503"),
        observer.on_breaker_change("up", "open"),
        observer.on_rejection("overloaded"),
        observer.on_rejection("upstream_unavailable", "up"),
    ]

    assert heard == [None] * 6


def test_the_end_of_the_process_is_no_mistake(logged: list[Any]) -> None:
    stopped = exchange()

    with pytest.raises(ShuttingDown):
        list(stopped.convert_errors(breaking(ShutdownInterrupt())))

    stopped.close()
    assert (logged[0]["status"], logged[0]["error"]) == (503, "shutting_down")


def test_without_a_tape_nothing_is_taken_down() -> None:
    assert (
        exchange().record_attempt(UPSTREAM, "generic", "chat", URL, b"{}") is NULL_ATTEMPT_RECORDER
    )


def test_with_a_tape_it_hears_what_is_asked_of_upstreams_and_on_what_that_stands() -> None:
    taken = tape()
    of = exchange(recorder=taken)
    taken.record_body(b'{"previous_response_id":"r"}')

    list(of.meter(lambda request: iter([]))({"input": ["before"]}))
    of.record_attempt(UPSTREAM, "generic", "chat", URL, b"{}")

    assert taken.resumed_body is not None
    assert taken.resumed_body.data == b'{"input":["before"]}'
    assert [attempt.url for attempt in taken.attempts] == [URL]
