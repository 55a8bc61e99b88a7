"""Leaves out hosted tools that neither a Responses upstream nor the forwarder can run.

The translation to Chat does the same for its upstreams.
"""

from __future__ import annotations

from typing import Any

from forwarder.core.errors import Unsupported
from forwarder.core.translation_context import LossReport
from forwarder.core.types import EventStream, Handler, Json
from forwarder.core.validate import LIST, read_field
from forwarder.hosted_tools.request_preparation import ADDITIONAL_TOOLS
from forwarder.protocols.hosted_tool_names import find_hosted_name
from forwarder.translation.responses_over_chat.tools import make_hosted_tool_error

LOSS_REASON = "the upstream cannot run this tool"


def with_dropped_tools(
    handler: Handler, native: frozenset[str], loss_report: LossReport, refuses: bool
) -> Handler:
    """Wrap a Responses handler: drop hosted tools whose names are not in ``native``.

    With ``refuses`` such a tool raises Unsupported. A ``tool_choice`` that demands a dropped tool
    always raises it.
    """

    def is_dropped(tool: Any) -> bool:
        name = find_hosted_name(tool)
        return name is not None and name not in native

    def drop_tools(tools: list[Any], path: str) -> list[Any]:
        """Return the tools that are sent; add the others to the loss report."""
        for index, tool in enumerate(tools):
            if is_dropped(tool) and refuses:
                raise make_hosted_tool_error(tool["type"], f"{path}[{index}]")
            if is_dropped(tool):
                loss_report.drop(f"tools.{tool['type']}", LOSS_REASON)
        return [tool for tool in tools if not is_dropped(tool)]

    def drop_item_tools(items: list[Any]) -> list[Any]:
        """Return the input without the dropped tools of ``additional_tools`` items."""
        changed = [*items]
        for i, item in enumerate(items):
            if isinstance(item, dict) and item.get("type") == ADDITIONAL_TOOLS:
                path = f"input[{i}].tools"
                tools = read_field(item, "tools", LIST, path) or []
                if any(map(is_dropped, tools)):
                    changed[i] = {**item, "tools": drop_tools(tools, path)}
        return changed

    def handle_request(request: Json) -> EventStream:
        if isinstance(request.get("input"), list):
            request = {**request, "input": drop_item_tools(request["input"])}
        tools = read_field(request, "tools", LIST, "tools") or []
        if not any(map(is_dropped, tools)):
            return handler(request)
        rest = {**request, "tools": drop_tools(tools, "tools")}
        choice = request.get("tool_choice")
        if isinstance(choice, dict) and is_dropped(choice):
            raise make_hosted_tool_error(choice["type"], "tool_choice")
        if isinstance(choice, dict) and choice.get("type") == "allowed_tools":
            rest["tool_choice"] = drop_references(choice, is_dropped)
        if not rest["tools"]:
            check_no_demand(choice, next(filter(is_dropped, tools))["type"])
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
        raise make_hosted_tool_error(kind, "tool_choice")
