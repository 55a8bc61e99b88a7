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
    call,
    check_stream,
    make_reasoning_item,
    make_text_item,
)

pytestmark = pytest.mark.live  # an MCP server in a process of its own

Json = dict[str, Any]
QUESTION: Json = {"type": "message", "role": "user", "content": "go"}


class Token:
    """A client that waits until ``cancel``."""

    def __init__(self) -> None:
        self.cancel_callbacks: set[Callable[[], None]] = set()
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True
        for callback in list(self.cancel_callbacks):
            callback()


@pytest.fixture(scope="module")
def root() -> Iterator[str]:
    with serving_mcp() as root:
        yield root


@pytest.fixture(scope="module")
def client() -> Iterator[McpClient]:
    client = McpClient(AddressGuard(["127.0.0.1"]), McpLimits(call_seconds=2.0))
    yield client
    client.close()


@pytest.fixture
def context(client: McpClient) -> LoopContext:
    return make_context(client, McpPolicy(allows_urls=True))


def make_context(client: McpClient, policy: McpPolicy) -> LoopContext:
    return LoopContext(build_kinds(ToolResources(client, policy)), Token(), heartbeat=0.05)


@pytest.fixture
def mcp(root: str) -> Json:
    return {
        "type": "mcp",
        "server_label": "tests",
        "server_url": f"{root}/mcp",
        "require_approval": "never",
    }


def ask(tools: list[Json], *items: Json, **more: Any) -> Json:
    return {
        "model": "m",
        "input": [*(items or (QUESTION,))],
        "tools": tools,
        "stream": True,
        **more,
    }


def run(upstream: ScriptedUpstream, context: LoopContext, request: Json) -> Json:
    """The final response of a legal stream."""
    events = collect_events(with_hosted_tools(upstream, context)(request))
    assert upstream.open == 0
    response = check_stream(events)
    assert rebuild_response(events)["id"] == response["id"]
    return response


def items_of(response: Json, kind: str) -> list[Json]:
    return [item for item in response["output"] if item["type"] == kind]


# -- the loop -----------------------------------------------------------------------------------


def test_call_is_run_and_the_model_is_asked_again(context: LoopContext, mcp: Json) -> None:
    upstream = ScriptedUpstream(
        [call("tests__echo", '{"text":"hi"}')], [make_text_item("It said hi.")]
    )
    ended: list[Json] = []
    response = run(upstream, context._replace(on_call_end=ended.append), ask([mcp]))
    assert [item["type"] for item in response["output"]] == [
        "mcp_list_tools",
        "mcp_call",
        "message",
    ]
    done = response["output"][1]
    assert ended == [done]
    assert (done["name"], done["server_label"], done["arguments"]) == (
        "echo",
        "tests",
        '{"text":"hi"}',
    )
    assert (done["status"], done["output"], done["error"]) == ("completed", "hi", None)
    assert response["usage"]["input_tokens"] == 2 * USAGE["input_tokens"]
    assert response["usage"]["output_tokens_details"]["reasoning_tokens"] == 4
    first, second = upstream.requests
    names = [tool["name"] for tool in first["tools"]]
    assert {"tests__echo", "tests__add"} <= set(names)
    assert all(tool["type"] == "function" and tool["strict"] is False for tool in first["tools"])
    assert first["tools"] == second["tools"]
    assert second["input"] == [
        QUESTION,
        call("tests__echo", '{"text":"hi"}'),
        {"type": "function_call_output", "call_id": "call_1", "output": "hi"},
    ]


def test_events_of_a_call_are_in_openais_order(context: LoopContext, mcp: Json) -> None:
    upstream = ScriptedUpstream([call("tests__echo", '{"text":"hi"}')], [make_text_item("Hi.")])
    events = collect_events(with_hosted_tools(upstream, context)(ask([mcp])))
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
        [make_text_item("Let me see."), call("tests__add", '{"a":1,"b":2}')],
        [make_text_item("3", "msg_2")],
    )
    whole = fold_responses(
        with_hosted_tools(ScriptedUpstream(*rounds, streamed=False), context)(
            {**ask([mcp]), "stream": False}
        )
    )
    streamed = run(ScriptedUpstream(*rounds), context, ask([mcp]))
    assert not response_mistakes(whole)
    assert [without_id(i) for i in whole["output"]] == [without_id(i) for i in streamed["output"]]
    assert {**whole, "output": 0} == {**streamed, "output": 0}


def without_id(item: Json) -> Json:
    return {k: v for k, v in item.items() if k != "id"}


def test_text_before_between_and_after_calls_is_streamed(context: LoopContext, mcp: Json) -> None:
    upstream = ScriptedUpstream(
        [make_reasoning_item("Hm"), make_text_item("First."), call("tests__echo", '{"text":"a"}')],
        [make_text_item("Then.", "msg_2"), call("tests__echo", '{"text":"b"}', "call_2")],
        [make_text_item("Done.", "msg_3")],
    )
    response = run(upstream, context, ask([mcp]))
    kinds = [item["type"] for item in response["output"]]
    assert kinds == [
        "mcp_list_tools", "reasoning", "message", "mcp_call", "message", "mcp_call", "message"
    ]  # fmt: skip
    assert upstream.requests[2]["input"][1]["encrypted_content"] == "sealed Hm"
    assert "encrypted_content" not in response["output"][1]
    assert "reasoning.encrypted_content" in upstream.requests[0]["include"]


def test_requested_encrypted_reasoning_is_shown(context: LoopContext, mcp: Json) -> None:
    upstream = ScriptedUpstream([make_reasoning_item("Hm"), make_text_item("Done.")])
    response = run(upstream, context, ask([mcp], include=["reasoning.encrypted_content"]))
    assert response["output"][1]["encrypted_content"] == "sealed Hm"


def test_parallel_calls_run_at_the_same_time_and_are_shown_in_order(
    context: LoopContext, mcp: Json
) -> None:
    arguments = '{"seconds":0.6}'
    run(
        ScriptedUpstream([make_text_item("Hi.")]), context, ask([mcp])
    )  # imports the SDK, which takes long
    upstream = ScriptedUpstream(
        [call("tests__hang", arguments, f"call_{i}") for i in range(4)], [make_text_item("Done.")]
    )
    before = time.monotonic()
    response = run(upstream, context, ask([mcp]))
    assert time.monotonic() - before < 2
    assert [item["output"] for item in items_of(response, "mcp_call")] == ["slept"] * 4
    kinds = [item["type"] for item in upstream.requests[1]["input"]]
    assert kinds == [
        "message", *["function_call"] * 4, *["function_call_output"] * 4
    ]  # fmt: skip


def test_heartbeats_are_sent_while_a_tool_runs(context: LoopContext, mcp: Json) -> None:
    upstream = ScriptedUpstream([call("tests__hang", '{"seconds":0.5}')], [make_text_item("Done.")])
    batches = list(with_hosted_tools(upstream, context)(ask([mcp])))
    events: list[Event] = [event for batch in batches for event in batch]
    running = [e["type"] for e in events].index("response.mcp_call_arguments.done")
    started = next(i for i, batch in enumerate(batches) if events[running] in batch)
    empty = list(iter_empty(batches[started + 1 :]))
    assert len(empty) >= 5


def iter_empty(batches: list[Batch]) -> Iterator[Batch]:
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
def test_failed_call_is_an_item_that_the_model_sees(
    context: LoopContext, mcp: Json, name: str, arguments: str, kind: str, reason: str
) -> None:
    upstream = ScriptedUpstream([call(f"tests__{name}", arguments)], [make_text_item("Sorry.")])
    events = collect_events(with_hosted_tools(upstream, context)(ask([mcp])))
    response = check_stream(events)
    failed = response["output"][1]
    assert (failed["status"], failed["output"], failed["error"]["type"]) == ("failed", None, kind)
    assert reason in json.dumps(failed["error"])
    assert reason in upstream.requests[1]["input"][-1]["output"]
    assert "response.mcp_call.failed" in [event["type"] for event in events]
    assert response["status"] == "completed"


def test_server_that_dies_in_a_call_breaks_no_stream(context: LoopContext, mcp: Json) -> None:
    upstream = ScriptedUpstream([call("tests__die", "{}")], [make_text_item("It died.")])
    with serving_mcp() as root:
        response = run(upstream, context, ask([{**mcp, "server_url": f"{root}/mcp"}]))
    assert response["output"][1]["status"] == "failed"
    assert response["output"][2]["content"][0]["text"] == "It died."


def test_server_that_cannot_be_listed_is_told_to_client_and_model(
    context: LoopContext, mcp: Json
) -> None:
    gone = {
        **mcp,
        "server_label": "gone",
        "server_url": f"http://127.0.0.1:{find_unused_port()}/mcp",
    }
    upstream = ScriptedUpstream([make_text_item("No tools.")])
    events = collect_events(with_hosted_tools(upstream, context)(ask([mcp, gone])))
    response = check_stream(events)
    lists = {item["server_label"]: item for item in items_of(response, "mcp_list_tools")}
    assert lists["tests"]["error"] is None
    assert "cannot be reached" in lists["gone"]["error"]
    assert "response.mcp_list_tools.failed" in [event["type"] for event in events]
    note = upstream.requests[0]["input"][-1]
    assert note["role"] == "developer"
    assert "'gone'" in note["content"]


def test_refused_credentials_are_named_without_showing_them(
    context: LoopContext, mcp: Json
) -> None:
    with serving_mcp("--protected") as root:
        tool = {**mcp, "server_url": f"{root}/mcp", "authorization": "wrong-token-1"}
        upstream = ScriptedUpstream([make_text_item("No.")], [make_text_item("Yes.")])
        response = run(upstream, context, ask([tool]))
        assert "401" in response["output"][0]["error"]
        response = run(upstream, context, ask([{**tool, "authorization": TOKEN}]))
    assert response["output"][0]["error"] is None
    shown = json.dumps(response)
    assert TOKEN not in shown
    assert "authorization" not in response["tools"][0]
    assert response["tools"][0]["server_label"] == "tests"
    assert TOKEN not in json.dumps(upstream.requests)


def test_upstreams_refusal_of_the_first_round_is_raised(context: LoopContext, mcp: Json) -> None:
    upstream = ScriptedUpstream(UpstreamProtocolError("no"))
    with pytest.raises(UpstreamProtocolError):
        with_hosted_tools(upstream, context)(ask([mcp]))


def test_upstreams_failure_in_a_later_round_ends_the_stream(
    context: LoopContext, mcp: Json
) -> None:
    upstream = ScriptedUpstream([call("tests__echo", '{"text":"a"}')], UpstreamProtocolError("no"))
    stream = with_hosted_tools(upstream, context)(ask([mcp]))
    with pytest.raises(UpstreamProtocolError):
        collect_events(stream)


@pytest.mark.parametrize("status", ["incomplete", "failed"])
def test_calls_of_a_response_that_was_cut_are_not_run(
    context: LoopContext, mcp: Json, status: str
) -> None:
    upstream = ScriptedUpstream(
        (status, [call("tests__echo", '{"text":"a"}'), make_text_item("and")])
    )
    response = run(upstream, context, ask([mcp]))
    assert response["status"] == status
    assert response["output"][1]["status"] == "incomplete"
    assert response["output"][2]["content"][0]["text"] == "and"


def test_disconnected_client_cancels_the_call(context: LoopContext, mcp: Json) -> None:
    token = Token()
    upstream = ScriptedUpstream([call("tests__hang", "{}")], [make_text_item("late")])
    stream = with_hosted_tools(upstream, context._replace(token=token))(ask([mcp]))
    timer = threading.Timer(0.5, token.cancel)
    timer.start()
    before = time.monotonic()
    with pytest.raises(ClientDisconnected):
        collect_events(stream)
    assert time.monotonic() - before < 1.8  # the call's own limit is 2 seconds
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
    rounds = [call("tests__echo", '{"text":"a"}')], [make_text_item("Done.")]
    stream = with_hosted_tools(ScriptedUpstream(*rounds, streamed=streamed), context)(ask([mcp]))
    events = (event for batch in stream for event in batch)
    assert any(event["type"] == "response.completed" for event in events)  # reads no further
    assert len(closed) == 1


def test_closed_stream_closes_the_upstreams(context: LoopContext, mcp: Json) -> None:
    upstream = ScriptedUpstream([make_text_item("a long text")])
    stream: Any = with_hosted_tools(upstream, context)(ask([mcp]))
    next(stream)
    assert upstream.open == 1
    stream.close()
    assert upstream.open == 0


# -- the client's own tools ---------------------------------------------------------------------

WEATHER: Json = {"type": "function", "name": "weather", "parameters": {"type": "object"}}


def test_hosted_calls_are_run_and_client_calls_handed_over(context: LoopContext, mcp: Json) -> None:
    both = [call("tests__echo", '{"text":"a"}', "call_1"), call("weather", "{}", "call_2")]
    upstream = ScriptedUpstream(both)
    response = run(upstream, context, ask([mcp, WEATHER]))
    kinds = [item["type"] for item in response["output"]]
    assert kinds == ["mcp_list_tools", "mcp_call", "function_call"]
    assert response["output"][2]["call_id"] == "call_2"
    assert len(upstream.requests) == 1
    # The next turn, stateless: the client carries all items and its own output.
    result = {"type": "function_call_output", "call_id": "call_2", "output": "sunny"}
    following = ScriptedUpstream([make_text_item("Nice.")])
    run(following, context, ask([mcp, WEATHER], QUESTION, *response["output"], result))
    sent = following.requests[0]["input"]
    assert [item["type"] for item in sent] == [
        "message", "function_call", "function_call",
        "function_call_output", "function_call_output",
    ]  # fmt: skip
    assert [item["call_id"] for item in sent[1:]] == ["call_1", "call_2", "call_1", "call_2"]
    assert sent[3]["output"] == "a"


def test_next_turn_repeats_the_calls_as_the_upstream_saw_them(
    context: LoopContext, mcp: Json
) -> None:
    upstream = ScriptedUpstream(
        [call("tests__echo", '{"text":"a"}', "call_1"), call("tests__fail", "{}", "call_2")],
        [call("tests__echo", '{"text":"c"}', "call_3")],
        [make_text_item("Done.")],
        [make_text_item("Again.")],
    )
    response = run(upstream, context, ask([mcp]))
    again = {**QUESTION, "content": "and now?"}
    second = run(upstream, context, ask([mcp], QUESTION, *response["output"], again))
    assert [item["type"] for item in second["output"]] == ["message"]  # the list is carried
    live, history = upstream.requests[2]["input"], upstream.requests[3]["input"]
    fields = ("type", "call_id", "name", "arguments", "output")
    assert [[i.get(f) for f in fields] for i in history[: len(live)]] == [
        [i.get(f) for f in fields] for i in live
    ]
    assert upstream.requests[3]["tools"] == upstream.requests[2]["tools"]


def test_history_of_a_server_that_is_no_longer_offered_is_converted(
    context: LoopContext, mcp: Json
) -> None:
    upstream = ScriptedUpstream(
        [call("tests__echo", '{"text":"a"}')], [make_text_item("A.")], [make_text_item("B.")]
    )
    response = run(upstream, context, ask([mcp]))
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
    request = ask([WEATHER])
    collect_events(with_hosted_tools(upstream, context)(request))
    assert upstream.requests == [request]


def test_name_of_a_client_tool_is_not_taken(context: LoopContext, mcp: Json) -> None:
    own = {**WEATHER, "name": "tests__echo"}
    upstream = ScriptedUpstream(
        [call("mcp__tests__echo", '{"text":"a"}')], [make_text_item("Done.")]
    )
    response = run(upstream, context, ask([own, mcp]))
    assert response["output"][1]["name"] == "echo"


# -- limits and choices -------------------------------------------------------------------------


def test_calls_above_max_tool_calls_are_not_run(context: LoopContext, mcp: Json) -> None:
    calls = [call("tests__echo", f'{{"text":"{i}"}}', f"call_{i}") for i in range(3)]
    upstream = ScriptedUpstream(calls, [make_text_item("Done.")])
    response = run(upstream, context, ask([mcp], max_tool_calls=2))
    assert [item["output"] for item in items_of(response, "mcp_call")] == ["0", "1"]
    assert response["max_tool_calls"] == 2
    assert "max_tool_calls" not in upstream.requests[0]
    outputs = [item["output"] for item in upstream.requests[1]["input"] if "output" in item]
    assert outputs == ["0", "1", LIMIT_NOTE]
    assert upstream.requests[1]["tool_choice"] == "none"


@pytest.mark.parametrize("asked", [None, 100])
def test_calls_are_limited_without_max_tool_calls(
    context: LoopContext, mcp: Json, asked: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("forwarder.hosted_tools.responses_loop.MAX_CALLS", 2)
    many = [call("tests__echo", '{"text":"a"}', f"call_{n}") for n in range(5)]
    upstream = ScriptedUpstream(many, [make_text_item("Enough.")])
    response = run(upstream, context, ask([mcp], max_tool_calls=asked))
    assert len(items_of(response, "mcp_call")) == 2
    outputs = [i for i in upstream.requests[1]["input"] if i["type"] == "function_call_output"]
    assert [each["output"] for each in outputs] == ["a", "a", *[LIMIT_NOTE] * 3]


def test_results_of_one_response_are_limited_together(context: LoopContext, mcp: Json) -> None:
    calls = [
        call("tests__echo", json.dumps({"text": mark * 400}), f"call_{mark}") for mark in "abc"
    ]
    upstream = ScriptedUpstream(calls[:2], calls[2:], [make_text_item("Done.")])
    response = run(upstream, context._replace(max_output_bytes=900), ask([mcp]))

    assert [len(item["output"]) for item in items_of(response, "mcp_call")] == [400] * 3
    outputs = [
        item["output"]
        for item in upstream.requests[-1]["input"]
        if item["type"] == "function_call_output"
    ]
    assert outputs == ["a" * 400, "b" * 400, SIZE_NOTE]


def test_last_round_allows_only_the_clients_tools(context: LoopContext, mcp: Json) -> None:
    upstream = ScriptedUpstream([call("tests__echo", '{"text":"a"}')], [make_text_item("Done.")])
    run(upstream, context._replace(max_rounds=2), ask([mcp, WEATHER]))
    assert upstream.requests[1]["tools"] == [WEATHER]
    assert "tool_choice" not in upstream.requests[1]


def test_model_that_never_stops_calling_is_stopped(context: LoopContext, mcp: Json) -> None:
    rounds = [[call("tests__echo", '{"text":"a"}', f"call_{i}")] for i in range(3)]
    response = run(ScriptedUpstream(*rounds), context._replace(max_rounds=3), ask([mcp]))
    assert len(items_of(response, "mcp_call")) == 3


def test_rounds_share_max_output_tokens(context: LoopContext, mcp: Json) -> None:
    rounds = [[call("tests__echo", '{"text":"a"}', f"call_{i}")] for i in range(3)]
    upstream = ScriptedUpstream(*rounds)
    response = run(upstream, context, ask([mcp], max_output_tokens=25))
    assert [r["max_output_tokens"] for r in upstream.requests] == [25, 20]
    assert response["status"] == "incomplete"
    assert response["incomplete_details"] == {"reason": "max_output_tokens"}


def test_response_shows_the_limit_and_the_choice_of_the_request(
    context: LoopContext, mcp: Json
) -> None:
    upstream = ScriptedUpstream([call("tests__echo", '{"text":"a"}')], [make_text_item("Hi.")])
    request = ask([mcp], max_output_tokens=100, max_tool_calls=1)
    response = run(upstream, context, request)
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
def test_tool_choice_holds_for_the_first_round(
    context: LoopContext, mcp: Json, choice: Any, first: Any, second: Any
) -> None:
    upstream = ScriptedUpstream([call("tests__echo", '{"text":"a"}')], [make_text_item("Done.")])
    response = run(upstream, context, ask([mcp, WEATHER], tool_choice=choice))
    assert [request["tool_choice"] for request in upstream.requests] == [first, second]
    assert response["tool_choice"] == choice


def test_choice_of_a_server_allows_its_tools(context: LoopContext, mcp: Json) -> None:
    upstream = ScriptedUpstream([make_text_item("Done.")])
    tool = {**mcp, "allowed_tools": ["echo", "add"]}
    run(upstream, context, ask([tool], tool_choice={"type": "mcp", "server_label": "tests"}))
    choice = upstream.requests[0]["tool_choice"]
    assert choice["mode"] == "required"
    assert {ref["name"] for ref in choice["tools"]} == {"tests__echo", "tests__add"}


# -- approvals ----------------------------------------------------------------------------------


def test_call_that_needs_approval_is_asked_for(context: LoopContext, mcp: Json) -> None:
    tool = {**mcp, "require_approval": {"never": {"tool_names": ["add"]}}}
    upstream = ScriptedUpstream(
        [
            call("tests__echo", '{"text":"a"}', "call_1"),
            call("tests__add", '{"a":1,"b":1}', "call_2"),
        ]
    )
    response = run(upstream, context, ask([tool]))
    request, done = response["output"][1:]
    assert request == {
        "id": request["id"],
        "type": "mcp_approval_request",
        "arguments": '{"text":"a"}',
        "name": "echo",
        "server_label": "tests",
    }
    assert (done["type"], done["output"]) == ("mcp_call", "2")
    assert len(upstream.requests) == 1


@pytest.fixture
def approval_turn(context: LoopContext, mcp: Json) -> tuple[Json, list[Json]]:
    """A tool that needs approval, and the items of a turn that ended with the request for it."""
    tool = {**mcp, "require_approval": "always"}
    upstream = ScriptedUpstream(
        [make_reasoning_item("Hm"), call("tests__echo", '{"text":"a"}', "call_7")]
    )
    return tool, [QUESTION, *run(upstream, context, ask([tool]))["output"]]


def answer(items: list[Json], approve: bool, **more: Any) -> Json:
    name = items[-1]["id"]
    return {
        "type": "mcp_approval_response",
        "approval_request_id": name,
        "approve": approve,
        **more,
    }


def test_approved_call_is_run_before_the_model_is_asked(
    context: LoopContext, approval_turn: tuple[Json, list[Json]]
) -> None:
    tool, items = approval_turn
    upstream = ScriptedUpstream([make_text_item("It said a.")], [make_text_item("Bye.")])
    response = run(upstream, context, ask([tool], *items, answer(items, True)))
    done = response["output"][0]
    assert (done["type"], done["output"]) == ("mcp_call", "a")
    assert done["approval_request_id"] == items[-1]["id"]
    sent = upstream.requests[0]["input"]
    assert [item["type"] for item in sent] == [
        "message", "reasoning", "function_call", "function_call_output"
    ]  # fmt: skip
    assert [sent[2]["call_id"], sent[3]["call_id"], sent[3]["output"]] == ["call_7", "call_7", "a"]
    # A third turn repeats the same history.
    carried = [*items, answer(items, True), *response["output"], QUESTION]
    run(upstream, context, ask([tool], *carried))
    assert upstream.requests[1]["input"][:4] == sent


def test_approved_call_is_run_once_although_the_first_upstream_fails(
    context: LoopContext, mcp: Json
) -> None:
    tool = {**mcp, "require_approval": {"always": {"tool_names": ["note"]}, "never": {}}}
    ended: list[Json] = []
    context = context._replace(memory={}, on_call_end=ended.append)
    asking = run(ScriptedUpstream([call("tests__note", "{}")]), context, ask([tool]))
    (asked,) = items_of(asking, "mcp_approval_request")
    before = count_notes(context, mcp)
    request = ask([tool], QUESTION, *asking["output"], answer([asked], True))
    upstream = ScriptedUpstream(UpstreamProtocolError("no"), [make_text_item("Noted.")])
    with pytest.raises(UpstreamProtocolError):
        with_hosted_tools(upstream, context)(request)
    response = run(upstream, context, request)
    assert items_of(response, "mcp_call")[0]["output"] == "noted"
    assert [item["name"] for item in ended].count("note") == 1
    assert upstream.requests[0]["input"] == upstream.requests[1]["input"]
    assert count_notes(context, mcp) == before + 1


def count_notes(context: LoopContext, mcp: Json) -> int:
    upstream = ScriptedUpstream([call("tests__events", "{}")], [make_text_item("Done.")])
    (item,) = items_of(run(upstream, context, ask([mcp])), "mcp_call")
    return str(item["output"]).count("note called")


def test_refused_call_is_told_to_the_model(
    context: LoopContext, approval_turn: tuple[Json, list[Json]]
) -> None:
    tool, items = approval_turn
    upstream = ScriptedUpstream([make_text_item("As you like.")])
    refused = answer(items, False, reason="too dear")
    response = run(upstream, context, ask([tool], *items, refused))
    assert [item["type"] for item in response["output"]] == ["message"]
    output = upstream.requests[0]["input"][-1]["output"]
    assert output == "The user did not approve this call. Reason: too dear"


def test_unanswered_request_for_approval_stays_legal(
    context: LoopContext, approval_turn: tuple[Json, list[Json]]
) -> None:
    tool, items = approval_turn
    upstream = ScriptedUpstream([make_text_item("Waiting.")])
    run(upstream, context, ask([tool], *items, QUESTION))
    assert upstream.requests[0]["input"][-2]["output"] == NOT_ANSWERED


def test_approval_for_another_call_is_refused(
    context: LoopContext, approval_turn: tuple[Json, list[Json]]
) -> None:
    tool, items = approval_turn
    upstream = ScriptedUpstream()
    other = {**answer(items, True), "approval_request_id": "mcpr_other"}
    twice = [answer(items, True), answer(items, True)]
    for answers, place in (([other], 0), (twice, 1)):
        with pytest.raises(InvalidRequest) as refused:
            with_hosted_tools(upstream, context)(ask([tool], *items, *answers))
        assert refused.value.param == f"input[{len(items) + place}].approval_request_id"
    with pytest.raises(InvalidRequest) as refused:
        with_hosted_tools(upstream, context)(ask([], *items, answer(items, True)))
    assert refused.value.param == f"input[{len(items)}].approval_request_id"


def test_approved_tool_that_is_not_allowed_fails(
    context: LoopContext, approval_turn: tuple[Json, list[Json]]
) -> None:
    tool, items = approval_turn
    upstream = ScriptedUpstream([make_text_item("Oh.")])
    narrow = {**tool, "allowed_tools": ["add"]}
    response = run(upstream, context, ask([narrow], *items, answer(items, True)))
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
def test_bad_mcp_tool_is_refused_by_name(
    context: LoopContext, mcp: Json, change: Json, param: str
) -> None:
    with pytest.raises((InvalidRequest, Unsupported)) as refused:
        with_hosted_tools(ScriptedUpstream(), context)(ask([{**mcp, **change}]))
    assert refused.value.param == param


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
def test_bad_item_is_refused_by_name(
    context: LoopContext, mcp: Json, item: Json, param: str
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        with_hosted_tools(ScriptedUpstream(), context)(ask([mcp], item))
    assert refused.value.param == param


def test_malformed_types_and_names_are_left_to_translation(context: LoopContext, mcp: Json) -> None:
    upstream = ScriptedUpstream([make_text_item("a")])
    tools = [{"type": "function", "name": []}, {"type": {}}, mcp]
    collect_events(with_hosted_tools(upstream, context)(ask(tools, {"type": []})))
    assert upstream.requests[0]["tools"][:2] == tools[:2]
    assert upstream.requests[0]["input"] == [{"type": []}]
    policy = McpPolicy({})
    assert not policy.can_run({"type": "mcp", "server_label": []})


def test_preview_offers_only_the_tools_of_carried_lists(context: LoopContext) -> None:
    listed = {"name": "echo", "input_schema": {"type": "object"}}
    carried = {"type": "mcp_list_tools", "server_label": "old", "tools": [listed]}
    tools = [
        {"type": "mcp", "server_label": label, "server_url": "http://127.0.0.1:1/"}
        for label in ("old", "new")
    ]
    upstream = ScriptedUpstream([make_text_item("Hi.")])
    preview = context._replace(is_preview=True)
    collect_events(with_hosted_tools(upstream, preview)(ask(tools, carried, QUESTION)))
    assert [tool["name"] for tool in upstream.requests[0]["tools"]] == ["old__echo"]


def test_error_of_the_translation_names_the_clients_places(context: LoopContext, mcp: Json) -> None:
    listed = {"type": "mcp_list_tools", "server_label": "other", "tools": []}
    items = [
        listed,
        listed,
        {**ITEM, "type": "mcp_call", "id": "mcp_1", "output": "a"},
        QUESTION,
    ]
    error = InvalidRequest("'tools[1].name' and 'input[2].role' are bad.", param="tools[1].name")
    upstream = ScriptedUpstream(error)
    with pytest.raises(InvalidRequest) as refused:
        with_hosted_tools(upstream, context)(ask([WEATHER, mcp, WEATHER], *items))
    assert upstream.requests[0]["input"][2] == QUESTION  # after the call and its output
    assert refused.value.message == "'tools[2].name' and 'input[3].role' are bad."
    assert refused.value.param == "tools[2].name"


def test_two_servers_of_one_label_are_refused(context: LoopContext, mcp: Json) -> None:
    with pytest.raises(InvalidRequest) as refused:
        with_hosted_tools(ScriptedUpstream(), context)(ask([mcp, mcp]))
    assert refused.value.param == "tools[1].server_label"


def test_choice_of_an_unknown_server_is_refused(context: LoopContext, mcp: Json) -> None:
    choice = {"type": "mcp", "server_label": "other"}
    with pytest.raises(InvalidRequest) as refused:
        with_hosted_tools(ScriptedUpstream(), context)(ask([mcp], tool_choice=choice))
    assert refused.value.param == "tool_choice.server_label"


def test_server_of_the_operator_is_used_by_its_label(client: McpClient, root: str) -> None:
    servers = {"house": McpServer("house", url=f"{root}/mcp", is_trusted=True)}
    policy = McpPolicy(servers)
    tool = {"type": "mcp", "server_label": "house", "require_approval": "never"}
    upstream = ScriptedUpstream([call("house__echo", '{"text":"a"}')], [make_text_item("Done.")])
    response = run(upstream, make_context(client, policy), ask([tool]))
    assert response["output"][1]["output"] == "a"


def test_server_by_url_is_left_to_the_upstream_if_not_allowed(client: McpClient, mcp: Json) -> None:
    upstream = ScriptedUpstream([make_text_item("Hi.")])
    request = ask([mcp])
    collect_events(with_hosted_tools(upstream, make_context(client, McpPolicy()))(request))
    assert upstream.requests == [request]
