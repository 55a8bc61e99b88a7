"""``n``: several answers at once in one stream."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from forwarder.core.errors import (
    ForwarderError,
    InvalidRequest,
    UpstreamProtocolError,
    UpstreamRefused,
)
from forwarder.core.types import Event, EventStream, Json
from forwarder.middleware.multiple_choices import MAX_PENDING_BATCHES, with_multiple_choices
from forwarder.protocols.fold import fold_chat
from tests.helpers.check_cases import check_each
from tests.helpers.sdk import chunk_mistakes, completion_mistakes, rebuild_completion
from tests.helpers.translating import collect_events
from tests.middleware.chatting import (
    REQUEST,
    USAGE,
    Scripted,
    make_chunk,
    make_text_chunks,
    one_by_one,
)


class Gated:
    """A handler whose stream ``i`` sends ``a i``, waits, and then sends ``b i``."""

    def __init__(self, count: int) -> None:
        self.gates = [threading.Event() for _ in range(count)]
        self._lock = threading.Lock()
        self._request_count = 0

    def __call__(self, request: Json) -> EventStream:
        with self._lock:
            number = self._request_count
            self._request_count += 1
        return self._answer(number)

    def _answer(self, number: int) -> EventStream:
        base = {"id": f"chatcmpl-{number}", "created": number}
        yield [{**make_chunk({"content": f"a{number}"}), **base}]
        self.gates[number].wait(5)
        for event in make_text_chunks(f"b{number}"):
            yield [{**event, **base}]


class Endless:
    """A handler whose streams run until they are closed; each then releases ``closed``."""

    def __init__(self) -> None:
        self.closed = threading.Semaphore(0)
        self._streams: list[EventStream] = []

    def __call__(self, request: Json) -> EventStream:
        self._streams.append(self._answer())
        return self._streams[-1]

    def _answer(self) -> EventStream:
        try:
            while True:
                time.sleep(0.01)
                yield [make_chunk({"content": "a"})]
        finally:
            self.closed.release()


def test_choices_are_interleaved_with_their_own_index() -> None:
    upstream = Gated(4)
    stream = with_multiple_choices(upstream, 8)({**REQUEST, "n": 4})
    first_chunks = [next(stream)[0] for _ in range(4)]
    assert sorted(e["choices"][0]["index"] for e in first_chunks) == [0, 1, 2, 3]

    for gate in reversed(upstream.gates):
        gate.set()
    answer = [*first_chunks, *collect_events(stream)]

    for index in range(4):
        choices = [
            e["choices"][0] for e in answer if e["choices"] and e["choices"][0]["index"] == index
        ]
        text = "".join(choice["delta"].get("content") or "" for choice in choices)
        assert text[0] + text[2] == "ab"
        assert text[1] == text[3]
        assert [choice["finish_reason"] for choice in choices if choice["finish_reason"]] == [
            "stop"
        ]
    assert len({(e["id"], e["created"], e["model"]) for e in answer}) == 1


def test_usage_is_summed_with_the_prompt_counted_once() -> None:
    answer = collect_events(
        with_multiple_choices(Scripted(*[[make_text_chunks("x")]] * 3), 8)({**REQUEST, "n": 3})
    )
    assert [event for event in answer if not event["choices"]] == [answer[-1]]
    assert answer[-1]["usage"] == {
        **USAGE,
        "completion_tokens": 90,
        "total_tokens": 100,
        "completion_tokens_details": {"reasoning_tokens": 60},
    }


def test_usage_is_omitted_if_one_answer_has_none() -> None:
    answer = collect_events(
        with_multiple_choices(Scripted([make_text_chunks("x")], [make_text_chunks("y")[:-1]]), 8)(
            {**REQUEST, "n": 2}
        )
    )
    assert all(event["choices"] for event in answer)


def test_whole_answer_has_all_choices_in_order() -> None:
    stream = with_multiple_choices(Scripted(*[[make_text_chunks("x")]] * 4), 8)(
        {**REQUEST, "n": 4, "stream": False}
    )
    completion = fold_chat(stream)
    assert [choice["index"] for choice in completion["choices"]] == [0, 1, 2, 3]
    assert completion_mistakes({**completion, "object": "chat.completion"}) == []


def test_sdk_accepts_and_rebuilds_every_choice() -> None:
    answer: list[Event] = collect_events(
        with_multiple_choices(Scripted(*[[make_text_chunks("x")]] * 3), 8)({**REQUEST, "n": 3})
    )
    assert [mistake for event in answer for mistake in chunk_mistakes(event)] == []
    assert [c["message"]["content"] for c in rebuild_completion(answer)["choices"]] == ["x"] * 3


def test_empty_batches_are_passed_on() -> None:
    scripts: Any = [
        [[], [], *one_by_one(make_text_chunks("x"))],
        [[], *one_by_one(make_text_chunks("y"))],
    ]
    batches = list(with_multiple_choices(Scripted(*scripts), 8)({**REQUEST, "n": 2}))
    assert batches.count([]) == 3


# -- failures -----------------------------------------------------------------------------------


def test_refusal_of_one_choice_is_raised_before_the_stream() -> None:
    refusal = UpstreamRefused(429, {"message": "slow down"}, {"retry-after": "3"})
    with pytest.raises(UpstreamRefused) as caught:
        with_multiple_choices(
            Scripted([make_text_chunks("x")], refusal, [make_text_chunks("z")]), 8
        )({**REQUEST, "n": 3})
    assert caught.value is refusal


def test_failure_of_one_choice_fails_all() -> None:
    failure = UpstreamProtocolError("broke")
    handler = with_multiple_choices(
        Scripted([make_text_chunks("x")], [[make_chunk({"content": "y"})], failure]), 8
    )
    with pytest.raises(ForwarderError) as caught:
        collect_events(handler({**REQUEST, "n": 2}))
    assert caught.value is failure


def test_unexpected_exception_is_raised() -> None:
    with pytest.raises(KeyError):
        collect_events(
            with_multiple_choices(Scripted([make_text_chunks("x")], [KeyError("k")]), 8)(
                {**REQUEST, "n": 2}
            )
        )  # type: ignore[list-item]


@check_each("end", ["left", "failed"])
def test_all_streams_are_closed_at_the_end(end: str) -> None:
    upstream = Endless()
    stream = with_multiple_choices(upstream, 8)({**REQUEST, "n": 3})
    assert next(stream)
    if end == "left":
        stream.close()  # type: ignore[attr-defined]
    else:
        with pytest.raises(RuntimeError):
            stream.throw(RuntimeError("the route broke"))  # type: ignore[attr-defined]
    assert [upstream.closed.acquire(timeout=5) for _ in range(3)] == [True] * 3


# -- the request --------------------------------------------------------------------------------


@check_each("parameters", [{}, {"n": None}, {"n": 1}])
def test_single_choice_is_the_inner_stream(parameters: Json) -> None:
    stream: EventStream = iter([[]])
    requests: list[Json] = []
    handler = with_multiple_choices(lambda request: requests.append(request) or stream, 8)  # type: ignore[func-returns-value]
    assert handler({**REQUEST, **parameters}) is stream
    assert requests == [REQUEST]


@check_each("n", [0, -1, 9, 2.0, "2", True, []])
def test_invalid_n_is_rejected_before_the_upstream_call(n: Any) -> None:
    upstream = Scripted()
    with pytest.raises(InvalidRequest) as caught:
        with_multiple_choices(upstream, 8)({**REQUEST, "n": n})
    assert caught.value.param == "n"
    assert upstream.requests == []


def test_slow_client_limits_buffered_batches() -> None:
    sent_counts = [0, 0]
    numbers = iter(range(2))

    def upstream(request: Json) -> EventStream:
        number = next(numbers)

        def answer() -> EventStream:
            while True:
                sent_counts[number] += 1
                yield [make_chunk({"content": "a"})]

        return answer()

    stream = with_multiple_choices(upstream, 2)({**REQUEST, "n": 2})
    for read_count in range(1, 400):
        next(stream)
        assert max(sent_counts) <= read_count + MAX_PENDING_BATCHES + 2
    assert min(sent_counts) > 0
    stream.close()  # type: ignore[attr-defined]


def test_several_choices_are_requested_as_streams() -> None:
    request = {**REQUEST, "stream": False}
    upstream = Scripted(*[one_by_one(make_text_chunks("a"))] * 3)
    for n in (2, 1):
        collect_events(with_multiple_choices(upstream, 8)({**request, "n": n}))

    streamed_request = {**REQUEST, "stream_options": {"include_usage": True}}
    assert upstream.requests == [streamed_request, streamed_request, request]


def test_usage_is_requested_with_the_streams() -> None:
    upstream = Scripted(*[one_by_one(make_text_chunks("a"))] * 2)
    options = {"include_obfuscation": False}
    collect_events(
        with_multiple_choices(upstream, 8)({**REQUEST, "n": 2, "stream_options": options})
    )
    expected_options = {**options, "include_usage": True}
    assert [request["stream_options"] for request in upstream.requests] == [expected_options] * 2
