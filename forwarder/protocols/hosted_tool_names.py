"""The hosted tools of the Responses API: their names in settings and the types of their tools."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from forwarder.core.types import Json

WEB_SEARCH_TYPES = frozenset(
    {
        "web_search",
        "web_search_2025_08_26",
        "web_search_preview",
        "web_search_preview_2025_03_11",
    }
)
"""All types of the web search tool, current and former."""

HOSTED_TOOLS: Mapping[str, frozenset[str]] = {
    "mcp": frozenset({"mcp"}),
    "web_search": WEB_SEARCH_TYPES,
    "file_search": frozenset({"file_search"}),
    "code_interpreter": frozenset({"code_interpreter"}),
    "image_generation": frozenset({"image_generation"}),
    "computer": frozenset({"computer", "computer_use_preview"}),
    "shell": frozenset({"shell"}),
}
"""Name -> types of tools."""

ALL_HOSTED_TOOLS = frozenset(HOSTED_TOOLS)
EVERY_TOOL = "all"
"""Stands for all names in a setting or a profile."""

_NAMES = {each: name for name, types in HOSTED_TOOLS.items() for each in types}


def expand_tool_names(names: frozenset[str]) -> frozenset[str]:
    return ALL_HOSTED_TOOLS if EVERY_TOOL in names else names


def find_hosted_name(tool: Any) -> str | None:
    """Return the name of the hosted tool that a definition means; ``None`` for the client's own.

    A shell is hosted if it runs in a container.
    """
    kind = tool.get("type") if isinstance(tool, dict) else None
    if not isinstance(kind, str) or (kind == "shell" and not is_container_shell(tool)):
        return None
    return _NAMES.get(kind)


def is_container_shell(tool: Json) -> bool:
    """Whether a ``shell`` runs in a container, not at the client."""
    environment = tool.get("environment")
    return isinstance(environment, dict) and environment.get("type", "local") != "local"
