"""Rules for which vendors, but not OpenAI, refuse requests. Tests select them by name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from itertools import pairwise
from typing import Any

from . import dialects
from .answers import Json, Protocol
from .history import as_items
from .shape import Violation, make_unknown_error

RefusalRule = Callable[[Protocol, Json], Violation | None]


def check_rule_names(names: Collection[str]) -> frozenset[str]:
    """Return the names of rules. Raises ValueError for unknown ones."""
    if unknown := set(names) - REFUSAL_RULES.keys():
        raise ValueError(f"no such rules: {sorted(unknown)}; there are {sorted(REFUSAL_RULES)}")
    return frozenset(names)


def list_refusals(protocol: Protocol, body: Json, names: Collection[str]) -> list[Violation]:
    """Return the refusals of a request by a vendor with these rules."""
    text = (REFUSAL_RULES[name](protocol, body) for name in sorted(names))
    return [violation for violation in text if violation]


def developer_role(protocol: Protocol, body: Json) -> Violation | None:
    """DeepSeek and Zhipu, in both protocols."""
    for number, message in enumerate(_list_messages(protocol, body)):
        if message["role"] == "developer":
            allowed = "`system`, `user`, `assistant`, `tool`"
            text = f"unknown variant `developer`, expected one of {allowed}"
            return Violation(
                f"Failed to deserialize the JSON body into the target type: messages[{number}]."
                f"role: {text}"
            )
    return None


def later_system(protocol: Protocol, body: Json) -> Violation | None:
    """vLLM with many chat templates."""
    roles = [message["role"] for message in _list_messages(protocol, body)]
    if any(role in ("system", "developer") for role in roles[1:]):
        return Violation("System message must be at the beginning.")
    return None


def same_role_twice(protocol: Protocol, body: Json) -> Violation | None:
    """Templates that require user and assistant to alternate."""
    roles = [message["role"] for message in _list_messages(protocol, body)]
    if any(role == next_role in ("user", "assistant") for role, next_role in pairwise(roles)):
        return Violation("Conversation roles must alternate user/assistant/user/assistant/...")
    return None


def forced_tool_choice(protocol: Protocol, body: Json) -> Violation | None:
    """DashScope, DeepSeek and Kimi while thinking."""
    choice = body.get("tool_choice")
    if (choice == "required" or isinstance(choice, dict)) and not _has_thinking_disabled(body):
        text = "The tool_choice parameter does not support being set to required or object in "
        return Violation(f"{text}thinking mode", "tool_choice")
    return None


def _has_thinking_disabled(body: Json) -> bool:
    switch = body.get("thinking") or {}
    return switch.get("type") == "disabled" or body.get("enable_thinking") is False


def whole_answers(protocol: Protocol, body: Json) -> Violation | None:
    """DashScope's thinking models, Codex's own upstream, and others."""
    if body.get("stream"):
        return None
    text = "This model only support stream mode, please enable the stream parameter"
    return Violation(f"{text} to access the model. ", None, "invalid_parameter_error")


def json_schema(protocol: Protocol, body: Json) -> Violation | None:
    """DeepSeek."""
    response_format = body.get("response_format") or (body.get("text") or {}).get("format") or {}
    if response_format.get("type") == "json_schema":
        return Violation("This response_format type is unavailable now")
    return None


def message_extra_fields(protocol: Protocol, body: Json) -> Violation | None:
    """Groq and others: messages have only OpenAI's fields."""
    message_fields = {"role", "content", "name", "tool_calls", "tool_call_id", "refusal", "audio",
             "function_call", "type", "id", "status", "phase"}  # fmt: skip
    for number, message in enumerate(_list_messages(protocol, body)):
        for name in message.keys() - message_fields:
            return Violation(
                f"property '{name}' is unsupported", f"messages[{number}].{name}", "unsupported"
            )
    return None


def reasoning_missing(protocol: Protocol, body: Json) -> Violation | None:
    """DeepSeek and Kimi while thinking: a message with calls must have its reasoning."""
    for number, message in enumerate(_list_messages(protocol, body)):
        if message.get("tool_calls") and not message.get("reasoning_content"):
            text = "reasoning_content is missing in assistant tool call message at index"
            return Violation(f"thinking is enabled but {text} {number}")
    return None


def content_parts(protocol: Protocol, body: Json) -> Violation | None:
    """Old servers: the content of a message is a string."""
    for number, message in enumerate(_list_messages(protocol, body)):
        if isinstance(message.get("content"), list):
            path = f"messages[{number}].content"
            return Violation(f"Input should be a valid string: '{path}'", path)
    return None


def content_null(protocol: Protocol, body: Json) -> Violation | None:
    """Servers that require content even in messages with calls."""
    for number, message in enumerate(_list_messages(protocol, body)):
        if message.get("content") is None:
            path = f"messages[{number}].content"
            return Violation(f"Input should be a valid string: '{path}'", path)
    return None


def strict_functions(protocol: Protocol, body: Json) -> Violation | None:
    """Mistral: functions have no ``strict``."""
    for number, tool in enumerate(body.get("tools") or ()):
        if "strict" in tool.get("function", tool):
            return make_unknown_error(f"tools[{number}].function.strict")
    return None


def custom_tools(protocol: Protocol, body: Json) -> Violation | None:
    """Nearly all vendors: all tools are functions."""
    for number, tool in enumerate(body.get("tools") or ()):
        if tool["type"] != "function":
            text = f"unknown variant `{tool['type']}`, expected `function`"
            return Violation(text, f"tools[{number}].type")
    return None


def same_tool_twice(protocol: Protocol, body: Json) -> Violation | None:
    """DeepSeek, Anthropic."""
    names = Counter(tool.get("function", tool).get("name") for tool in body.get("tools") or ())
    if any(count > 1 for count in names.values()):
        return Violation("Tool names must be unique.", "tools")
    return None


def _list_messages(protocol: Protocol, body: Json) -> list[Json]:
    if protocol == "chat":
        return list(body["messages"])
    return [item for item in as_items(body.get("input")) if "role" in item]


def _refuse_parameter(name: str) -> RefusalRule:
    """Return the rule of a vendor that does not know a parameter."""

    def refuse(protocol: Protocol, body: Json) -> Violation | None:
        if name not in body:
            return None
        text = f"Unsupported parameter: '{name}' is not supported with this model."
        return Violation(text, name, "unsupported_parameter")

    return refuse


PARAMETERS = (
    "max_completion_tokens",
    "max_tokens",
    "max_output_tokens",
    "stream_options",
    "parallel_tool_calls",
    "tool_choice",
    "temperature",
    "top_p",
    "stop",
    "metadata",
    "store",
    "reasoning_effort",
    "reasoning",
    "verbosity",
    "prompt_cache_key",
    "service_tier",
    "user",
)
"""Parameters that some vendors refuse."""

_RULES: tuple[Any, ...] = (
    developer_role,
    later_system,
    same_role_twice,
    forced_tool_choice,
    whole_answers,
    json_schema,
    message_extra_fields,
    reasoning_missing,
    content_parts,
    content_null,
    strict_functions,
    custom_tools,
    same_tool_twice,
    *dialects.RULES,
)

REFUSAL_RULES: dict[str, RefusalRule] = {
    **{name: _refuse_parameter(name) for name in PARAMETERS},
    **{rule.__name__: rule for rule in _RULES},
}
"""Name for ``refuse`` -> the rule."""
