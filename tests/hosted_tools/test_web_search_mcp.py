"""Web search by a tool of an MCP server."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from forwarder.core.errors import ClientDisconnected
from forwarder.core.ssrf import AddressGuard
from forwarder.hosted_tools.mcp_client import McpClient, McpLimits
from forwarder.hosted_tools.mcp_content import ToolResult
from forwarder.hosted_tools.mcp_server import McpServer
from forwarder.hosted_tools.web_search_backends import (
    SearchAnswer,
    SearchFailure,
    SearchOptions,
    WebSearchResult,
)
from forwarder.hosted_tools.web_search_mcp import McpSearch, await_task, make_arguments, read_answer
from tests.helpers.check_cases import check_each
from tests.helpers.loopback import find_unused_port
from tests.hosted_tools.mcp_server_process import TOKEN, serving_mcp
from tests.hosted_tools.test_responses_loop import FakeClient

Json = dict[str, Any]
OPTIONS = SearchOptions(3, 40, None, None, ("example.org",), ("bad.example.org",))
URL = "https://example.org/cats"
CATS = WebSearchResult("Cats", URL, "They sleep.")


def make_schema(*required: str, **types: str) -> Json:
    return {"properties": {n: {"type": t} for n, t in types.items()}, "required": list(required)}


@check_each(
    ("schema", "arguments"),
    [
        (
            make_schema(query="string"),
            {"query": "cats site:example.org -site:bad.example.org"},
        ),
        (
            make_schema(q="string", count="number", include_domains="array"),
            {"q": "cats", "count": 3, "include_domains": ["example.org"]},
        ),
        (
            make_schema(
                query="string", limit="string", allowed_domains="array", blocked_domains="array"
            ),
            {
                "query": "cats",
                "allowed_domains": ["example.org"],
                "blocked_domains": ["bad.example.org"],
            },
        ),
        (
            make_schema("words", words="string", lang="string"),
            {"words": "cats site:example.org -site:bad.example.org"},
        ),
    ],
)
def test_arguments_follow_the_schema_of_the_tool(schema: Json, arguments: Json) -> None:
    assert make_arguments(schema, "cats", OPTIONS) == arguments


def test_optional_parameter_types_are_recognized() -> None:
    schema = {"properties": {"query": {"anyOf": [{"type": "string"}, {"type": "null"}]}}}
    assert make_arguments(schema, "cats", SearchOptions()) == {"query": "cats"}


def test_lists_of_types_count() -> None:
    given = {"properties": {"query": {"type": ["string", "null"]}, "count": {"type": ["integer"]}}}
    expected = {"query": "cats", "count": SearchOptions().max_results}
    assert make_arguments(given, "cats", SearchOptions()) == expected


@check_each("schema", [{}, {"properties": 5}, make_schema(n="integer", other="string")])
def test_tool_without_a_query_is_a_failure(schema: Json) -> None:
    with pytest.raises(SearchFailure, match="no parameter for a query"):
        make_arguments(schema, "cats", SearchOptions())


ENTRY = {"title": "<b>Cats</b>", "url": URL, "description": "They sleep."}


@check_each(
    "result",
    [
        ToolResult([], "other text", structured={"web": {"results": [ENTRY, ENTRY]}}),
        ToolResult([], json.dumps([ENTRY])),
        ToolResult([], f"Title: Cats\nURL: {URL}\nDescription: They sleep."),
        ToolResult([], f"## [Cats]({URL})\nThey sleep."),
        ToolResult([], f"**Cats**\n{URL}.\nThey sleep.\n\n---\nend of the results"),
    ],
    ids=["structured", "json", "labels", "markdown", "plain"],
)
def test_results_are_read_from_any_form(result: ToolResult) -> None:
    (search_result,) = read_answer(result, SearchOptions()).results
    assert search_result._replace(snippet=search_result.snippet.rstrip(".")) == CATS._replace(
        snippet="They sleep"
    )


def test_results_of_other_domains_are_omitted() -> None:
    text = f"Title: A\nURL: https://other.example/\nTitle: Cats\nURL: {URL}\nContent: They sleep."
    assert read_answer(ToolResult([], text), OPTIONS).results == [
        CATS._replace(snippet="They sleep")
    ]


def test_table_of_empty_lines_is_read_in_linear_time() -> None:
    text = "| - |\n" * 20_000 + f"Title: Cats\nURL: {URL}"
    started_at = time.process_time()
    (search_result,) = read_answer(ToolResult([], text), SearchOptions()).results
    assert (search_result.title, search_result.url) == ("Cats", URL)
    assert time.process_time() - started_at < 2  # quadratic time would be minutes


def test_results_are_searched_for_at_the_beginning_of_a_text() -> None:
    text = "Cats sleep.\n\n" * 20_000 + URL
    answer = read_answer(ToolResult([], text), SearchOptions())
    assert answer.results == []
    assert answer.text.startswith("Cats sleep.")


class Task:
    """A task that the call cancels while it is awaited."""

    def __init__(self, call: FakeClient) -> None:
        self.is_cancelled = False
        self._call = call

    def cancel(self) -> None:
        self.is_cancelled = True

    def unwrap(self) -> str:
        self._call.cancel()
        return "result"


def test_task_is_cancelled_with_the_call() -> None:
    call = FakeClient()
    task: Any = Task(call)
    await_task(task, call)
    assert task.is_cancelled


def test_cancelled_call_starts_no_search() -> None:
    call = FakeClient()
    call.cancel()
    task: Any = Task(call)
    with pytest.raises(ClientDisconnected):
        await_task(task, call)
    assert task.is_cancelled


def test_text_without_urls_is_passed_on_unless_domains_are_filtered() -> None:
    result = ToolResult([], "Cats sleep.")
    assert read_answer(result, SearchOptions()) == SearchAnswer([], "Cats sleep.")
    assert read_answer(result, OPTIONS) == SearchAnswer([])


# -- with a server --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mcp_base_url() -> Iterator[str]:
    with serving_mcp("--protected") as mcp_base_url:
        yield mcp_base_url


@pytest.fixture(scope="module")
def client() -> Iterator[McpClient]:
    client = McpClient(AddressGuard(), McpLimits(call_seconds=1.0))
    yield client
    client.close()


def search(client: McpClient, url: str, tool: str, query: str) -> SearchAnswer:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    server = McpServer("web", url=url, headers=headers, is_trusted=True)
    return McpSearch(client, server, tool).search(query, SearchOptions(), "client", FakeClient())


@pytest.mark.live
def test_server_is_searched(client: McpClient, mcp_base_url: str) -> None:
    query = json.dumps([{**ENTRY, "description": f"They sleep. {TOKEN}"}])
    answer = search(client, f"{mcp_base_url}/mcp", "echo", query)
    assert answer.results == [CATS._replace(snippet="They sleep. ***")]


@pytest.mark.live
@pytest.mark.parametrize(
    ("tool", "reason"),
    [("missing", "'web' has no tool"), ("fail", "no parameter"), ("add", "no parameter")],
)
def test_tool_that_cannot_search_is_a_failure(
    client: McpClient, mcp_base_url: str, tool: str, reason: str
) -> None:
    with pytest.raises(SearchFailure, match=reason):
        search(client, f"{mcp_base_url}/mcp", tool, "cats")


def test_unreachable_server_is_a_failure(client: McpClient) -> None:
    with pytest.raises(SearchFailure, match="'web'"):
        search(client, f"http://127.0.0.1:{find_unused_port()}/mcp", "echo", "cats")
