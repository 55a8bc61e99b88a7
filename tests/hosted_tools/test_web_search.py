"""The web search in the loop."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest

from forwarder.core.body_memory import BodyMemory
from forwarder.core.errors import InvalidRequest
from forwarder.core.ssrf import AddressGuard
from forwarder.hosted_tools.kind_table import ToolResources, build_kinds
from forwarder.hosted_tools.mcp_client import McpClient
from forwarder.hosted_tools.mcp_tools import McpPolicy
from forwarder.hosted_tools.page_reader import Page, PageFailure
from forwarder.hosted_tools.request_preparation import LoopContext
from forwarder.hosted_tools.responses_loop import with_hosted_tools
from forwarder.hosted_tools.tool_context import ToolClient
from forwarder.hosted_tools.web_search import WebSearch, read_search_tool
from forwarder.hosted_tools.web_search_backends import (
    SearchAnswer,
    SearchFailure,
    SearchOptions,
    WebSearchResult,
)
from forwarder.protocols.input_items import CLIENT_CALLS
from tests.helpers.check_cases import check_each
from tests.helpers.translating import collect_events
from tests.hosted_tools.scripted_upstream import (
    ScriptedUpstream,
    check_stream,
    make_call,
    make_text_item,
)
from tests.hosted_tools.test_responses_loop import FakeClient

Json = dict[str, Any]
QUESTION: Json = {"type": "message", "role": "user", "content": "cats?"}
TOOL: Json = {"type": "web_search"}


class Engine:
    """A search engine with two pages."""

    def __init__(self) -> None:
        self.searches: list[tuple[str, SearchOptions]] = []
        self.text = ""

    def search(
        self, query: str, options: SearchOptions, client: str, make_call: Any
    ) -> SearchAnswer:
        assert client == "client"
        self.searches.append((query, options))
        if query == "broken":
            raise SearchFailure("The search engine answered 500.")
        results = [
            WebSearchResult("Cats", "https://example.org/cats", "All about cats.", "2026-01-01"),
            WebSearchResult("Dogs", "https://example.org/dogs", "Not about cats."),
        ]
        return SearchAnswer(results, self.text)


class Reader:
    def __init__(self) -> None:
        self.opened: list[str] = []

    def read_page(self, url: str, client: str) -> Page:
        self.opened.append(url)
        if "missing" in url:
            raise PageFailure("The page could not be opened: its server answered 404.")
        return Page("Cats", "Cats sleep a lot. " * 2000)


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture
def reader() -> Reader:
    return Reader()


@pytest.fixture
def context(engine: Any, reader: Any) -> LoopContext:
    return make_context(WebSearch(engine, reader))


def make_context(search: WebSearch) -> LoopContext:
    client = McpClient(AddressGuard())  # never used, so it starts no thread
    kinds = build_kinds(ToolResources(client, McpPolicy(), search))
    return LoopContext(kinds, FakeClient(), ToolClient("client"), heartbeat=0.02)


def make_request(tool: Json, *items: Json, **more: Any) -> Json:
    return {
        "model": "m",
        "input": [*(items or (QUESTION,))],
        "tools": [tool],
        "stream": True,
        **more,
    }


def run_loop(upstream: ScriptedUpstream, context: LoopContext, request: Json) -> Json:
    return check_stream(collect_events(with_hosted_tools(upstream, context)(request)))


@pytest.mark.parametrize("name", ["queries", "sources"])
def test_malformed_earlier_search_is_rejected_by_name(context: LoopContext, name: str) -> None:
    item = {"type": "web_search_call", "id": "ws_1", "action": {"type": "search", name: 5}}
    with pytest.raises(InvalidRequest) as caught:
        with_hosted_tools(ScriptedUpstream(), context)(make_request(TOOL, item))
    assert caught.value.param == f"input[0].action.{name}"


def test_include_must_be_a_list(context: LoopContext) -> None:
    with pytest.raises(InvalidRequest) as caught:
        with_hosted_tools(ScriptedUpstream(), context)(make_request(TOOL, include=5))
    assert caught.value.param == "include"


def test_call_that_takes_too_long_fails(engine: Any, reader: Any) -> None:
    release = threading.Event()

    def read_slowly(url: str, client: str) -> Page:
        release.wait(10)
        raise PageFailure("late")

    reader.read_page = read_slowly
    context = make_context(WebSearch(engine, reader, seconds=0.1))
    page_call = make_call("web_open_page", '{"url":"https://example.org/cats"}')
    upstream = ScriptedUpstream([page_call], [make_text_item("Oh.")])
    try:
        response = run_loop(upstream, context, make_request(TOOL))
    finally:
        release.set()
    assert response["output"][0]["status"] == "failed"
    assert upstream.requests[1]["input"][-1]["output"] == "The call took too long."


def test_search_of_a_cut_response_fails(context: LoopContext) -> None:
    response = run_loop(
        ScriptedUpstream(("incomplete", [SEARCH_CALL])), context, make_request(TOOL)
    )
    assert response["output"][0]["status"] == "failed"


CITED_TEXT = "Cats sleep ([Cats](https://example.org/cats))."
SEARCH_CALL = make_call("web_search", '{"query":"cats"}')


def test_search_is_run_shown_and_cited(context: LoopContext, engine: Engine) -> None:
    upstream = ScriptedUpstream([SEARCH_CALL], [make_text_item(CITED_TEXT)])
    events = collect_events(with_hosted_tools(upstream, context)(make_request(TOOL)))
    response = check_stream(events)
    search, message = response["output"]
    assert search == {
        "id": search["id"],
        "type": "web_search_call",
        "status": "completed",
        "action": {"type": "search", "query": "cats", "queries": ["cats"]},
    }
    kinds = [e["type"].removeprefix("response.") for e in events if e.get("output_index") == 0]
    assert kinds == [
        "output_item.added",
        "web_search_call.in_progress",
        "web_search_call.searching",
        "web_search_call.completed",
        "output_item.done",
    ]
    (citation,) = message["content"][0]["annotations"]
    begin, end = citation["start_index"], citation["end_index"]
    assert CITED_TEXT[begin:end] == "[Cats](https://example.org/cats)"
    assert (citation["title"], citation["url"]) == ("Cats", "https://example.org/cats")
    added = [e for e in events if e["type"] == "response.output_text.annotation.added"]
    assert [event["annotation"] for event in added] == [citation]
    output = upstream.requests[1]["input"][-1]["output"]
    assert "https://example.org/dogs" in output
    assert "Published: 2026-01-01" in output
    assert response["tools"] == [TOOL]
    assert [tool["name"] for tool in upstream.requests[0]["tools"]] == [
        "web_search", "web_open_page", "web_find_in_page"
    ]  # fmt: skip


def test_sources_are_shown_on_request(context: LoopContext) -> None:
    upstream = ScriptedUpstream([SEARCH_CALL], [make_text_item("Done.")])
    response = run_loop(
        upstream, context, make_request(TOOL, include=["web_search_call.action.sources"])
    )
    assert response["output"][0]["action"]["sources"] == [
        {"type": "url", "url": "https://example.org/cats"},
        {"type": "url", "url": "https://example.org/dogs"},
    ]
    assert upstream.requests[0]["include"] == ["reasoning.encrypted_content"]


def test_text_of_the_searcher_comes_before_the_results(
    context: LoopContext, engine: Engine
) -> None:
    engine.text = "Cats sleep a lot."
    upstream = ScriptedUpstream([SEARCH_CALL], [make_text_item("Done.")])
    run_loop(upstream, context, make_request(TOOL))
    output = upstream.requests[1]["input"][-1]["output"]
    assert output.startswith("Cats sleep a lot.\n\n1. Cats\nURL: https://example.org/cats\n")


def test_whole_answer_is_cited(context: LoopContext) -> None:
    upstream = ScriptedUpstream([SEARCH_CALL], [make_text_item(CITED_TEXT)], streamed=False)
    (event,) = collect_events(
        with_hosted_tools(upstream, context)({**make_request(TOOL), "stream": False})
    )
    assert len(event["response"]["output"][1]["content"][0]["annotations"]) == 1


def test_opened_pages_count_until_the_response_ends(context: LoopContext) -> None:
    memory = BodyMemory(10_000_000)
    upstream = ScriptedUpstream(
        [make_call("web_open_page", '{"url":"https://example.org/cats"}')],
        [make_text_item("Done.")],
    )
    stream = with_hosted_tools(
        upstream, context._replace(client=ToolClient("client", body_memory=memory))
    )(make_request(TOOL))
    assert max([memory.kept for _ in stream]) > len("Cats sleep a lot. ") * 2000
    assert memory.kept == 0


def test_pages_are_opened_once_and_searched(context: LoopContext, reader: Reader) -> None:
    url = "https://example.org/cats"
    upstream = ScriptedUpstream(
        [make_call("web_open_page", json.dumps({"url": url}), "call_1")],
        [make_call("web_find_in_page", json.dumps({"url": url, "pattern": "SLEEP"}), "call_2")],
        [make_call("web_find_in_page", json.dumps({"url": url, "pattern": "bark"}), "call_3")],
        [make_text_item(CITED_TEXT)],
    )
    response = run_loop(upstream, context, make_request(TOOL))
    actions = [item["action"] for item in response["output"][:3]]
    assert actions[0] == {"type": "open_page", "url": url}
    assert actions[1] == {"type": "find_in_page", "url": url, "pattern": "SLEEP"}
    assert reader.opened == [url]
    outputs = [i["output"] for i in upstream.requests[3]["input"] if "output" in i]
    assert "The page is longer" in outputs[0]
    assert "Cats sleep a lot." in outputs[1]
    assert outputs[2] == "The page does not contain 'bark'."
    assert response["output"][3]["content"][0]["annotations"]


@pytest.mark.parametrize(
    ("name", "arguments", "reason"),
    [
        ("web_search", '{"query":"broken"}', "answered 500"),
        ("web_search", "{}", "lack 'query'"),
        ("web_search", "[", "lack 'query'"),
        ("web_open_page", '{"url":"https://example.org/missing"}', "answered 404"),
        ("web_open_page", '{"url":"https://other.org/"}', "do not allow"),
        ("web_open_page", '{"url":"http://[docs"}', "not valid"),
        ("web_find_in_page", '{"url":"http://[docs","pattern":"a"}', "not valid"),
    ],
)
def test_failed_search_is_reported_to_the_model(
    context: LoopContext, name: str, arguments: str, reason: str
) -> None:
    upstream = ScriptedUpstream([make_call(name, arguments)], [make_text_item("Sorry.")])
    tool = {**TOOL, "filters": {"allowed_domains": ["example.org"]}}
    response = run_loop(upstream, context, make_request(tool))
    assert response["output"][0]["status"] == "failed"
    assert reason in upstream.requests[1]["input"][-1]["output"]
    assert response["status"] == "completed"


def test_settings_of_the_tool_reach_the_engine(context: LoopContext, engine: Engine) -> None:
    tool = {
        "type": "web_search_preview",
        "search_context_size": "high",
        "user_location": {"type": "approximate", "country": "de", "city": "Berlin"},
        "filters": {"allowed_domains": ["Example.org."], "blocked_domains": ["bad.org"]},
    }
    upstream = ScriptedUpstream([SEARCH_CALL], [make_text_item("Done.")])
    collect_events(with_hosted_tools(upstream, context)(make_request(tool)))
    ((_, options),) = engine.searches
    assert options == SearchOptions(12, 1200, "DE", "Berlin", ("example.org",), ("bad.org",))


@pytest.mark.parametrize("kind", ["web_search", "web_search_preview"])
def test_forced_search_is_a_forced_function(context: LoopContext, kind: str) -> None:
    upstream = ScriptedUpstream([SEARCH_CALL], [make_text_item("Done.")])
    request = make_request({"type": kind}, tool_choice={"type": kind})
    collect_events(with_hosted_tools(upstream, context)(request))
    choices = [request["tool_choice"] for request in upstream.requests]
    assert choices == [{"type": "function", "name": "web_search"}, "auto"]


def test_searches_of_earlier_turns_become_function_calls(context: LoopContext) -> None:
    upstream = ScriptedUpstream([SEARCH_CALL, make_call("web_open_page", '{"url":"https://example.org/a"}', "call_2")],
                                [make_text_item(CITED_TEXT)], [make_text_item("More.")])  # fmt: skip
    sources = ["web_search_call.action.sources"]
    response = run_loop(upstream, context, make_request(TOOL, include=sources))
    run_loop(upstream, context, make_request(TOOL, QUESTION, *response["output"], QUESTION))
    history = upstream.requests[2]["input"]
    assert [item["type"] for item in history[1:5]] == [
        *["function_call"] * 2, *["function_call_output"] * 2
    ]  # fmt: skip
    assert [item.get("call_id") for item in history[1:3]] == ["call_1", "call_2"]
    assert history[1]["arguments"] == '{"query":"cats"}'
    assert "https://example.org/cats" in history[3]["output"]


def test_parallel_searches_with_call_ids_of_kimi_stay_parallel(context: LoopContext) -> None:
    searches = [
        make_call("web_search", '{"query":"cats"}', f"functions.web_search:{i}") for i in (0, 1)
    ]
    upstream = ScriptedUpstream(searches, [make_text_item(CITED_TEXT)], [make_text_item("More.")])
    response = run_loop(upstream, context, make_request(TOOL))
    run_loop(upstream, context, make_request(TOOL, QUESTION, *response["output"], QUESTION))
    history = upstream.requests[2]["input"][1:5]
    assert [item["type"] for item in history] == [
        *["function_call"] * 2, *["function_call_output"] * 2
    ]  # fmt: skip
    assert [item["call_id"] for item in history] == [
        item["id"] for item in (*response["output"][:2], *response["output"][:2])
    ]


@check_each("call_type", CLIENT_CALLS)
def test_call_of_the_client_does_not_split_a_round(context: LoopContext, call_type: str) -> None:
    searches = [make_call("web_search", '{"query":"cats"}', f"call_{i}") for i in (0, 1)]
    upstream = ScriptedUpstream(searches, [make_text_item(CITED_TEXT)], [make_text_item("More.")])
    first, second = run_loop(upstream, context, make_request(TOOL))["output"][:2]
    client_call = {"type": call_type, "call_id": "call_c"}
    client_output = {"type": CLIENT_CALLS[call_type], "call_id": "call_c"}
    run_loop(
        upstream, context, make_request(TOOL, QUESTION, first, client_call, second, client_output)
    )
    assert [item["type"] for item in upstream.requests[2]["input"][1:]] == [
        "function_call", call_type, "function_call",
        "function_call_output", "function_call_output", CLIENT_CALLS[call_type],
    ]  # fmt: skip


def test_search_without_id_from_codex_is_converted(context: LoopContext) -> None:
    item = {"type": "web_search_call", "status": "completed", "action": {"type": "search"}}
    upstream = ScriptedUpstream([make_text_item("Done.")])
    run_loop(upstream, context, make_request(TOOL, QUESTION, item, dict(item), QUESTION))
    calls = [i["call_id"] for i in upstream.requests[0]["input"] if i["type"] == "function_call"]
    assert len(set(calls)) == 2


@check_each(
    ("change", "param"),
    [
        ({"search_context_size": "huge"}, "search_context_size"),
        ({"search_context_size": 1}, "search_context_size"),
        ({"user_location": {"country": "Germany"}}, "user_location.country"),
        ({"user_location": {"city": 1}}, "user_location.city"),
        ({"filters": {"allowed_domains": ["https://a.org"]}}, "filters.allowed_domains[0]"),
        ({"filters": {"allowed_domains": ["a." * 126 + "bc"]}}, "filters.allowed_domains[0]"),
        ({"filters": {"allowed_domains": ["a" * 10**6]}}, "filters.allowed_domains[0]"),
        ({"filters": {"allowed_domains": "a.org"}}, "filters.allowed_domains"),
        ({"filters": {"blocked_domains": ["a.org"] * 101}}, "filters.blocked_domains"),
        ({"external_web_access": "no"}, "external_web_access"),
    ],
)
def test_invalid_search_tool_is_rejected_by_name(change: Json, param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_search_tool({**TOOL, **change}, "tools[0]")
    assert caught.value.param == f"tools[0].{param}"


def test_search_without_web_access_is_left_to_the_upstream(context: LoopContext) -> None:
    upstream = ScriptedUpstream([make_text_item("Hi.")])
    request = make_request({**TOOL, "external_web_access": False})
    collect_events(with_hosted_tools(upstream, context)(request))
    assert upstream.requests == [request]


def test_page_functions_are_omitted_if_the_client_has_them(context: LoopContext) -> None:
    upstream = ScriptedUpstream([make_call("web_open_page", '{"path":"a"}')])
    client_tool = {"type": "function", "name": "web_open_page", "parameters": {}}
    response = run_loop(upstream, context, {**make_request(TOOL), "tools": [TOOL, client_tool]})
    assert [item["type"] for item in response["output"]] == ["function_call"]
    names = [tool["name"] for tool in upstream.requests[0]["tools"]]
    assert names == ["web_open_page", "web_search", "web_find_in_page"]


def test_client_function_of_the_same_name_is_refused(context: LoopContext) -> None:
    client_tool = {"type": "function", "name": "web_search", "parameters": {}}
    request = {**make_request(TOOL), "tools": [TOOL, client_tool]}
    with pytest.raises(InvalidRequest) as caught:
        with_hosted_tools(ScriptedUpstream(), context)(request)
    assert caught.value.code == "tool_name_collision"
