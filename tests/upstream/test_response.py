"""A response of an upstream: chunks become batches, within the time-outs."""

from __future__ import annotations

import gc
import json
import time
import weakref
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from forwarder.config.settings import Settings
from forwarder.core.errors import (
    ForwarderError,
    ShuttingDown,
    UpstreamProtocolError,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from forwarder.core.in_flight_requests import ShutdownInterrupt
from forwarder.upstream import response as response_module
from forwarder.upstream.response import UpstreamResponse, select_client_headers
from tests.helpers.check_cases import check_each

KEY = "sk-secret"


class ScriptedChunkReader:
    """A chunk reader with scripted chunks; exceptions among them are raised."""

    def __init__(self, *pieces: bytes | BaseException) -> None:
        self.silence_limit: float | None = None
        self.closed = False
        self._pieces = pieces

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._pieces:
            if isinstance(piece, BaseException):
                raise piece
            if not piece:
                time.sleep(0.01)
            yield piece

    def close(self) -> None:
        self.closed = True


def make_response(
    arrivals: Any,
    protocol: str = "chat",
    streamed: bool = True,
    kind: str = "",
    heartbeat: float = 60,
    **environment: str,
) -> UpstreamResponse:
    variables = {"CHAT_BASE_URL": "http://up.test/v1", "CHAT_API_KEY": KEY, **environment}
    [settings] = Settings.from_env(variables).upstreams
    response = httpx2.Response(
        200, headers={"content-type": kind}, content=b"", extensions={"chunk_reader": arrivals}
    )
    return UpstreamResponse(response, protocol, streamed, settings, heartbeat)


A, B = b'data: {"a": 1}\n\n', b'data: {"b": 2}\n\n'


def test_events_that_arrive_together_are_one_batch() -> None:
    reader = ScriptedChunkReader(A + B, A[:5], A[5:], B)

    assert list(make_response(reader).iter_batches()) == [
        [{"a": 1}, {"b": 2}],
        [{"a": 1}],
        [{"b": 2}],
    ]


def test_silence_is_an_empty_batch() -> None:
    reader = ScriptedChunkReader(b"", A, b"", b"", B)

    assert list(make_response(reader).iter_batches()) == [[], [{"a": 1}], [], [], [{"b": 2}]]


@check_each(("heartbeat", "expected"), [(0, [[]]), (60, [])])
def test_stream_without_silence_has_heartbeats_too(heartbeat: float, expected: list[Any]) -> None:
    reader = ScriptedChunkReader(A, b": comment\n\n", B)

    batches = list(make_response(reader, heartbeat=heartbeat).iter_batches())

    assert batches == [[{"a": 1}], *expected, *expected, [{"b": 2}]]


def test_heartbeat_is_not_directly_before_the_first_event() -> None:
    reader = ScriptedChunkReader(b": comment\n\n", A)

    assert list(make_response(reader, heartbeat=0).iter_batches()) == [[], [{"a": 1}]]
    batches = make_response(
        ScriptedChunkReader(b'data: {"error": {}}\n\n'), heartbeat=0
    ).iter_batches()
    assert next(batches) == [{"error": {}}]


def test_a_last_event_needs_no_end() -> None:
    assert list(make_response(ScriptedChunkReader(A, B.rstrip())).iter_batches()) == [
        [{"a": 1}],
        [{"b": 2}],
    ]


@check_each(
    ("protocol", "last"),
    [("chat", b"data: [DONE]\n\n"), ("responses", b'data: {"type": "response.completed"}\n\n')],
)
def test_wait_after_the_last_event_is_short(protocol: str, last: bytes) -> None:
    reader = ScriptedChunkReader(A, last)
    answer = make_response(reader, protocol)
    batches = answer.iter_batches()

    next(batches)
    assert reader.silence_limit is None
    list(batches)

    assert answer.saw_done_marker() == (protocol == "chat")
    assert reader.silence_limit == 0.25


WHOLE_ANSWER = b'{"object": "chat.completion", "choices": [{"message": {"content": "Hi"}}]}'


def test_a_whole_answer_is_one_event() -> None:
    reader = ScriptedChunkReader(WHOLE_ANSWER[:9], b"", WHOLE_ANSWER[9:])

    batches = list(make_response(reader, streamed=False).iter_batches())

    assert batches[:-1] == [[]]
    assert batches[-1][0]["choices"] == [{"message": {"content": "Hi"}, "finish_reason": "stop"}]


def test_a_whole_answer_is_accepted_instead_of_a_stream() -> None:
    *_, [chunk] = make_response(ScriptedChunkReader(b" \n", WHOLE_ANSWER)).iter_batches()

    assert chunk["choices"] == [{"delta": {"content": "Hi"}, "finish_reason": "stop"}]


EVENTS = b'data: {"choices": [{"delta": {"content": "Hi"}, "finish_reason": "stop"}]}\n\n'


@check_each("before", [b"", b"\xef\xbb\xbf", b": hello\n\n", b"id: 1\n", b"\r\n\n"])
@check_each("size", [1, 2, 7, 1000])
def test_events_for_a_whole_answer_are_recognised_in_pieces(before: bytes, size: int) -> None:
    data = before + EVENTS
    pieces = [data[at : at + size] for at in range(0, len(data), size)]

    batches = list(make_response(ScriptedChunkReader(*pieces), streamed=False).iter_batches())

    [chunk] = [event for batch in batches for event in batch]
    assert chunk["choices"] == [{"delta": {"content": "Hi"}, "finish_reason": "stop"}]


@check_each("streamed", [False, True])
@check_each("size", [1, 2, 1000])
def test_a_whole_answer_behind_a_byte_order_mark_is_read(size: int, streamed: bool) -> None:
    data = b"\xef\xbb\xbf" + WHOLE_ANSWER
    pieces = [data[at : at + size] for at in range(0, len(data), size)]

    batches = list(make_response(ScriptedChunkReader(*pieces), streamed=streamed).iter_batches())

    [answer] = [event for batch in batches for event in batch]
    assert answer["choices"][0]["finish_reason"] == "stop"


@check_each(
    ("pieces", "kind"),
    [([b"<html>"], ""), ([b"\n <!doctype"], ""), ([b"soon"], "text/html; charset=utf-8")],
)
def test_web_page_instead_of_a_stream_is_an_error(pieces: list[bytes], kind: str) -> None:
    with pytest.raises(UpstreamProtocolError, match="page"):
        list(make_response(ScriptedChunkReader(*pieces), kind=kind).iter_batches())


@check_each("body", [b"", b"[1]", b"nonsense", b'{"half'])
def test_a_whole_answer_has_to_be_a_json_object(body: bytes) -> None:
    with pytest.raises(UpstreamProtocolError):
        list(make_response(ScriptedChunkReader(body), streamed=False).iter_batches())


@check_each(
    ("error", "reason"),
    [
        (httpx2.ReadError("x"), "ReadError"),
        (httpx2.StreamClosed(), "StreamClosed"),
        (ConnectionResetError("x"), "it was reset"),
        (httpx2.RemoteProtocolError("x"), "it was closed before the answer was complete"),
    ],
)
def test_broken_connection_raises_after_the_received_events(error: Exception, reason: str) -> None:
    batches = make_response(ScriptedChunkReader(A, error)).iter_batches()

    assert next(batches) == [{"a": 1}]
    with pytest.raises(UpstreamUnreachable) as broken:
        next(batches)
    assert broken.value.code == "upstream_disconnected"
    assert broken.value.message == f"The connection to the upstream 'chat' broke: {reason}."


def test_shutdown_interrupts_an_answer() -> None:
    batches = make_response(ScriptedChunkReader(A, ShutdownInterrupt())).iter_batches()

    assert next(batches) == [{"a": 1}]
    with pytest.raises(ShuttingDown):
        next(batches)


def test_time_out_of_the_transport_is_converted() -> None:
    with pytest.raises(UpstreamTimeout, match="stopped sending"):
        list(make_response(ScriptedChunkReader(A, httpx2.ReadTimeout("x"))).iter_batches())


def test_idle_timeout_ends_an_answer() -> None:
    reader = ScriptedChunkReader(A, *[b""] * 100)

    with pytest.raises(UpstreamTimeout, match="stopped sending"):
        list(make_response(reader, CHAT_IDLE_TIMEOUT="0.05").iter_batches())


def test_idle_timeout_restarts_after_every_chunk() -> None:
    reader = ScriptedChunkReader(*[b"", b"", A] * 6)

    answer = make_response(reader, CHAT_IDLE_TIMEOUT="0.1")

    assert len([batch for batch in answer.iter_batches() if batch]) == 6


ANSWER = b'{"choices": [{"message": {}, "finish_reason": "stop"}]}'


def test_whole_answer_may_be_silent_before_its_first_byte() -> None:
    limits = {"CHAT_IDLE_TIMEOUT": "0.02", "CHAT_WHOLE_TIMEOUT": "2"}
    reader = ScriptedChunkReader(*[b""] * 8, ANSWER)

    batches = list(make_response(reader, streamed=False, **limits).iter_batches())

    assert [batch for batch in batches if batch] == [[json.loads(ANSWER)]]


@check_each("pieces", [[b""] * 50, [ANSWER[:9], *[b""] * 50]])
def test_whole_answer_has_the_whole_timeout_then_the_idle_timeout(
    pieces: list[bytes],
) -> None:
    limit = "CHAT_IDLE_TIMEOUT" if pieces[0] else "CHAT_WHOLE_TIMEOUT"

    with pytest.raises(UpstreamTimeout, match="stopped sending"):
        list(
            make_response(
                ScriptedChunkReader(*pieces), streamed=False, **{limit: "0.05"}
            ).iter_batches()
        )


@check_each("pieces", [[A, b""] * 50, [b""] * 50])
def test_total_timeout_limits_an_answer(pieces: list[bytes]) -> None:
    with pytest.raises(UpstreamTimeout, match="took too long"):
        list(make_response(ScriptedChunkReader(*pieces), CHAT_TOTAL_TIMEOUT="0.1").iter_batches())


@check_each(
    "event",
    [
        b'{"error": {"message": "bad sk-secret"}}',
        b'{"type": "error", "message": "bad sk-secret"}',
        b'{"type": "response.failed", "response": {"error": {"message": "bad sk-secret"}}}',
        b'{"base_resp": {"status_code": 1004, "status_msg": "bad sk-secret"}}',
        b'{"choices": [{"finish_reason": "error", "error": {"message": "bad sk-secret"}}]}',
        b'{"\\u0065rror": {"message": "bad sk-secret"}}',
        b'{"object": "x", "message": "bad sk-secret"}',
    ],
)
def test_key_is_redacted_in_errors_of_a_stream(event: bytes) -> None:
    batches = list(
        make_response(ScriptedChunkReader(A + b"data: " + event + b"\n\n")).iter_batches()
    )

    assert batches[0][0] == {"a": 1}
    assert "bad ***" in str(batches)
    assert KEY not in str(batches)


@check_each(
    "answer",
    [
        b'{"error": {"message": "bad sk-secret"}}',
        b'{"choices": null, "base_resp": {"status_code": 1004, "status_msg": "bad sk-secret"}}',
        b'{"choices": [{"message": {}, "error": {"message": "bad sk-secret"}}]}',
    ],
)
def test_key_is_redacted_in_errors_of_a_whole_answer(answer: bytes) -> None:
    try:
        text = str(list(make_response(ScriptedChunkReader(answer), streamed=False).iter_batches()))
    except ForwarderError as error:
        text = error.message

    assert "bad ***" in text
    assert KEY not in text


def test_closing_closes_the_arrivals() -> None:
    reader = ScriptedChunkReader(A)

    make_response(reader).close()

    assert reader.closed


def test_closed_response_is_freed_without_garbage_collection() -> None:
    """The response references its request, which may be large."""
    gc.disable()
    try:
        closed = make_response(ScriptedChunkReader(b"data: {}\n\n"))
        next(closed.iter_batches())
        reference = weakref.ref(closed)

        closed.close()
        del closed

        assert reference() is None
    finally:
        gc.enable()


def test_only_headers_for_the_client_are_selected() -> None:
    headers = httpx2.Headers(
        {
            "retry-after": "1",
            "retry-after-ms": "2",
            "x-should-retry": "true",
            "x-ratelimit-remaining-requests": "3",
            "openai-processing-ms": "4",
            "openai-model": "m",
            "x-reasoning-included": "true",
            "x-codex-primary-used-percent": "12.5",
            "x-models-etag": "of-another-catalog",
            "x-request-id": "r",
            "set-cookie": "c",
            "content-length": "5",
        }
    )

    selected = select_client_headers(headers)

    assert selected.keys() == (
        headers.keys() - {"x-request-id", "set-cookie", "content-length", "x-models-etag"}
    ) | {"x-upstream-request-id"}
    assert selected["x-upstream-request-id"] == "r"


@check_each("unprintable", [b"caf\xc3\xa9", b"\xff", b"a\x01", b"a\nb", b"a\tb"])
def test_unprintable_header_is_omitted(unprintable: bytes) -> None:
    headers = httpx2.Headers([(b"x-request-id", unprintable), (b"retry-after", b"1")])

    assert select_client_headers(headers) == {"retry-after": "1"}


@check_each(("choices", "is_unlimited"), [(1, False), (2, True)])
def test_finish_reason_shortens_the_wait_only_for_a_single_choice(
    choices: int, is_unlimited: bool
) -> None:
    finish = b'data: {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}\n\n'
    reader = ScriptedChunkReader(finish)
    [settings] = Settings.from_env({"CHAT_BASE_URL": "http://up.test/v1"}).upstreams
    response = httpx2.Response(200, content=b"", extensions={"chunk_reader": reader})

    list(UpstreamResponse(response, "chat", True, settings, 1, choices).iter_batches())

    assert (reader.silence_limit is None) == is_unlimited


def test_a_whole_answer_has_a_limit() -> None:
    response = httpx2.Response(200, content=b"")
    settings = Settings.from_env({"UP_BASE_URL": "http://u.test", "FORWARDER_UPSTREAMS": "up"})
    reader = ScriptedChunkReader(b'{"a":"', *[b"x" * 400] * 3, b'"}')
    response.extensions["chunk_reader"] = reader
    answer = UpstreamResponse(response, "chat", False, settings.upstreams[0], 1.0, max_answer=1000)
    with pytest.raises(UpstreamProtocolError, match="1000 bytes .limit: FORWARDER_MAX_ANSWER"):
        list(answer.iter_batches())


def test_values_of_a_whole_answer_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(response_module, "MAX_ANSWER_VALUES", 1000)
    reader = ScriptedChunkReader(b'{"choices":[' + b",".join([b"[]"] * 2000) + b"]}")
    with pytest.raises(UpstreamProtocolError, match="'chat' answered with more than 1000 JSON"):
        list(make_response(reader, streamed=False).iter_batches())


def test_embeddings_may_hold_more_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(response_module, "MAX_ANSWER_VALUES", 1000)
    body = {"data": [{"embedding": [0.5] * 2000}]}
    reader = ScriptedChunkReader(json.dumps(body).encode())
    assert list(make_response(reader, "embeddings", streamed=False).iter_batches()) == [[body]]
