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
def test_required_parameters_are_required(name: str) -> None:
    request = {key: value for key, value in REQUEST.items() if key != name}
    with pytest.raises(InvalidRequest) as raised:
        translate_request(request, make_translator_context())
    assert raised.value.param == name


def test_conversation_must_not_be_empty() -> None:
    with pytest.raises(InvalidRequest, match="at least one message"):
        translate(messages=[])


def test_low_limits_are_raised_and_nothing_is_stored() -> None:
    sent = translate(max_tokens=1)

    assert sent["max_output_tokens"] == 16
    assert sent["store"] is False


@check_each(
    ("thinking", "can_summarize", "reasoning"),
    [
        (None, False, None),
        (None, True, None),
        ({"type": "disabled"}, True, {"effort": "none"}),
        ({"type": "adaptive"}, False, {"effort": "medium", "summary": "auto"}),
    ],
)
def test_summaries_are_requested_for_clients_that_see_them(
    thinking: Any, can_summarize: bool, reasoning: Any
) -> None:
    sent = translate(make_translator_context(can_summarize=can_summarize), thinking=thinking)

    assert sent.get("reasoning") == reasoning
    assert ("include" in sent) is can_summarize


@check_each(
    ("choice", "sent"),
    [
        ({"type": "any"}, "required"),
        ({"type": "tool", "name": "f"}, {"type": "function", "name": "f"}),
    ],
)
def test_choices_are_flat(choice: Any, sent: Any) -> None:
    assert translate(tools=[FUNCTION], tool_choice=choice)["tool_choice"] == sent


def test_searches_are_limited() -> None:
    sent = translate(tools=[SEARCH])

    assert sent["tools"] == [{"type": "web_search"}]
    assert sent["max_tool_calls"] == 1
