"""Chunks taken apart and put together."""

from __future__ import annotations

from forwarder.middleware.chat_chunks import (
    LogprobBuffer,
    close_stream,
    make_final_chunk,
    make_usage_chunk,
    read_first_choice,
)
from tests.middleware.chatting import BASE, USAGE, Scripted, chunk


def test_a_chunk_without_choices_has_an_empty_one() -> None:
    assert read_first_choice({**BASE, "choices": []}) == read_first_choice({}) == {}
    assert read_first_choice(chunk({"content": "a"}))["delta"] == {"content": "a"}


def test_an_ending_belongs_to_the_choice_that_it_ends() -> None:
    last = make_final_chunk(chunk({"content": "a"}, index=2), "stop")
    assert last == chunk({}, "stop", index=2)


def test_usage_comes_without_choices() -> None:
    assert make_usage_chunk(chunk({"content": "a"}), USAGE) == {
        **BASE,
        "choices": [],
        "usage": USAGE,
    }


def test_closing_a_stream_ends_it_and_what_is_no_generator_is_left_alone() -> None:
    upstream = Scripted([[chunk()]])
    stream = upstream({})
    close_stream(stream)
    assert upstream.open == 0
    assert list(stream) == []
    close_stream(iter([[]]))


def test_log_probabilities_wait_until_their_whole_token_is_out() -> None:
    logprobs = LogprobBuffer()
    logprobs.feed({"content": [{"token": "ab"}, {"token": "cd"}]})
    logprobs.feed(None)
    assert logprobs.pop_for_text("a") is None
    assert logprobs.pop_for_text("b") == {"content": [{"token": "ab"}], "refusal": None}
    assert logprobs.pop_for_text("cd and more") == {"content": [{"token": "cd"}], "refusal": None}
    assert logprobs.pop_rest() is None


def test_log_probabilities_may_come_after_their_text() -> None:
    logprobs = LogprobBuffer()
    assert logprobs.pop_for_text("ab") is None
    logprobs.feed({"content": [{"token": "ab"}, {"token": "cd"}, {"token": "ef"}]})
    assert logprobs.pop_for_text("") == {"content": [{"token": "ab"}], "refusal": None}
    assert logprobs.pop_rest() == {"content": [{"token": "cd"}, {"token": "ef"}], "refusal": None}


def test_tokens_that_are_parts_of_a_character_are_measured_in_bytes() -> None:
    halves = [{"token": "\\xc3", "bytes": [0xC3]}, {"token": "\\xbc", "bytes": [0xBC]}]
    logprobs = LogprobBuffer()
    logprobs.feed({"content": [*halves, {"token": "ß"}]})
    assert logprobs.pop_for_text("ü") == {"content": halves, "refusal": None}
    assert logprobs.pop_for_text("\ud800") is None  # half a character that the upstream has broken
    assert logprobs.pop_for_text("ß") == {"content": [{"token": "ß"}], "refusal": None}
