"""The parameters of a Messages request that both translations convert: tools, thinking, limits."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

from forwarder.core.errors import InvalidRequest, Unsupported, shorten_value
from forwarder.core.paced_iteration import iter_paced
from forwarder.core.translation_context import LossReport, TranslationContext
from forwarder.core.types import Json
from forwarder.core.validate import (
    BOOL,
    DICT,
    INT,
    LIST,
    STR,
    check_enum,
    check_type,
    read_field,
    require_field,
)
from forwarder.protocols.messages_dispositions import MESSAGES_PARAMETERS, MESSAGES_TOOLS
from forwarder.protocols.parameters import validate_parameters

# -- limits -------------------------------------------------------------------------------------


def read_token_limit(request: Json) -> int:
    limit = require_field(request, "max_tokens", INT, "max_tokens")
    if limit < 1:
        raise InvalidRequest(
            "Invalid 'max_tokens': expected a value of at least 1.",
            param="max_tokens",
            code="integer_below_min_value",
        )
    return int(limit)


def read_stop_sequences(request: Json) -> list[str]:
    """Return the stop sequences; raises InvalidRequest for empty ones."""
    stops = read_field(request, "stop_sequences", LIST, "stop_sequences") or []
    for i, stop in enumerate(stops):
        if not check_type(stop, STR, f"stop_sequences[{i}]"):
            raise InvalidRequest(
                f"Invalid 'stop_sequences[{i}]': it must not be empty.",
                param=f"stop_sequences[{i}]",
                code="invalid_value",
            )
    return stops


# -- thinking -----------------------------------------------------------------------------------

_THINKING_TYPES = ("enabled", "adaptive", "between_tools", "disabled")
_EFFORTS = ("low", "medium", "high", "xhigh", "max")
_BUDGETS = ((4096, "low"), (16384, "medium"))
"""A thinking budget below this number of tokens -> the effort."""


class ThinkingSettings(NamedTuple):
    """The effort for the upstream, if any, and how the client gets reasoning.

    ``is_shown`` is false if the client did not enable thinking.  ``has_text`` is false if it wants
    only the signatures.
    """

    effort: str | None
    is_shown: bool
    has_text: bool = True


def read_thinking_settings(request: Json) -> ThinkingSettings:
    config = read_field(request, "output_config", DICT, "output_config") or {}
    effort = read_field(config, "effort", STR, "output_config.effort")
    if effort is not None:
        check_enum(effort, _EFFORTS, "output_config.effort")
    thinking = read_field(request, "thinking", DICT, "thinking")
    if thinking is None:
        return ThinkingSettings(effort, False)
    kind = require_field(thinking, "type", STR, "thinking.type")
    check_enum(kind, _THINKING_TYPES, "thinking.type")
    if kind in ("disabled", "between_tools"):  # between_tools shows only progress reports
        return ThinkingSettings("none", False)
    display = read_field(thinking, "display", STR, "thinking.display") or "summarized"
    check_enum(display, ("summarized", "omitted", "updates"), "thinking.display")
    if kind == "enabled":
        budget = require_field(thinking, "budget_tokens", INT, "thinking.budget_tokens")
        effort = effort or next((name for limit, name in _BUDGETS if budget < limit), "high")
    return ThinkingSettings(effort or "medium", True, display != "omitted")


# -- structured output --------------------------------------------------------------------------


def read_schema(request: Json) -> Json | None:
    """Return the schema of the answer, if it has one."""
    config = read_field(request, "output_config", DICT, "output_config") or {}
    for holder, name, path in (
        (config, "format", "output_config.format"),
        (request, "output_format", "output_format"),
    ):
        answer_format = read_field(holder, name, DICT, path)
        if answer_format is not None:
            kind = require_field(answer_format, "type", STR, f"{path}.type")
            check_enum(kind, ("json_schema",), f"{path}.type")
            schema: Json = require_field(answer_format, "schema", DICT, f"{path}.schema")
            return schema
    return None


def make_json_schema(schema: Json) -> Json:
    """Return the schema with its name; OpenAI's strict mode applies only to schemas that fit it."""
    return {"name": "answer", "schema": schema, "strict": is_strict_schema(schema)}


def is_strict_schema(schema: Any) -> bool:
    """Whether all objects in a schema require all of their properties, and allow no others."""
    waiting = [schema]
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting += value
        if not isinstance(value, dict):
            continue
        properties = value.get("properties")
        if value.get("type") == "object" or isinstance(properties, dict):
            required = value.get("required")
            names = set(map(str, required)) if isinstance(required, list) else set()
            fields = set(properties) if isinstance(properties, dict) else set()
            if value.get("additionalProperties") is not False or names != fields:
                return False
        waiting += value.values()
    return True


# -- metadata, caching, tiers -------------------------------------------------------------------

_MAX_USER_LENGTH = 64
"""OpenAI refuses longer user ids."""


def read_user(request: Json) -> str | None:
    """Return the id of the user; a hash of it if it is too long."""
    metadata = read_field(request, "metadata", DICT, "metadata") or {}
    user = read_field(metadata, "user_id", STR, "metadata.user_id")
    if user is None or len(user) <= _MAX_USER_LENGTH:
        return user or None
    return hashlib.sha256(user.encode(errors="replace")).hexdigest()


def make_cache_key(request: Json, system: str) -> str | None:
    """Return a key for the upstream's prompt cache, if the client marks anything for caching.

    It depends on user and system prompt, so all requests of a conversation have the same key.
    """
    if not has_cache_control(request):
        return None
    seed = f"{read_user(request)}\0{system}"
    return hashlib.sha256(seed.encode(errors="replace")).hexdigest()[:32]


def has_cache_control(request: Json) -> bool:
    if request.get("cache_control"):
        return True
    marked = (each.get("cache_control") for each in iter_markable_objects(request))
    return any(marked)


def iter_markable_objects(request: Json) -> Iterator[Json]:
    """Yield the tools and blocks that may be marked; the last messages are marked most often."""
    for name in ("system", "tools", "messages"):
        entries = request.get(name)
        for entry in iter_paced(entries[::-1] if isinstance(entries, list) else ()):
            if not isinstance(entry, dict):
                continue
            yield entry
            content = entry.get("content")
            for block in iter_paced(content if isinstance(content, list) else ()):
                if isinstance(block, dict):
                    yield block


def read_service_tier(request: Json) -> str | None:
    """Return OpenAI's service tier; None for the upstream's default."""
    speed = read_field(request, "speed", STR, "speed")
    if speed is not None and check_enum(speed, ("standard", "fast"), "speed") == "fast":
        return "priority"
    tier = read_field(request, "service_tier", STR, "service_tier")
    if tier is not None:
        check_enum(tier, ("auto", "standard_only"), "service_tier")
    return "default" if tier == "standard_only" else None


# -- parameters that keep their names, and fields that are not read -----------------------------

_COPIED = frozenset({"model", "stream", "temperature", "top_p", "top_k"})

_FUNCTION_FIELDS = frozenset(
    {"type", "name", "description", "input_schema", "strict", "cache_control",
     "eager_input_streaming"}  # arguments are always streamed as they arrive
)  # fmt: skip
_SEARCH_FIELDS = frozenset(
    {"type", "name", "allowed_domains", "blocked_domains", "user_location", "max_uses",
     "cache_control"}
)  # fmt: skip

_EMPTY_VALUES: tuple[Any, ...] = (None, False, [], {}, ["direct"])
"""Values that request nothing; ``["direct"]`` is the default of ``allowed_callers``."""

_ALL_OFFERED = "all tools are offered from the start"


def copy_parameters(request: Json, context: TranslationContext) -> Json:
    """Check all parameters, and return those that keep their names."""
    copied: Json = {}
    loss_report = context.loss_report
    for name, value in validate_parameters(
        request, MESSAGES_PARAMETERS, loss_report, context.extensions
    ):
        if name in _COPIED:
            copied[name] = value
        elif name in MESSAGES_PARAMETERS and MESSAGES_PARAMETERS[name].fields:
            report_unread_fields(value, MESSAGES_PARAMETERS[name].fields, name, loss_report)
    return copied


def report_unread_fields(
    holder: Json, known: Collection[str], path: str, loss_report: LossReport
) -> None:
    """Report the fields of an object in the request that are not ``known``."""
    for name, value in holder.items():
        if name in known or value in _EMPTY_VALUES:
            continue
        if name == "defer_loading":
            loss_report.note(f"{path}.{name}", _ALL_OFFERED)
        else:
            loss_report.drop(f"{path}.{shorten_value(name)}", "the upstream has no such field")


# -- tools --------------------------------------------------------------------------------------


class FunctionTool(NamedTuple):
    """A function; ``strict`` is None if the client did not set it."""

    name: str
    description: str | None
    parameters: Json
    strict: bool | None = None


class ToolSettings(NamedTuple):
    """The client's functions, and its web search tool if it has one.

    ``max_searches`` limits the number of web searches.
    """

    functions: list[FunctionTool]
    search: Json | None
    max_searches: int | None

    @property
    def names(self) -> set[str]:
        return {each.name for each in self.functions}


def read_tools(request: Json, loss_report: LossReport) -> ToolSettings:
    """Read all tools; those that cannot run are reported by their type."""
    functions: list[FunctionTool] = []
    added: dict[str, FunctionTool] = {}  # functions that system messages add
    search: Json | None = None
    max_searches: int | None = None
    for tool, path in iter_tools(request):
        function = None
        kind = read_field(tool, "type", STR, f"{path}.type") or "custom"
        known = next((row for head, row in KNOWN_TOOLS.items() if kind.startswith(head)), None)
        if kind == "custom":
            function = read_function(tool, path, loss_report)
        elif known is not None:
            name = read_field(tool, "name", STR, f"{path}.name") or known.name
            function = known._replace(name=name)
        elif kind.startswith("web_search_"):
            search = read_search_tool(tool, path)
            max_searches = read_field(tool, "max_uses", INT, f"{path}.max_uses")
        else:
            row = MESSAGES_TOOLS.get(kind, MESSAGES_TOOLS["mcp_toolset"])
            loss_report.drop(f"tools.{shorten_value(kind)}", row.reason)
            continue
        fields = _SEARCH_FIELDS if function is None else _FUNCTION_FIELDS
        report_unread_fields(tool, fields, "tools", loss_report)
        if function is not None and path.startswith("messages"):
            added[function.name] = function
        elif function is not None:
            functions.append(function)
    functions = [each for each in functions if each.name not in added]
    return ToolSettings([*functions, *added.values()], search, max_searches)


def iter_tools(request: Json) -> Iterator[tuple[Json, str]]:
    """Yield the tools in ``tools`` and those that system messages define, with their paths."""
    for i, tool in enumerate(iter_paced(read_field(request, "tools", LIST, "tools") or ())):
        yield check_type(tool, DICT, f"tools[{i}]"), f"tools[{i}]"
    messages = request.get("messages")
    for i, message in enumerate(iter_paced(messages if isinstance(messages, list) else ())):
        if not isinstance(message, dict) or message.get("role") != "system":
            continue
        content = message.get("content")
        for j, block in enumerate(iter_paced(content if isinstance(content, list) else ())):
            if isinstance(block, dict) and block.get("type") == "tool_addition":
                path = f"messages[{i}].content[{j}].tool"
                added = require_field(block, "tool", DICT, path)
                if added.get("type") == "tool_definition":
                    path += ".definition"
                    yield require_field(added, "definition", DICT, path), path


def read_function(tool: Json, path: str, loss_report: LossReport) -> FunctionTool:
    schema = require_field(tool, "input_schema", DICT, f"{path}.input_schema")
    strict = read_field(tool, "strict", BOOL, f"{path}.strict")
    if strict and not is_strict_schema(schema):
        loss_report.note("tools.strict", "OpenAI's strict mode requires all properties")
        strict = False
    return FunctionTool(
        require_field(tool, "name", STR, f"{path}.name"),
        read_field(tool, "description", STR, f"{path}.description"),
        schema,
        strict,
    )


def read_search_tool(tool: Json, path: str) -> Json:
    """Return the web search tool as the Responses API has it."""
    search: Json = {"type": "web_search"}
    filters = {
        name: [check_type(each, STR, f"{path}.{name}[{i}]") for i, each in enumerate(domains)]
        for name in ("allowed_domains", "blocked_domains")
        if (domains := read_field(tool, name, LIST, f"{path}.{name}"))
    }
    if filters:
        search["filters"] = filters
    location = read_field(tool, "user_location", DICT, f"{path}.user_location")
    if location:
        search["user_location"] = {**location, "type": "approximate"}
    return search


class ToolChoice(NamedTuple):
    """``mode`` is ``auto``, ``required`` or ``none``; ``name`` is the tool that must be called."""

    mode: str
    name: str | None
    is_parallel: bool | None


_MODES = {"auto": "auto", "any": "required", "none": "none", "tool": "required"}


def read_tool_choice(request: Json, tools: ToolSettings) -> ToolChoice | None:
    """Read ``tool_choice``.  Raises InvalidRequest for a tool that is not offered."""
    choice = read_field(request, "tool_choice", DICT, "tool_choice")
    if choice is None:
        return None
    kind = require_field(choice, "type", STR, "tool_choice.type")
    check_enum(kind, tuple(_MODES), "tool_choice.type")
    name = None
    if kind == "tool":
        name = require_field(choice, "name", STR, "tool_choice.name")
        entries = [
            each.get("name") for each in request.get("tools") or () if isinstance(each, dict)
        ]
        offered = [*entries, *tools.names]
        if name not in offered:
            raise InvalidRequest(
                f"'tool_choice.name': Tool '{shorten_value(name)}' not found in provided tools.",
                param="tool_choice.name",
                code="invalid_value",
            )
        if name not in tools.names and not (tools.search and name == "web_search"):
            raise Unsupported(
                f"The tool '{shorten_value(name)}' cannot run here, so it cannot be forced.",
                param="tool_choice.name",
            )
    single = read_field(
        choice, "disable_parallel_tool_use", BOOL, "tool_choice.disable_parallel_tool_use"
    )
    return ToolChoice(_MODES[kind], name, False if single else None)


def make_schema(required: tuple[str, ...], **properties: Json) -> Json:
    return {"type": "object", "properties": properties, "required": list(required)}


_TEXT: Json = {"type": "string"}
_NUMBER: Json = {"type": "integer"}
_LINES: Json = {"type": "array", "items": _NUMBER}

_EDITOR_SCHEMA = make_schema(
    ("command", "path"),
    command={"type": "string", "enum": ["view", "create", "str_replace", "insert"]},
    path={"type": "string", "description": "The absolute path of a file or folder."},
    file_text={"type": "string", "description": "For create: the content of the file."},
    old_str={"type": "string", "description": "For str_replace: text that the file has once."},
    new_str={"type": "string", "description": "For str_replace: the new text."},
    insert_line={"type": "integer", "description": "For insert: the line after which to insert."},
    insert_text={"type": "string", "description": "For insert: the text to insert."},
    view_range={**_LINES, "description": "For view: the first and last line; -1 is the end."},
)

KNOWN_TOOLS = {
    "bash_": FunctionTool(
        "bash",
        "Run a command in a persistent shell session and return its output.",
        make_schema(
            (),
            command={"type": "string", "description": "The command to run."},
            restart={"type": "boolean", "description": "Restart the session instead."},
        ),
    ),
    "text_editor_2024": FunctionTool(
        "str_replace_editor", "View, create and edit files.", _EDITOR_SCHEMA
    ),
    "text_editor_20250124": FunctionTool(
        "str_replace_editor", "View, create and edit files.", _EDITOR_SCHEMA
    ),
    "text_editor_": FunctionTool(
        "str_replace_based_edit_tool", "View, create and edit files.", _EDITOR_SCHEMA
    ),
    "memory_": FunctionTool(
        "memory",
        "Keep notes in files below /memories that later conversations can read.",
        make_schema(
            ("command",),
            command={
                "type": "string",
                "enum": ["view", "create", "str_replace", "insert", "delete", "rename"],
            },
            path={"type": "string", "description": "A path below /memories."},
            view_range=_LINES,
            file_text=_TEXT,
            old_str=_TEXT,
            new_str=_TEXT,
            insert_line=_NUMBER,
            insert_text=_TEXT,
            old_path={"type": "string", "description": "For rename: the present path."},
            new_path={"type": "string", "description": "For rename: the new path."},
        ),
    ),
}
"""Prefix of a tool type -> the function for it, with the schema that Anthropic's models know."""
