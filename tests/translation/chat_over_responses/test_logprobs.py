from __future__ import annotations

from typing import Any

from forwarder.translation.chat_over_responses.logprobs import attach_logprobs

Json = dict[str, Any]


def content(*entries: Json) -> list[Json]:
    chunk = {"id": "1", "choices": [{"index": 0, "delta": {}, "logprobs": None}]}
    first, last = attach_logprobs([chunk, chunk], list(entries))
    assert first == chunk
    assert chunk["choices"][0]["logprobs"] is None
    assert last["choices"][0]["logprobs"]["refusal"] is None
    told: list[Json] = last["choices"][0]["logprobs"]["content"]
    return told


def test_a_token_is_told_in_bytes_too() -> None:
    [told] = content({"token": "ü", "logprob": -1, "top_logprobs": [{"token": "u", "logprob": -2}]})
    assert told == {
        "token": "ü",
        "logprob": -1,
        "bytes": [0xC3, 0xBC],
        "top_logprobs": [{"token": "u", "logprob": -2, "bytes": [0x75]}],
    }


def test_bytes_that_came_are_kept() -> None:
    [told] = content({"token": "\\xc3", "logprob": -1, "bytes": [0xC3]})
    assert told["bytes"] == [0xC3]
    assert told["top_logprobs"] == []


def test_a_token_that_is_a_part_of_a_character_has_its_own_bytes() -> None:
    [told] = content({"token": "bytes:\\xf0\\x9f", "logprob": -1})
    assert told["bytes"] == [0xF0, 0x9F]
    [told] = content({"token": "bytes:", "logprob": -1})
    assert told["bytes"] == list(b"bytes:")
