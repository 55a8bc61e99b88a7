"""Hosted tools that neither the upstream nor the forwarder runs, over a Responses upstream."""

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


def send_request(request: Json, refuses: bool = False) -> tuple[Json, LossReport]:
    """The upstream's request, and the losses."""
    upstream, loss_report = ScriptedUpstream([make_text_item("Hi.")]), LossReport()
    handler = with_dropped_tools(upstream, frozenset({"web_search"}), loss_report, refuses)
    collect_events(handler(request))
    return upstream.requests[0], loss_report


def test_only_tools_of_the_upstream_are_sent() -> None:
    unknown_tool: Json = {"type": "x_search"}  # unknown here, so it may be the upstream's
    tools = [CODE, {"type": "web_search"}, WEATHER, unknown_tool]
    request, loss_report = send_request({"tools": tools, "tool_choice": "auto"})
    assert request == {"tools": tools[1:], "tool_choice": "auto"}
    assert [*loss_report.losses] == ["tools.code_interpreter"]


def test_request_without_unsupported_tools_is_unchanged() -> None:
    for request in ({"tools": [WEATHER]}, {"input": "hi"}):
        assert send_request(request) == (request, LossReport())


def test_tools_of_an_item_are_dropped_too() -> None:
    item: Json = {"type": "additional_tools", "tools": [CODE, WEATHER]}
    request, loss_report = send_request({"input": ["x", item]})
    assert request["input"] == ["x", {**item, "tools": [WEATHER]}]
    assert [*loss_report.losses] == ["tools.code_interpreter"]
    with pytest.raises(Unsupported) as caught:
        send_request({"input": [item]}, refuses=True)
    assert caught.value.param == "input[0].tools[0]"


def test_dropped_tools_are_removed_from_tool_choice() -> None:
    choice = {"type": "allowed_tools", "mode": "auto", "tools": [CODE, REFERENCE]}
    request, _ = send_request({"tools": [CODE, WEATHER], "tool_choice": choice})
    assert request["tool_choice"]["tools"] == [REFERENCE]
    assert send_request({"tools": [CODE], "tool_choice": "auto"})[0] == {}


@check_each(
    "choice", [CODE, "required", {"type": "allowed_tools", "mode": "auto", "tools": [CODE]}]
)
def test_choice_of_only_dropped_tools_is_refused(choice: Any) -> None:
    with pytest.raises(Unsupported) as caught:
        send_request({"tools": [CODE], "tool_choice": choice})
    assert caught.value.param == "tool_choice"


def test_tools_are_rejected_in_strict_mode() -> None:
    with pytest.raises(Unsupported) as caught:
        send_request({"tools": [WEATHER, CODE]}, refuses=True)
    assert caught.value.param == "tools[1]"
