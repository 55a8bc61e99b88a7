"""Web search with a tool of one of the operator's MCP servers.

Tools differ in the names of their parameters and in the form of their results. The names are found
in the tool's schema. Results are read from structured content or JSON, otherwise from text with
URLs; a text without URLs is passed on as it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, TypeVar

import orjson

from forwarder.core.types import Json
from forwarder.hosted_tools.asyncio_thread import PendingTask, TaskCancelled
from forwarder.hosted_tools.citations import cut_at_closing_parenthesis
from forwarder.hosted_tools.mcp_client import McpClient, McpConnections, McpFailure
from forwarder.hosted_tools.mcp_content import McpTool, ToolResult
from forwarder.hosted_tools.mcp_server import McpServer
from forwarder.hosted_tools.tool_context import CallScope
from forwarder.hosted_tools.tool_kind import ClientWatch
from forwarder.hosted_tools.web_search_backends import (
    SearchAnswer,
    SearchFailure,
    SearchOptions,
    WebSearchResult,
    add_site_operators,
    clean_text,
    cut_text,
    select_results,
)

T = TypeVar("T")

MAX_QUERY_LENGTH = 2_000
MAX_TEXT_LENGTH = 20_000
"""Characters of a text without URLs that are used."""

MAX_READ_LENGTH = 200_000
"""Characters of a text in which results are looked for. For megabytes it would take seconds."""

QUERY_PARAMETERS = ("query", "q", "search_query", "searchQuery", "search_term", "text", "input")
COUNT_PARAMETERS = (
    "max_results", "maxResults", "num_results", "numResults", "count", "limit", "n",
)  # fmt: skip
DOMAIN_PARAMETERS = (
    ("include_domains", "exclude_domains"),
    ("includeDomains", "excludeDomains"),
    ("allowed_domains", "blocked_domains"),
)
"""Parameters for the allowed and the blocked domains."""

URL_FIELDS = ("url", "link", "href", "uri")
TITLE_FIELDS = ("title", "name")
TEXT_FIELDS = (
    "content", "snippet", "description", "text", "summary", "body", "excerpt", "markdown",
)  # fmt: skip
DATE_FIELDS = ("published", "published_date", "publishedDate", "page_age", "age", "date")
"""Fields of results in structured content and JSON, by meaning."""

MAX_DEPTH = 6
"""Nesting of structured content in which results are looked for."""

_URL = re.compile(r"https?://[^\s<>\[\]\"'`|]+")
_TITLE_LINE = re.compile(r"^[^\w\n]*title[^\w\n]*:[^\w\n]*(.+)$", re.IGNORECASE | re.MULTILINE)
_BLOCK_END = re.compile(
    r"\n\s*\n|^-{3,}$|^(?=[^\w\n]*title[^\w\n]*:)", re.IGNORECASE | re.MULTILINE
)
"""Where a result in a text ends.

The pattern of a title matches within one line: over the many wordless lines of a table it would
take too long.
"""

_LABEL = re.compile(r"^\W*(title|url|link|description|content|snippet|text)\W*:\s*", re.IGNORECASE)


class McpSearch:
    """Searches with the tool ``tool`` of an MCP server."""

    def __init__(self, client: McpClient, server: McpServer, tool: str) -> None:
        self._client = client
        self._server = server
        self._tool = tool

    def search(
        self, query: str, options: SearchOptions, client: str, call: CallScope
    ) -> SearchAnswer:
        connections = self._client.open_connections(client)
        try:
            result = self._call_tool(connections, query[:MAX_QUERY_LENGTH], options, call)
        except McpFailure as failure:
            raise SearchFailure(failure.message) from None
        except (TimeoutError, TaskCancelled):
            message = f"The MCP server '{self._server.label}' did not answer in time."
            raise SearchFailure(message) from None
        finally:
            connections.close()
        if result.is_error:
            raise SearchFailure(f"The search has failed: {cut_text(result.text, 500)}")
        return read_answer(result, options)

    def _call_tool(
        self, connections: McpConnections, query: str, options: SearchOptions, call: CallScope
    ) -> ToolResult:
        listed: list[McpTool] = await_task(connections.list_tools(self._server), call)
        tools = {tool["name"]: tool for tool in listed}
        tool = tools.get(self._tool)
        if tool is None:
            raise SearchFailure(f"The MCP server '{self._server.label}' has no tool of that name.")
        arguments = make_arguments(tool["input_schema"], query, options)
        return await_task(connections.call_tool(self._server, self._tool, arguments), call)


def await_task(task: PendingTask[T], call: CallScope) -> T:
    """Return the result of a task, which is cancelled with ``call``.

    Raises the errors of `PendingTask.unwrap`, and ClientDisconnected if the call was cancelled
    before.
    """
    with ClientWatch(call).cancel_on_disconnect(task):
        return task.unwrap()


def make_arguments(schema: Json, query: str, options: SearchOptions) -> dict[str, Any]:
    """Return the arguments of a search. Raises SearchFailure if the schema has no query."""
    properties = schema.get("properties")
    known: Json = properties if isinstance(properties, dict) else {}
    arguments: dict[str, Any] = {}
    count = next((name for name in COUNT_PARAMETERS if has_type(known, name, "integer")), None)
    if count is not None:
        arguments[count] = options.max_results
    pairs = [pair for pair in DOMAIN_PARAMETERS if has_type(known, pair[0], "array")]
    if pairs:
        given = zip(pairs[0], (options.allowed, options.blocked), strict=True)
        arguments |= {name: list(domains) for name, domains in given if domains and name in known}
    else:
        query = add_site_operators(query, options)
    return {find_query_parameter(schema, known): query, **arguments}


def find_query_parameter(schema: Json, known: Json) -> str:
    required = schema.get("required")
    others = required if isinstance(required, list) else []
    for name in (*QUERY_PARAMETERS, *others):
        if isinstance(name, str) and has_type(known, name, "string"):
            return name
    raise SearchFailure("The tool that searches the web has no parameter for a query.")


def has_type(properties: Json, name: str, kind: str) -> bool:
    """Whether a parameter may have a JSON type; numbers count as integers."""
    schema = properties.get(name)
    if not isinstance(schema, dict):
        return False
    branches = [schema, *(s for s in schema.get("anyOf") or () if isinstance(s, dict))]
    values = [branch.get("type") for branch in branches]  # a type or a list of types
    types = {str(t) for value in values for t in (value if isinstance(value, list) else [value])}
    return kind in types or (kind == "integer" and "number" in types)


# -- results ------------------------------------------------------------------------------------


def read_answer(result: ToolResult, options: SearchOptions) -> SearchAnswer:
    for value in (result.structured, parse_json(result.text)):
        found = select_results(find_results(value), options)
        if found:
            return SearchAnswer(found)
    text = result.text[:MAX_READ_LENGTH]
    if _URL.search(text):
        return SearchAnswer(select_results(read_text_results(text), options))
    # The pages of this text are unknown. With domain filters it is dropped.
    is_filtered = options.allowed or options.blocked
    return SearchAnswer([], "" if is_filtered else cut_text(text, MAX_TEXT_LENGTH))


def parse_json(text: str) -> Any:
    try:
        return orjson.loads(text)
    except ValueError:
        return None


def find_results(value: Any, depth: int = 0) -> Iterator[WebSearchResult]:
    """Yield the objects with a URL in a JSON value, wherever they are."""
    if depth > MAX_DEPTH:
        return
    if isinstance(value, list):
        for each in value:
            yield from find_results(each, depth + 1)
    elif isinstance(value, dict):
        url = read_first(value, URL_FIELDS)
        if url.startswith(("http://", "https://")):
            title, text = read_first(value, TITLE_FIELDS), read_first(value, TEXT_FIELDS)
            published = read_first(value, DATE_FIELDS)[:40]
            yield WebSearchResult(
                clean_text(title) or url, url, clean_text(text), published or None
            )
        else:
            yield from find_results(list(value.values()), depth)


def read_first(value: Json, names: tuple[str, ...]) -> str:
    texts = (value[name] for name in names if isinstance(value.get(name), str) and value[name])
    return next(texts, "")


def read_text_results(text: str) -> Iterator[WebSearchResult]:
    """Yield a result for each paragraph with a URL; lines may have labels such as ``Title:``."""
    for block in _BLOCK_END.split(text):
        url = _URL.search(block)
        if url is None:
            continue
        address = cut_at_closing_parenthesis(url[0]).rstrip(".,;:!?*_")
        lines = [_LABEL.sub("", line).replace(address, "") for line in block.splitlines()]
        lines = [text for text in (clean_text(line).strip("*#[]().,; ") for line in lines) if text]
        named = _TITLE_LINE.search(block)
        first_line = lines[0] if lines else address
        title = clean_text(named[1]) if named else first_line
        snippet = " ".join(line for line in lines if line != title)
        yield WebSearchResult(title, address, snippet)
