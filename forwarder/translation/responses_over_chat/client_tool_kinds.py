"""The kinds of tools that a Responses client runs, and their conversion to functions.

Chat upstreams know only functions.  For every other kind, its definition, its calls and its
outputs are converted to those of a function, and the calls in the answer are converted back.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NamedTuple

from forwarder.core.types import Json
from forwarder.core.validate import ANY, DICT, STR, JsonTypes, require_field
from forwarder.translation import content_parts
from forwarder.translation.responses_over_chat.custom_tool_input import (
    read_custom_input,
    read_object,
)


class ClientToolKind(NamedTuple):
    """One kind of tool and its conversion to and from a function.

    ``call_type`` and ``output_type`` are the item types of its calls and of their outputs.
    ``id_prefix`` begins the ids of its calls.  ``input_field`` is the field of a call with the
    model's input, and the JSON types of the field.
    ``make_parameters`` and ``describe`` convert the tool's definition, ``make_arguments`` a call in
    the history and ``read_result`` an output.  ``make_call_fields`` converts the model's arguments
    to the fields of a call item.
    ``streams_input`` is true if the input is sent while the model writes it.  ``cut_status`` is the
    status of an incomplete call.
    """

    call_type: str
    output_type: str
    id_prefix: str
    input_field: tuple[str, JsonTypes]
    make_parameters: Callable[[Json], Json]
    describe: Callable[[Json], str | None]
    make_arguments: Callable[[Json], str]
    make_call_fields: Callable[[str], Json]
    read_result: Callable[[Json, str], Any]
    streams_input: bool = False
    cut_status: str = "incomplete"


def dump_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def make_object_schema(**properties: Json) -> Json:
    """Make an object schema; ``required: True`` in a property moves to the schema's list."""
    required = [name for name, schema in properties.items() if schema.pop("required", False)]
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


def make_string_array_schema(description: str, **more: Any) -> Json:
    return {"type": "array", "items": {"type": "string"}, "description": description, **more}


# -- results ------------------------------------------------------------------------------------


def read_output(item: Json, path: str) -> Any:
    """Return an output that is a string, or the chat parts for a list of parts."""
    output = require_field(item, "output", (str, list), f"{path}.output")
    if isinstance(output, str):
        return output
    return content_parts.convert_parts(output, content_parts.INPUT_TO_CHAT, f"{path}.output")


def read_json_output(item: Json, path: str) -> str:
    output = require_field(item, "output", (str, list), f"{path}.output")
    return output if isinstance(output, str) else dump_json(output)


def read_patch_output(item: Json, path: str) -> str:
    status = require_field(item, "status", STR, f"{path}.status")
    return f"{status}: {item['output']}" if item.get("output") else status


def list_found_tools(item: Json, path: str) -> str:
    return dump_json({"tools": [tool.get("name") for tool in item.get("tools") or ()]})


# -- functions ----------------------------------------------------------------------------------


FUNCTION = ClientToolKind(
    "function_call",
    "function_call_output",
    "fc",
    input_field=("arguments", STR),
    make_parameters=lambda tool: tool.get("parameters") or {"type": "object", "properties": {}},
    describe=lambda tool: tool.get("description"),
    make_arguments=lambda item: item.get("arguments") or "{}",
    make_call_fields=lambda arguments: {"arguments": arguments},
    read_result=read_output,
    streams_input=True,
)

# -- freeform tools -----------------------------------------------------------------------------


def make_custom_parameters(tool: Json) -> Json:
    return make_object_schema(
        input={
            "type": "string",
            "description": "The whole input of the tool, as plain text, not wrapped in JSON.",
            "required": True,
        }
    )


def make_custom_description(tool: Json) -> str:
    text = tool.get("description") or ""
    grammar = tool.get("format") or {}
    if grammar.get("type") == "grammar":
        text += (
            f"\n\nThe input must follow this {grammar.get('syntax', 'lark')} grammar:\n"
            f"{grammar.get('definition', '')}"
        )
    return text


CUSTOM = ClientToolKind(
    "custom_tool_call",
    "custom_tool_call_output",
    "ctc",
    input_field=("input", STR),
    make_parameters=make_custom_parameters,
    describe=make_custom_description,
    make_arguments=lambda item: dump_json({"input": item.get("input") or ""}),
    make_call_fields=lambda arguments: {"input": read_custom_input(arguments)},
    read_result=read_output,
    streams_input=True,
)

# -- shells, patches, tool search ---------------------------------------------------------------


def make_local_shell_fields(arguments: str) -> Json:
    action = read_object(arguments)
    command, env = action.get("command"), action.get("env")
    return {
        "action": {
            "type": "exec",
            "command": to_strings(command) or ["bash", "-lc", str(command or "")],
            "env": {k: str(v) for k, v in env.items()} if isinstance(env, dict) else {},
            "timeout_ms": to_safe_integer(action.get("timeout_ms")),
            "working_directory": str(action.get("working_directory") or "") or None,
        }
    }


def to_strings(value: Any) -> list[str]:
    return [str(each) for each in value] if isinstance(value, list) else []


def to_safe_integer(value: Any) -> int | None:
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if abs(number) < 2**53 else None  # the range that all JSON parsers support


def make_local_shell_arguments(item: Json) -> str:
    action = item.get("action") or {}
    names = ("command", "working_directory", "timeout_ms", "env")
    return dump_json({name: action[name] for name in names if action.get(name)})


LOCAL_SHELL = ClientToolKind(
    "local_shell_call",
    "local_shell_call_output",
    "lsh",
    input_field=("action", DICT),
    make_parameters=lambda tool: make_object_schema(
        command=make_string_array_schema("The program and its arguments.", required=True),
        working_directory={"type": "string"},
        timeout_ms={"type": "integer"},
    ),
    describe=lambda tool: "Run one command on the user's machine.",
    make_arguments=make_local_shell_arguments,
    make_call_fields=make_local_shell_fields,
    read_result=read_json_output,
)


def make_shell_fields(arguments: str) -> Json:
    action = read_object(arguments)
    commands = action.get("commands") or action.get("command")
    return {
        "action": {
            "commands": [commands] if isinstance(commands, str) else to_strings(commands),
            "timeout_ms": to_safe_integer(action.get("timeout_ms")),
            "max_output_length": to_safe_integer(action.get("max_output_length")),
        },
        "environment": {"type": "local"},
    }


SHELL = ClientToolKind(
    "shell_call",
    "shell_call_output",
    "sh",
    input_field=("action", DICT),
    make_parameters=lambda tool: make_object_schema(
        commands=make_string_array_schema(
            "Shell commands, run one after the other.", required=True
        ),
        timeout_ms={"type": "integer"},
        max_output_length={"type": "integer"},
    ),
    describe=lambda tool: "Run shell commands on the user's machine.",
    make_arguments=lambda item: dump_json(
        {k: v for k, v in (item.get("action") or {}).items() if v}
    ),
    make_call_fields=make_shell_fields,
    read_result=read_json_output,
)


_PATCH_OPERATIONS = ("create_file", "update_file", "delete_file")


def make_patch_fields(arguments: str) -> Json:
    operation = read_object(arguments)
    kind = operation.get("type") if operation.get("type") in _PATCH_OPERATIONS else "update_file"
    names = ("path",) if kind == "delete_file" else ("path", "diff")
    return {"operation": {"type": kind, **{name: str(operation.get(name) or "") for name in names}}}


APPLY_PATCH = ClientToolKind(
    "apply_patch_call",
    "apply_patch_call_output",
    "apc",
    input_field=("operation", DICT),
    make_parameters=lambda tool: make_object_schema(
        type={
            "type": "string",
            "enum": list(_PATCH_OPERATIONS),
            "required": True,
        },
        path={"type": "string", "required": True},
        diff={"type": "string", "description": "V4A diff; not for delete_file."},
    ),
    describe=lambda tool: "Create, update or delete one file by a diff.",
    make_arguments=lambda item: dump_json(item.get("operation") or {}),
    make_call_fields=make_patch_fields,
    read_result=read_patch_output,
    cut_status="in_progress",
)

TOOL_SEARCH = ClientToolKind(
    "tool_search_call",
    "tool_search_output",
    "tsc",
    input_field=("arguments", ANY),
    make_parameters=lambda tool: (
        tool.get("parameters") or make_object_schema(query={"type": "string", "required": True})
    ),
    describe=lambda tool: tool.get("description") or "Search for further tools.",
    make_arguments=lambda item: dump_json(item.get("arguments") or {}),
    make_call_fields=lambda arguments: {"arguments": read_object(arguments), "execution": "client"},
    read_result=list_found_tools,
)

TOOL_KINDS: dict[str, ClientToolKind] = {
    "function": FUNCTION,
    "custom": CUSTOM,
    "local_shell": LOCAL_SHELL,
    "shell": SHELL,
    "apply_patch": APPLY_PATCH,
    "tool_search": TOOL_SEARCH,
}
"""Tool type -> kind, for all tools that the client runs."""

CALL_TYPES: dict[str, tuple[str, ClientToolKind]] = {
    kind.call_type: (name, kind) for name, kind in TOOL_KINDS.items()
}
"""Item type of a call -> its tool type and kind."""

OUTPUT_TYPES: dict[str, ClientToolKind] = {kind.output_type: kind for kind in TOOL_KINDS.values()}
"""Item type of a call's output -> its kind."""
