"""Captured request bodies of real clients (``tests/captures``) through their translation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from forwarder.core.translation_context import LossReport
from forwarder.providers import PROFILES, adapt_request
from tests.fake_provider import check_chat, check_responses
from tests.helpers.check_cases import check_each
from tests.helpers.translating import collect_events, make_translator_context, translate

Json = dict[str, Any]

FOLDER = Path(__file__).parent.parent / "captures"
PROVIDERS = ("generic", "openai")

BODIES = [
    pytest.param(json.loads(line), id=f"{path.stem}-{number}")
    for path in sorted(FOLDER.glob("*.jsonl"))
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
]
CHAT = [body for body in BODIES if "messages" in body.values[0]]
RESPONSES = [body for body in BODIES if "messages" not in body.values[0]]


def translate_capture(direction: str, body: Json, provider: str) -> tuple[Json, set[str]]:
    """Return the body for this provider, and the names of the losses."""
    profile = PROFILES[provider]
    translated = translate(
        direction, body, make_translator_context(custom_tools=profile.custom_tools)
    )
    loss_report = LossReport()
    upstream = "chat" if direction == "responses_over_chat" else "responses"
    return adapt_request(translated.request, upstream, profile, loss_report), {
        *translated.dropped,
        *loss_report.losses,
    }


def test_every_client_has_a_capture() -> None:
    clients = {body.id.partition("_")[0] for body in BODIES}
    assert {"agents", "codex", "instructor", "langchain", "llm", "node", "pydantic"} <= clients
    assert len(CHAT) > 10
    assert len(RESPONSES) > 10


@check_each("body", RESPONSES)
@check_each("provider", PROVIDERS)
def test_captured_responses_requests_are_valid_for_chat_providers(
    body: Json, provider: str
) -> None:
    request, dropped = translate_capture("responses_over_chat", body, provider)
    assert check_chat(request) == []
    assert dropped <= {"tools.web_search", "reasoning.context"}


@check_each("body", CHAT)
@check_each("provider", PROVIDERS)
def test_captured_chat_requests_are_valid_for_responses_providers(
    body: Json, provider: str
) -> None:
    request, dropped = translate_capture("chat_over_responses", body, provider)
    assert check_responses(request) == []
    assert dropped == set()


@check_each("body", RESPONSES)
def test_calls_of_captured_tools_are_translated_back(body: Json) -> None:
    """A call of each offered function is translated to the tool that the client defined."""
    translated = translate("responses_over_chat", body, make_translator_context())
    names = [tool["function"]["name"] for tool in translated.request.get("tools", ())]
    calls = [
        {
            "index": i,
            "id": f"call_{name}",
            "function": {"name": name, "arguments": '{"input": "x"}'},
        }
        for i, name in enumerate(names)
    ]
    chunk = {
        "choices": [{"index": 0, "delta": {"tool_calls": calls}, "finish_reason": "tool_calls"}]
    }
    response = collect_events(translated.answer(iter([[chunk]])))[-1]["response"]
    called_tools = {
        (item["type"], item.get("namespace"), item.get("name"))
        for item in response["output"]
        if item["type"] != "message"
    }
    assert called_tools == set(list_client_tools(body))


_CALL_TYPES = {
    "function": "function_call",
    "custom": "custom_tool_call",
    "tool_search": "tool_search_call",
}


def list_client_tools(body: Json) -> list[tuple[str, str | None, str | None]]:
    """Return the client's tools as ``(item type, namespace, name)``."""
    tools = list(body.get("tools", ()))
    items = body["input"] if isinstance(body["input"], list) else []
    for item in items:
        if item.get("type") == "additional_tools":
            tools += item["tools"]
    namespaces = [(tool, tool["name"]) for tool in tools if tool["type"] == "namespace"]
    top_level = [(tool, None) for tool in tools if tool["type"] != "namespace"]
    nested = [
        (tool, namespace) for container, namespace in namespaces for tool in container["tools"]
    ]
    return [
        (_CALL_TYPES[tool["type"]], namespace, tool.get("name"))
        for tool, namespace in [*top_level, *nested]
        if tool["type"] in _CALL_TYPES
    ]
