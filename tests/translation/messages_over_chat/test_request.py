"""Messages requests as Chat requests, beyond the recorded cases."""

from __future__ import annotations

from typing import Any

import pytest

from forwarder.core.errors import InvalidRequest, Unsupported
from forwarder.translation.messages_over_chat import translate_request
from tests.helpers.check_cases import check_each
from tests.helpers.messages import REQUEST
from tests.helpers.translating import make_translator_context

FUNCTION = {"name": "f", "input_schema": {"type": "object"}}
SEARCH = {"type": "web_search_20250305", "name": "web_search"}


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


@check_each(
    "messages", [[], [{"role": "system", "content": "s"}], [{"role": "user", "content": []}]]
)
def test_conversation_must_not_be_empty(messages: Any) -> None:
    with pytest.raises(InvalidRequest, match="at least one message"):
        translate(messages=messages)


def test_search_is_dropped_without_a_search_model() -> None:
    context = make_translator_context()

    assert "web_search_options" not in translate(context, tools=[SEARCH])
    assert list(context.loss_report.losses) == ["tools.web_search"]
    with pytest.raises(Unsupported):
        translate(make_translator_context(strict=True), tools=[SEARCH])


def test_choice_without_functions_is_omitted() -> None:
    chat_request = translate(
        make_translator_context(web_search=True), tools=[SEARCH], tool_choice={"type": "any"}
    )

    assert chat_request["web_search_options"] == {}
    assert {"tools", "tool_choice"}.isdisjoint(chat_request)


def test_choice_of_no_tool_prevents_searches() -> None:
    choice = {"type": "none"}
    chat_request = translate(
        make_translator_context(web_search=True), tools=[SEARCH, FUNCTION], tool_choice=choice
    )

    assert "web_search_options" not in chat_request
    assert chat_request["tool_choice"] == "none"


def test_one_tool_can_be_forced() -> None:
    chat_request = translate(tools=[FUNCTION], tool_choice={"type": "tool", "name": "f"})

    assert chat_request["tool_choice"] == {"type": "function", "function": {"name": "f"}}


def test_threads_are_refused_and_unknown_parameters_dropped() -> None:
    with pytest.raises(Unsupported):
        translate(thread={"id": "t"})
    context = make_translator_context()
    translate(context, top_k=3, novelty=1)
    assert sorted(context.loss_report.losses) == ["novelty", "top_k"]
