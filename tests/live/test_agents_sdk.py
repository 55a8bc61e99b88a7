"""The OpenAI Agents SDK: a tool loop and a handoff, over both kinds of upstream."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from openai import AsyncOpenAI

from tests.fake_provider import ScriptedUpstream
from tests.fake_provider.answers import Answer, Call
from tests.live.clients import needs_python_package
from tests.live.server import Server

pytestmark = needs_python_package("agents")

MODELS = {"responses": "OpenAIResponsesModel", "chat": "OpenAIChatCompletionsModel"}
"""A Responses client goes to the chat upstream, a Chat client to the Responses upstream."""


streams = pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])


@streams
@pytest.mark.parametrize("model_class", MODELS)
def test_a_tool_loop_ends_with_the_tool_s_result(
    model_class: str, streamed: bool, forwarder: Server
) -> None:
    """The tool is called by the agent, and its result reaches the model."""
    import agents

    cities: list[str] = []

    @agents.function_tool
    def get_weather(city: str) -> str:
        """Get the weather of a city."""
        cities.append(city)
        return f"sunny in {city}"

    def build(model: Any) -> Any:
        return agents.Agent(
            name="first", instructions="Be brief.", model=model, tools=[get_weather]
        )

    result = run(build, model_class, forwarder, "please do [[scenario:one_tool]]", streamed)

    assert len(cities) == 1
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


COMMAND = "printf made > made.txt"
PATCH = "*** Begin Patch\n*** Add File: patched.txt\n+patched\n*** End Patch\n"


@streams
def test_a_sandbox_agent_runs_commands_and_applies_patches(
    streamed: bool, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    """Its shell is a function, its patches are a freeform tool; the upstream speaks Chat."""
    import agents
    from agents.sandbox import SandboxAgent, SandboxRunConfig
    from agents.sandbox.sandboxes.unix_local import UnixLocalSandboxClient

    upstream.script(
        Answer(
            text="I make it.", calls=[Call("exec_command", {"cmd": f"{COMMAND} && cat made.txt"})]
        ),
        Answer(calls=[Call("apply_patch", {"input": PATCH})]),
        Answer(calls=[Call("exec_command", {"cmd": "cat patched.txt"})]),
        Answer(text="All is done.", reasoning="It is made."),
    )
    sandbox = SandboxRunConfig(client=UnixLocalSandboxClient(inherit_host_environment=False))

    def build(model: Any) -> Any:
        return SandboxAgent(name="coder", instructions="Be brief.", model=model)

    result = run(
        build, "responses", forwarder, "make it", streamed, agents.RunConfig(sandbox=sandbox)
    )

    assert result.final_output == "All is done."
    thoughts = [item.raw_item for item in result.new_items if item.type == "reasoning_item"]
    assert "It is made." in str(thoughts)
    assert {r.path for r in upstream.requests} == {"/v1/chat/completions"}
    tool_outputs = [
        m["content"] for m in upstream.requests[-1].body["messages"] if m["role"] == "tool"
    ]
    assert "made" in tool_outputs[0]
    assert "patched.txt" in tool_outputs[1]
    assert "patched" in tool_outputs[2]


@streams
def test_local_shell_and_patch_tools_run_over_chat(
    streamed: bool, tmp_path: Path, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    """Both are the API's own kinds of tool, which a Chat upstream knows as functions."""
    import agents

    def execute(request: Any) -> str:
        commands = request.data.action.commands
        return "".join(
            subprocess.run(c, shell=True, cwd=tmp_path, capture_output=True, text=True).stdout
            for c in commands
        )

    class Editor:
        def create_file(self, operation: Any) -> str:
            content = agents.apply_diff("", operation.diff, mode="create")
            (tmp_path / operation.path).write_text(content)
            return f"made {operation.path}"

        update_file = delete_file = create_file

    create = {"type": "create_file", "path": "patched.txt", "diff": "+patched\n"}
    upstream.script(
        Answer(calls=[Call("shell", {"commands": [f"{COMMAND} && cat made.txt"]})]),
        Answer(calls=[Call("apply_patch", create)]),
        Answer(text="All is done."),
    )

    def build(model: Any) -> Any:
        shell = agents.ShellTool(executor=execute)
        patch = agents.ApplyPatchTool(editor=Editor())
        return agents.Agent(name="coder", model=model, tools=[shell, patch])

    result = run(build, "responses", forwarder, "make it", streamed)

    assert result.final_output == "All is done."
    assert (tmp_path / "made.txt").read_text() == "made"
    assert (tmp_path / "patched.txt").read_text().strip() == "patched"
    tool_outputs = [
        m["content"] for m in upstream.requests[-1].body["messages"] if m["role"] == "tool"
    ]
    assert "made" in tool_outputs[0]
    assert "made patched.txt" in tool_outputs[1]


def run(
    build: Callable[[Any], Any],
    kind: str,
    forwarder: Server,
    prompt: str,
    streamed: bool = False,
    config: Any = None,
) -> Any:
    """Run the agent that ``build`` makes of a model, to its end."""
    import agents

    agents.set_tracing_disabled(True)

    async def to_the_end() -> Any:
        async with AsyncOpenAI(base_url=forwarder.v1, api_key="none", max_retries=0) as client:
            model = getattr(agents, MODELS[kind])(model="probe-x", openai_client=client)
            if not streamed:
                return await agents.Runner.run(build(model), prompt, max_turns=6, run_config=config)
            result = agents.Runner.run_streamed(
                build(model), prompt, max_turns=6, run_config=config
            )
            async for _ in result.stream_events():
                pass
            return result

    return asyncio.run(to_the_end())
