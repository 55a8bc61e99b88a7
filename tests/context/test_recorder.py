"""What passes is noted, and passes as it is."""

from __future__ import annotations

import json
from collections.abc import Iterator

import httpx2
import pytest

from forwarder.context.recorder import NULL_ATTEMPT_RECORDER, ByteTrack, CaptureBudget
from tests.observability.capture.taping import UPSTREAM, URL, tape


def track(limit: int) -> ByteTrack:
    return ByteTrack(CaptureBudget(limit), lambda: 1.5)


def test_pieces_pass_as_they_are() -> None:
    noted, pieces = track(1000), [b"one", b"", b"two"]

    assert [*noted.tap(pieces)] == pieces
    assert noted.pieces == [(1.5, b"one"), (1.5, b"two")]
    assert noted.pieces[0][1] is pieces[0]


def test_after_the_first_piece_that_is_too_much_nothing_is_kept() -> None:
    noted = track(100)

    assert [*noted.tap([b"a", b"b" * 100, b"c"])] == [b"a", b"b" * 100, b"c"]
    assert noted.pieces == [(1.5, b"a")]
    assert noted.dropped_bytes == 101


def test_whoever_leaves_ends_what_makes_the_pieces() -> None:
    ended = []

    def making() -> Iterator[bytes]:
        try:
            yield b"one"
            yield b"two"
        finally:
            ended.append(True)

    passing = track(1000).tap(making())
    next(passing)
    passing.close()

    assert ended == [True]


def test_a_body_that_fits_is_the_very_bytes() -> None:
    taken, data = tape(), b'{"model":"m"}'
    taken.record_body(data)

    assert taken.body is not None
    assert taken.body.data is data
    assert taken.body.is_complete


@pytest.mark.parametrize(
    ("data", "kept"),
    [
        (json.dumps({"model": "m", "input": "x" * 5000}).encode(), True),
        (b"x" * 6000, False),
        (json.dumps(["y" * 900] * 10).encode(), False),
    ],
)
def test_a_body_that_is_too_large_is_abridged_or_not_there(data: bytes, kept: bool) -> None:
    taken = tape(limit=6000)
    taken.record_body(data)

    assert taken.body is not None
    assert (taken.body.data is not None, taken.body.size, taken.body.is_complete) == (
        kept, len(data), False,
    )  # fmt: skip


def test_requests_leave_room_for_answers() -> None:
    taken = tape(limit=1000)
    taken.record_body(b'{"input":"%s"}' % (b"x" * 400))
    for _ in range(5):
        taken.record_attempt(UPSTREAM, "generic", "chat", URL, b'{"input":"%s"}' % (b"x" * 100))

    taken.answer.add(b"z" * 200)

    assert taken.answer.dropped_bytes == 0


def test_what_a_request_stands_on_is_noted_where_it_may_stand_on_anything() -> None:
    alone, standing, turn = tape(), tape(), tape(method="GET")
    alone.record_body(b'{"input":"hi"}')
    standing.record_body(b'{"input":"hi","previous_response_id":"resp_1"}')
    turn.record_body(b'{"input":"hi"}')
    for each in (alone, standing, turn):
        each.record_resumed_body({"input": ["before", "hi"]})
        each.record_resumed_body({"input": "asked of a fallback"})

    assert alone.resumed_body is None
    for each in (standing, turn):
        assert each.resumed_body is not None
        assert each.resumed_body.data == b'{"input":["before","hi"]}'


def test_an_attempt_is_noted_without_its_query() -> None:
    taken = tape()
    attempt = taken.record_attempt(UPSTREAM, "generic", "chat", f"{URL}?key=secret", b"{}")
    with attempt:
        pass
    attempt.record_head(httpx2.Response(200, headers={"a": "b"}))

    assert [*attempt.tap(iter([b"x", b""]))] == [b"x", b""]
    assert taken.attempts == [attempt]
    assert (attempt.url, attempt.status, attempt.headers) == (URL, 200, [("a", "b")])
    assert [data for _, data in attempt.answer.pieces] == [b"x"]
    assert attempt.error is None


def test_a_refusal_is_noted_and_goes_on() -> None:
    class Refusal(Exception):
        response = httpx2.Response(429, text="slowly")

    attempt = tape().record_attempt(UPSTREAM, "generic", "chat", URL, b"{}")
    with pytest.raises(Refusal), attempt:
        raise Refusal

    assert attempt.status == 429
    assert [data for _, data in attempt.answer.pieces] == [b"slowly"]


def test_what_keeps_an_answer_from_coming_is_noted() -> None:
    attempt = tape().record_attempt(UPSTREAM, "generic", "chat", URL, b"{}")
    with pytest.raises(RuntimeError), attempt:
        raise RuntimeError("the SDK's") from httpx2.ConnectTimeout("late")

    assert attempt.status is None
    assert attempt.error == {"type": "ConnectTimeout", "message": "late"}


def test_an_answer_that_breaks_is_noted_and_breaks() -> None:
    def breaking() -> Iterator[bytes]:
        yield b"x"
        raise httpx2.ReadError("cut")

    attempt = tape().record_attempt(UPSTREAM, "generic", "chat", URL, b"{}")
    with pytest.raises(httpx2.ReadError):
        list(attempt.tap(breaking()))

    assert attempt.error == {"type": "ReadError", "message": "cut"}


def test_who_has_heard_enough_breaks_nothing() -> None:
    attempt = tape().record_attempt(UPSTREAM, "generic", "chat", URL, b"{}")
    heard = attempt.tap(iter([b"x", b"y"]))
    next(heard)
    heard.close()  # type: ignore[attr-defined]

    assert attempt.error is None


def test_more_work_for_the_same_request_has_a_tape_of_its_own() -> None:
    taken = tape()
    taken.record_body(b"{}")
    taken.answer.add(b"queued")

    more = taken.make_child(0.0)

    assert more.asked is taken.asked
    assert more.body == taken.body
    assert more.answer.pieces == []


def test_events_without_a_stream_are_told_as_one() -> None:
    taken = tape()
    taken.record_events([{"type": "response.created"}])

    assert taken.answer.pieces[0][1] == (
        b'event: response.created\ndata: {"type":"response.created"}\n\n'
    )


def test_without_a_tape_the_very_iterator_passes() -> None:
    pieces = iter([b"x"])
    with NULL_ATTEMPT_RECORDER:
        NULL_ATTEMPT_RECORDER.record_head(None)

    assert NULL_ATTEMPT_RECORDER.tap(pieces) is pieces
