from __future__ import annotations

from typing import Any

import pytest

from forwarder.translate.responses_over_chat.logprobs import read

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
    assert read({"content": [given, None]}) == [made]


@pytest.mark.parametrize("given", [{"content": None}, {"refusal": []}, {"content": {}}, [], "x", 1])
def test_what_holds_no_entries_gives_none(given: Any) -> None:
    assert read(given) == []
