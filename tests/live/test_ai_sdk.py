"""The AI SDK (npm ``ai``), streaming text with tools in both directions."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest

from tests.fake_provider.scenarios import HELLO, THOUGHT
from tests.live.clients import NODE, needs_node_package
from tests.live.server import Server

pytestmark = needs_node_package("ai")

KINDS = ("responses", "open", "chat", "compatible", "messages")


def run(script: str, provider: str, forwarder: Server, prompt: str, base: str = "") -> Any:
    """The output of a script for a provider of the AI SDK, below a base path."""
    command = ["node", script, provider, f"{forwarder.url}{base}/v1", "probe-x", prompt]
    done = subprocess.run(command, cwd=NODE, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr + forwarder.log[-2000:]
    return json.loads(done.stdout)


@pytest.mark.parametrize("provider", KINDS)
def test_a_tool_loop_runs_to_its_text(provider: str, forwarder: Server) -> None:
    """Parallel calls are run by the client, and their results lead to an answer."""
    result = run("stream_text.mjs", provider, forwarder, "please do [[scenario:parallel_tools]]")

    assert len(result["asked"]) == 2
    assert result["text"]
    assert result["finish"] == "stop"
    assert result["tokens"] > 0


@pytest.mark.parametrize("provider", KINDS)
def test_text_and_a_call_in_one_answer_both_arrive(provider: str, forwarder: Server) -> None:
    """A message in front of a call is neither lost nor taken for the end."""
    result = run("stream_text.mjs", provider, forwarder, "please do [[scenario:text_and_tool]]")

    assert len(result["asked"]) == 1
    assert result["text"]


def test_reasoning_reaches_a_responses_client(forwarder: Server) -> None:
    """A chat upstream's reasoning field becomes the summary that the AI SDK shows.

    It reads summaries, and asks for none of a model that it does not know.
    """
    prompt = "please do [[scenario:reasoning_content]]"

    result = run("stream_text.mjs", "responses", forwarder, prompt, base="/summary")

    assert result["reasoning"]
    assert result["text"]


def test_the_open_responses_provider_shows_reasoning_as_reasoning(forwarder: Server) -> None:
    result = run("stream_text.mjs", "open", forwarder, "please do [[scenario:reasoning_content]]")

    assert result["reasoning"] == THOUGHT
    assert result["text"] == HELLO


def test_the_compatible_provider_shows_reasoning_natively(forwarder: Server) -> None:
    """Over a Responses upstream it gets the field that it reads, and no blocks in its text."""
    prompt = "please do [[scenario:reasoning_content]]"

    result = run("stream_text.mjs", "compatible", forwarder, prompt)

    assert result["reasoning"]
    assert "[thinking]" not in result["text"]


def test_anthropic_s_provider_shows_reasoning_as_thinking(forwarder: Server) -> None:
    result = run(
        "stream_text.mjs", "messages", forwarder, "please do [[scenario:reasoning_content]]"
    )

    assert result["reasoning"] == THOUGHT
    assert result["text"] == HELLO


def test_openai_s_provider_gets_thinking_blocks_over_chat(forwarder: Server) -> None:
    """The provider reads no reasoning field; clients are assumed not to read one."""
    prompt = "please do [[scenario:reasoning_content]]"

    result = run("stream_text.mjs", "chat", forwarder, prompt)

    assert not result["reasoning"]
    assert result["text"].startswith("[thinking]")


@pytest.mark.parametrize("provider", ["responses", "chat"])
def test_an_object_follows_its_schema(provider: str, forwarder: Server) -> None:
    """Structured output survives the change of protocols."""
    value = run("generate_object.mjs", provider, forwarder, "please do [[scenario:json_schema]]")

    assert set(value) == {"name", "age"}
