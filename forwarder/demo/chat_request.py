"""Chat Completions requests, checked as strictly as OpenAI does and read as a Prompt."""

from __future__ import annotations

from itertools import takewhile
from typing import Any

from forwarder.core.errors import InvalidRequest
from forwarder.demo.answer import DemoPrompt
from forwarder.demo.formats import read_format
from forwarder.demo.reading import (
    ARRAY,
    DECIMAL,
    FLAG,
    JSON,
    OBJECT,
    TEXT,
    WHOLE,
    JsonKind,
    check_enum,
    check_parameters,
    check_parts,
    count_words,
    join_text,
    read_integer,
    read_objects,
    require_field,
)
from forwarder.demo.tools import OfferedTool, ToolOffer, choose_tool

PARAMETER_TYPES: dict[str, JsonKind] = {
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
PART_TYPES_BY_ROLE = {
    "system": ("text",),
    "developer": ("text",),
    "user": ("text", "image_url", "input_audio", "file"),
    "assistant": ("text", "refusal"),
    "tool": ("text",),
    "function": ("text",),
}
# What may stand in an assistant message instead of content.
CONTENT_ALTERNATIVES = ("tool_calls", "function_call", "refusal", "audio")
REQUIRED_COMPANIONS = {
    "tool_choice": "tools",
    "parallel_tool_calls": "tools",
    "stream_options": "stream",
}
TOOL_TYPES = ("function", "custom")


def read_prompt(request: JSON) -> DemoPrompt:
    """The Prompt of a Chat Completions request; raises InvalidRequest, naming the parameter."""
    check_parameters(request, PARAMETER_TYPES, required=("model", "messages"))
    check_companions(request)
    messages = read_messages(request)
    return DemoPrompt(
        user_text=find_user_text(messages),
        word_count=count_words(messages),
        tool_results=find_tool_results(messages),
        tool=read_tool(request),
        format=read_format(
            request.get("response_format"),
            "response_format.",
            find_user_text(messages),
            nested=True,
        ),
        limit=read_limit(request),
        includes_reasoning=request.get("reasoning_effort") != "none",
    )


def check_companions(request: JSON) -> None:
    for name, company in REQUIRED_COMPANIONS.items():
        if request.get(name) is not None and not request.get(company):
            raise InvalidRequest(
                f"The '{name}' parameter is only allowed when '{company}' is given.", param=name
            )
    if request.get("n") not in (None, 1):
        raise InvalidRequest("The demo gives one answer: 'n' must be 1.", param="n")


def read_limit(request: JSON) -> int | None:
    limits = (read_integer(request, name, 1) for name in ("max_completion_tokens", "max_tokens"))
    return next((limit for limit in limits if limit is not None), None)


def read_messages(request: JSON) -> list[JSON]:
    messages = read_objects(request, "messages")
    if not messages:
        raise InvalidRequest(
            "Invalid 'messages': empty array. Expected an array with minimum length 1.",
            param="messages",
            code="empty_array",
        )
    for path, message in messages:
        check_message(message, f"{path}.")
    check_pairs(messages)
    return [message for _, message in messages]


def check_message(message: JSON, at: str) -> None:
    role = check_enum(
        require_field(message, "role", TEXT, at), tuple(PART_TYPES_BY_ROLE), f"{at}role"
    )
    if role != "assistant" or not any(message.get(name) for name in CONTENT_ALTERNATIVES):
        require_field(message, "content", (str, list), at)
    if message.get("content") is not None:
        check_parts(message, "content", PART_TYPES_BY_ROLE[role], at)
    for path, call in read_objects(message, "tool_calls", at):
        check_call(call, f"{path}.")


def check_call(call: JSON, at: str) -> None:
    require_field(call, "id", TEXT, at)
    kind = check_enum(require_field(call, "type", TEXT, at), TOOL_TYPES, f"{at}type")
    body = require_field(call, kind, OBJECT, at)
    for name in ("name", "arguments" if kind == "function" else "input"):
        require_field(body, name, TEXT, f"{at}{kind}.")


def check_pairs(messages: list[tuple[str, JSON]]) -> None:
    waiting: set[str] = set()
    for path, message in messages:
        if message["role"] == "tool":
            match_output(waiting, message, f"{path}.")
        else:
            require_no_pending_calls(waiting)
            waiting = {call["id"] for call in message.get("tool_calls") or ()}
    require_no_pending_calls(waiting)


def match_output(waiting: set[str], message: JSON, at: str) -> None:
    call_id = require_field(message, "tool_call_id", TEXT, at)
    if call_id not in waiting:
        raise InvalidRequest(
            "messages with role 'tool' must be a response to a preceding message "
            f"with 'tool_calls'; '{call_id}' is not waiting for one.",
            param=f"{at}tool_call_id",
        )
    waiting.remove(call_id)


def require_no_pending_calls(waiting: set[str]) -> None:
    if waiting:
        raise InvalidRequest(
            "An assistant message with 'tool_calls' must be followed by tool messages responding "
            "to each 'tool_call_id'. The following tool_call_ids did not have response messages: "
            + ", ".join(sorted(waiting)),
            param="messages",
        )


def find_user_text(messages: list[JSON]) -> str:
    users = [message for message in messages if message["role"] == "user"]
    return join_text(users[-1]["content"]) if users else ""


def find_tool_results(messages: list[JSON]) -> tuple[str, ...]:
    last = takewhile(lambda message: message["role"] in ("tool", "function"), reversed(messages))
    return tuple(join_text(message["content"]) for message in last)[::-1]


def read_tool(request: JSON) -> OfferedTool | None:
    offers = [flatten_tool(path, tool) for path, tool in read_objects(request, "tools")]
    return choose_tool(offers, flatten_choice(request.get("tool_choice")))


def flatten_tool(path: str, tool: JSON) -> ToolOffer:
    kind = check_enum(require_field(tool, "type", TEXT, f"{path}."), TOOL_TYPES, f"{path}.type")
    return f"{path}.{kind}", {**require_field(tool, kind, OBJECT, f"{path}."), "type": kind}


def flatten_choice(choice: Any) -> Any:
    if not isinstance(choice, dict):
        return choice
    if choice.get("type") == "allowed_tools":
        allowed = require_field(choice, "allowed_tools", OBJECT, "tool_choice.")
        tools = read_objects(allowed, "tools", "tool_choice.allowed_tools.")
        flat = [tool for _, tool in (flatten_tool(path, tool) for path, tool in tools)]
        return {**allowed, "type": "allowed_tools", "tools": flat}
    return flatten_tool("tool_choice", choice)[1]
