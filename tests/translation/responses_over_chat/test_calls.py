from __future__ import annotations

from typing import Any

import pytest

from forwarder.core.errors import UpstreamProtocolError
from forwarder.core.types import Batch
from forwarder.translation.responses_over_chat.calls import PendingCall
from forwarder.translation.responses_over_chat.items import ToolCallItem
from forwarder.translation.responses_over_chat.tool_kinds import FUNCTION, SHELL
from forwarder.translation.responses_over_chat.toolbox import ClientTool

Json = dict[str, Any]


def make(name: str, call_id: str, whole: bool) -> ToolCallItem | None:
    """Make a function, or a shell, which must be complete."""
    tool = ClientTool(SHELL if name == "shell" else FUNCTION, name)
    return (
        ToolCallItem("fc_1", 0, call_id, tool, False) if tool.kind.streams_input or whole else None
    )


def delta(name: str | None = None, arguments: Any = None, call_id: str | None = None) -> Json:
    return {"id": call_id, "function": {"name": name, "arguments": arguments}}


def seen(*deltas: Json) -> tuple[list[str], Json]:
    """Return the events of each delta in brief, and the finished item."""
    call = PendingCall()
    events = [call.add_delta(each, make) for each in deltas]
    item: Json = call.close("completed", make)[-1]["item"]
    return ["".join(map(_letter, batch)) for batch in events], item


def _letter(event: Json) -> str:
    return event["type"].rpartition(".")[2][0]  # a(dded), d(elta)


CASES: dict[str, tuple[list[Json], list[str], tuple[str, str, str]]] = {
    "as OpenAI sends it": (
        [delta("f", "", "a"), delta(None, "{"), delta(None, "}")],
        ["", "ad", "d"],
        ("a", "f", "{}"),
    ),
    "all at once": ([delta("f", "{}", "a")], ["ad"], ("a", "f", "{}")),
    "an object": ([delta("f", {"x": 1}, "a")], ["ad"], ("a", "f", '{"x": 1}')),
    "without arguments": ([delta("f", "", "a"), delta(None, "")], ["", ""], ("a", "f", "{}")),
    "name in pieces": (
        [delta("get_", "", "a"), delta("it", ""), delta(None, "{}")],
        ["", "", "ad"],
        ("a", "get_it", "{}"),
    ),
    "name in every delta": (
        [delta("f", "", "a"), delta("f", "{", "a"), delta("f", "}", "a")],
        ["", "ad", "d"],
        ("a", "f", "{}"),
    ),
    "late name": ([delta(None, "{", "a"), delta("f", "}")], ["", "ad"], ("a", "f", "{}")),
    "name after all": ([delta(None, "{}", "a"), delta("f")], ["", ""], ("a", "f", "{}")),
    "late id": (
        [delta("f", ""), delta(None, "", "a"), delta(None, "{}")],
        ["", "", "ad"],
        ("a", "f", "{}"),
    ),
    "freeform": (
        [{"id": "a", "custom": {"name": "f", "input": ""}}, {"custom": {"input": "x"}}],
        ["", "ad"],
        ("a", "f", "x"),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_call_opens_once_its_name_is_complete(name: str) -> None:
    deltas, events, (call_id, tool, arguments) = CASES[name]
    emitted, item = seen(*deltas)
    assert emitted == events
    assert (item["call_id"], item["name"], item["arguments"]) == (call_id, tool, arguments)


def test_call_without_input_events_waits_until_complete() -> None:
    emitted, item = seen(delta("shell", '{"commands":', "a"), delta(None, '["ls"]}'))
    assert emitted == ["", ""]
    assert item["action"]["commands"] == ["ls"]


def test_next_call_completes_the_previous_name() -> None:
    call = PendingCall()
    assert call.add_delta(delta("f", "", "a"), make) == []
    emitted: Batch = call.open_item(make)
    assert [event["item"]["name"] for event in emitted] == ["f"]
    assert call.open_item(make) == []


def test_call_without_a_name_is_an_upstream_error() -> None:
    call = PendingCall()
    call.add_delta(delta(None, "{}", "a"), make)
    with pytest.raises(UpstreamProtocolError, match="without a name"):
        call.close("completed", make)
