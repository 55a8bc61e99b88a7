"""The table of the kinds of hosted tools, and the look-up of a kind by a tool or an item."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from forwarder.hosted_tools.file_search import FileSearchKind
from forwarder.hosted_tools.image_generation import FetchImage, ImageGenerationKind
from forwarder.hosted_tools.image_makers import IMAGE_SECONDS, ImageMaker
from forwarder.hosted_tools.mcp_client import McpClient
from forwarder.hosted_tools.mcp_kind import McpKind
from forwarder.hosted_tools.mcp_mapped_tools import MappedTool, build_mapped_kind
from forwarder.hosted_tools.mcp_tools import McpPolicy
from forwarder.hosted_tools.tool_kind import HistoryKind, ToolKind
from forwarder.hosted_tools.web_search import WebSearch, WebSearchKind


class ToolResources(NamedTuple):
    """The resources that the settings give to kinds of tools.

    ``search`` is ``None`` if no search engine is configured, ``images`` if no maker of images is.
    ``call_seconds`` limits a call; an image may take `IMAGE_SECONDS` if that is longer.
    ``fetch_image`` is ``None`` if images by URL are not fetched.
    ``mapped`` are hosted tools that are mapped to MCP tools.
    """

    client: McpClient
    policy: McpPolicy
    search: WebSearch | None = None
    call_seconds: float = 60.0
    images: ImageMaker | None = None
    fetch_image: FetchImage | None = None
    mapped: tuple[MappedTool, ...] = ()


KIND_BUILDERS: tuple[Callable[[ToolResources], ToolKind], ...] = (
    lambda resources: McpKind(resources.client, resources.policy),
    lambda resources: WebSearchKind(resources.search),
    lambda resources: FileSearchKind(resources.call_seconds),
    lambda resources: ImageGenerationKind(
        resources.images, resources.fetch_image, max(resources.call_seconds, IMAGE_SECONDS)
    ),
)
"""The kinds in the order in which their functions are offered."""


class KindTable:
    """The kinds that run here for an upstream."""

    def __init__(self, kinds: Iterable[ToolKind]) -> None:
        self.kinds = (*kinds,)
        self.by_item_type = {each: kind for kind in self.kinds for each in kind.item_types}
        self.include_values = frozenset[str]().union(*(each.include_values for each in self.kinds))
        self._by_tool_type = {each: kind for kind in self.kinds for each in kind.tool_types}

    def __bool__(self) -> bool:
        return bool(self.kinds)

    def restrict(self, native: frozenset[str], knows_items: bool) -> KindTable:
        """Return the kinds for an upstream that runs the tools named ``native`` itself.

        ``knows_items`` is true if it also takes items of these tools in the history.
        """
        restricted = [
            kind.restrict(native) or (None if knows_items else HistoryKind(kind))
            for kind in self.kinds
        ]
        return KindTable(kind for kind in restricted if kind is not None)

    def find_kind(self, tool: Any) -> ToolKind | None:
        """Return the kind of a tool or of a reference to one by its type."""
        name = tool.get("type") if isinstance(tool, dict) else None
        return self._by_tool_type.get(name) if isinstance(name, str) else None


def build_kinds(resources: ToolResources) -> KindTable:
    """Return the kinds; a mapped tool takes the place of the kind with its name."""
    mapped = {each.name: build_mapped_kind(resources.client, each) for each in resources.mapped}
    own = [build(resources) for build in KIND_BUILDERS]
    return KindTable(
        [
            *(HistoryKind(kind) if kind.name in mapped else kind for kind in own),
            *mapped.values(),
        ]
    )
