from __future__ import annotations

from typing import Any

import pytest

from forwarder.core.errors import UpstreamProtocolError
from forwarder.core.types import Batch
from forwarder.translation.responses_over_chat.calls import PendingCall
from forwarder.translation.responses_over_chat.client_tool_kinds import FUNCTION, SHELL
from forwarder.translation.responses_over_chat.items import ToolCallItem
from forwarder.translation.responses_over_chat.tools import ClientTool
from tests.helpers.check_cases import check_each

Json = dict[str, Any]


def make_item(name: str, call_id: str, is_complete: bool) -> ToolCallItem | None:
    """Make a function, or a shell, which must be complete."""
    tool = ClientTool(SHELL if name == "shell" else FUNCTION, name)
    return (
        ToolCallItem("fc_1", 0, call_id, tool, False)
        if tool.kind.streams_input or is_complete
        else None
    )


def make_delta(name: str | None = None, arguments: Any = None, call_id: str | None = None) -> Json:
    return {"id": call_id, "function": {"name": name, "arguments": arguments}}


def write_call(*deltas: Json) -> tuple[list[str], Json]:
    """Return the events of each delta in brief, and the finished item."""
    call = PendingCall()
    events = [call.add_delta(delta, make_item) for delta in deltas]
    item: Json = call.close("completed", make_item)[-1]["item"]
    return ["".join(map(name_event, batch)) for batch in events], item


def name_event(event: Json) -> str:
    return event["type"].rpartition(".")[2][0]  # a(dded), d(elta)


CASES: dict[str, tuple[list[Json], list[str], tuple[str, str, str]]] = {
    "as OpenAI sends it": (
        [make_delta("f", "", "a"), make_delta(None, "{"), make_delta(None, "}")],
        ["", "ad", "d"],
        ("a", "f", "{}"),
    ),
    "all at once": ([make_delta("f", "{}", "a")], ["ad"], ("a", "f", "{}")),
    "an object": ([make_delta("f", {"x": 1}, "a")], ["ad"], ("a", "f", '{"x": 1}')),
    "without arguments": (
        [make_delta("f", "", "a"), make_delta(None, "")],
        ["", ""],
        ("a", "f", "{}"),
    ),
    "name in pieces": (
        [make_delta("get_", "", "a"), make_delta("it", ""), make_delta(None, "{}")],
        ["", "", "ad"],
        ("a", "get_it", "{}"),
    ),
    "name in every delta": (
        [make_delta("f", "", "a"), make_delta("f", "{", "a"), make_delta("f", "}", "a")],
        ["", "ad", "d"],
        ("a", "f", "{}"),
    ),
    "late name": ([make_delta(None, "{", "a"), make_delta("f", "}")], ["", "ad"], ("a", "f", "{}")),
    "name after all": ([make_delta(None, "{}", "a"), make_delta("f")], ["", ""], ("a", "f", "{}")),
    "late id": (
        [make_delta("f", ""), make_delta(None, "", "a"), make_delta(None, "{}")],
        ["", "", "ad"],
        ("a", "f", "{}"),
    ),
    "freeform": (
        [{"id": "a", "custom": {"name": "f", "input": ""}}, {"custom": {"input": "x"}}],
        ["", "ad"],
        ("a", "f", "x"),
    ),
}


@check_each("name", CASES)
def test_call_opens_once_its_name_is_complete(name: str) -> None:
    deltas, events, (call_id, tool, arguments) = CASES[name]
    emitted, item = write_call(*deltas)
    assert emitted == events
    assert (item["call_id"], item["name"], item["arguments"]) == (call_id, tool, arguments)


def test_call_without_input_events_waits_until_complete() -> None:
    emitted, item = write_call(
        make_delta("shell", '{"commands":', "a"), make_delta(None, '["ls"]}')
    )
    assert emitted == ["", ""]
    assert item["action"]["commands"] == ["ls"]


def test_next_call_completes_the_previous_name() -> None:
    call = PendingCall()
    assert call.add_delta(make_delta("f", "", "a"), make_item) == []
    emitted: Batch = call.open_item(make_item)
    assert [event["item"]["name"] for event in emitted] == ["f"]
    assert call.open_item(make_item) == []


def test_call_without_a_name_is_an_upstream_error() -> None:
    call = PendingCall()
    call.add_delta(make_delta(None, "{}", "a"), make_item)
    with pytest.raises(UpstreamProtocolError, match="without a name"):
        call.close("completed", make_item)
