"""Leaves out hosted tools that neither a Responses upstream nor the forwarder can run.

The translation to Chat does the same for its upstreams.
"""

from __future__ import annotations

from typing import Any

from forwarder.core.errors import Unsupported
from forwarder.core.translation_context import LossReport
from forwarder.core.types import EventStream, Handler, Json
from forwarder.core.validate import LIST, read_field
from forwarder.protocols.hosted_tools import find_hosted_name
from forwarder.translation.responses_over_chat.toolbox import unsupported_hosted_tool

LOSS_REASON = "the upstream cannot run this tool"


def with_dropped_tools(
    handler: Handler, native: frozenset[str], loss_report: LossReport, refuses: bool
) -> Handler:
    """Wrap a Responses handler: drop hosted tools other than the ``native`` ones by name.

    With ``refuses`` they raise Unsupported instead, as a ``tool_choice`` that demands one does.
    """

    def is_dropped(tool: Any) -> bool:
        name = find_hosted_name(tool)
        return name is not None and name not in native

    def handle_request(request: Json) -> EventStream:
        tools = read_field(request, "tools", LIST, "tools") or []
        dropped = [(i, tool["type"]) for i, tool in enumerate(tools) if is_dropped(tool)]
        for index, kind in dropped:
            if refuses:
                raise unsupported_hosted_tool(kind, f"tools[{index}]")
            loss_report.drop(f"tools.{kind}", LOSS_REASON)
        if not dropped:
            return handler(request)
        rest = {**request, "tools": [tool for tool in tools if not is_dropped(tool)]}
        choice = request.get("tool_choice")
        if isinstance(choice, dict) and is_dropped(choice):
            raise unsupported_hosted_tool(choice["type"], "tool_choice")
        if isinstance(choice, dict) and choice.get("type") == "allowed_tools":
            rest["tool_choice"] = drop_references(choice, is_dropped)
        if not rest["tools"]:
            check_no_demand(choice, dropped[0][1])
            rest = {k: v for k, v in rest.items() if k not in ("tools", "tool_choice")}
        return handler(rest)

    return handle_request


def drop_references(choice: Json, is_dropped: Any) -> Json:
    """Return ``allowed_tools`` without the tools that are dropped. Raises Unsupported if none is
    left."""
    references = read_field(choice, "tools", LIST, "tool_choice.tools") or []
    left = [each for each in references if not is_dropped(each)]
    if references and not left:
        raise Unsupported(
            "'tool_choice' allows only tools that this upstream cannot run.", param="tool_choice"
        )
    return {**choice, "tools": left}


def check_no_demand(choice: Any, kind: str) -> None:
    """Raise Unsupported if a tool is demanded although all are dropped."""
    if choice == "required":
        raise unsupported_hosted_tool(kind, "tool_choice")
