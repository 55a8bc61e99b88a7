"""Reading and requesting a summary."""

from __future__ import annotations

import pytest

from forwarder.core.errors import UpstreamProtocolError
from forwarder.middleware.compaction import summary
from tests.middleware.compaction.talking import make_text_response, make_user_message


def test_summary_is_the_text_of_all_messages() -> None:
    response = make_text_response("first")
    reasoning = {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "hm"}]}
    response["output"] = [reasoning, *response["output"], *make_text_response(" second")["output"]]

    assert summary.read_summary(response) == "first second"


def test_empty_summary_raises() -> None:
    with pytest.raises(UpstreamProtocolError):
        summary.read_summary({"output": [{"type": "message", "content": [{"type": "refusal"}]}]})


def test_summary_request_omits_output_parameters() -> None:
    request = {"model": "m", "reasoning": {"effort": "low"}, "max_output_tokens": 5, "user": None}

    summary_request = summary.make_summary_request(request, [make_user_message("a")])

    assert summary_request.keys() == {"model", "reasoning", "input", "store", "stream"}
