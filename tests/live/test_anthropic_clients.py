"""Clients of Anthropic's Messages API besides its Python SDK and Claude Code."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest

from tests.fake_provider import Answer, Call, ScriptedUpstream
from tests.live.clients import NODE, needs_node_package, needs_python_package
from tests.live.server import Server

each_upstream_api = pytest.mark.parametrize("upstream_api", ["chat", "responses"])

CALL = Call("get_weather", '{"city": "Rome"}')


@needs_node_package("@anthropic-ai/sdk")
@each_upstream_api
def test_typescript_sdk_accumulates_thinking_text_and_a_call(
    upstream_api: str, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    upstream.script(Answer(text="I look.", reasoning="Which city?", calls=[CALL]))

    command = ["node", "anthropic.mjs", forwarder.url, f"{upstream_api}/m", "The weather in Rome?"]
    done = subprocess.run(command, cwd=NODE, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr + forwarder.log[-2000:]
    output = json.loads(done.stdout)

    thinking, text, call = output["message"]["content"]
    assert (thinking["type"], thinking["thinking"]) == ("thinking", "Which city?")
    assert thinking["signature"]
    assert (text["text"], output["text"]) == ("I look.", "I look.")
    assert (call["name"], call["input"]) == ("get_weather", {"city": "Rome"})
    assert output["message"]["stop_reason"] == "tool_use"
    assert output["counted"] > 0


@needs_python_package("langchain_anthropic")
@each_upstream_api
def test_langchain_runs_a_tool_and_gets_the_answer(
    upstream_api: str, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    from langchain_anthropic import ChatAnthropic
    from langchain_core.messages import HumanMessage, ToolMessage

    def get_weather(city: str) -> str:
        """Get the weather of a city."""
        return f"sunny in {city}"

    upstream.script(Answer(calls=[CALL]), Answer(text="Sunny.", pieces=3))
    model: Any = ChatAnthropic(
        model_name=f"{upstream_api}/m",
        base_url=forwarder.url,
        api_key="none",
        max_retries=0,
        timeout=10,
        stop=None,
    ).bind_tools([get_weather])
    question = HumanMessage("The weather in Rome?")

    first = model.invoke([question])
    [call] = first.tool_calls
    result = ToolMessage(get_weather(**call["args"]), tool_call_id=call["id"])
    streamed = list(model.stream([question, first, result]))

    assert call["args"] == {"city": "Rome"}
    assert "".join(str(chunk.text) for chunk in streamed) == "Sunny."
    assert "sunny in Rome" in json.dumps(upstream.requests[-1].body)
