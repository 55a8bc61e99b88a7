"""OpenAI's rules for a Chat Completions request."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence

from openai.types.chat.completion_create_params import CompletionCreateParamsBase

from .answers import Json
from .shape import (
    Violation,
    check,
    drop_accepted,
    list_fields,
    make_missing_error,
    make_unknown_error,
)
from .strict_tools import (
    check_choice,
    check_format,
    check_function,
    check_name,
    check_tool_list,
    make_empty_array_error,
)

EXTRA_FIELDS = frozenset(
    {
        # vendors' fields of messages and calls, which most others ignore
        "reasoning_content", "reasoning", "reasoning_details", "extra_content",
        # fields of OpenAI's answers, or of its SDK, that clients send back
        "annotations", "parsed", "parsed_arguments",
    }
)  # fmt: skip
"""Accepted fields of messages that the SDK's request types do not have."""

CONTENT_FIELDS = ("content", "tool_calls", "refusal", "function_call", "audio")
"""Fields of an assistant message that can have content."""

ID_LENGTH = 40
"""Maximum number of characters in the id of a tool call."""

RANGES = {
    "temperature": (0, 2),
    "top_p": (0, 1),
    "frequency_penalty": (-2, 2),
    "presence_penalty": (-2, 2),
    "n": (1, 128),
    "top_logprobs": (0, 20),
    "max_tokens": (1, None),
    "max_completion_tokens": (1, None),
}
"""Parameter -> minimum and maximum."""


def check_shape(body: Json, extra: Collection[str]) -> list[Violation]:
    """Return the parameters and messages that do not match the SDK's types."""
    fields = list_fields(CompletionCreateParamsBase)
    violations = [
        make_missing_error(name)
        for name, field in fields.items()
        if field.required and name not in body
    ]
    for name, value in body.items():
        if name == "stream":
            violations += check(value, bool | None, name)
        elif name in fields:
            violations += check(value, fields[name].type, name)
        else:
            violations.append(make_unknown_error(name))
    return drop_accepted(drop_accepted(violations, extra), EXTRA_FIELDS, under="messages[")


def check_empty_arrays(body: Json) -> Iterator[Violation]:
    """Check arrays that must not be empty."""
    if not body["messages"]:
        yield make_empty_array_error("messages")
    for number, message in enumerate(body["messages"]):
        for name in ("content", "tool_calls"):
            if message.get(name) == []:
                yield make_empty_array_error(f"messages[{number}].{name}")


def check_content(body: Json) -> Iterator[Violation]:
    """Check that assistant messages have content or calls."""
    for number, message in enumerate(body["messages"]):
        is_empty = all(message.get(name) is None for name in CONTENT_FIELDS)
        if message["role"] == "assistant" and is_empty:
            path = f"messages[{number}].content"
            text = f"Invalid value for '{path}': expected a string, got null."
            yield Violation(text, path, "invalid_value")


def check_adjacency(body: Json) -> Iterator[Violation]:
    """Check that tool messages directly follow their assistant message, one for each call."""
    unanswered_ids: list[str] = []
    for number, message in enumerate(body["messages"]):
        if message["role"] == "tool":
            if message["tool_call_id"] not in unanswered_ids:
                yield _make_stray_error(number)
            else:
                unanswered_ids.remove(message["tool_call_id"])
            continue
        yield from _check_answered(unanswered_ids, number)
        unanswered_ids = [call["id"] for call in message.get("tool_calls") or ()]
    yield from _check_answered(unanswered_ids, len(body["messages"]))


def _make_stray_error(number: int) -> Violation:
    text = "messages with role 'tool' must be a response to a preceeding message with 'tool_calls'."
    return Violation(f"Invalid parameter: {text}", f"messages.[{number}].role")


def _check_answered(unanswered_ids: list[str], number: int) -> Iterator[Violation]:
    if unanswered_ids:
        yield Violation(
            "An assistant message with 'tool_calls' must be followed by tool messages responding "
            "to each 'tool_call_id'. The following tool_call_ids did not have response messages: "
            + ", ".join(unanswered_ids),
            f"messages.[{number}].role",
        )


def check_calls(body: Json) -> Iterator[Violation]:
    """Check names and ids of the calls in the history."""
    for number, message in enumerate(body["messages"]):
        for index, call in enumerate(message.get("tool_calls") or ()):
            path = f"messages[{number}].tool_calls[{index}]"
            yield from check_name(call[call["type"]]["name"], f"{path}.{call['type']}.name")
            if len(call["id"]) > ID_LENGTH:
                text = f"Expected a string with maximum length {ID_LENGTH}."
                yield Violation(
                    f"Invalid '{path}.id': string too long. {text}",
                    f"{path}.id",
                    "string_above_max_length",
                )


def check_tools(body: Json) -> Iterator[Violation]:
    """Check the offered tools."""
    if "tools" not in body:
        return
    yield from check_tool_list(body["tools"])
    for number, tool in enumerate(body["tools"]):
        if tool["type"] == "function":
            yield from check_function(tool["function"], f"tools[{number}].function")
        else:
            yield from check_name(tool["custom"]["name"], f"tools[{number}].custom.name")


def check_tool_choice(body: Json) -> Iterator[Violation]:
    """Check parameters that require tools, and the names in a tool choice."""
    for name in ("tool_choice", "parallel_tool_calls"):
        if name in body and not body.get("tools"):
            text = f"'{name}' is only allowed when 'tools' are specified."
            yield Violation(f"Invalid value for '{name}': {text}", name)
    choice = body.get("tool_choice")
    if not isinstance(choice, dict):
        return
    requested = choice["allowed_tools"]["tools"] if choice["type"] == "allowed_tools" else [choice]
    offered = {(tool["type"], tool[tool["type"]]["name"]) for tool in body.get("tools", ())}
    for tool in requested:
        kind = str(tool.get("type"))  # the SDK has no type for allowed tools
        names = [name for type_, name in offered if type_ == kind]
        choice_tool = tool.get(kind)
        yield from check_choice(
            choice_tool.get("name") if isinstance(choice_tool, dict) else None, names, kind
        )


def check_response_format(body: Json) -> Iterator[Violation]:
    """Check the format of structured output."""
    response_format = body.get("response_format") or {}
    if response_format.get("type") == "json_schema":
        yield from check_format(response_format["json_schema"], "response_format.json_schema")
    if response_format.get("type") == "json_object" and "json" not in str(body["messages"]).lower():
        text = "'messages' must contain the word 'json' in some form, to use 'response_format'"
        yield Violation(f"{text} of type 'json_object'.", "messages")


def check_combinations(body: Json) -> Iterator[Violation]:
    """Check parameters that exclude or require each other."""
    if body.get("stream_options") is not None and not body.get("stream"):
        text = "The 'stream_options' parameter is only allowed when 'stream' is enabled."
        yield Violation(text, "stream_options")
    if None not in (body.get("max_tokens"), body.get("max_completion_tokens")):
        text = "Setting 'max_tokens' and 'max_completion_tokens' at the same time is not supported."
        yield Violation(text, "max_tokens", "invalid_parameter_combination")
    if body.get("top_logprobs") is not None and not body.get("logprobs"):
        text = "'logprobs' must be set to true if 'top_logprobs' is used."
        yield Violation(f"Invalid value for 'top_logprobs': {text}", "top_logprobs")


def check_ranges(body: Json) -> Iterator[Violation]:
    """Check the ranges of numbers."""
    yield from check_limits(body, RANGES)


def check_limits(body: Json, limits: dict[str, tuple[int, int | None]]) -> Iterator[Violation]:
    """Check that numbers are between their minimum and maximum."""
    for name, (minimum, maximum) in limits.items():
        value = body.get(name)
        if value is not None and value < minimum:
            text = f"below minimum value. Expected a value >= {minimum}, but got {value} instead."
            yield Violation(f"Invalid '{name}': {text}", name, "integer_below_min_value")
        if value is not None and maximum is not None and value > maximum:
            text = f"above maximum value. Expected a value <= {maximum}, but got {value} instead."
            yield Violation(f"Invalid '{name}': {text}", name, "integer_above_max_value")


RULES: Sequence[Callable[[Json], Iterator[Violation]]] = (
    check_empty_arrays,
    check_content,
    check_adjacency,
    check_calls,
    check_tools,
    check_tool_choice,
    check_response_format,
    check_combinations,
    check_ranges,
)
"""Checks of requests whose types are correct."""
