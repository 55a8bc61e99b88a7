"""What of a response is its summary."""

from __future__ import annotations

import pytest

from forwarder.core.errors import UpstreamProtocolError
from forwarder.middleware.compaction import summary
from tests.middleware.compaction.talking import said, user


def test_the_text_of_all_messages_counts_and_reasoning_does_not() -> None:
    response = said("first")
    thought = {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "hm"}]}
    response["output"] = [thought, *response["output"], *said(" second")["output"]]

    assert summary.read_summary(response) == "first second"


def test_nothing_written_is_no_summary() -> None:
    with pytest.raises(UpstreamProtocolError):
        summary.read_summary({"output": [{"type": "message", "content": [{"type": "refusal"}]}]})


def test_what_shapes_an_answer_does_not_go_along() -> None:
    request = {"model": "m", "reasoning": {"effort": "low"}, "max_output_tokens": 5, "user": None}

    sent = summary.make_summary_request(request, [user("a")])

    assert sent.keys() == {"model", "reasoning", "input", "store", "stream"}
