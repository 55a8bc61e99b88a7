from __future__ import annotations

from typing import Any

from forwarder.translation.responses_over_chat.logprobs import (
    read_entries,
    select_last_entries,
    select_text_entries,
)
from tests.helpers.check_cases import check_each

Json = dict[str, Any]


@check_each(
    ("source", "expected"),
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
def test_entry_has_all_required_fields(source: Json, expected: Json) -> None:
    assert read_entries({"content": [source, None]}) == [expected]


@check_each("source", [{"content": None}, {"refusal": []}, {"content": {}}, [], "x", 1])
def test_missing_entries_give_an_empty_list(source: Any) -> None:
    assert read_entries(source) == []


def make_entries(*tokens: str) -> list[Json]:
    return read_entries({"content": [{"token": token, "logprob": -1} for token in tokens]})


@check_each(
    ("tokens", "reasoning", "text", "is_last", "expected"),
    [
        (["H", "i"], "", "Hi", True, ["H", "i"]),
        (["Hm", ".", "</t>", "H", "é", "<|end|>"], "Hm.", "Hé", True, ["H", "é", "<|end|>"]),
        (["Hm", ".", "H", "é", "f(", ")"], "Hm.", "Hé", False, ["H", "é"]),
        (["Hi", "Hi", "f"], "Hi", "Hi", False, ["Hi"]),  # the second "Hi"
        (["Hi"], "a thought without any", "Hi", True, ["Hi"]),
        (["a", "b"], "", "something else", True, ["a", "b"]),
    ],
)
def test_text_entries_are_selected_from_a_mixed_delta(
    tokens: list[str], reasoning: str, text: str, is_last: bool, expected: list[str]
) -> None:
    assert select_text_entries(make_entries(*tokens), reasoning, text, is_last) == make_entries(
        *expected
    )


@check_each(
    ("text", "expected"), [("", []), ("é", ["é"]), ("bé", ["b", "é"]), ("xaabé", ["aa", "b", "é"])]
)
def test_last_entries_lie_wholly_within_the_text(text: str, expected: list[str]) -> None:
    assert select_last_entries(make_entries("aa", "b", "é"), text) == make_entries(*expected)
