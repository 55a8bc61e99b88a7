"""The loop of hosted tools, with MCP tools of a scripted client and of a real server."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from forwarder.core.errors import (
    ClientDisconnected,
    InvalidRequest,
    Unsupported,
    UpstreamProtocolError,
)
from forwarder.core.ssrf import AddressGuard
from forwarder.core.types import Batch, Event
from forwarder.hosted_tools.kind_table import ToolResources, build_kinds
from forwarder.hosted_tools.mcp_client import McpClient, McpConnections, McpLimits
from forwarder.hosted_tools.mcp_kind import NOT_ANSWERED
from forwarder.hosted_tools.mcp_server import McpServer
from forwarder.hosted_tools.mcp_tools import McpPolicy
from forwarder.hosted_tools.request_preparation import LoopContext
from forwarder.hosted_tools.responses_loop import LIMIT_NOTE, SIZE_NOTE, with_hosted_tools
from forwarder.protocols.fold import fold_responses
from tests.helpers.loopback import find_unused_port
from tests.helpers.sdk import rebuild_response, response_mistakes
from tests.helpers.translating import collect_events
from tests.hosted_tools.mcp_server_process import TOKEN, serving_mcp
from tests.hosted_tools.scripted_upstream import (
    USAGE,
    ScriptedUpstream,
    check_stream,
    make_call,
    make_reasoning_item,
    make_text_item,
)

pytestmark = pytest.mark.live  # an MCP server in a process of its own

Json = dict[str, Any]
QUESTION: Json = {"type": "message", "role": "user", "content": "go"}


class FakeClient:
    """A client that stays connected until ``cancel``."""

    def __init__(self) -> None:
        self.cancel_callbacks: set[Callable[[], None]] = set()
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True
        for callback in list(self.cancel_callbacks):
            callback()


@pytest.fixture(scope="module")
def mcp_base_url() -> Iterator[str]:
    with serving_mcp() as mcp_base_url:
        yield mcp_base_url


@pytest.fixture(scope="module")
def client() -> Iterator[McpClient]:
    client = McpClient(AddressGuard(["127.0.0.1"]), McpLimits(call_seconds=2.0))
    yield client
    client.close()


@pytest.fixture
def context(client: McpClient) -> LoopContext:
    return make_context(client, McpPolicy(allows_urls=True))


def make_context(client: McpClient, policy: McpPolicy) -> LoopContext:
    return LoopContext(build_kinds(ToolResources(client, policy)), FakeClient(), heartbeat=0.05)


@pytest.fixture
def mcp(mcp_base_url: str) -> Json:
    return {
        "type": "mcp",
        "server_label": "tests",
        "server_url": f"{mcp_base_url}/mcp",
        "require_approval": "never",
    }


def make_request(tools: list[Json], *items: Json, **more: Any) -> Json:
    return {
        "model": "m",
        "input": [*(items or (QUESTION,))],
        "tools": tools,
        "stream": True,
        **more,
    }


def run_loop(upstream: ScriptedUpstream, context: LoopContext, request: Json) -> Json:
    """The final response of a stream, which must be valid."""
    events = collect_events(with_hosted_tools(upstream, context)(request))
    assert upstream.open == 0
    response = check_stream(events)
    assert rebuild_response(events)["id"] == response["id"]
    return response


def list_items(response: Json, kind: str) -> list[Json]:
    return [item for item in response["output"] if item["type"] == kind]


# -- the loop -----------------------------------------------------------------------------------


def test_call_is_run_and_its_result_sent_to_the_model(context: LoopContext, mcp: Json) -> None:
    upstream = ScriptedUpstream(
        [make_call("tests__echo", '{"text":"hi"}')], [make_text_item("It said hi.")]
    )
    ended_items: list[Json] = []
    response = run_loop(
        upstream, context._replace(on_call_end=ended_items.append), make_request([mcp])
    )
    assert [item["type"] for item in response["output"]] == [
        "mcp_list_tools",
        "mcp_call",
        "message",
    ]
    call_item = response["output"][1]
    assert ended_items == [call_item]
    assert (call_item["name"], call_item["server_label"], call_item["arguments"]) == (
        "echo",
        "tests",
        '{"text":"hi"}',
    )
    assert (call_item["status"], call_item["output"], call_item["error"]) == (
        "completed",
        "hi",
        None,
    )
    assert response["usage"]["input_tokens"] == 2 * USAGE["input_tokens"]
    assert response["usage"]["output_tokens_details"]["reasoning_tokens"] == 4
    first, second = upstream.requests
    names = [tool["name"] for tool in first["tools"]]
    assert {"tests__echo", "tests__add"} <= set(names)
    assert all(tool["type"] == "function" and tool["strict"] is False for tool in first["tools"])
    assert first["tools"] == second["tools"]
    assert second["input"] == [
        QUESTION,
        make_call("tests__echo", '{"text":"hi"}'),
        {"type": "function_call_output", "call_id": "call_1", "output": "hi"},
    ]


def test_events_of_a_call_are_in_openais_order(context: LoopContext, mcp: Json) -> None:
    upstream = ScriptedUpstream(
        [make_call("tests__echo", '{"text":"hi"}')], [make_text_item("Hi.")]
    )
    events = collect_events(with_hosted_tools(upstream, context)(make_request([mcp])))
    kinds = [e["type"].removeprefix("response.") for e in events if e.get("output_index") in (0, 1)]
    assert kinds == [
        "output_item.added",
        "mcp_list_tools.in_progress",
        "mcp_list_tools.completed",
        "output_item.done",
        "output_item.added",
        "mcp_call.in_progress",
        "mcp_call_arguments.delta",
        "mcp_call_arguments.done",
        "mcp_call.completed",
        "output_item.done",
    ]
    assert events[2]["item"]["tools"] == []
    assert len(events[5]["item"]["tools"]) > 5


def test_whole_answer_equals_the_fold_of_the_stream(context: LoopContext, mcp: Json) -> None:
    rounds = (
        [make_text_item("Let me see."), make_call("tests__add", '{"a":1,"b":2}')],
        [make_text_item("3", "msg_2")],
    )
    response = fold_responses(
        with_hosted_tools(ScriptedUpstream(*rounds, streamed=False), context)(
            {**make_request([mcp]), "stream": False}
        )
    )
    streamed = run_loop(ScriptedUpstream(*rounds), context, make_request([mcp]))
    assert not response_mistakes(response)
    assert [without_id(i) for i in response["output"]] == [
        without_id(i) for i in streamed["output"]
    ]
    assert {**response, "output": 0} == {**streamed, "output": 0}


def without_id(item: Json) -> Json:
    return {k: v for k, v in item.items() if k != "id"}


def test_text_before_between_and_after_calls_is_streamed(context: LoopContext, mcp: Json) -> None:
    upstream = ScriptedUpstream(
        [
            make_reasoning_item("Hm"),
            make_text_item("First."),
            make_call("tests__echo", '{"text":"a"}'),
        ],
        [make_text_item("Then.", "msg_2"), make_call("tests__echo", '{"text":"b"}', "call_2")],
        [make_text_item("Done.", "msg_3")],
    )
    response = run_loop(upstream, context, make_request([mcp]))
    kinds = [item["type"] for item in response["output"]]
    assert kinds == [
        "mcp_list_tools", "reasoning", "message", "mcp_call", "message", "mcp_call", "message"
    ]  # fmt: skip
    assert upstream.requests[2]["input"][1]["encrypted_content"] == "sealed Hm"
    assert "encrypted_content" not in response["output"][1]
    assert "reasoning.encrypted_content" in upstream.requests[0]["include"]


def test_requested_encrypted_reasoning_is_returned(context: LoopContext, mcp: Json) -> None:
    upstream = ScriptedUpstream([make_reasoning_item("Hm"), make_text_item("Done.")])
    response = run_loop(
        upstream, context, make_request([mcp], include=["reasoning.encrypted_content"])
    )
    assert response["output"][1]["encrypted_content"] == "sealed Hm"


def test_parallel_calls_run_at_the_same_time_and_are_shown_in_order(
    context: LoopContext, mcp: Json
) -> None:
    arguments = '{"seconds":0.6}'
    run_loop(
        ScriptedUpstream([make_text_item("Hi.")]), context, make_request([mcp])
    )  # imports the SDK, which takes long
    upstream = ScriptedUpstream(
        [make_call("tests__hang", arguments, f"call_{i}") for i in range(4)],
        [make_text_item("Done.")],
    )
    started_at = time.monotonic()
    response = run_loop(upstream, context, make_request([mcp]))
    assert time.monotonic() - started_at < 2
    assert [item["output"] for item in list_items(response, "mcp_call")] == ["slept"] * 4
    kinds = [item["type"] for item in upstream.requests[1]["input"]]
    assert kinds == [
        "message", *["function_call"] * 4, *["function_call_output"] * 4
    ]  # fmt: skip


def test_heartbeats_are_sent_while_a_tool_runs(context: LoopContext, mcp: Json) -> None:
    upstream = ScriptedUpstream(
        [make_call("tests__hang", '{"seconds":0.5}')], [make_text_item("Done.")]
    )
    batches = list(with_hosted_tools(upstream, context)(make_request([mcp])))
    events: list[Event] = [event for batch in batches for event in batch]
    call_index = [e["type"] for e in events].index("response.mcp_call_arguments.done")
    batch_index = next(i for i, batch in enumerate(batches) if events[call_index] in batch)
    heartbeats = list(iterate_heartbeats(batches[batch_index + 1 :]))
    assert len(heartbeats) >= 5


def iterate_heartbeats(batches: list[Batch]) -> Iterator[Batch]:
    for batch in batches:
        if any(event["type"] == "response.mcp_call.completed" for event in batch):
            return
        if not batch:
            yield batch


# -- failures -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "arguments", "kind", "reason"),
    [
        ("fail", "{}", "mcp_tool_execution_error", "the disk is full"),
        ("echo", '{"text":', "mcp_protocol_error", "not a JSON object"),
        ("hang", "{}", "mcp_protocol_error", "did not answer in time"),
    ],
)
def test_failed_call_is_reported_to_the_model(
    context: LoopContext, mcp: Json, name: str, arguments: str, kind: str, reason: str
) -> None:
    upstream = ScriptedUpstream(
        [make_call(f"tests__{name}", arguments)], [make_text_item("Sorry.")]
    )
    events = collect_events(with_hosted_tools(upstream, context)(make_request([mcp])))
    response = check_stream(events)
    call_item = response["output"][1]
    assert (call_item["status"], call_item["output"], call_item["error"]["type"]) == (
        "failed",
        None,
        kind,
    )
    assert reason in json.dumps(call_item["error"])
    assert reason in upstream.requests[1]["input"][-1]["output"]
    assert "response.mcp_call.failed" in [event["type"] for event in events]
    assert response["status"] == "completed"


def test_server_crash_in_a_call_fails_only_the_call(context: LoopContext, mcp: Json) -> None:
    upstream = ScriptedUpstream([make_call("tests__die", "{}")], [make_text_item("It died.")])
    with serving_mcp() as mcp_base_url:
        response = run_loop(
            upstream, context, make_request([{**mcp, "server_url": f"{mcp_base_url}/mcp"}])
        )
    assert response["output"][1]["status"] == "failed"
    assert response["output"][2]["content"][0]["text"] == "It died."


def test_unreachable_server_is_reported_to_client_and_model(
    context: LoopContext, mcp: Json
) -> None:
    unreachable = {
        **mcp,
        "server_label": "gone",
        "server_url": f"http://127.0.0.1:{find_unused_port()}/mcp",
    }
    upstream = ScriptedUpstream([make_text_item("No tools.")])
    events = collect_events(with_hosted_tools(upstream, context)(make_request([mcp, unreachable])))
    response = check_stream(events)
    lists = {item["server_label"]: item for item in list_items(response, "mcp_list_tools")}
    assert lists["tests"]["error"] is None
    assert "cannot be reached" in lists["gone"]["error"]
    assert "response.mcp_list_tools.failed" in [event["type"] for event in events]
    note = upstream.requests[0]["input"][-1]
    assert note["role"] == "developer"
    assert "'gone'" in note["content"]


def test_refused_credentials_are_named_without_showing_them(
    context: LoopContext, mcp: Json
) -> None:
    with serving_mcp("--protected") as mcp_base_url:
        tool = {**mcp, "server_url": f"{mcp_base_url}/mcp", "authorization": "wrong-token-1"}
        upstream = ScriptedUpstream([make_text_item("No.")], [make_text_item("Yes.")])
        response = run_loop(upstream, context, make_request([tool]))
        assert "401" in response["output"][0]["error"]
        response = run_loop(upstream, context, make_request([{**tool, "authorization": TOKEN}]))
    assert response["output"][0]["error"] is None
    response_json = json.dumps(response)
    assert TOKEN not in response_json
    assert "authorization" not in response["tools"][0]
    assert response["tools"][0]["server_label"] == "tests"
    assert TOKEN not in json.dumps(upstream.requests)


def test_upstreams_refusal_of_the_first_round_is_raised(context: LoopContext, mcp: Json) -> None:
    upstream = ScriptedUpstream(UpstreamProtocolError("no"))
    with pytest.raises(UpstreamProtocolError):
        with_hosted_tools(upstream, context)(make_request([mcp]))


def test_upstreams_failure_in_a_later_round_ends_the_stream(
    context: LoopContext, mcp: Json
) -> None:
    upstream = ScriptedUpstream(
        [make_call("tests__echo", '{"text":"a"}')], UpstreamProtocolError("no")
    )
    stream = with_hosted_tools(upstream, context)(make_request([mcp]))
    with pytest.raises(UpstreamProtocolError):
        collect_events(stream)


@pytest.mark.parametrize("status", ["incomplete", "failed"])
def test_calls_of_a_cut_response_are_not_run(context: LoopContext, mcp: Json, status: str) -> None:
    upstream = ScriptedUpstream(
        (status, [make_call("tests__echo", '{"text":"a"}'), make_text_item("and")])
    )
    response = run_loop(upstream, context, make_request([mcp]))
    assert response["status"] == status
    assert response["output"][1]["status"] == "incomplete"
    assert response["output"][2]["content"][0]["text"] == "and"


def test_disconnected_client_cancels_the_call(context: LoopContext, mcp: Json) -> None:
    token = FakeClient()
    upstream = ScriptedUpstream([make_call("tests__hang", "{}")], [make_text_item("late")])
    stream = with_hosted_tools(upstream, context._replace(token=token))(make_request([mcp]))
    timer = threading.Timer(0.5, token.cancel)
    timer.start()
    started_at = time.monotonic()
    with pytest.raises(ClientDisconnected):
        collect_events(stream)
    assert time.monotonic() - started_at < 1.8  # the call's own limit is 2 seconds
    timer.join()
    assert len(upstream.requests) == 1
    assert not token.cancel_callbacks


@pytest.mark.parametrize("streamed", [True, False])
def test_sessions_are_closed_before_the_terminal_event(
    context: LoopContext, mcp: Json, streamed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[McpConnections] = []
    close = McpConnections.close

    def record_close(connections: McpConnections) -> None:
        closed.append(connections)
        close(connections)

    monkeypatch.setattr(McpConnections, "close", record_close)
    rounds = [make_call("tests__echo", '{"text":"a"}')], [make_text_item("Done.")]
    stream = with_hosted_tools(ScriptedUpstream(*rounds, streamed=streamed), context)(
        make_request([mcp])
    )
    events = (event for batch in stream for event in batch)
    assert any(
        event["type"] == "response.completed" for event in events
    )  # stops reading at this event
    assert len(closed) == 1


def test_closed_stream_closes_the_upstreams(context: LoopContext, mcp: Json) -> None:
    upstream = ScriptedUpstream([make_text_item("a long text")])
    stream: Any = with_hosted_tools(upstream, context)(make_request([mcp]))
    next(stream)
    assert upstream.open == 1
    stream.close()
    assert upstream.open == 0


# -- the client's own tools ---------------------------------------------------------------------

WEATHER: Json = {"type": "function", "name": "weather", "parameters": {"type": "object"}}


def test_hosted_calls_are_run_and_client_calls_returned(context: LoopContext, mcp: Json) -> None:
    calls = [
        make_call("tests__echo", '{"text":"a"}', "call_1"),
        make_call("weather", "{}", "call_2"),
    ]
    upstream = ScriptedUpstream(calls)
    response = run_loop(upstream, context, make_request([mcp, WEATHER]))
    kinds = [item["type"] for item in response["output"]]
    assert kinds == ["mcp_list_tools", "mcp_call", "function_call"]
    assert response["output"][2]["call_id"] == "call_2"
    assert len(upstream.requests) == 1
    # The next turn is stateless: the client sends all items and the output of its tool.
    result = {"type": "function_call_output", "call_id": "call_2", "output": "sunny"}
    next_upstream = ScriptedUpstream([make_text_item("Nice.")])
    run_loop(
        next_upstream, context, make_request([mcp, WEATHER], QUESTION, *response["output"], result)
    )
    sent_input = next_upstream.requests[0]["input"]
    assert [item["type"] for item in sent_input] == [
        "message", "function_call", "function_call",
        "function_call_output", "function_call_output",
    ]  # fmt: skip
    assert [item["call_id"] for item in sent_input[1:]] == ["call_1", "call_2", "call_1", "call_2"]
    assert sent_input[3]["output"] == "a"


def test_next_turn_sends_the_same_calls_to_the_upstream(context: LoopContext, mcp: Json) -> None:
    upstream = ScriptedUpstream(
        [
            make_call("tests__echo", '{"text":"a"}', "call_1"),
            make_call("tests__fail", "{}", "call_2"),
        ],
        [make_call("tests__echo", '{"text":"c"}', "call_3")],
        [make_text_item("Done.")],
        [make_text_item("Again.")],
    )
    response = run_loop(upstream, context, make_request([mcp]))
    next_question = {**QUESTION, "content": "and now?"}
    second = run_loop(
        upstream, context, make_request([mcp], QUESTION, *response["output"], next_question)
    )
    assert [item["type"] for item in second["output"]] == [
        "message"
    ]  # the request contains the list already
    last_round_input, history = upstream.requests[2]["input"], upstream.requests[3]["input"]
    fields = ("type", "call_id", "name", "arguments", "output")
    assert [[i.get(f) for f in fields] for i in history[: len(last_round_input)]] == [
        [i.get(f) for f in fields] for i in last_round_input
    ]
    assert upstream.requests[3]["tools"] == upstream.requests[2]["tools"]


def test_history_of_a_removed_server_is_converted(context: LoopContext, mcp: Json) -> None:
    upstream = ScriptedUpstream(
        [make_call("tests__echo", '{"text":"a"}')], [make_text_item("A.")], [make_text_item("B.")]
    )
    response = run_loop(upstream, context, make_request([mcp]))
    events = collect_events(
        with_hosted_tools(upstream, context)(
            {"model": "m", "input": [QUESTION, *response["output"], QUESTION]}
        )
    )
    assert events[-1]["type"] == "response.completed"
    kinds = [item["type"] for item in upstream.requests[2]["input"]]
    assert kinds == ["message", "function_call", "function_call_output", "message", "message"]


def test_request_without_hosted_tools_passes_unchanged(context: LoopContext) -> None:
    upstream = ScriptedUpstream([make_text_item("Hi.")])
    request = make_request([WEATHER])
    collect_events(with_hosted_tools(upstream, context)(request))
    assert upstream.requests == [request]


def test_client_tool_keeps_its_name_on_a_collision(context: LoopContext, mcp: Json) -> None:
    client_tool = {**WEATHER, "name": "tests__echo"}
    upstream = ScriptedUpstream(
        [make_call("mcp__tests__echo", '{"text":"a"}')], [make_text_item("Done.")]
    )
    response = run_loop(upstream, context, make_request([client_tool, mcp]))
    assert response["output"][1]["name"] == "echo"


# -- limits and choices -------------------------------------------------------------------------


def test_calls_above_max_tool_calls_are_not_run(context: LoopContext, mcp: Json) -> None:
    calls = [make_call("tests__echo", f'{{"text":"{i}"}}', f"call_{i}") for i in range(3)]
    upstream = ScriptedUpstream(calls, [make_text_item("Done.")])
    response = run_loop(upstream, context, make_request([mcp], max_tool_calls=2))
    assert [item["output"] for item in list_items(response, "mcp_call")] == ["0", "1"]
    assert response["max_tool_calls"] == 2
    assert "max_tool_calls" not in upstream.requests[0]
    outputs = [item["output"] for item in upstream.requests[1]["input"] if "output" in item]
    assert outputs == ["0", "1", LIMIT_NOTE]
    assert upstream.requests[1]["tool_choice"] == "none"


@pytest.mark.parametrize("max_tool_calls", [None, 100])
def test_calls_are_limited_without_max_tool_calls(
    context: LoopContext, mcp: Json, max_tool_calls: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("forwarder.hosted_tools.responses_loop.MAX_CALLS", 2)
    calls = [make_call("tests__echo", '{"text":"a"}', f"call_{n}") for n in range(5)]
    upstream = ScriptedUpstream(calls, [make_text_item("Enough.")])
    response = run_loop(upstream, context, make_request([mcp], max_tool_calls=max_tool_calls))
    assert len(list_items(response, "mcp_call")) == 2
    outputs = [i for i in upstream.requests[1]["input"] if i["type"] == "function_call_output"]
    assert [output["output"] for output in outputs] == ["a", "a", *[LIMIT_NOTE] * 3]


def test_results_of_one_response_are_limited_together(context: LoopContext, mcp: Json) -> None:
    calls = [
        make_call("tests__echo", json.dumps({"text": mark * 400}), f"call_{mark}") for mark in "abc"
    ]
    upstream = ScriptedUpstream(calls[:2], calls[2:], [make_text_item("Done.")])
    response = run_loop(upstream, context._replace(max_output_bytes=900), make_request([mcp]))

    assert [len(item["output"]) for item in list_items(response, "mcp_call")] == [400] * 3
    outputs = [
        item["output"]
        for item in upstream.requests[-1]["input"]
        if item["type"] == "function_call_output"
    ]
    assert outputs == ["a" * 400, "b" * 400, SIZE_NOTE]


def test_last_round_allows_only_the_clients_tools(context: LoopContext, mcp: Json) -> None:
    upstream = ScriptedUpstream(
        [make_call("tests__echo", '{"text":"a"}')], [make_text_item("Done.")]
    )
    run_loop(upstream, context._replace(max_rounds=2), make_request([mcp, WEATHER]))
    assert upstream.requests[1]["tools"] == [WEATHER]
    assert "tool_choice" not in upstream.requests[1]


def test_number_of_rounds_is_limited(context: LoopContext, mcp: Json) -> None:
    rounds = [[make_call("tests__echo", '{"text":"a"}', f"call_{i}")] for i in range(3)]
    response = run_loop(
        ScriptedUpstream(*rounds), context._replace(max_rounds=3), make_request([mcp])
    )
    assert len(list_items(response, "mcp_call")) == 3


def test_rounds_share_max_output_tokens(context: LoopContext, mcp: Json) -> None:
    rounds = [[make_call("tests__echo", '{"text":"a"}', f"call_{i}")] for i in range(3)]
    upstream = ScriptedUpstream(*rounds)
    response = run_loop(upstream, context, make_request([mcp], max_output_tokens=25))
    assert [r["max_output_tokens"] for r in upstream.requests] == [25, 20]
    assert response["status"] == "incomplete"
    assert response["incomplete_details"] == {"reason": "max_output_tokens"}


def test_response_has_the_limit_and_tool_choice_of_the_request(
    context: LoopContext, mcp: Json
) -> None:
    upstream = ScriptedUpstream([make_call("tests__echo", '{"text":"a"}')], [make_text_item("Hi.")])
    request = make_request([mcp], max_output_tokens=100, max_tool_calls=1)
    response = run_loop(upstream, context, request)
    assert upstream.requests[1]["max_output_tokens"] < 100
    assert upstream.requests[1]["tool_choice"] == "none"
    assert (response["max_output_tokens"], response["tool_choice"]) == (100, "auto")


@pytest.mark.parametrize(
    ("choice", "first", "second"),
    [
        ("required", "required", "auto"),
        ("none", "none", "none"),
        (
            {"type": "mcp", "server_label": "tests", "name": "echo"},
            {"type": "function", "name": "tests__echo"},
            "auto",
        ),
        (
            {
                "type": "allowed_tools",
                "mode": "required",
                "tools": [
                    {"type": "function", "name": "weather"},
                    {"type": "mcp", "server_label": "tests", "name": "echo"},
                ],
            },
            {
                "type": "allowed_tools",
                "mode": "required",
                "tools": [
                    {"type": "function", "name": "weather"},
                    {"type": "function", "name": "tests__echo"},
                ],
            },
            {
                "type": "allowed_tools",
                "mode": "auto",
                "tools": [
                    {"type": "function", "name": "weather"},
                    {"type": "function", "name": "tests__echo"},
                ],
            },
        ),
    ],
)
def test_tool_choice_applies_to_the_first_round(
    context: LoopContext, mcp: Json, choice: Any, first: Any, second: Any
) -> None:
    upstream = ScriptedUpstream(
        [make_call("tests__echo", '{"text":"a"}')], [make_text_item("Done.")]
    )
    response = run_loop(upstream, context, make_request([mcp, WEATHER], tool_choice=choice))
    assert [request["tool_choice"] for request in upstream.requests] == [first, second]
    assert response["tool_choice"] == choice


def test_choice_of_a_server_allows_its_tools(context: LoopContext, mcp: Json) -> None:
    upstream = ScriptedUpstream([make_text_item("Done.")])
    tool = {**mcp, "allowed_tools": ["echo", "add"]}
    run_loop(
        upstream,
        context,
        make_request([tool], tool_choice={"type": "mcp", "server_label": "tests"}),
    )
    choice = upstream.requests[0]["tool_choice"]
    assert choice["mode"] == "required"
    assert {ref["name"] for ref in choice["tools"]} == {"tests__echo", "tests__add"}


# -- approvals ----------------------------------------------------------------------------------


def test_call_that_needs_approval_becomes_an_approval_request(
    context: LoopContext, mcp: Json
) -> None:
    tool = {**mcp, "require_approval": {"never": {"tool_names": ["add"]}}}
    upstream = ScriptedUpstream(
        [
            make_call("tests__echo", '{"text":"a"}', "call_1"),
            make_call("tests__add", '{"a":1,"b":1}', "call_2"),
        ]
    )
    response = run_loop(upstream, context, make_request([tool]))
    request, call_item = response["output"][1:]
    assert request == {
        "id": request["id"],
        "type": "mcp_approval_request",
        "arguments": '{"text":"a"}',
        "name": "echo",
        "server_label": "tests",
    }
    assert (call_item["type"], call_item["output"]) == ("mcp_call", "2")
    assert len(upstream.requests) == 1


@pytest.fixture
def approval_turn(context: LoopContext, mcp: Json) -> tuple[Json, list[Json]]:
    """A tool that needs approval, and the items of a turn that ended with the request for it."""
    tool = {**mcp, "require_approval": "always"}
    upstream = ScriptedUpstream(
        [make_reasoning_item("Hm"), make_call("tests__echo", '{"text":"a"}', "call_7")]
    )
    return tool, [QUESTION, *run_loop(upstream, context, make_request([tool]))["output"]]


def make_approval(items: list[Json], approve: bool, **more: Any) -> Json:
    name = items[-1]["id"]
    return {
        "type": "mcp_approval_response",
        "approval_request_id": name,
        "approve": approve,
        **more,
    }


def test_approved_call_is_run_before_the_upstream_request(
    context: LoopContext, approval_turn: tuple[Json, list[Json]]
) -> None:
    tool, items = approval_turn
    upstream = ScriptedUpstream([make_text_item("It said a.")], [make_text_item("Bye.")])
    response = run_loop(upstream, context, make_request([tool], *items, make_approval(items, True)))
    call_item = response["output"][0]
    assert (call_item["type"], call_item["output"]) == ("mcp_call", "a")
    assert call_item["approval_request_id"] == items[-1]["id"]
    sent_input = upstream.requests[0]["input"]
    assert [item["type"] for item in sent_input] == [
        "message", "reasoning", "function_call", "function_call_output"
    ]  # fmt: skip
    assert [sent_input[2]["call_id"], sent_input[3]["call_id"], sent_input[3]["output"]] == [
        "call_7",
        "call_7",
        "a",
    ]
    # A third turn sends the same history.
    history = [*items, make_approval(items, True), *response["output"], QUESTION]
    run_loop(upstream, context, make_request([tool], *history))
    assert upstream.requests[1]["input"][:4] == sent_input


def test_approved_call_is_run_once_if_the_first_upstream_fails(
    context: LoopContext, mcp: Json
) -> None:
    tool = {**mcp, "require_approval": {"always": {"tool_names": ["note"]}, "never": {}}}
    ended_items: list[Json] = []
    context = context._replace(memory={}, on_call_end=ended_items.append)
    first_response = run_loop(
        ScriptedUpstream([make_call("tests__note", "{}")]), context, make_request([tool])
    )
    (approval_request,) = list_items(first_response, "mcp_approval_request")
    count_before = count_notes(context, mcp)
    request = make_request(
        [tool], QUESTION, *first_response["output"], make_approval([approval_request], True)
    )
    upstream = ScriptedUpstream(UpstreamProtocolError("no"), [make_text_item("Noted.")])
    with pytest.raises(UpstreamProtocolError):
        with_hosted_tools(upstream, context)(request)
    response = run_loop(upstream, context, request)
    assert list_items(response, "mcp_call")[0]["output"] == "noted"
    assert [item["name"] for item in ended_items].count("note") == 1
    assert upstream.requests[0]["input"] == upstream.requests[1]["input"]
    assert count_notes(context, mcp) == count_before + 1


def count_notes(context: LoopContext, mcp: Json) -> int:
    upstream = ScriptedUpstream([make_call("tests__events", "{}")], [make_text_item("Done.")])
    (item,) = list_items(run_loop(upstream, context, make_request([mcp])), "mcp_call")
    return str(item["output"]).count("note called")


def test_refused_call_is_reported_to_the_model(
    context: LoopContext, approval_turn: tuple[Json, list[Json]]
) -> None:
    tool, items = approval_turn
    upstream = ScriptedUpstream([make_text_item("As you like.")])
    refusal = make_approval(items, False, reason="too dear")
    response = run_loop(upstream, context, make_request([tool], *items, refusal))
    assert [item["type"] for item in response["output"]] == ["message"]
    output = upstream.requests[0]["input"][-1]["output"]
    assert output == "The user did not approve this call. Reason: too dear"


def test_unanswered_approval_request_gets_an_output(
    context: LoopContext, approval_turn: tuple[Json, list[Json]]
) -> None:
    tool, items = approval_turn
    upstream = ScriptedUpstream([make_text_item("Waiting.")])
    run_loop(upstream, context, make_request([tool], *items, QUESTION))
    assert upstream.requests[0]["input"][-2]["output"] == NOT_ANSWERED


def test_approval_for_another_call_is_refused(
    context: LoopContext, approval_turn: tuple[Json, list[Json]]
) -> None:
    tool, items = approval_turn
    upstream = ScriptedUpstream()
    other_approval = {**make_approval(items, True), "approval_request_id": "mcpr_other"}
    duplicates = [make_approval(items, True), make_approval(items, True)]
    for answers, offset in (([other_approval], 0), (duplicates, 1)):
        with pytest.raises(InvalidRequest) as caught:
            with_hosted_tools(upstream, context)(make_request([tool], *items, *answers))
        assert caught.value.param == f"input[{len(items) + offset}].approval_request_id"
    with pytest.raises(InvalidRequest) as caught:
        with_hosted_tools(upstream, context)(make_request([], *items, make_approval(items, True)))
    assert caught.value.param == f"input[{len(items)}].approval_request_id"


def test_approved_tool_that_is_not_allowed_fails(
    context: LoopContext, approval_turn: tuple[Json, list[Json]]
) -> None:
    tool, items = approval_turn
    upstream = ScriptedUpstream([make_text_item("Oh.")])
    restricted_tool = {**tool, "allowed_tools": ["add"]}
    response = run_loop(
        upstream, context, make_request([restricted_tool], *items, make_approval(items, True))
    )
    assert response["output"][0]["status"] == "failed"


# -- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"server_label": None}, "tools[0].server_label"),
        ({"server_label": "a b"}, "tools[0].server_label"),
        ({"server_url": None}, "tools[0].server_url"),
        ({"server_url": "ftp://host/"}, "tools[0].server_url"),
        ({"server_url": "http://user:pass@host/"}, "tools[0].server_url"),
        ({"headers": {"Host": "other"}}, "tools[0].headers"),
        ({"headers": {"X": "a\r\nb"}}, "tools[0].headers"),
        ({"authorization": "a\nb"}, "tools[0].authorization"),
        ({"authorization": "a", "headers": {"authorization": "b"}}, "tools[0].authorization"),
        ({"allowed_tools": [1]}, "tools[0].allowed_tools[0]"),
        ({"require_approval": "maybe"}, "tools[0].require_approval"),
        ({"connector_id": "connector_gmail"}, "tools[0].connector_id"),
        ({"tunnel_id": "t"}, "tools[0].tunnel_id"),
    ],
)
def test_invalid_mcp_tool_is_rejected_by_name(
    context: LoopContext, mcp: Json, change: Json, param: str
) -> None:
    with pytest.raises((InvalidRequest, Unsupported)) as caught:
        with_hosted_tools(ScriptedUpstream(), context)(make_request([{**mcp, **change}]))
    assert caught.value.param == param


ITEM: Json = {"name": "echo", "server_label": "tests", "arguments": "{}"}


@pytest.mark.parametrize(
    ("item", "param"),
    [
        ({"type": "mcp_list_tools", "server_label": "tests", "tools": 5}, "input[0].tools"),
        ({**ITEM, "type": "mcp_call", "id": 5}, "input[0].id"),
        (
            {**ITEM, "type": "mcp_call", "id": "mcp_1", "approval_request_id": {}},
            "input[0].approval_request_id",
        ),
        ({**ITEM, "type": "mcp_approval_request", "id": []}, "input[0].id"),
    ],
)
def test_invalid_item_is_rejected_by_name(
    context: LoopContext, mcp: Json, item: Json, param: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        with_hosted_tools(ScriptedUpstream(), context)(make_request([mcp], item))
    assert caught.value.param == param


def test_malformed_types_and_names_are_left_to_translation(context: LoopContext, mcp: Json) -> None:
    upstream = ScriptedUpstream([make_text_item("a")])
    tools = [{"type": "function", "name": []}, {"type": {}}, mcp]
    collect_events(with_hosted_tools(upstream, context)(make_request(tools, {"type": []})))
    assert upstream.requests[0]["tools"][:2] == tools[:2]
    assert upstream.requests[0]["input"] == [{"type": []}]
    policy = McpPolicy({})
    assert not policy.can_run({"type": "mcp", "server_label": []})


def test_preview_offers_only_the_tools_of_carried_lists(context: LoopContext) -> None:
    tool_entry = {"name": "echo", "input_schema": {"type": "object"}}
    list_item = {"type": "mcp_list_tools", "server_label": "old", "tools": [tool_entry]}
    tools = [
        {"type": "mcp", "server_label": label, "server_url": "http://127.0.0.1:1/"}
        for label in ("old", "new")
    ]
    upstream = ScriptedUpstream([make_text_item("Hi.")])
    preview_context = context._replace(is_preview=True)
    collect_events(
        with_hosted_tools(upstream, preview_context)(make_request(tools, list_item, QUESTION))
    )
    assert [tool["name"] for tool in upstream.requests[0]["tools"]] == ["old__echo"]


def test_translation_error_names_the_clients_parameters(context: LoopContext, mcp: Json) -> None:
    list_item = {"type": "mcp_list_tools", "server_label": "other", "tools": []}
    items = [
        list_item,
        list_item,
        {**ITEM, "type": "mcp_call", "id": "mcp_1", "output": "a"},
        QUESTION,
    ]
    error = InvalidRequest("'tools[1].name' and 'input[2].role' are bad.", param="tools[1].name")
    upstream = ScriptedUpstream(error)
    with pytest.raises(InvalidRequest) as caught:
        with_hosted_tools(upstream, context)(make_request([WEATHER, mcp, WEATHER], *items))
    assert upstream.requests[0]["input"][2] == QUESTION  # after the call and its output
    assert caught.value.message == "'tools[2].name' and 'input[3].role' are bad."
    assert caught.value.param == "tools[2].name"


def test_two_servers_of_one_label_are_refused(context: LoopContext, mcp: Json) -> None:
    with pytest.raises(InvalidRequest) as caught:
        with_hosted_tools(ScriptedUpstream(), context)(make_request([mcp, mcp]))
    assert caught.value.param == "tools[1].server_label"


def test_choice_of_an_unknown_server_is_refused(context: LoopContext, mcp: Json) -> None:
    choice = {"type": "mcp", "server_label": "other"}
    with pytest.raises(InvalidRequest) as caught:
        with_hosted_tools(ScriptedUpstream(), context)(make_request([mcp], tool_choice=choice))
    assert caught.value.param == "tool_choice.server_label"


def test_server_of_the_operator_is_used_by_its_label(client: McpClient, mcp_base_url: str) -> None:
    servers = {"house": McpServer("house", url=f"{mcp_base_url}/mcp", is_trusted=True)}
    policy = McpPolicy(servers)
    tool = {"type": "mcp", "server_label": "house", "require_approval": "never"}
    upstream = ScriptedUpstream(
        [make_call("house__echo", '{"text":"a"}')], [make_text_item("Done.")]
    )
    response = run_loop(upstream, make_context(client, policy), make_request([tool]))
    assert response["output"][1]["output"] == "a"


def test_server_by_url_is_left_to_the_upstream_if_not_allowed(client: McpClient, mcp: Json) -> None:
    upstream = ScriptedUpstream([make_text_item("Hi.")])
    request = make_request([mcp])
    collect_events(with_hosted_tools(upstream, make_context(client, McpPolicy()))(request))
    assert upstream.requests == [request]
