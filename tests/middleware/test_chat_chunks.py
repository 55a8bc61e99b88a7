"""Reading and building Chat chunks."""

from __future__ import annotations

from forwarder.middleware.chat_chunks import (
    LogprobBuffer,
    close_stream,
    make_final_chunk,
    make_usage_chunk,
    read_first_choice,
)
from tests.middleware.chatting import BASE, USAGE, Scripted, make_chunk


def test_first_choice_of_a_chunk_without_choices_is_empty() -> None:
    assert read_first_choice({**BASE, "choices": []}) == read_first_choice({}) == {}
    assert read_first_choice(make_chunk({"content": "a"}))["delta"] == {"content": "a"}


def test_final_chunk_keeps_the_choice_index() -> None:
    last = make_final_chunk(make_chunk({"content": "a"}, index=2), "stop")
    assert last == make_chunk({}, "stop", index=2)


def test_usage_chunk_has_no_choices() -> None:
    assert make_usage_chunk(make_chunk({"content": "a"}), USAGE) == {
        **BASE,
        "choices": [],
        "usage": USAGE,
    }


def test_close_stream_closes_generators_only() -> None:
    upstream = Scripted([[make_chunk()]])
    stream = upstream({})
    close_stream(stream)
    assert upstream.open == 0
    assert list(stream) == []
    close_stream(iter([[]]))


def test_logprobs_wait_for_their_whole_token() -> None:
    logprobs = LogprobBuffer()
    logprobs.feed({"content": [{"token": "ab"}, {"token": "cd"}]})
    logprobs.feed(None)
    assert logprobs.pop_for_text("a") is None
    assert logprobs.pop_for_text("b") == {"content": [{"token": "ab"}], "refusal": None}
    assert logprobs.pop_for_text("cd and more") == {"content": [{"token": "cd"}], "refusal": None}
    assert logprobs.pop_rest() is None


def test_logprobs_may_follow_their_text() -> None:
    logprobs = LogprobBuffer()
    assert logprobs.pop_for_text("ab") is None
    logprobs.feed({"content": [{"token": "ab"}, {"token": "cd"}, {"token": "ef"}]})
    assert logprobs.pop_for_text("") == {"content": [{"token": "ab"}], "refusal": None}
    assert logprobs.pop_rest() == {"content": [{"token": "cd"}, {"token": "ef"}], "refusal": None}


def test_logprobs_of_partial_characters_are_measured_in_bytes() -> None:
    halves = [{"token": "\\xc3", "bytes": [0xC3]}, {"token": "\\xbc", "bytes": [0xBC]}]
    logprobs = LogprobBuffer()
    logprobs.feed({"content": [*halves, {"token": "ß"}]})
    assert logprobs.pop_for_text("ü") == {"content": halves, "refusal": None}
    assert logprobs.pop_for_text("\ud800") is None  # half of a surrogate pair from the upstream
    assert logprobs.pop_for_text("ß") == {"content": [{"token": "ß"}], "refusal": None}
