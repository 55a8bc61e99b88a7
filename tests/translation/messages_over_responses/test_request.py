"""Messages requests as Responses requests, beyond the recorded cases."""

from __future__ import annotations

from typing import Any

import pytest

from forwarder.core.errors import InvalidRequest
from forwarder.translation.messages_over_responses import translate_request
from tests.helpers.check_cases import check_each
from tests.helpers.messages import REQUEST
from tests.helpers.translating import make_translator_context

FUNCTION = {"name": "f", "input_schema": {"type": "object"}}
SEARCH = {"type": "web_search_20250305", "name": "web_search", "max_uses": 0}


def translate(context: Any = None, **changes: Any) -> dict[str, Any]:
    request: dict[str, Any] = translate_request(
        {**REQUEST, **changes}, context or make_translator_context()
    )[0]
    return request


@check_each("name", ["model", "messages", "max_tokens"])
def test_missing_required_parameter_is_rejected(name: str) -> None:
    request = {key: value for key, value in REQUEST.items() if key != name}
    with pytest.raises(InvalidRequest) as caught:
        translate_request(request, make_translator_context())
    assert caught.value.param == name


def test_conversation_must_not_be_empty() -> None:
    with pytest.raises(InvalidRequest, match="at least one message"):
        translate(messages=[])


def test_low_limits_are_raised_and_nothing_is_stored() -> None:
    responses_request = translate(max_tokens=1)

    assert responses_request["max_output_tokens"] == 16
    assert responses_request["store"] is False


@check_each(
    ("thinking", "can_summarize", "reasoning"),
    [
        (None, False, None),
        (None, True, None),
        ({"type": "disabled"}, True, {"effort": "none"}),
        ({"type": "adaptive"}, False, {"effort": "medium", "summary": "auto"}),
    ],
)
def test_summaries_are_requested_for_clients_with_thinking(
    thinking: Any, can_summarize: bool, reasoning: Any
) -> None:
    responses_request = translate(
        make_translator_context(can_summarize=can_summarize), thinking=thinking
    )

    assert responses_request.get("reasoning") == reasoning
    assert ("include" in responses_request) is can_summarize


@check_each(
    ("choice", "expected"),
    [
        ({"type": "any"}, "required"),
        ({"type": "tool", "name": "f"}, {"type": "function", "name": "f"}),
    ],
)
def test_tool_choice_is_flattened(choice: Any, expected: Any) -> None:
    assert translate(tools=[FUNCTION], tool_choice=choice)["tool_choice"] == expected


def test_searches_are_limited() -> None:
    responses_request = translate(tools=[SEARCH])

    assert responses_request["tools"] == [{"type": "web_search"}]
    assert responses_request["max_tool_calls"] == 1
