"""Hosted tools that are mapped to MCP tools, in the loop and through the whole forwarder."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from forwarder.config.settings import ConfigError, Settings
from forwarder.core.ssrf import AddressGuard
from forwarder.hosted_tools.kind_table import ToolResources, build_kinds
from forwarder.hosted_tools.mcp_client import McpClient, McpLimits
from forwarder.hosted_tools.mcp_mapped_tools import MappedTool, find_code_argument
from forwarder.hosted_tools.mcp_server import McpServer
from forwarder.hosted_tools.mcp_tools import McpPolicy
from forwarder.hosted_tools.request_preparation import LoopContext
from forwarder.hosted_tools.responses_loop import with_hosted_tools
from forwarder.hosted_tools.tool_services import HostedToolServices
from tests.fake_provider.answers import Answer, Call
from tests.fake_provider.scripted import ScriptedUpstream as ScriptedProvider
from tests.helpers.check_cases import check_each
from tests.helpers.hosted import host_forwarder
from tests.helpers.translating import collect_events
from tests.hosted_tools.mcp_server_process import serving_mcp
from tests.hosted_tools.scripted_upstream import (
    ScriptedUpstream,
    check_stream,
    make_call,
    make_text_item,
)
from tests.hosted_tools.test_responses_loop import FakeClient

pytestmark = pytest.mark.live  # an MCP server in a process of its own

Json = dict[str, Any]
QUESTION: Json = {"type": "message", "role": "user", "content": "go"}
CODE: Json = {"type": "code_interpreter", "container": {"type": "auto"}}
OUTPUTS = ["code_interpreter_call.outputs"]
CODE_CALL = make_call("code_interpreter", '{"source":"1+1"}')


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
def context(client: McpClient, mcp_base_url: str) -> LoopContext:
    server = McpServer("tests", url=f"{mcp_base_url}/mcp", is_trusted=True)
    names = {
        "code_interpreter": "run",
        "image_generation": "picture",
        "shell": "echo",
        "computer": "missing",
        "web_search": "echo",
    }
    mapped = tuple(MappedTool(name, server, tool) for name, tool in names.items())
    kinds = build_kinds(ToolResources(client, McpPolicy(), mapped=mapped))
    return LoopContext(kinds, FakeClient(), heartbeat=0.05)


def make_request(tool: Json, *items: Json, **more: Any) -> Json:
    input_items = [*(items or (QUESTION,))]
    return {"model": "m", "input": input_items, "tools": [tool], "stream": True, **more}


def run_loop(upstream: ScriptedUpstream, context: LoopContext, request: Json) -> Json:
    return check_stream(collect_events(with_hosted_tools(upstream, context)(request)))


def test_code_is_shown_as_the_protocols_item(context: LoopContext) -> None:
    upstream = ScriptedUpstream([CODE_CALL], [make_text_item("2")])
    events = collect_events(
        with_hosted_tools(upstream, context)(make_request(CODE, include=OUTPUTS))
    )
    item, _ = check_stream(events)["output"]
    assert item == {
        "id": item["id"],
        "type": "code_interpreter_call",
        "status": "completed",
        "code": "1+1",
        "container_id": "tests",
        "outputs": [{"type": "logs", "logs": "ran 1+1"}],
    }
    kinds = [e["type"].removeprefix("response.") for e in events if e.get("output_index") == 0]
    assert kinds == [
        "output_item.added",
        "code_interpreter_call.in_progress",
        "code_interpreter_call_code.delta",
        "code_interpreter_call_code.done",
        "code_interpreter_call.interpreting",
        "code_interpreter_call.completed",
        "output_item.done",
    ]
    (function,) = upstream.requests[0]["tools"]
    assert function["name"] == "code_interpreter"
    assert "source" in function["parameters"]["properties"]
    assert upstream.requests[1]["input"][-1]["output"] == "ran 1+1"
    assert upstream.requests[0]["include"] == ["reasoning.encrypted_content"]


def test_outputs_are_shown_on_request_only(context: LoopContext) -> None:
    response = run_loop(
        ScriptedUpstream([CODE_CALL], [make_text_item("2")]), context, make_request(CODE)
    )
    assert response["output"][0]["outputs"] is None


def test_pictures_of_code_are_outputs(context: LoopContext) -> None:
    draw = make_call("code_interpreter", '{"source":"draw()"}')
    response = run_loop(
        ScriptedUpstream([draw], [make_text_item("!")]),
        context,
        make_request(CODE, include=OUTPUTS),
    )
    logs, image = response["output"][0]["outputs"]
    assert logs == {"type": "logs", "logs": "drawn"}
    assert image["url"].startswith("data:image/png;base64,")


def test_whole_answer_has_the_same_item(context: LoopContext) -> None:
    upstream = ScriptedUpstream([CODE_CALL], [make_text_item("2")], streamed=False)
    request = {**make_request(CODE, include=OUTPUTS), "stream": False}
    (event,) = collect_events(with_hosted_tools(upstream, context)(request))
    item = event["response"]["output"][0]
    assert (item["code"], item["status"]) == ("1+1", "completed")
    assert item["outputs"][0]["logs"] == "ran 1+1"


@pytest.mark.parametrize("included", [True, False])
def test_next_turn_repeats_the_call(context: LoopContext, included: bool) -> None:
    include = OUTPUTS if included else []
    response = run_loop(
        ScriptedUpstream([CODE_CALL], [make_text_item("2")]),
        context,
        make_request(CODE, include=include),
    )
    next_upstream = ScriptedUpstream([make_text_item("Yes.")])
    run_loop(next_upstream, context, make_request(CODE, QUESTION, *response["output"], QUESTION))
    _, sent_call, output, _, _ = next_upstream.requests[0]["input"]
    assert (sent_call["name"], json.loads(sent_call["arguments"])) == (
        "code_interpreter",
        {"source": "1+1"},
    )
    assert sent_call["call_id"] == output["call_id"] == "call_1"
    assert ("ran 1+1" in output["output"]) is included


def test_failed_code_is_reported_to_the_model(context: LoopContext) -> None:
    upstream = ScriptedUpstream([make_call("code_interpreter", "[")], [make_text_item("Oh.")])
    response = run_loop(upstream, context, make_request(CODE))
    assert (response["output"][0]["status"], response["status"]) == ("failed", "completed")
    assert "not a JSON object" in upstream.requests[1]["input"][-1]["output"]


def test_image_is_shown_as_the_protocols_item(context: LoopContext) -> None:
    upstream = ScriptedUpstream([make_call("image_generation", "{}")], [make_text_item("Look.")])
    events = collect_events(
        with_hosted_tools(upstream, context)(make_request({"type": "image_generation"}))
    )
    item = check_stream(events)["output"][0]
    assert (item["type"], item["status"]) == ("image_generation_call", "completed")
    assert item["result"].startswith("iVBOR")
    assert "response.image_generation_call.completed" in [event["type"] for event in events]


@pytest.mark.parametrize(
    "tool", [{"type": "shell", "environment": {"type": "container_auto"}}, {"type": "web_search"}]
)
def test_other_tools_are_shown_as_mcp_calls(context: LoopContext, tool: Json) -> None:
    upstream = ScriptedUpstream(
        [make_call("tests__echo", '{"text":"a"}')], [make_text_item("Done.")], [make_text_item("B")]
    )
    response = run_loop(upstream, context, make_request(tool))
    item = response["output"][0]
    assert (item["type"], item["name"], item["output"]) == ("mcp_call", "echo", "a")
    run_loop(upstream, context, make_request(tool, QUESTION, *response["output"], QUESTION))
    assert upstream.requests[2]["input"][1]["name"] == "tests__echo"


def test_shell_of_the_client_is_not_mapped(context: LoopContext) -> None:
    upstream = ScriptedUpstream([make_text_item("Hi.")])
    request = make_request({"type": "shell"})
    run_loop(upstream, context, request)
    assert upstream.requests == [request]


def test_forced_tool_is_a_forced_function(context: LoopContext) -> None:
    upstream = ScriptedUpstream([CODE_CALL], [make_text_item("2")])
    run_loop(upstream, context, make_request(CODE, tool_choice={"type": "code_interpreter"}))
    choices = [request["tool_choice"] for request in upstream.requests]
    assert choices == [{"type": "function", "name": "code_interpreter"}, "auto"]


def test_tool_missing_on_its_server_is_reported_to_the_model(context: LoopContext) -> None:
    upstream = ScriptedUpstream([make_text_item("No computer.")])
    run_loop(upstream, context, make_request({"type": "computer"}))
    note = upstream.requests[0]["input"][-1]
    assert "has no tool 'missing'" in note["content"]


@check_each(
    ("properties", "name"),
    [
        ({"code": {"type": "string"}, "a": {"type": "string"}}, "code"),
        ({"n": {"type": "integer"}, "text": {"type": "string"}}, "text"),
        (None, "code"),
    ],
)
def test_argument_with_the_code_is_found(properties: Any, name: str) -> None:
    assert find_code_argument({"type": "object", "properties": properties}) == name


# -- by settings --------------------------------------------------------------------------------


@check_each("target", ["run", "mcp:run", "mcp:/run", "http:a/b"])
def test_malformed_target_is_a_config_error(target: str) -> None:
    with pytest.raises(ConfigError, match="FORWARDER_HOSTED_TOOL_SHELL must be mcp:LABEL/TOOL"):
        Settings.from_env({"FORWARDER_HOSTED_TOOL_SHELL": target})


def test_target_on_an_unknown_server_is_a_config_error() -> None:
    settings = Settings.from_env({"FORWARDER_HOSTED_TOOL_SHELL": "mcp:nowhere/run"})
    with pytest.raises(ConfigError, match="FORWARDER_HOSTED_TOOL_SHELL"):
        HostedToolServices(settings)


@pytest.mark.parametrize("name", ["CHAT", "RESPONSES"])
def test_sdk_gets_code_over_both_upstreams(mcp_base_url: str, tmp_path: Path, name: str) -> None:
    path = tmp_path / "mcp.json"
    path.write_text(json.dumps({"mcpServers": {"box": {"url": f"{mcp_base_url}/mcp"}}}))
    with ScriptedProvider() as upstream:
        environment = {
            f"{name}_BASE_URL": upstream.url,
            f"{name}_API_KEY": "u",
            "RESPONSES_PROVIDER": "vllm",
            "FORWARDER_MCP_SERVERS": str(path),
            "FORWARDER_HOSTED_TOOL_CODE_INTERPRETER": "mcp:box/run",
            "FORWARDER_DATABASE_URL": f"sqlite:///{tmp_path}/f.db",
        }
        upstream.script(
            Answer(calls=[Call(name="code_interpreter", arguments='{"source":"1+1"}')]),
            Answer(text="2"),
        )
        with (
            host_forwarder(environment) as url,
            openai.OpenAI(base_url=f"{url}/v1", api_key="k", max_retries=0) as client,
        ):
            response = client.responses.create(
                model="m",
                input="go",
                tools=[{"type": "code_interpreter", "container": {"type": "auto"}}],
                include=["code_interpreter_call.outputs"],
            )
        item: Any = response.output[0]
        assert (item.type, item.code, item.container_id) == ("code_interpreter_call", "1+1", "box")
        assert item.outputs[0].logs == "ran 1+1"
        assert response.output_text == "2"
