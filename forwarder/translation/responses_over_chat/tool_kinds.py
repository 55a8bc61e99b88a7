"""The kinds of tool that a Responses client runs itself, and how each wears a function.

Chat upstreams know functions.  Every other kind becomes one: its definition, its calls in the
history and in the answer, and its outputs are turned into a function's and back.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NamedTuple

from forwarder.core.types import Json
from forwarder.core.validate import ANY, DICT, STR, Types, require
from forwarder.translation import content_parts
from forwarder.translation.responses_over_chat.custom_tool_input import custom_input, read_object


class Kind(NamedTuple):
    """One kind of tool, as a function.

    ``call`` and ``output`` are the item types of its calls and of what they gave back.
    ``given`` is the field of a call that holds what the model wrote, and its JSON types.
    ``parameters`` and ``describe`` take the tool's definition, ``arguments`` a call from the
    history; ``fields`` turns the arguments that the model wrote into the call item's own fields.
    ``streams`` when the input is shown while it is written; ``cut`` is the status of a call that
    was cut off.
    """

    call: str
    output: str
    id_prefix: str
    given: tuple[str, Types]
    parameters: Callable[[Json], Json]
    describe: Callable[[Json], str | None]
    arguments: Callable[[Json], str]
    fields: Callable[[str], Json]
    result: Callable[[Json, str], Any]
    streams: bool = False
    cut: str = "incomplete"


def _dumps(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _schema(**properties: Json) -> Json:
    """An object schema in which the properties marked ``required`` are so."""
    required = [name for name, schema in properties.items() if schema.pop("required", False)]
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


def _strings(description: str, **more: Any) -> Json:
    return {"type": "array", "items": {"type": "string"}, "description": description, **more}


# -- results ------------------------------------------------------------------------------------


def _output(item: Json, path: str) -> Any:
    """A string as it is; a list of parts as chat parts (images too: the history places them)."""
    output = require(item, "output", (str, list), f"{path}.output")
    if isinstance(output, str):
        return output
    return content_parts.convert(output, content_parts.INPUT_TO_CHAT, f"{path}.output")


def _json_output(item: Json, path: str) -> str:
    output = require(item, "output", (str, list), f"{path}.output")
    return output if isinstance(output, str) else _dumps(output)


def _patch_output(item: Json, path: str) -> str:
    status = require(item, "status", STR, f"{path}.status")
    return f"{status}: {item['output']}" if item.get("output") else status


def _found_tools(item: Json, path: str) -> str:
    return _dumps({"tools": [tool.get("name") for tool in item.get("tools") or ()]})


# -- functions ----------------------------------------------------------------------------------


FUNCTION = Kind(
    "function_call",
    "function_call_output",
    "fc",
    given=("arguments", STR),
    parameters=lambda tool: tool.get("parameters") or {"type": "object", "properties": {}},
    describe=lambda tool: tool.get("description"),
    arguments=lambda item: item.get("arguments") or "{}",
    fields=lambda arguments: {"arguments": arguments},
    result=_output,
    streams=True,
)

# -- freeform tools -----------------------------------------------------------------------------


def _custom_parameters(tool: Json) -> Json:
    return _schema(
        input={
            "type": "string",
            "description": "The whole input of the tool, as plain text, not wrapped in JSON.",
            "required": True,
        }
    )


def _custom_description(tool: Json) -> str:
    text = tool.get("description") or ""
    grammar = tool.get("format") or {}
    if grammar.get("type") == "grammar":
        text += (
            f"\n\nThe input must follow this {grammar.get('syntax', 'lark')} grammar:\n"
            f"{grammar.get('definition', '')}"
        )
    return text


CUSTOM = Kind(
    "custom_tool_call",
    "custom_tool_call_output",
    "ctc",
    given=("input", STR),
    parameters=_custom_parameters,
    describe=_custom_description,
    arguments=lambda item: _dumps({"input": item.get("input") or ""}),
    fields=lambda arguments: {"input": custom_input(arguments)},
    result=_output,
    streams=True,
)

# -- shells, patches, tool search ---------------------------------------------------------------


def _local_shell_fields(arguments: str) -> Json:
    given = read_object(arguments)
    command, env = given.get("command"), given.get("env")
    return {
        "action": {
            "type": "exec",
            "command": _texts(command) or ["bash", "-lc", str(command or "")],
            "env": {k: str(v) for k, v in env.items()} if isinstance(env, dict) else {},
            "timeout_ms": _number(given.get("timeout_ms")),
            "working_directory": str(given.get("working_directory") or "") or None,
        }
    }


def _texts(value: Any) -> list[str]:
    return [str(each) for each in value] if isinstance(value, list) else []


def _number(value: Any) -> int | None:
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if abs(number) < 2**53 else None  # what JSON's readers agree on


def _local_shell_arguments(item: Json) -> str:
    action = item.get("action") or {}
    names = ("command", "working_directory", "timeout_ms", "env")
    return _dumps({name: action[name] for name in names if action.get(name)})


LOCAL_SHELL = Kind(
    "local_shell_call",
    "local_shell_call_output",
    "lsh",
    given=("action", DICT),
    parameters=lambda tool: _schema(
        command=_strings("The program and its arguments.", required=True),
        working_directory={"type": "string"},
        timeout_ms={"type": "integer"},
    ),
    describe=lambda tool: "Run one command on the user's machine.",
    arguments=_local_shell_arguments,
    fields=_local_shell_fields,
    result=_json_output,
)


def _shell_fields(arguments: str) -> Json:
    given = read_object(arguments)
    commands = given.get("commands") or given.get("command")
    return {
        "action": {
            "commands": [commands] if isinstance(commands, str) else _texts(commands),
            "timeout_ms": _number(given.get("timeout_ms")),
            "max_output_length": _number(given.get("max_output_length")),
        },
        "environment": {"type": "local"},
    }


SHELL = Kind(
    "shell_call",
    "shell_call_output",
    "sh",
    given=("action", DICT),
    parameters=lambda tool: _schema(
        commands=_strings("Shell commands, run one after the other.", required=True),
        timeout_ms={"type": "integer"},
        max_output_length={"type": "integer"},
    ),
    describe=lambda tool: "Run shell commands on the user's machine.",
    arguments=lambda item: _dumps({k: v for k, v in (item.get("action") or {}).items() if v}),
    fields=_shell_fields,
    result=_json_output,
)


_PATCHES = ("create_file", "update_file", "delete_file")


def _patch_fields(arguments: str) -> Json:
    given = read_object(arguments)
    kind = given.get("type") if given.get("type") in _PATCHES else "update_file"
    names = ("path",) if kind == "delete_file" else ("path", "diff")
    return {"operation": {"type": kind, **{name: str(given.get(name) or "") for name in names}}}


APPLY_PATCH = Kind(
    "apply_patch_call",
    "apply_patch_call_output",
    "apc",
    given=("operation", DICT),
    parameters=lambda tool: _schema(
        type={
            "type": "string",
            "enum": list(_PATCHES),
            "required": True,
        },
        path={"type": "string", "required": True},
        diff={"type": "string", "description": "V4A diff; not for delete_file."},
    ),
    describe=lambda tool: "Create, update or delete one file by a diff.",
    arguments=lambda item: _dumps(item.get("operation") or {}),
    fields=_patch_fields,
    result=_patch_output,
    cut="in_progress",
)

TOOL_SEARCH = Kind(
    "tool_search_call",
    "tool_search_output",
    "tsc",
    given=("arguments", ANY),
    parameters=lambda tool: (
        tool.get("parameters") or _schema(query={"type": "string", "required": True})
    ),
    describe=lambda tool: tool.get("description") or "Search for further tools.",
    arguments=lambda item: _dumps(item.get("arguments") or {}),
    fields=lambda arguments: {"arguments": read_object(arguments), "execution": "client"},
    result=_found_tools,
)

KINDS: dict[str, Kind] = {
    "function": FUNCTION,
    "custom": CUSTOM,
    "local_shell": LOCAL_SHELL,
    "shell": SHELL,
    "apply_patch": APPLY_PATCH,
    "tool_search": TOOL_SEARCH,
}
"""Tool type -> kind, for every tool that the client runs."""

CALLS: dict[str, tuple[str, Kind]] = {kind.call: (name, kind) for name, kind in KINDS.items()}
"""Item type of a call -> its tool type and kind."""

OUTPUTS: dict[str, Kind] = {kind.output: kind for kind in KINDS.values()}
"""Item type of a call's output -> its kind."""
