from __future__ import annotations

from typing import Any

from forwarder.translation.chat_over_responses.logprobs import attach_logprobs

Json = dict[str, Any]


def attach_to_last_chunk(*entries: Json) -> list[Json]:
    chunk = {"id": "1", "choices": [{"index": 0, "delta": {}, "logprobs": None}]}
    first_chunk, last_chunk = attach_logprobs([chunk, chunk], list(entries))
    assert first_chunk == chunk
    assert chunk["choices"][0]["logprobs"] is None
    assert last_chunk["choices"][0]["logprobs"]["refusal"] is None
    entries: list[Json] = last_chunk["choices"][0]["logprobs"]["content"]
    return entries


def test_token_bytes_are_added() -> None:
    [entry] = attach_to_last_chunk(
        {"token": "ü", "logprob": -1, "top_logprobs": [{"token": "u", "logprob": -2}]}
    )
    assert entry == {
        "token": "ü",
        "logprob": -1,
        "bytes": [0xC3, 0xBC],
        "top_logprobs": [{"token": "u", "logprob": -2, "bytes": [0x75]}],
    }


def test_existing_bytes_are_kept() -> None:
    [entry] = attach_to_last_chunk({"token": "\\xc3", "logprob": -1, "bytes": [0xC3]})
    assert entry["bytes"] == [0xC3]
    assert entry["top_logprobs"] == []


def test_partial_character_token_is_decoded() -> None:
    [entry] = attach_to_last_chunk({"token": "bytes:\\xf0\\x9f", "logprob": -1})
    assert entry["bytes"] == [0xF0, 0x9F]
    [entry] = attach_to_last_chunk({"token": "bytes:", "logprob": -1})
    assert entry["bytes"] == list(b"bytes:")
