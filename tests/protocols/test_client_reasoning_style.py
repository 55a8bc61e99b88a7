"""Selection of the reasoning style for a client."""

from __future__ import annotations

from typing import Any

import pytest

from forwarder.core.errors import InvalidRequest
from forwarder.protocols.client_reasoning_style import (
    find_rendered_field,
    resolve_chat_style,
    resolve_responses_style,
    select_style,
)
from forwarder.protocols.registry import CLIENT_PROTOCOLS
from tests.helpers.check_cases import check_each

Json = dict[str, Any]

CONTENT = "reasoning_content"
BROWSER = "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) "


@check_each(
    ("headers", "field"),
    [
        ({"User-Agent": "opencode/1.18.2 ai-sdk/provider-utils/4.0.66 runtime/bun/1.3.5"}, CONTENT),
        ({"User-Agent": "Cline/3.0.47"}, CONTENT),
        ({"User-Agent": "OpenAI/JS 5.12.2", "X-Title": "Cline"}, CONTENT),
        ({"User-Agent": "RooCode/3.53.0", "X-Title": "Roo Code"}, CONTENT),
        ({"User-Agent": "QwenCode/0.15.3 (linux; x64)"}, CONTENT),
        ({"User-Agent": "ai-sdk/openai-compatible/2.0.92 ai-sdk/provider-utils/4.0.65 "
                        "runtime/node.js/v20.20.2"}, CONTENT),
        ({"User-Agent": "ai-sdk-openai-compatible/3.0.92 ai-sdk-provider-utils/5.0.81 "
                        "node.js/v20.20.2"}, CONTENT),
        ({"User-Agent": "ai/6.0.326 ai-sdk/provider-utils/4.0.66 runtime/node.js/v20"}, CONTENT),
        ({"User-Agent": "ai/7.0.173 ai-sdk-provider-utils/5.0.81 node.js/v20.20.2"}, CONTENT),
        ({"User-Agent": "ai-sdk/openrouter/3.1.0 ai-sdk/provider-utils/5.0.42 "
                        "runtime/node.js/v20.20.2"}, "reasoning"),
        ({"User-Agent": "pydantic-ai/2.68.0"}, CONTENT),
        ({"User-Agent": "litellm/1.110.2"}, CONTENT),
        ({"User-Agent": BROWSER + "CherryStudio/1.9.3 Chrome/146.0 Electron/41.2 Safari/537.36"},
         CONTENT),
        ({"User-Agent": BROWSER + "Chrome/146.0", "X-Title": "Cherry Studio"}, CONTENT),
        ({"User-Agent": "Python/3.12 aiohttp/3.13.2"}, CONTENT),
        ({"User-Agent": "python-httpx/0.28", "X-OpenWebUI-User-Id": "7"}, CONTENT),
        ({"User-Agent": "python-httpx/0.28", "X-OpenWebUI-Chat-Id": "8"}, CONTENT),
        ({"User-Agent": "OpenAI/Python 3.57.0"}, None),
        ({"User-Agent": "AsyncOpenAI/Python 3.57.0"}, None),
        ({"User-Agent": "OpenAI/JS 6.49.0"}, None),
        ({"User-Agent": "Agents/Python 0.24.0"}, None),
        ({"User-Agent": "ai-sdk/openai/3.0.141 ai-sdk/provider-utils/4.0.66"}, None),
        ({"User-Agent": "ai-sdk-openai/4.0.118 ai-sdk-provider-utils/5.0.81"}, None),
        ({"User-Agent": "curl/8.5.0"}, None),
        ({"User-Agent": "fairai/1.0"}, None),
        ({"User-Agent": BROWSER + "Chrome/146.0 Safari/537.36", "X-Title": "My app"}, None),
        ({}, None),
    ],
)  # fmt: skip
def test_find_rendered_field_by_headers(headers: Json, field: str | None) -> None:
    assert find_rendered_field(headers.get) == field


@check_each(
    ("api", "requested", "key_styles", "style"),
    [
        ("chat", "think", ("none",), "think"),
        ("chat", "auto", ("none",), "auto"),
        ("chat", None, ("none",), "none"),
        ("chat", None, ("summary", "parts"), "parts"),
        ("chat", None, ("summary",), "setting"),
        ("chat", "", (), "setting"),
        ("responses", None, ("parts", "both"), "both"),
        ("responses", "text", ("both",), "text"),
    ],
)
def test_select_style_precedence(
    api: str, requested: str | None, key_styles: tuple[str, ...], style: str
) -> None:
    assert select_style(api, requested, key_styles, "setting") == style


@check_each(("api", "style"), [("chat", "both"), ("responses", "none"), ("chat", "x")])
def test_select_style_refuses_style_of_other_api(api: str, style: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        select_style(api, style, (), "auto")
    assert caught.value.param == "X-Forwarder-Reasoning"
    assert all(
        f"'{style_of_api}'" in caught.value.message
        for style_of_api in CLIENT_PROTOCOLS[api].reasoning_styles
    )


def make_history(**fields: Any) -> list[Json]:
    return [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", **fields}]


@check_each(
    ("messages", "rendered", "style"),
    [
        (make_history(), None, "thinking"),
        (make_history(), CONTENT, CONTENT),
        (make_history(), "reasoning", "reasoning"),
        (make_history(reasoning_content="t"), None, CONTENT),
        (make_history(reasoning="t"), None, "reasoning"),
        (make_history(reasoning="t"), CONTENT, "reasoning"),
        (
            make_history(reasoning_details=[{"type": "reasoning.text", "text": "t"}]),
            None,
            "reasoning",
        ),
        (make_history(reasoning_content=""), None, "thinking"),
        (make_history(reasoning_content=None, reasoning=None), None, "thinking"),
        (make_history(reasoning={"effort": "low"}), None, "thinking"),
        (make_history(content="[thinking]t[/thinking]\n\nb"), None, "thinking"),
        ([*make_history(reasoning_content="t"), *make_history()], None, CONTENT),
        ([{"role": "user", "content": "a", "reasoning": "t"}], None, "thinking"),
        ("hi", None, "thinking"),
        ([None, 5], CONTENT, CONTENT),
    ],
)
def test_resolve_chat_style_auto(messages: Any, rendered: str | None, style: str) -> None:
    assert resolve_chat_style("auto", {"messages": messages}, rendered) == style
    assert resolve_chat_style("none", {"messages": messages}, rendered) == "none"


@check_each(
    ("request_", "style"),
    [
        ({}, "text"),
        ({"reasoning": None}, "text"),
        ({"reasoning": {"effort": "high"}}, "text"),
        ({"reasoning": {"summary": None}}, "text"),
        ({"reasoning": {"summary": "none"}}, "text"),
        ({"reasoning": {"summary": "auto"}}, "summary"),
        ({"reasoning": {"summary": "detailed", "effort": "low"}}, "summary"),
        ({"reasoning": {"generate_summary": "concise"}}, "summary"),
        ({"reasoning": "high"}, "text"),
    ],
)
def test_resolve_responses_style_auto(request_: Json, style: str) -> None:
    assert resolve_responses_style("auto", request_) == style
    assert resolve_responses_style("both", request_) == "both"
