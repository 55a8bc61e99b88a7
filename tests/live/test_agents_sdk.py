"""The OpenAI Agents SDK: a tool loop and a handoff, over both kinds of upstream."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from openai import AsyncOpenAI

from tests.live.clients import needs_python_package
from tests.live.server import Server

pytestmark = needs_python_package("agents")

MODELS = {"responses": "OpenAIResponsesModel", "chat": "OpenAIChatCompletionsModel"}
"""A Responses client goes to the chat upstream, a Chat client to the Responses upstream."""


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("kind", MODELS)
def test_a_tool_loop_ends_with_the_tool_s_result(
    kind: str, streamed: bool, forwarder: Server
) -> None:
    """The tool is called by the agent, and its result reaches the model."""
    import agents

    asked: list[str] = []

    @agents.function_tool
    def get_weather(city: str) -> str:
        """Get the weather of a city."""
        asked.append(city)
        return f"sunny in {city}"

    def build(model: Any) -> Any:
        return agents.Agent(
            name="first", instructions="Be brief.", model=model, tools=[get_weather]
        )

    result = run(build, kind, forwarder, "please do [[scenario:one_tool]]", streamed)

    assert len(asked) == 1
    assert result.final_output


@pytest.mark.parametrize("kind", MODELS)
def test_a_handoff_reaches_the_second_agent(kind: str, forwarder: Server) -> None:
    """The transfer tool is called, and the second agent answers."""
    import agents

    def build(model: Any) -> Any:
        second = agents.Agent(name="second", instructions="Finish.", model=model)
        return agents.Agent(name="first", instructions="Route.", model=model, handoffs=[second])

    result = run(build, kind, forwarder, "please do [[scenario:handoff]]")

    assert result.last_agent.name == "second"
    assert result.final_output


def run(
    build: Callable[[Any], Any], kind: str, forwarder: Server, prompt: str, streamed: bool = False
) -> Any:
    """Run the agent that ``build`` makes of a model, to its end."""
    import agents

    agents.set_tracing_disabled(True)

    async def to_the_end() -> Any:
        async with AsyncOpenAI(base_url=forwarder.v1, api_key="none", max_retries=0) as client:
            model = getattr(agents, MODELS[kind])(model="probe-x", openai_client=client)
            if not streamed:
                return await agents.Runner.run(build(model), prompt, max_turns=6)
            result = agents.Runner.run_streamed(build(model), prompt, max_turns=6)
            async for _ in result.stream_events():
                pass
            return result

    return asyncio.run(to_the_end())
