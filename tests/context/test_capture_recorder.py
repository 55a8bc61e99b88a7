"""The recorder passes bytes unchanged and records them."""

from __future__ import annotations

import json
from collections.abc import Iterator

import httpx2
import pytest

from forwarder.context.capture_recorder import (
    NULL_ATTEMPT_RECORDER,
    ByteTrack,
    CaptureBudget,
    truncate_body,
)
from tests.helpers.check_cases import check_each
from tests.observability.capture.taping import UPSTREAM, URL, make_recorder


def make_track(limit: int) -> ByteTrack:
    return ByteTrack(CaptureBudget(limit), lambda: 1.5)


def test_track_passes_pieces_unchanged() -> None:
    byte_track, pieces = make_track(1000), [b"one", b"", b"two"]

    assert [*byte_track.tap(pieces)] == pieces
    assert byte_track.pieces == [(1.5, b"one"), (1.5, b"two")]
    assert byte_track.pieces[0][1] is pieces[0]


def test_track_keeps_nothing_after_the_budget_is_spent() -> None:
    byte_track = make_track(100)

    assert [*byte_track.tap([b"a", b"b" * 100, b"c"])] == [b"a", b"b" * 100, b"c"]
    assert byte_track.pieces == [(1.5, b"a")]
    assert byte_track.dropped_bytes == 101


def test_closing_a_tap_closes_its_source() -> None:
    ended = []

    def make_pieces() -> Iterator[bytes]:
        try:
            yield b"one"
            yield b"two"
        finally:
            ended.append(True)

    tap = make_track(1000).tap(make_pieces())
    next(tap)
    tap.close()

    assert ended == [True]


def test_body_within_budget_is_kept_without_copy() -> None:
    recorder, data = make_recorder(), b'{"model":"m"}'
    recorder.record_body(data)

    assert recorder.body is not None
    assert recorder.body.data is data
    assert recorder.body.is_complete


@check_each(
    ("data", "expected"),
    [
        (json.dumps({"model": "m", "input": "x" * 5000}).encode(), True),
        (b"x" * 6000, False),
        (json.dumps(["y" * 900] * 10).encode(), False),
    ],
)
def test_body_over_budget_is_truncated_or_dropped(data: bytes, expected: bool) -> None:
    recorder = make_recorder(limit=6000)
    recorder.record_body(data)

    assert recorder.body is not None
    assert (recorder.body.data is not None, recorder.body.size, recorder.body.is_complete) == (
        expected, len(data), False,
    )  # fmt: skip


def test_request_bodies_leave_budget_for_answers() -> None:
    recorder = make_recorder(limit=1000)
    recorder.record_body(b'{"input":"%s"}' % (b"x" * 400))
    for _ in range(5):
        recorder.record_attempt(UPSTREAM, "generic", "chat", URL, b'{"input":"%s"}' % (b"x" * 100))

    recorder.answer.add(b"z" * 200)

    assert recorder.answer.dropped_bytes == 0


def test_resumed_body_is_recorded_if_the_request_may_refer_to_state() -> None:
    stateless, continued, turn = make_recorder(), make_recorder(), make_recorder(method="GET")
    stateless.record_body(b'{"input":"hi"}')
    continued.record_body(b'{"input":"hi","previous_response_id":"resp_1"}')
    turn.record_body(b'{"input":"hi"}')
    for each in (stateless, continued, turn):
        each.record_resumed_body({"input": ["before", "hi"]})
        each.record_resumed_body({"input": "asked of a fallback"})

    assert stateless.resumed_body is None
    for each in (continued, turn):
        assert each.resumed_body is not None
        assert each.resumed_body.data == b'{"input":["before","hi"]}'


def test_attempt_url_has_no_query() -> None:
    recorder = make_recorder()
    attempt = recorder.record_attempt(UPSTREAM, "generic", "chat", f"{URL}?key=secret", b"{}")
    with attempt:
        pass
    attempt.record_head(httpx2.Response(200, headers={"a": "b"}))

    assert [*attempt.tap(iter([b"x", b""]))] == [b"x", b""]
    assert recorder.attempts == [attempt]
    assert (attempt.url, attempt.status, attempt.headers) == (URL, 200, [("a", "b")])
    assert [data for _, data in attempt.answer.pieces] == [b"x"]
    assert attempt.error is None


def test_attempt_records_an_http_error_and_reraises() -> None:
    class Refusal(Exception):
        response = httpx2.Response(429, text="slowly")

    attempt = make_recorder().record_attempt(UPSTREAM, "generic", "chat", URL, b"{}")
    with pytest.raises(Refusal), attempt:
        raise Refusal

    assert attempt.status == 429
    assert [data for _, data in attempt.answer.pieces] == [b"slowly"]


def test_attempt_records_a_connection_error() -> None:
    attempt = make_recorder().record_attempt(UPSTREAM, "generic", "chat", URL, b"{}")
    with pytest.raises(RuntimeError), attempt:
        raise RuntimeError("the SDK's") from httpx2.ConnectTimeout("late")

    assert attempt.status is None
    assert attempt.error == {"type": "ConnectTimeout", "message": "late"}


def test_attempt_records_a_broken_answer_and_reraises() -> None:
    def break_off() -> Iterator[bytes]:
        yield b"x"
        raise httpx2.ReadError("cut")

    attempt = make_recorder().record_attempt(UPSTREAM, "generic", "chat", URL, b"{}")
    with pytest.raises(httpx2.ReadError):
        list(attempt.tap(break_off()))

    assert attempt.error == {"type": "ReadError", "message": "cut"}


def test_attempt_records_no_error_when_the_reader_stops() -> None:
    attempt = make_recorder().record_attempt(UPSTREAM, "generic", "chat", URL, b"{}")
    tap = attempt.tap(iter([b"x", b"y"]))
    next(tap)
    tap.close()  # type: ignore[attr-defined]

    assert attempt.error is None


def test_child_recorder_shares_only_the_request() -> None:
    recorder = make_recorder()
    recorder.record_body(b"{}")
    recorder.answer.add(b"queued")

    child = recorder.make_child(0.0)

    assert child.request_head is recorder.request_head
    assert child.body == recorder.body
    assert child.answer.pieces == []


def test_events_without_http_stream_are_recorded_as_sse() -> None:
    recorder = make_recorder()
    recorder.record_events([{"type": "response.created"}])

    assert recorder.answer.pieces[0][1] == (
        b'event: response.created\ndata: {"type":"response.created"}\n\n'
    )


def test_null_attempt_recorder_returns_the_same_iterator() -> None:
    pieces = iter([b"x"])
    with NULL_ATTEMPT_RECORDER:
        NULL_ATTEMPT_RECORDER.record_head(None)

    assert NULL_ATTEMPT_RECORDER.tap(pieces) is pieces


LONG = "sk-1234567890" * 200


def test_long_strings_are_omitted_entirely() -> None:
    body = {"model": "m", "input": [{"text": LONG, "n": 1}, "short"], "tools": []}

    truncated = truncate_body(json.dumps(body).encode())

    assert truncated is not None
    assert json.loads(truncated) == {
        "model": "m",
        "input": [{"text": "[2600 characters left out]", "n": 1}, "short"],
        "tools": [],
    }


def test_omitted_data_url_keeps_its_media_type() -> None:
    truncated = truncate_body(json.dumps(["data:image/png;base64," + "A" * 5000]).encode())

    assert truncated == b'["data:image/png;base64,[5000 characters left out]"]'


@check_each("data", [b"", b"{", b"\xff" * 5000])
def test_invalid_json_is_not_truncated(data: bytes) -> None:
    assert truncate_body(data) is None
