"""Chat Completions requests, checked as strictly as OpenAI does and read as a Prompt."""

from __future__ import annotations

from itertools import takewhile
from typing import Any

from forwarder.core.errors import InvalidRequest
from forwarder.demo.answer import Prompt
from forwarder.demo.formats import format_of
from forwarder.demo.reading import (
    ARRAY,
    DECIMAL,
    FLAG,
    JSON,
    OBJECT,
    TEXT,
    WHOLE,
    Kind,
    at_least,
    check,
    check_parts,
    count_words,
    need,
    objects,
    one_of,
    text_of,
)
from forwarder.demo.tools import Offer, Tool, chosen

KINDS: dict[str, Kind] = {
    "model": TEXT,
    "messages": ARRAY,
    "frequency_penalty": DECIMAL,
    "logit_bias": OBJECT,
    "logprobs": FLAG,
    "max_completion_tokens": WHOLE,
    "max_tokens": WHOLE,
    "metadata": OBJECT,
    "n": WHOLE,
    "parallel_tool_calls": FLAG,
    "presence_penalty": DECIMAL,
    "reasoning_effort": TEXT,
    "response_format": OBJECT,
    "seed": WHOLE,
    "service_tier": TEXT,
    "stop": (str, list),
    "store": FLAG,
    "stream": FLAG,
    "stream_options": OBJECT,
    "temperature": DECIMAL,
    "tool_choice": (str, dict),
    "tools": ARRAY,
    "top_logprobs": WHOLE,
    "top_p": DECIMAL,
    "user": TEXT,
    "verbosity": TEXT,
}
PARTS = {
    "system": ("text",),
    "developer": ("text",),
    "user": ("text", "image_url", "input_audio", "file"),
    "assistant": ("text", "refusal"),
    "tool": ("text",),
    "function": ("text",),
}
# What may stand in an assistant message instead of content.
INSTEAD = ("tool_calls", "function_call", "refusal", "audio")
NEEDS = {"tool_choice": "tools", "parallel_tool_calls": "tools", "stream_options": "stream"}
TOOLS = ("function", "custom")


def read(request: JSON) -> Prompt:
    """The Prompt of a Chat Completions request; raises InvalidRequest, naming the parameter."""
    check(request, KINDS, required=("model", "messages"))
    _check_company(request)
    messages = _messages(request)
    return Prompt(
        said=_said(messages),
        words=count_words(messages),
        results=_results(messages),
        tool=_tool(request),
        format=format_of(
            request.get("response_format"), "response_format.", _said(messages), nested=True
        ),
        limit=_limit(request),
        thinks=request.get("reasoning_effort") != "none",
    )


def _check_company(request: JSON) -> None:
    for name, company in NEEDS.items():
        if request.get(name) is not None and not request.get(company):
            raise InvalidRequest(
                f"The '{name}' parameter is only allowed when '{company}' is given.", param=name
            )
    if request.get("n") not in (None, 1):
        raise InvalidRequest("The demo gives one answer: 'n' must be 1.", param="n")


def _limit(request: JSON) -> int | None:
    limits = (at_least(request, name, 1) for name in ("max_completion_tokens", "max_tokens"))
    return next((limit for limit in limits if limit is not None), None)


def _messages(request: JSON) -> list[JSON]:
    messages = objects(request, "messages")
    if not messages:
        raise InvalidRequest(
            "Invalid 'messages': empty array. Expected an array with minimum length 1.",
            param="messages",
            code="empty_array",
        )
    for path, message in messages:
        _check_message(message, f"{path}.")
    _check_pairs(messages)
    return [message for _, message in messages]


def _check_message(message: JSON, at: str) -> None:
    role = one_of(need(message, "role", TEXT, at), tuple(PARTS), f"{at}role")
    if role != "assistant" or not any(message.get(name) for name in INSTEAD):
        need(message, "content", (str, list), at)
    if message.get("content") is not None:
        check_parts(message, "content", PARTS[role], at)
    for path, call in objects(message, "tool_calls", at):
        _check_call(call, f"{path}.")


def _check_call(call: JSON, at: str) -> None:
    need(call, "id", TEXT, at)
    kind = one_of(need(call, "type", TEXT, at), TOOLS, f"{at}type")
    body = need(call, kind, OBJECT, at)
    for name in ("name", "arguments" if kind == "function" else "input"):
        need(body, name, TEXT, f"{at}{kind}.")


def _check_pairs(messages: list[tuple[str, JSON]]) -> None:
    waiting: set[str] = set()
    for path, message in messages:
        if message["role"] == "tool":
            _answered(waiting, message, f"{path}.")
        else:
            _check_none(waiting)
            waiting = {call["id"] for call in message.get("tool_calls") or ()}
    _check_none(waiting)


def _answered(waiting: set[str], message: JSON, at: str) -> None:
    call_id = need(message, "tool_call_id", TEXT, at)
    if call_id not in waiting:
        raise InvalidRequest(
            "messages with role 'tool' must be a response to a preceding message "
            f"with 'tool_calls'; '{call_id}' is not waiting for one.",
            param=f"{at}tool_call_id",
        )
    waiting.remove(call_id)


def _check_none(waiting: set[str]) -> None:
    if waiting:
        raise InvalidRequest(
            "An assistant message with 'tool_calls' must be followed by tool messages responding "
            "to each 'tool_call_id'. The following tool_call_ids did not have response messages: "
            + ", ".join(sorted(waiting)),
            param="messages",
        )


def _said(messages: list[JSON]) -> str:
    users = [message for message in messages if message["role"] == "user"]
    return text_of(users[-1]["content"]) if users else ""


def _results(messages: list[JSON]) -> tuple[str, ...]:
    last = takewhile(lambda message: message["role"] in ("tool", "function"), reversed(messages))
    return tuple(text_of(message["content"]) for message in last)[::-1]


def _tool(request: JSON) -> Tool | None:
    offers = [_flat_tool(path, tool) for path, tool in objects(request, "tools")]
    return chosen(offers, _flat_choice(request.get("tool_choice")))


def _flat_tool(path: str, tool: JSON) -> Offer:
    kind = one_of(need(tool, "type", TEXT, f"{path}."), TOOLS, f"{path}.type")
    return f"{path}.{kind}", {**need(tool, kind, OBJECT, f"{path}."), "type": kind}


def _flat_choice(choice: Any) -> Any:
    if not isinstance(choice, dict):
        return choice
    if choice.get("type") == "allowed_tools":
        allowed = need(choice, "allowed_tools", OBJECT, "tool_choice.")
        tools = objects(allowed, "tools", "tool_choice.allowed_tools.")
        flat = [tool for _, tool in (_flat_tool(path, tool) for path, tool in tools)]
        return {**allowed, "type": "allowed_tools", "tools": flat}
    return _flat_tool("tool_choice", choice)[1]
