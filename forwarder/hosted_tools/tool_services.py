"""The hosted tools that the settings allow, and their resources for the life of the process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from forwarder.config.settings import ConfigError, Settings
from forwarder.context.redaction import MIN_REDACTED_LENGTH
from forwarder.core.blocking_work import get_address_info
from forwarder.core.cancellation import CancelToken
from forwarder.core.data_urls import Blob
from forwarder.core.ssrf import AddressGuard
from forwarder.core.types import Json
from forwarder.hosted_tools.image_generation import FetchImage
from forwarder.hosted_tools.image_makers import ApiImageMaker, ChatImageMaker, ImageMaker
from forwarder.hosted_tools.kind_table import ToolResources, build_kinds
from forwarder.hosted_tools.mcp_client import McpClient, McpLimits
from forwarder.hosted_tools.mcp_mapped_tools import MappedTool
from forwarder.hosted_tools.mcp_server import McpServer, parse_server_file
from forwarder.hosted_tools.mcp_tools import McpPolicy
from forwarder.hosted_tools.page_reader import MAX_PAGE_BYTES, PageReader
from forwarder.hosted_tools.request_preparation import LoopContext
from forwarder.hosted_tools.tool_context import ToolClient, UpstreamAccess
from forwarder.hosted_tools.tool_kind import ignore_call
from forwarder.hosted_tools.web_search import WebSearch
from forwarder.hosted_tools.web_search_backends import SearchBackend, SearchEngine
from forwarder.hosted_tools.web_search_mcp import McpSearch
from forwarder.hosted_tools.web_search_upstream import UpstreamSearch
from forwarder.middleware.media import Fetcher


class HostedToolServices:
    """Makes the loop's context for each request.

    With ``is_offline`` no server is called, as in a preview. ``needs_keys`` returns whether
    every client needs a key: only then are URLs of clients called. Raises ConfigError if the file
    of servers is invalid. ``upstreams`` gives tools access to upstreams; the gateway sets it.
    ``secrets`` are those of the operator's MCP servers.
    """

    def __init__(
        self,
        settings: Settings,
        is_offline: bool = False,
        needs_keys: Callable[[], bool] | None = None,
    ) -> None:
        self._is_offline = is_offline
        self._needs_keys = needs_keys or (lambda: bool(settings.api_keys))
        guard = AddressGuard(settings.remote_allow, get_address_info)
        self.client = McpClient(guard, McpLimits(call_seconds=settings.tool_timeout))
        servers = read_servers(settings)
        self.secrets = frozenset(
            secret
            for server in servers.values()
            for secret in server.find_secrets()
            if len(secret) >= MIN_REDACTED_LENGTH
        )
        self.upstreams: UpstreamAccess | None = None
        self._search = search = self._build_search(settings, servers)
        self.extra_tools = [*map(make_extra_tool, settings.tools_for_all)]
        mapped = map_tools(settings, servers)
        with_urls = ToolResources(
            self.client,
            McpPolicy(servers, settings.mcp_urls),
            search,
            settings.tool_timeout,
            self._build_image_maker(settings),
            build_image_fetch(settings),
            mapped,
        )
        # Anonymous clients must not make the forwarder send requests to servers of their choice.
        without_urls = with_urls._replace(
            policy=McpPolicy(servers, False),
            search=drop_reader(search),
            fetch_image=None,
        )
        self._restrict_with_urls = lru_cache(maxsize=64)(build_kinds(with_urls).restrict)
        self._restrict_without_urls = lru_cache(maxsize=64)(build_kinds(without_urls).restrict)

    def make_context(
        self,
        token: CancelToken,
        client: ToolClient,
        native: frozenset[str] = frozenset(),
        knows_items: bool = False,
        keeps_encrypted_reasoning: bool = False,
        asks_encrypted_reasoning: bool = True,
        keeps_calls: bool = True,
        is_preview: bool = False,
        memory: dict[str, Any] | None = None,
        on_call_end: Callable[[Json], object] = ignore_call,
        on_round_end: Callable[[Json | None], object] = lambda usage: None,
    ) -> LoopContext:
        """Return the context of a request.

        ``token`` is the waiting client, ``native`` the names of the tools that the upstream runs
        itself; with ``knows_items`` it also takes their items. For the other parameters see
        `LoopContext`.
        """
        is_open = not self._needs_keys()
        restrict = self._restrict_without_urls if is_open else self._restrict_with_urls
        return LoopContext(
            restrict(native, knows_items),
            token,
            client,
            native=native,
            asks_encrypted_reasoning=asks_encrypted_reasoning,
            keeps_calls=keeps_calls,
            keeps_encrypted_reasoning=keeps_encrypted_reasoning,
            is_preview=is_preview or self._is_offline,
            memory=memory,
            on_call_end=on_call_end,
            on_round_end=on_round_end,
        )

    def find_search(self, account: str) -> WebSearch | None:
        """Return the web search for a client; ``None`` if none is configured."""
        search = self._search if self._needs_keys() else drop_reader(self._search)
        return None if search is None else search._replace(client=account)

    def close(self) -> None:
        self.client.close()

    def _build_search(
        self, settings: Settings, servers: Mapping[str, McpServer]
    ) -> WebSearch | None:
        source, seconds = settings.web_search, settings.tool_timeout
        engine: SearchBackend
        if source.kind == "off":
            return None
        if source.kind == "upstream":
            engine = UpstreamSearch(f"{source.name}/{source.item}", self._get_upstreams)
        elif source.kind == "mcp":
            engine = McpSearch(self.client, servers[source.name], source.item)
        else:
            url, key = settings.web_search_url, settings.web_search_key
            engine = SearchEngine(source.kind, url, key, min(seconds, 15.0))
        return WebSearch(engine, build_page_reader(settings), seconds=seconds)

    def _build_image_maker(self, settings: Settings) -> ImageMaker | None:
        kind, name, model = settings.image_generation
        if kind == "off":
            return None
        if kind == "images":
            return ApiImageMaker(name, model, self._get_upstreams)
        return ChatImageMaker(f"{name}/{model}", self._get_upstreams)

    def _get_upstreams(self) -> UpstreamAccess:
        assert self.upstreams is not None, "set by the gateway"
        return self.upstreams


def read_servers(settings: Settings) -> Mapping[str, McpServer]:
    """Return the operator's MCP servers by label.

    Raises ConfigError if the file is wrong, or lacks a server that another setting names.
    """
    servers: Mapping[str, McpServer] = {}
    if settings.mcp_servers is not None:
        servers = read_server_file(settings.mcp_servers)
    named = {
        f"FORWARDER_HOSTED_TOOL_{name.upper()}": target.label
        for name, target in settings.mapped_tools.items()
    }
    for name in settings.tools_for_all:
        if name.startswith("mcp:"):
            named[f"FORWARDER_TOOLS_FOR_ALL={name}"] = name.removeprefix("mcp:")
    if settings.web_search.kind == "mcp":
        named["FORWARDER_WEB_SEARCH=mcp:LABEL/TOOL"] = settings.web_search.name
    lost = [setting for setting, label in named.items() if label not in servers]
    if lost:
        raise ConfigError([f"{each} must name a server in FORWARDER_MCP_SERVERS" for each in lost])
    return servers


def read_server_file(path: str) -> Mapping[str, McpServer]:
    try:
        return parse_server_file(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeError):
        raise ConfigError(["FORWARDER_MCP_SERVERS must be the path of a readable file"]) from None
    except ValueError as error:
        message = f"FORWARDER_MCP_SERVERS must be the path of a valid file: {error}"
        raise ConfigError([message]) from None


def make_extra_tool(name: str) -> Json:
    """Return a tool that every request gets; ``name`` is a hosted tool, or ``mcp:`` and a label."""
    kind, _, label = name.partition(":")
    if kind == "mcp":
        return {"type": kind, "server_label": label, "require_approval": "never"}
    return {"type": kind, **_REQUIRED_FIELDS.get(kind, {})}


_REQUIRED_FIELDS: dict[str, Json] = {
    "code_interpreter": {"container": {"type": "auto"}},
    "shell": {"environment": {"type": "container_auto"}},
}
"""Fields without which a tool is not valid, or not hosted."""


def map_tools(settings: Settings, servers: Mapping[str, McpServer]) -> tuple[MappedTool, ...]:
    """Return the mapped tools. Their servers must be configured."""
    return tuple(
        MappedTool(name, servers[target.label], target.tool)
        for name, target in settings.mapped_tools.items()
    )


def build_page_reader(settings: Settings) -> PageReader | None:
    fetcher = build_fetcher(settings, MAX_PAGE_BYTES)
    return None if fetcher is None else PageReader(fetcher)


def drop_reader(search: WebSearch | None) -> WebSearch | None:
    """Return a web search that opens no pages: without keys, anyone could fetch URLs."""
    return None if search is None else search._replace(reader=None)


def build_image_fetch(settings: Settings) -> FetchImage | None:
    fetcher = build_fetcher(settings)
    return None if fetcher is None else partial(fetch_image, fetcher)


def build_fetcher(settings: Settings, max_bytes: int | None = None) -> Fetcher | None:
    """Return the fetcher of clients' URLs, of at most ``max_bytes`` each; ``None`` if it is off."""
    if not settings.fetch:
        return None
    guard = AddressGuard(settings.fetch_allow, get_address_info)
    size = settings.fetch_max if max_bytes is None else min(settings.fetch_max, max_bytes)
    return Fetcher(guard, size, settings.fetch_timeout, settings.fetch_lookups)


def fetch_image(fetcher: Fetcher, url: str, client: str) -> Blob:
    """Fetch an image for a client. Raises InvalidRequest with the reason."""
    return fetcher.fetch_all({url: "the image"}, client)[url]
