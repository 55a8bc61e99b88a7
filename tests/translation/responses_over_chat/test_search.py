from __future__ import annotations

from typing import Any

import pytest

from forwarder.core.errors import InvalidRequest, Unsupported
from forwarder.core.translation_context import LossReport
from forwarder.translation.responses_over_chat.search import make_search_options
from tests.helpers.translating import terms, translate

Json = dict[str, Any]

OSLO = {"type": "approximate", "city": "Oslo", "country": "NO", "region": None}
NESTED = {"type": "approximate", "approximate": {"city": "Oslo", "country": "NO"}}


@pytest.mark.parametrize(
    ("tool", "made", "lost"),
    [
        ({}, {}, []),
        ({"search_context_size": "high", "user_location": None}, {"search_context_size": "high"}, []),
        ({"user_location": OSLO}, {"user_location": NESTED}, []),
        ({"filters": {"allowed_domains": ["a"]}, "external_web_access": False}, {},
         ["external_web_access", "filters"]),
        ({"filters": None}, {}, []),
    ],
)  # fmt: skip
def test_options_are_chats(tool: Json, made: Json, lost: list[str]) -> None:
    ledger = LossReport()
    assert make_search_options({"type": "web_search", **tool}, "tools[0]", ledger) == made
    assert list(ledger.losses) == [f"tools.web_search.{name}" for name in lost]


@pytest.mark.parametrize(
    ("tool", "param"),
    [
        ({"search_context_size": 1}, "tools[0].search_context_size"),
        ({"user_location": "Oslo"}, "tools[0].user_location"),
        ({"user_location": {"city": 1}}, "tools[0].user_location.city"),
    ],
)
def test_options_of_another_type_are_refused_by_their_path(tool: Json, param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        make_search_options({"type": "web_search", **tool}, "tools[0]", LossReport())
    assert caught.value.param == param


SEARCH = {"type": "web_search"}
FUNCTION = {"type": "function", "name": "f"}


def allowing(*refs: Json) -> Json:
    return {"type": "allowed_tools", "mode": "auto", "tools": list(refs)}


CHAT_F = {"type": "function", "function": {"name": "f"}}
ONLY_F = {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [CHAT_F]}}

CHOICES: list[tuple[Any, list[Json], bool, Any]] = [
    (None, [SEARCH], True, None),
    ("auto", [SEARCH], True, None),
    ("required", [SEARCH], True, None),
    ("none", [SEARCH], False, None),
    (SEARCH, [SEARCH], True, None),
    (SEARCH, [SEARCH, FUNCTION], True, None),
    ("required", [SEARCH, FUNCTION], True, "required"),
    (FUNCTION, [SEARCH, FUNCTION], False, CHAT_F),
    ({**FUNCTION, "tools": "odd"}, [SEARCH, FUNCTION], False, CHAT_F),
    (allowing(SEARCH), [SEARCH], True, None),
    (allowing(SEARCH), [SEARCH, FUNCTION], True, "none"),
    (allowing(FUNCTION), [SEARCH, FUNCTION], False, ONLY_F),
    (allowing(FUNCTION, SEARCH), [SEARCH, FUNCTION], True, ONLY_F),
]


@pytest.mark.parametrize(("choice", "tools", "searches", "sent"), CHOICES)
def test_a_search_is_offered_unless_the_choice_forbids_it(
    choice: Any, tools: list[Json], searches: bool, sent: Any
) -> None:
    asked = {"model": "m", "input": "News?", "tools": tools, "tool_choice": choice}
    chat, lost, _ = translate("responses_over_chat", asked, terms(web_search=True))
    assert ("web_search_options" in chat, chat.get("tool_choice"), lost) == (searches, sent, {})


def test_without_a_model_that_searches_the_tool_is_left_out_as_ever() -> None:
    asked = {"model": "m", "input": "News?", "tools": [SEARCH]}
    chat, lost, _ = translate("responses_over_chat", asked, terms())
    assert ("web_search_options" in chat, list(lost)) == (False, ["tools.web_search"])
    with pytest.raises(Unsupported):
        translate("responses_over_chat", {**asked, "tool_choice": SEARCH}, terms())
