"""Chunks taken apart and put together."""

from __future__ import annotations

from forwarder.middleware.chat_chunks import Logprobs, choice_of, close, ending, with_usage
from tests.middleware.chatting import BASE, USAGE, Scripted, chunk


def test_a_chunk_without_choices_has_an_empty_one() -> None:
    assert choice_of({**BASE, "choices": []}) == choice_of({}) == {}
    assert choice_of(chunk({"content": "a"}))["delta"] == {"content": "a"}


def test_an_ending_belongs_to_the_choice_that_it_ends() -> None:
    last = ending(chunk({"content": "a"}, index=2), "stop")
    assert last == chunk({}, "stop", index=2)


def test_usage_comes_without_choices() -> None:
    assert with_usage(chunk({"content": "a"}), USAGE) == {**BASE, "choices": [], "usage": USAGE}


def test_closing_a_stream_ends_it_and_what_is_no_generator_is_left_alone() -> None:
    upstream = Scripted([[chunk()]])
    stream = upstream({})
    close(stream)
    assert upstream.open == 0
    assert list(stream) == []
    close(iter([[]]))


def test_log_probabilities_wait_until_their_whole_token_is_out() -> None:
    logprobs = Logprobs()
    logprobs.feed({"content": [{"token": "ab"}, {"token": "cd"}]})
    logprobs.feed(None)
    assert logprobs.give("a") is None
    assert logprobs.give("b") == {"content": [{"token": "ab"}], "refusal": None}
    assert logprobs.give("cd and more") == {"content": [{"token": "cd"}], "refusal": None}
    assert logprobs.rest() is None


def test_log_probabilities_may_come_after_their_text() -> None:
    logprobs = Logprobs()
    assert logprobs.give("ab") is None
    logprobs.feed({"content": [{"token": "ab"}, {"token": "cd"}, {"token": "ef"}]})
    assert logprobs.give("") == {"content": [{"token": "ab"}], "refusal": None}
    assert logprobs.rest() == {"content": [{"token": "cd"}, {"token": "ef"}], "refusal": None}


def test_tokens_that_are_parts_of_a_character_are_measured_in_bytes() -> None:
    halves = [{"token": "\\xc3", "bytes": [0xC3]}, {"token": "\\xbc", "bytes": [0xBC]}]
    logprobs = Logprobs()
    logprobs.feed({"content": [*halves, {"token": "ß"}]})
    assert logprobs.give("ü") == {"content": halves, "refusal": None}
    assert logprobs.give("\ud800") is None  # half a character that the upstream has broken
    assert logprobs.give("ß") == {"content": [{"token": "ß"}], "refusal": None}
