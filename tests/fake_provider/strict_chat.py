"""OpenAI's rules for a Chat Completions request."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence

from openai.types.chat.completion_create_params import CompletionCreateParamsBase

from .answers import Json
from .shape import Violation, accepting, check, list_fields, make_missing_error, make_unknown_error
from .strict_tools import (
    choice_violations,
    empty_array,
    format_violations,
    function_violations,
    list_violations,
    name_violations,
)

EXTRA_FIELDS = frozenset(
    {
        # vendors' fields of messages and calls, which most others ignore
        "reasoning_content", "reasoning", "reasoning_details", "extra_content",
        # fields of OpenAI's answers, or of its SDK, that clients send back
        "annotations", "parsed", "parsed_arguments",
    }
)  # fmt: skip
"""Fields of messages that are not in the SDK's request types, and accepted all the same."""

SPOKEN = ("content", "tool_calls", "refusal", "function_call", "audio")
"""Where an assistant message can have something."""

ID_LENGTH = 40
"""Characters in the id of a tool call."""

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
"""Parameter -> its least and greatest value."""


def shape_violations(body: Json, extra: Collection[str]) -> list[Violation]:
    """Parameters and messages that are not of the SDK's types."""
    known = list_fields(CompletionCreateParamsBase)
    found = [
        make_missing_error(name)
        for name, field in known.items()
        if field.required and name not in body
    ]
    for name, value in body.items():
        if name == "stream":
            found += check(value, bool | None, name)
        elif name in known:
            found += check(value, known[name].type, name)
        else:
            found.append(make_unknown_error(name))
    return accepting(accepting(found, extra), EXTRA_FIELDS, under="messages[")


def check_empty_arrays(body: Json) -> Iterator[Violation]:
    """Arrays that need members."""
    if not body["messages"]:
        yield empty_array("messages")
    for number, message in enumerate(body["messages"]):
        for name in ("content", "tool_calls"):
            if message.get(name) == []:
                yield empty_array(f"messages[{number}].{name}")


def check_content(body: Json) -> Iterator[Violation]:
    """An assistant message must have said or called something."""
    for number, message in enumerate(body["messages"]):
        silent = all(message.get(name) is None for name in SPOKEN)
        if message["role"] == "assistant" and silent:
            where = f"messages[{number}].content"
            said = f"Invalid value for '{where}': expected a string, got null."
            yield Violation(said, where, "invalid_value")


def check_adjacency(body: Json) -> Iterator[Violation]:
    """Tool messages answer the assistant message right before them, each call once."""
    waiting: list[str] = []
    for number, message in enumerate(body["messages"]):
        if message["role"] == "tool":
            if message["tool_call_id"] not in waiting:
                yield _make_stray_error(number)
            else:
                waiting.remove(message["tool_call_id"])
            continue
        yield from _check_answered(waiting, number)
        waiting = [call["id"] for call in message.get("tool_calls") or ()]
    yield from _check_answered(waiting, len(body["messages"]))


def _make_stray_error(number: int) -> Violation:
    said = "messages with role 'tool' must be a response to a preceeding message with 'tool_calls'."
    return Violation(f"Invalid parameter: {said}", f"messages.[{number}].role")


def _check_answered(waiting: list[str], number: int) -> Iterator[Violation]:
    if waiting:
        yield Violation(
            "An assistant message with 'tool_calls' must be followed by tool messages responding "
            "to each 'tool_call_id'. The following tool_call_ids did not have response messages: "
            + ", ".join(waiting),
            f"messages.[{number}].role",
        )


def check_calls(body: Json) -> Iterator[Violation]:
    """Names and ids of the calls in the history."""
    for number, message in enumerate(body["messages"]):
        for place, call in enumerate(message.get("tool_calls") or ()):
            where = f"messages[{number}].tool_calls[{place}]"
            yield from name_violations(call[call["type"]]["name"], f"{where}.{call['type']}.name")
            if len(call["id"]) > ID_LENGTH:
                said = f"Expected a string with maximum length {ID_LENGTH}."
                yield Violation(
                    f"Invalid '{where}.id': string too long. {said}",
                    f"{where}.id",
                    "string_above_max_length",
                )


def check_tools(body: Json) -> Iterator[Violation]:
    """The tools on offer."""
    if "tools" not in body:
        return
    yield from list_violations(body["tools"])
    for number, tool in enumerate(body["tools"]):
        if tool["type"] == "function":
            yield from function_violations(tool["function"], f"tools[{number}].function")
        else:
            yield from name_violations(tool["custom"]["name"], f"tools[{number}].custom.name")


def tool_choice(body: Json) -> Iterator[Violation]:
    """Parameters that require tools, and names that must be among them."""
    for name in ("tool_choice", "parallel_tool_calls"):
        if name in body and not body.get("tools"):
            said = f"'{name}' is only allowed when 'tools' are specified."
            yield Violation(f"Invalid value for '{name}': {said}", name)
    choice = body.get("tool_choice")
    if not isinstance(choice, dict):
        return
    asked = choice["allowed_tools"]["tools"] if choice["type"] == "allowed_tools" else [choice]
    offered = {(tool["type"], tool[tool["type"]]["name"]) for tool in body.get("tools", ())}
    for tool in asked:
        kind = str(tool.get("type"))  # allowed tools are of no type in the SDK
        names = [name for type_, name in offered if type_ == kind]
        meant = tool.get(kind)
        yield from choice_violations(
            meant.get("name") if isinstance(meant, dict) else None, names, kind
        )


def response_format(body: Json) -> Iterator[Violation]:
    """Structured output."""
    asked = body.get("response_format") or {}
    if asked.get("type") == "json_schema":
        yield from format_violations(asked["json_schema"], "response_format.json_schema")
    if asked.get("type") == "json_object" and "json" not in str(body["messages"]).lower():
        said = "'messages' must contain the word 'json' in some form, to use 'response_format'"
        yield Violation(f"{said} of type 'json_object'.", "messages")


def check_combinations(body: Json) -> Iterator[Violation]:
    """Parameters that exclude or demand one another."""
    if body.get("stream_options") is not None and not body.get("stream"):
        said = "The 'stream_options' parameter is only allowed when 'stream' is enabled."
        yield Violation(said, "stream_options")
    if None not in (body.get("max_tokens"), body.get("max_completion_tokens")):
        said = "Setting 'max_tokens' and 'max_completion_tokens' at the same time is not supported."
        yield Violation(said, "max_tokens", "invalid_parameter_combination")
    if body.get("top_logprobs") is not None and not body.get("logprobs"):
        said = "'logprobs' must be set to true if 'top_logprobs' is used."
        yield Violation(f"Invalid value for 'top_logprobs': {said}", "top_logprobs")


def check_ranges(body: Json) -> Iterator[Violation]:
    """Numbers outside of their ranges."""
    yield from out_of_range(body, RANGES)


def out_of_range(body: Json, limits: dict[str, tuple[int, int | None]]) -> Iterator[Violation]:
    """Numbers below their least or above their greatest value."""
    for name, (least, most) in limits.items():
        value = body.get(name)
        if value is not None and value < least:
            said = f"below minimum value. Expected a value >= {least}, but got {value} instead."
            yield Violation(f"Invalid '{name}': {said}", name, "integer_below_min_value")
        if value is not None and most is not None and value > most:
            said = f"above maximum value. Expected a value <= {most}, but got {value} instead."
            yield Violation(f"Invalid '{name}': {said}", name, "integer_above_max_value")


RULES: Sequence[Callable[[Json], Iterator[Violation]]] = (
    check_empty_arrays,
    check_content,
    check_adjacency,
    check_calls,
    check_tools,
    tool_choice,
    response_format,
    check_combinations,
    check_ranges,
)
"""What is looked at once all is of the right type."""
