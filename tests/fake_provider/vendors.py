"""Refusals of vendors that OpenAI does not have, by name, for tests to switch on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from itertools import pairwise
from typing import Any

from . import dialects
from .answers import Json, Protocol
from .history import as_items
from .shape import Violation, make_unknown_error

Knob = Callable[[Protocol, Json], Violation | None]


def check_knobs(names: Collection[str]) -> frozenset[str]:
    """The names, all of them known."""
    if strangers := set(names) - KNOBS.keys():
        raise ValueError(f"no such knobs: {sorted(strangers)}; there are {sorted(KNOBS)}")
    return frozenset(names)


def list_refusals(protocol: Protocol, body: Json, names: Collection[str]) -> list[Violation]:
    """The refusals of a vendor with these knobs for a request."""
    said = (KNOBS[name](protocol, body) for name in sorted(names))
    return [violation for violation in said if violation]


def developer_role(protocol: Protocol, body: Json) -> Violation | None:
    """DeepSeek, Zhipu: on both protocols."""
    for number, message in enumerate(_list_messages(protocol, body)):
        if message["role"] == "developer":
            allowed = "`system`, `user`, `assistant`, `tool`"
            said = f"unknown variant `developer`, expected one of {allowed}"
            return Violation(
                f"Failed to deserialize the JSON body into the target type: messages[{number}]."
                f"role: {said}"
            )
    return None


def later_system(protocol: Protocol, body: Json) -> Violation | None:
    """vLLM with many chat templates."""
    roles = [message["role"] for message in _list_messages(protocol, body)]
    if any(role in ("system", "developer") for role in roles[1:]):
        return Violation("System message must be at the beginning.")
    return None


def same_role_twice(protocol: Protocol, body: Json) -> Violation | None:
    """Templates that want user and assistant to alternate."""
    roles = [message["role"] for message in _list_messages(protocol, body)]
    if any(one == two in ("user", "assistant") for one, two in pairwise(roles)):
        return Violation("Conversation roles must alternate user/assistant/user/assistant/...")
    return None


def forced_tool_choice(protocol: Protocol, body: Json) -> Violation | None:
    """DashScope, DeepSeek and Kimi while thinking."""
    choice = body.get("tool_choice")
    if (choice == "required" or isinstance(choice, dict)) and not _thinks_not(body):
        said = "The tool_choice parameter does not support being set to required or object in "
        return Violation(f"{said}thinking mode", "tool_choice")
    return None


def _thinks_not(body: Json) -> bool:
    switch = body.get("thinking") or {}
    return switch.get("type") == "disabled" or body.get("enable_thinking") is False


def whole_answers(protocol: Protocol, body: Json) -> Violation | None:
    """DashScope's models that think, Codex' own upstream, and others."""
    if body.get("stream"):
        return None
    said = "This model only support stream mode, please enable the stream parameter"
    return Violation(f"{said} to access the model. ", None, "invalid_parameter_error")


def json_schema(protocol: Protocol, body: Json) -> Violation | None:
    """DeepSeek."""
    asked = body.get("response_format") or (body.get("text") or {}).get("format") or {}
    if asked.get("type") == "json_schema":
        return Violation("This response_format type is unavailable now")
    return None


def message_extra_fields(protocol: Protocol, body: Json) -> Violation | None:
    """Groq and others: messages have only OpenAI's fields."""
    known = {"role", "content", "name", "tool_calls", "tool_call_id", "refusal", "audio",
             "function_call", "type", "id", "status", "phase"}  # fmt: skip
    for number, message in enumerate(_list_messages(protocol, body)):
        for name in message.keys() - known:
            return Violation(
                f"property '{name}' is unsupported", f"messages[{number}].{name}", "unsupported"
            )
    return None


def reasoning_missing(protocol: Protocol, body: Json) -> Violation | None:
    """DeepSeek and Kimi while thinking: a message with calls must bring its reasoning back."""
    for number, message in enumerate(_list_messages(protocol, body)):
        if message.get("tool_calls") and not message.get("reasoning_content"):
            said = "reasoning_content is missing in assistant tool call message at index"
            return Violation(f"thinking is enabled but {said} {number}")
    return None


def content_parts(protocol: Protocol, body: Json) -> Violation | None:
    """Old servers: the content of a message is a string."""
    for number, message in enumerate(_list_messages(protocol, body)):
        if isinstance(message.get("content"), list):
            where = f"messages[{number}].content"
            return Violation(f"Input should be a valid string: '{where}'", where)
    return None


def content_null(protocol: Protocol, body: Json) -> Violation | None:
    """Servers that want content even where there are only calls."""
    for number, message in enumerate(_list_messages(protocol, body)):
        if message.get("content") is None:
            where = f"messages[{number}].content"
            return Violation(f"Input should be a valid string: '{where}'", where)
    return None


def strict_functions(protocol: Protocol, body: Json) -> Violation | None:
    """Mistral: ``strict`` is unknown to functions."""
    for number, tool in enumerate(body.get("tools") or ()):
        if "strict" in tool.get("function", tool):
            return make_unknown_error(f"tools[{number}].function.strict")
    return None


def custom_tools(protocol: Protocol, body: Json) -> Violation | None:
    """Nearly all but OpenAI: tools are functions."""
    for number, tool in enumerate(body.get("tools") or ()):
        if tool["type"] != "function":
            said = f"unknown variant `{tool['type']}`, expected `function`"
            return Violation(said, f"tools[{number}].type")
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


def _refuse_parameter(name: str) -> Knob:
    """A parameter that the vendor does not know."""

    def refuse(protocol: Protocol, body: Json) -> Violation | None:
        if name not in body:
            return None
        said = f"Unsupported parameter: '{name}' is not supported with this model."
        return Violation(said, name, "unsupported_parameter")

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
"""Parameters that one vendor or another refuses."""

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

KNOBS: dict[str, Knob] = {
    **{name: _refuse_parameter(name) for name in PARAMETERS},
    **{rule.__name__: rule for rule in _RULES},
}
"""Name for ``refuse`` -> the rule."""
