"""The file search in the loop."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from forwarder.core.errors import InvalidRequest, UpstreamUnreachable
from forwarder.core.ssrf import AddressGuard
from forwarder.hosted_tools.file_search import NO_RESULTS
from forwarder.hosted_tools.kind_table import ToolResources, build_kinds
from forwarder.hosted_tools.mcp_client import McpClient
from forwarder.hosted_tools.mcp_tools import McpPolicy
from forwarder.hosted_tools.request_preparation import LoopContext
from forwarder.hosted_tools.responses_loop import with_hosted_tools
from forwarder.hosted_tools.tool_context import (
    FilePassage,
    PrepareFileSearch,
    SearchFiles,
    ToolClient,
)
from tests.helpers.translating import collect_events
from tests.hosted_tools.scripted_upstream import (
    ScriptedUpstream,
    check_stream,
    make_call,
    make_text_item,
)
from tests.hosted_tools.test_responses_loop import FakeClient

Json = dict[str, Any]
QUESTION: Json = {"type": "message", "role": "user", "content": "reset?"}
TOOL: Json = {"type": "file_search", "vector_store_ids": ["vs_1"]}
PASSAGE = FilePassage("file-abc", "manual.pdf", 0.75, {"year": 2026}, "Hold the button.")
SEARCH_CALL = make_call("file_search", '{"query":"reset"}')
CITED_TEXT = "Hold the button [file-abc]."


class Files:
    """Vector stores with one passage; records tools and queries."""

    def __init__(self) -> None:
        self.tools: list[tuple[Json, str]] = []
        self.queries: list[str] = []

    def prepare(self, tool: Json, path: str) -> SearchFiles:
        self.tools.append((tool, path))
        if "vector_store_ids" not in tool:
            raise InvalidRequest("missing", param=f"{path}.vector_store_ids")
        return self.search

    def search(self, query: str) -> list[FilePassage]:
        self.queries.append(query)
        if query == "down":
            raise UpstreamUnreachable("The embedding model does not answer.")
        return [PASSAGE] if query == "reset" else []


@pytest.fixture
def files() -> Files:
    return Files()


@pytest.fixture
def context(files: Files) -> LoopContext:
    return make_context(files.prepare)


def make_context(prepare: PrepareFileSearch | None, seconds: float = 60.0) -> LoopContext:
    client = McpClient(AddressGuard())  # never used, so it starts no thread
    kinds = build_kinds(ToolResources(client, McpPolicy(), call_seconds=seconds))
    return LoopContext(kinds, FakeClient(), ToolClient(prepare_file_search=prepare))


def make_request(*items: Json, tools: list[Any] | None = None, **more: Any) -> Json:
    input_items = [*(items or (QUESTION,))]
    return {"model": "m", "input": input_items, "tools": tools or [TOOL], "stream": True, **more}


def run_loop(upstream: ScriptedUpstream, context: LoopContext, request: Json) -> Json:
    return check_stream(collect_events(with_hosted_tools(upstream, context)(request)))


def test_search_is_run_shown_and_cited(context: LoopContext, files: Files) -> None:
    upstream = ScriptedUpstream([SEARCH_CALL], [make_text_item(CITED_TEXT)])
    events = collect_events(with_hosted_tools(upstream, context)(make_request()))
    response = check_stream(events)
    search, message = response["output"]
    assert search == {
        "id": search["id"],
        "type": "file_search_call",
        "status": "completed",
        "queries": ["reset"],
        "results": None,
    }
    kinds = [e["type"].removeprefix("response.") for e in events if e.get("output_index") == 0]
    assert kinds == [
        "output_item.added",
        "file_search_call.in_progress",
        "file_search_call.searching",
        "file_search_call.completed",
        "output_item.done",
    ]
    (citation,) = message["content"][0]["annotations"]
    assert citation == {
        "type": "file_citation",
        "file_id": "file-abc",
        "filename": "manual.pdf",
        "index": CITED_TEXT.index("file-abc"),
    }
    added = [e for e in events if e["type"] == "response.output_text.annotation.added"]
    assert [event["annotation"] for event in added] == [citation]
    assert files.tools == [(TOOL, "tools[0]")]
    assert files.queries == ["reset"]
    output = upstream.requests[1]["input"][-1]["output"]
    assert "File: manual.pdf [file-abc]\nHold the button." in output
    assert [tool["name"] for tool in upstream.requests[0]["tools"]] == ["file_search"]
    assert response["tools"] == [TOOL]


def test_results_are_shown_on_request(context: LoopContext) -> None:
    upstream = ScriptedUpstream([SEARCH_CALL], [make_text_item("Done.")])
    response = run_loop(upstream, context, make_request(include=["file_search_call.results"]))
    assert response["output"][0]["results"] == [PASSAGE._asdict()]
    assert upstream.requests[0]["include"] == ["reasoning.encrypted_content"]


def test_whole_answer_is_cited(context: LoopContext) -> None:
    upstream = ScriptedUpstream([SEARCH_CALL], [make_text_item(CITED_TEXT)], streamed=False)
    (event,) = collect_events(
        with_hosted_tools(upstream, context)({**make_request(), "stream": False})
    )
    assert len(event["response"]["output"][1]["content"][0]["annotations"]) == 1


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ('{"query":"down"}', "does not answer"),
        ('{"query":" "}', "lack 'query'"),
        ("[", "lack 'query'"),
    ],
)
def test_failed_search_is_reported_to_the_model(
    context: LoopContext, arguments: str, reason: str
) -> None:
    upstream = ScriptedUpstream([make_call("file_search", arguments)], [make_text_item("Sorry.")])
    response = run_loop(upstream, context, make_request())
    assert response["output"][0]["status"] == "failed"
    assert reason in upstream.requests[1]["input"][-1]["output"]
    assert response["status"] == "completed"


def test_search_that_takes_too_long_fails() -> None:
    release = threading.Event()

    def search(query: str) -> list[FilePassage]:
        release.wait(10)
        return []

    slow_context = make_context(lambda tool, path: search, seconds=0.05)
    upstream = ScriptedUpstream([SEARCH_CALL], [make_text_item("Sorry.")])
    response = run_loop(upstream, slow_context, make_request())
    release.set()
    assert response["output"][0]["status"] == "failed"
    assert response["status"] == "completed"


def test_search_without_results_returns_a_note(context: LoopContext) -> None:
    upstream = ScriptedUpstream(
        [make_call("file_search", '{"query":"other"}')], [make_text_item("Unknown.")]
    )
    response = run_loop(upstream, context, make_request(include=["file_search_call.results"]))
    assert response["output"][0]["results"] == []
    assert upstream.requests[1]["input"][-1]["output"] == NO_RESULTS


def test_forced_search_is_a_forced_function(context: LoopContext) -> None:
    upstream = ScriptedUpstream([SEARCH_CALL], [make_text_item("Done.")])
    run_loop(upstream, context, make_request(tool_choice={"type": "file_search"}))
    first, second = (request["tool_choice"] for request in upstream.requests)
    assert first == {"type": "function", "name": "file_search"}
    assert second == "auto"


def test_next_turn_repeats_call_and_results(context: LoopContext) -> None:
    upstream = ScriptedUpstream([SEARCH_CALL], [make_text_item(CITED_TEXT)])
    include = ["file_search_call.results"]
    response = run_loop(upstream, context, make_request(include=include))
    next_upstream = ScriptedUpstream([make_text_item("Yes.")])
    run_loop(
        next_upstream,
        context,
        make_request(QUESTION, *response["output"], QUESTION, include=include),
    )
    _, sent_call, output, _, _ = next_upstream.requests[0]["input"]
    assert (sent_call["type"], sent_call["name"]) == ("function_call", "file_search")
    assert sent_call["arguments"] == '{"query":"reset"}'
    assert output["call_id"] == sent_call["call_id"]
    assert output["output"] == "Hold the button."


def test_invalid_tool_is_refused(context: LoopContext) -> None:
    with pytest.raises(InvalidRequest) as caught:
        with_hosted_tools(ScriptedUpstream(), context)(
            make_request(tools=[{"type": "file_search"}])
        )
    assert caught.value.param == "tools[0].vector_store_ids"


def test_function_of_the_client_with_the_same_name_is_refused(context: LoopContext) -> None:
    client_tool = {"type": "function", "name": "file_search", "parameters": {}}
    with pytest.raises(InvalidRequest, match="file_search"):
        with_hosted_tools(ScriptedUpstream(), context)(make_request(tools=[TOOL, client_tool]))


def test_tool_is_passed_on_without_stored_files() -> None:
    upstream = ScriptedUpstream([make_text_item("Hi.")])
    run_loop(upstream, make_context(None), make_request())
    assert upstream.requests[0]["tools"] == [TOOL]
