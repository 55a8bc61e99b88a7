"""Names of hosted tools."""

from __future__ import annotations

from typing import Any

from forwarder.protocols.hosted_tool_names import (
    ALL_HOSTED_TOOLS,
    expand_tool_names,
    find_hosted_name,
)
from tests.helpers.check_cases import check_each


@check_each(
    ("tool", "name"),
    [
        ({"type": "mcp"}, "mcp"),
        ({"type": "web_search_preview"}, "web_search"),
        ({"type": "computer_use_preview"}, "computer"),
        ({"type": "shell", "environment": {"type": "container_auto"}}, "shell"),
        ({"type": "shell", "environment": {"type": "local"}}, None),
        ({"type": "shell"}, None),
        ({"type": "function", "name": "mcp"}, None),
        ({"type": []}, None),
        ("mcp", None),
    ],
)
def test_hosted_tools_have_names(tool: Any, name: str | None) -> None:
    assert find_hosted_name(tool) == name


def test_all_includes_every_name() -> None:
    assert expand_tool_names(frozenset({"all"})) == ALL_HOSTED_TOOLS
    assert expand_tool_names(frozenset({"mcp"})) == {"mcp"}
