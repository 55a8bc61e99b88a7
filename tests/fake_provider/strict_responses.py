"""OpenAI's rules for a Responses request."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

from openai.types.responses.response_create_params import ResponseCreateParamsBase
from openai.types.responses.response_input_item_param import ResponseInputItemParam
from openai.types.responses.response_input_message_content_list_param import (
    ResponseInputContentParam,
)
from openai.types.responses.response_output_message_param import Content as OutputContent

from . import strict_items
from .answers import Json
from .history import Turn, as_items
from .shape import (
    Violation,
    check,
    drop_accepted,
    list_fields,
    make_invalid_error,
    make_missing_error,
    make_unknown_error,
)
from .strict_chat import check_limits
from .strict_tools import (
    check_choice,
    check_format,
    check_function,
    check_name,
    check_tool_list,
)

INPUT: Any = str | list[ResponseInputContentParam]

ROLES: dict[str, Any] = {
    "user": INPUT,
    "system": INPUT,
    "developer": INPUT,
    "assistant": str | list[OutputContent],
}
"""Role -> the type of its content."""

MESSAGE_FIELDS = {"type", "role", "content", "id", "status", "phase"}

ANY_ITEM_FIELDS = {"id", "status"}
"""Fields that every item may have, because the API's own answers have them."""

OPTIONAL = tuple(
    f".{name}'." for name in ("strict", "parameters", "detail", "annotations", "id", "status")
)
"""Fields that the SDK's types require and the API does not."""

RANGES = {
    "temperature": (0, 2),
    "top_p": (0, 1),
    "top_logprobs": (0, 20),
    "max_output_tokens": (16, None),
}


def check_shape(body: Json, extra: Collection[str]) -> list[Violation]:
    """Return the parameters and items that do not match the SDK's types."""
    fields = list_fields(ResponseCreateParamsBase)
    violations = [] if "model" in body else [make_missing_error("model")]
    for name, value in body.items():
        if name == "input" and isinstance(value, list):
            violations += [
                v for i, item in enumerate(value) for v in _check_item(item, f"input[{i}]")
            ]
        elif name == "stream":
            violations += check(value, bool | None, name)
        elif name in fields:
            violations += check(value, fields[name].type, name)
        else:
            violations.append(make_unknown_error(name))
    return [
        violation for violation in drop_accepted(violations, extra) if not _is_forgiven(violation)
    ]


def _is_forgiven(violation: Violation) -> bool:
    return violation == make_missing_error(violation.param or "") and violation.endswith(OPTIONAL)


def _check_item(item: Any, path: str) -> list[Violation]:
    if not isinstance(item, dict):
        return check(item, dict[str, object], path)
    kind = item.get("type", "message" if "role" in item else "item_reference")
    if kind == "message":
        return list(_check_message(item, path))
    fields = {k: v for k, v in item.items() if k not in ANY_ITEM_FIELDS or kind == "item_reference"}
    return check({**fields, "type": kind}, ResponseInputItemParam, path)


def _check_message(item: Json, path: str) -> Iterator[Violation]:
    yield from (make_unknown_error(f"{path}.{name}") for name in item.keys() - MESSAGE_FIELDS)
    if item.get("role") not in list(ROLES):  # it may be anything
        yield make_invalid_error(item.get("role"), ROLES, f"{path}.role")
    elif "content" not in item:
        yield make_missing_error(f"{path}.content")
    else:
        yield from check(item["content"], ROLES[item["role"]], f"{path}.content")


def check_input(body: Json, turns: Mapping[str, Turn]) -> Iterator[Violation]:
    """Check that there is an input or a substitute, and that the previous response is known."""
    sources = ("input", "previous_response_id", "prompt", "conversation")
    if all(body.get(name) is None for name in sources):
        yield Violation("One of 'input' or 'previous_response_id' or 'prompt' or 'conversation' "
                        "must be provided.", "input", "missing_required_parameter")  # fmt: skip
    previous_id = body.get("previous_response_id")
    if previous_id is not None and previous_id not in turns:
        yield Violation(
            f"Previous response with id '{previous_id}' not found.",
            "previous_response_id",
            "previous_response_not_found",
        )


def check_tools(body: Json, turns: Mapping[str, Turn]) -> Iterator[Violation]:
    """Check the offered tools, including those in namespaces."""
    if "tools" in body:
        yield from check_tool_list(body["tools"])
    for path, tool in _all_tools(body):
        if tool["type"] == "function":
            yield from check_function(tool, path)
        elif "name" in tool:
            yield from check_name(tool["name"], f"{path}.name")


def check_tool_choice(body: Json, turns: Mapping[str, Turn]) -> Iterator[Violation]:
    """Check that a required tool is offered."""
    choice = body.get("tool_choice")
    offered = [tool for _, tool in _all_tools(body)]
    if choice == "required" and not offered:
        text = "Tool choice 'required' must be specified with 'tools' parameter."
        yield Violation(text, "tool_choice", "invalid_value")
    if not isinstance(choice, dict):
        return
    requested = choice["tools"] if choice["type"] == "allowed_tools" else [choice]
    for tool in requested:
        kind = str(tool.get("type"))  # the SDK has no type for allowed tools
        candidates = [tool_offer for tool_offer in offered if tool_offer["type"] == kind]
        yield from check_choice(tool.get("name"), _list_names(candidates), kind)


def _list_names(tools: Sequence[Json]) -> list[Any]:
    return [tool.get("name") for tool in tools]


def _all_tools(body: Json) -> Iterator[tuple[str, Json]]:
    yield from _walk_tools(body.get("tools") or (), "tools")
    for number, item in enumerate(as_items(body.get("input"))):
        if item.get("type") in ("additional_tools", "tool_search_output"):
            yield from _walk_tools(item["tools"], f"input[{number}].tools")


def _walk_tools(tools: Sequence[Json], path: str) -> Iterator[tuple[str, Json]]:
    for number, tool in enumerate(tools):
        yield f"{path}[{number}]", tool
        if tool["type"] == "namespace":
            yield from _walk_tools(tool["tools"], f"{path}[{number}].tools")


def check_text_format(body: Json, turns: Mapping[str, Turn]) -> Iterator[Violation]:
    """Check the format of structured output."""
    text_format = (body.get("text") or {}).get("format") or {}
    if text_format.get("type") == "json_schema":
        yield from check_format(text_format, "text.format")
    if text_format.get("type") == "json_object" and "json" not in str(body.get("input")).lower():
        text = "Response input messages must contain the word 'json' in some form to use"
        yield Violation(f"{text} 'text.format' of type 'json_object'.", "input")


def check_combinations(body: Json, turns: Mapping[str, Turn]) -> Iterator[Violation]:
    """Check parameters that exclude or require each other, and the ranges of numbers."""
    if body.get("stream_options") is not None and not body.get("stream"):
        text = "The 'stream_options' parameter is only allowed when 'stream' is enabled."
        yield Violation(text, "stream_options")
    if None not in (body.get("previous_response_id"), body.get("conversation")):
        text = "Mutually exclusive parameters: 'previous_response_id' and 'conversation'."
        yield Violation(text, "conversation", "mutually_exclusive_parameters")
    yield from check_limits(body, RANGES)


RULES: Sequence[Callable[[Json, Mapping[str, Turn]], Iterator[Violation]]] = (
    check_input,
    *strict_items.RULES,
    check_tools,
    check_tool_choice,
    check_text_format,
    check_combinations,
)
"""Checks of requests whose types are correct."""
