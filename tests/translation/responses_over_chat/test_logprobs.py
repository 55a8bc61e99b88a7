from __future__ import annotations

from typing import Any

import pytest

from forwarder.translation.responses_over_chat.logprobs import (
    read_entries,
    select_last_entries,
    select_text_entries,
)

Json = dict[str, Any]


@pytest.mark.parametrize(
    ("given", "made"),
    [
        ({"token": "é", "logprob": -0.5, "bytes": None},
         {"token": "é", "bytes": [195, 169], "logprob": -0.5, "top_logprobs": []}),
        ({"token": "e", "logprob": -1, "bytes": [1], "top_logprobs": [{"token": "f", "logprob": -2}]},
         {"token": "e", "bytes": [1], "logprob": -1,
          "top_logprobs": [{"token": "f", "bytes": [102], "logprob": -2}]}),
        ({"token": None, "top_logprobs": None},
         {"token": "", "bytes": [], "logprob": -9999.0, "top_logprobs": []}),
        ({"token": "\ud83d", "logprob": 0},
         {"token": "\ud83d", "bytes": [63], "logprob": 0, "top_logprobs": []}),
    ],
)  # fmt: skip
def test_an_entry_has_all_that_a_part_must_have(given: Json, made: Json) -> None:
    assert read_entries({"content": [given, None]}) == [made]


@pytest.mark.parametrize("given", [{"content": None}, {"refusal": []}, {"content": {}}, [], "x", 1])
def test_what_holds_no_entries_gives_none(given: Any) -> None:
    assert read_entries(given) == []


def entries(*tokens: str) -> list[Json]:
    return read_entries({"content": [{"token": token, "logprob": -1} for token in tokens]})


@pytest.mark.parametrize(
    ("tokens", "thought", "text", "last", "kept"),
    [
        (["H", "i"], "", "Hi", True, ["H", "i"]),
        (["Hm", ".", "</t>", "H", "é", "<|end|>"], "Hm.", "Hé", True, ["H", "é", "<|end|>"]),
        (["Hm", ".", "H", "é", "f(", ")"], "Hm.", "Hé", False, ["H", "é"]),
        (["Hi", "Hi", "f"], "Hi", "Hi", False, ["Hi"]),  # the second of them
        (["Hi"], "a thought without any", "Hi", True, ["Hi"]),
        (["a", "b"], "", "something else", True, ["a", "b"]),
    ],
)
def test_a_text_has_its_own_among_those_of_all_that_was_said(
    tokens: list[str], thought: str, text: str, last: bool, kept: list[str]
) -> None:
    assert select_text_entries(entries(*tokens), thought, text, last) == entries(*kept)


@pytest.mark.parametrize(
    ("text", "kept"), [("", []), ("é", ["é"]), ("bé", ["b", "é"]), ("xaabé", ["aa", "b", "é"])]
)
def test_the_end_of_a_text_has_the_tokens_that_lie_in_it(text: str, kept: list[str]) -> None:
    assert select_last_entries(entries("aa", "b", "é"), text) == entries(*kept)
