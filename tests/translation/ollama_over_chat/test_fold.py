"""Lines, added up."""

from __future__ import annotations

from typing import Any

import pytest

from forwarder.core.errors import UpstreamProtocolError
from forwarder.translation.ollama_over_chat.fold import fold_ollama
from forwarder.translation.ollama_over_chat.forms import GENERATE_ENDPOINT
from tests.helpers.ollama import chunk, lines, mistakes

Json = dict[str, Any]

CALL = {"index": 0, "function": {"name": "f", "arguments": "{}"}}


def measured(text: str) -> Json:
    made = chunk(content=text)
    made["choices"][0]["logprobs"] = {"content": [{"token": text, "logprob": -1.0}]}
    return made


STREAM = [
    [chunk(reasoning_content="H")], [], [chunk(reasoning_content="m.")], [measured("Hel")],
    [measured("lo")], [chunk(tool_calls=[CALL])], [chunk("stop")],
]  # fmt: skip


def test_a_conversation_s_lines_are_one_message() -> None:
    told = lines(STREAM, logprobs=True)
    whole = fold_ollama(iter([told[:2], [], told[2:]]))
    function = {"index": 0, "name": "f", "arguments": {}}
    message = {"role": "assistant", "content": "Hello", "thinking": "Hm.",
               "tool_calls": [{"function": function}]}  # fmt: skip
    assert whole["message"] == message
    assert [entry["token"] for entry in whole["logprobs"]] == ["Hel", "lo"]
    assert {k: v for k, v in whole.items() if k not in ("message", "logprobs")} == {
        k: v for k, v in told[-1].items() if k != "message"
    }
    assert mistakes(whole) == []


def test_a_prompt_s_lines_are_one_response() -> None:
    whole = fold_ollama(iter([lines(STREAM[:5] + STREAM[6:], GENERATE_ENDPOINT, logprobs=True)]))
    assert (whole["response"], whole["thinking"], whole["done"]) == ("Hello", "Hm.", True)
    assert len(whole["logprobs"]) == 2
    assert "message" not in whole
    assert mistakes(whole) == []


def test_lines_that_do_not_end_are_no_answer() -> None:
    told = lines([[chunk(content="x"), chunk("stop")]])
    for broken in ([], [told[:-1]]):
        with pytest.raises(UpstreamProtocolError):
            fold_ollama(iter(broken))
