"""Hosted tools that run nowhere, over a Responses upstream."""

from __future__ import annotations

from typing import Any

import pytest

from forwarder.core.errors import Unsupported
from forwarder.core.translation_context import LossReport
from forwarder.hosted_tools.dropped_tools import with_dropped_tools
from tests.helpers.check_cases import check_each
from tests.helpers.translating import collect_events
from tests.hosted_tools.scripted_upstream import ScriptedUpstream, make_text_item

Json = dict[str, Any]
WEATHER: Json = {"type": "function", "name": "weather"}
CODE: Json = {"type": "code_interpreter"}
REFERENCE: Json = {"type": "function", "name": "weather"}


def send(request: Json, refuses: bool = False) -> tuple[Json, LossReport]:
    """The upstream's request, and the losses."""
    upstream, report = ScriptedUpstream([make_text_item("Hi.")]), LossReport()
    handler = with_dropped_tools(upstream, frozenset({"web_search"}), report, refuses)
    collect_events(handler(request))
    return upstream.requests[0], report


def test_only_tools_that_run_there_are_sent() -> None:
    own: Json = {"type": "x_search"}  # unknown here, so it may be the upstream's
    tools = [CODE, {"type": "web_search"}, WEATHER, own]
    sent, report = send({"tools": tools, "tool_choice": "auto"})
    assert sent == {"tools": tools[1:], "tool_choice": "auto"}
    assert [*report.losses] == ["tools.code_interpreter"]


def test_request_without_such_tools_is_unchanged() -> None:
    for request in ({"tools": [WEATHER]}, {"input": "hi"}):
        assert send(request) == (request, LossReport())


def test_tools_of_an_item_are_dropped_too() -> None:
    item: Json = {"type": "additional_tools", "tools": [CODE, WEATHER]}
    sent, report = send({"input": ["x", item]})
    assert sent["input"] == ["x", {**item, "tools": [WEATHER]}]
    assert [*report.losses] == ["tools.code_interpreter"]
    with pytest.raises(Unsupported) as refused:
        send({"input": [item]}, refuses=True)
    assert refused.value.param == "input[0].tools[0]"


def test_choice_loses_the_dropped_tools() -> None:
    choice = {"type": "allowed_tools", "mode": "auto", "tools": [CODE, REFERENCE]}
    sent, _ = send({"tools": [CODE, WEATHER], "tool_choice": choice})
    assert sent["tool_choice"]["tools"] == [REFERENCE]
    assert send({"tools": [CODE], "tool_choice": "auto"})[0] == {}


@check_each(
    "choice", [CODE, "required", {"type": "allowed_tools", "mode": "auto", "tools": [CODE]}]
)
def test_choice_of_only_dropped_tools_is_refused(choice: Any) -> None:
    with pytest.raises(Unsupported) as refused:
        send({"tools": [CODE], "tool_choice": choice})
    assert refused.value.param == "tool_choice"


def test_tools_are_refused_by_setting() -> None:
    with pytest.raises(Unsupported) as refused:
        send({"tools": [WEATHER, CODE]}, refuses=True)
    assert refused.value.param == "tools[1]"
