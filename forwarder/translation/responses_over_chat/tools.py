"""Converts the tools and the tool choice of one request to Chat, and names in the answer back.

Upstream names are flat (``namespace__tool``).  Calls in the answer get the client's name and
namespace again.  The web search tool becomes ``web_search_options`` for models that search
themselves.
"""

from __future__ import annotations

import hashlib
import re
from typing import Any, NamedTuple

from forwarder.core.errors import InvalidRequest, Unsupported, shorten_value
from forwarder.core.translation_context import LossReport, TranslationContext
from forwarder.core.types import Json
from forwarder.core.validate import (
    BOOL,
    DICT,
    LIST,
    STR,
    JsonTypes,
    check_enum,
    check_type,
    read_field,
    require_field,
)
from forwarder.protocols.hosted_tool_names import WEB_SEARCH_TYPES, is_container_shell
from forwarder.translation.responses_over_chat.client_tool_kinds import (
    CUSTOM,
    FUNCTION,
    TOOL_KINDS,
    ClientToolKind,
)

MAX_TOOL_NAME_LENGTH = 64
"""The longest function name that OpenAI and most vendors accept."""

_FIELD_TYPES: dict[str, JsonTypes] = {
    "description": STR,
    "environment": DICT,
    "execution": STR,
    "format": DICT,
    "parameters": DICT,
    "strict": BOOL,
}
"""The fields read from a client's tool definition.  Hosted tools may give them other types."""

_LOCATION_FIELDS = ("city", "country", "region", "timezone")
_CARRIED_SEARCH_FIELDS = ("type", "search_context_size", "user_location")


class ClientTool(NamedTuple):
    """A tool under the client's name and namespace."""

    kind: ClientToolKind
    name: str
    namespace: str | None = None


class Toolbox:
    """The tools that the model may call in this request.

    ``chat_tools`` lists the definitions for the upstream.  They come from ``tools`` and from items
    of the history; the first definition of a name wins.  ``dropped_tools`` lists the types of
    tools that the upstream cannot run.  ``search_options`` has the options of the web search, if
    the client offers it and the upstream's model supports it.
    """

    def __init__(self, context: TranslationContext) -> None:
        self.chat_tools: list[Json] = []
        self.dropped_tools: list[str] = []
        self.search_options: Json | None = None
        self._context = context
        self._tools: dict[str, ClientTool] = {}

    def add_tools(self, tools: list[Any], path: str) -> None:
        """Add a list of Responses tool definitions.

        Raises InvalidRequest for a malformed definition and for two tools of the same flat name,
        Unsupported for a hosted tool if the settings refuse those.
        """
        for i, tool in enumerate(tools):
            self._add_tool(check_type(tool, DICT, f"{path}[{i}]"), f"{path}[{i}]", None)

    def find(self, chat_name: str) -> ClientTool:
        """Return the tool with this upstream name; an unknown name counts as a function."""
        return self._tools.get(chat_name) or ClientTool(FUNCTION, chat_name)

    def is_native(self, kind: ClientToolKind) -> bool:
        """Whether the upstream supports this kind, so that no function replaces it."""
        return kind is CUSTOM and self._context.custom_tools

    def convert_choice(self, choice: Any) -> Any:
        """Return ``tool_choice`` for Chat, ``None`` to omit it because there are no tools.

        Raises InvalidRequest for a malformed choice or a tool that is not offered, Unsupported for
        tools that the upstream cannot run.
        """
        if isinstance(choice, str):
            return self._convert_mode(
                check_enum(choice, ("none", "auto", "required"), "tool_choice")
            )
        kind = require_field(choice, "type", STR, "tool_choice.type")
        if kind == "allowed_tools":
            return self._convert_allowed_tools(choice)
        # A search model searches before every answer, so the choice has no effect.
        return None if self._is_search(kind) else self._convert_reference(choice, "tool_choice")

    def is_search_allowed(self, choice: Any) -> bool:
        """Whether a ``tool_choice`` that is already validated allows the web search."""
        if not isinstance(choice, dict):
            return bool(choice != "none")
        refs = choice["tools"] if choice["type"] == "allowed_tools" else [choice]
        return any(ref["type"] in WEB_SEARCH_TYPES for ref in refs)

    # -- definitions ----------------------------------------------------------------------------

    def _add_tool(self, tool: Json, path: str, namespace: str | None) -> None:
        tool_type = require_field(tool, "type", STR, f"{path}.type")
        for name, types in _FIELD_TYPES.items() if tool_type in TOOL_KINDS else ():
            read_field(tool, name, types, f"{path}.{name}")
        if tool_type == "namespace":
            name = require_field(tool, "name", STR, f"{path}.name")
            for i, inner in enumerate(require_field(tool, "tools", LIST, f"{path}.tools")):
                inner_path = f"{path}.tools[{i}]"
                self._add_tool(check_type(inner, DICT, inner_path), inner_path, name)
        elif tool_type in TOOL_KINDS and not is_hosted(tool):
            self._add_definition(tool, tool_type, path, namespace)
        elif tool_type in WEB_SEARCH_TYPES and self._context.web_search:
            self.search_options = make_search_options(tool, path, self._context.loss_report)
        elif self._context.hosted_tools == "refuse":
            raise make_hosted_tool_error(tool_type, path)
        else:
            self.dropped_tools.append(tool_type)
            self._context.loss_report.drop(
                f"tools.{tool_type}", "the upstream cannot run this tool"
            )

    def _add_definition(self, tool: Json, tool_type: str, path: str, namespace: str | None) -> None:
        has_name = tool_type in ("function", "custom")
        name = require_field(tool, "name", STR, f"{path}.name") if has_name else tool_type
        entry = ClientTool(TOOL_KINDS[tool_type], name, namespace)
        chat_name = flatten_name(name, namespace)
        known = self._tools.setdefault(chat_name, entry)
        if known != entry:
            raise InvalidRequest(
                f"'{path}': two different tools would have the same name upstream, "
                f"'{shorten_value(chat_name)}'.",
                param=path,
                code="tool_name_collision",
            )
        if known is entry:
            self.chat_tools.append(self._make_definition(tool, entry.kind, chat_name))

    def _make_definition(self, tool: Json, kind: ClientToolKind, chat_name: str) -> Json:
        if self.is_native(kind):
            return {"type": "custom", "custom": make_custom_tool(tool, chat_name)}
        function: Json = {"name": chat_name}
        description = kind.describe(tool)
        if description:
            function["description"] = description
        function["parameters"] = kind.make_parameters(tool)
        if kind is FUNCTION and tool.get("strict") is not None:
            function["strict"] = tool["strict"]
        return {"type": "function", "function": function}

    # -- choosing -------------------------------------------------------------------------------

    def _convert_mode(self, mode: str) -> str | None:
        if self.chat_tools:
            return mode
        if self.search_options is not None:
            return None
        if mode == "required" and self.dropped_tools:
            raise make_hosted_tool_error(self.dropped_tools[0], "tool_choice")
        if mode == "required":
            raise InvalidRequest(
                "'tool_choice' is 'required', but the request has no tools.", param="tool_choice"
            )
        return None

    def _convert_reference(self, ref: Json, path: str) -> Json:
        """Convert a reference to one tool to Chat's nested form."""
        tool_type = require_field(ref, "type", STR, f"{path}.type")
        if tool_type not in TOOL_KINDS:
            raise make_hosted_tool_error(tool_type, path)
        has_name = tool_type in ("function", "custom")
        name = require_field(ref, "name", STR, f"{path}.name") if has_name else tool_type
        chat_name = self._find_chat_name(name, ref.get("namespace"))
        if chat_name is None:
            raise InvalidRequest(
                f"Tool choice '{shorten_value(name)}' not found in 'tools' parameter.", param=path
            )
        shape = "custom" if self.is_native(self._tools[chat_name].kind) else "function"
        return {"type": shape, shape: {"name": chat_name}}

    def _find_chat_name(self, name: str, namespace: str | None) -> str | None:
        exact = flatten_name(name, namespace)
        if exact in self._tools:
            return exact
        matching = [key for key, tool in self._tools.items() if tool.name == name]
        return matching[0] if len(matching) == 1 and namespace is None else None

    def _convert_allowed_tools(self, choice: Json) -> Any:
        mode = check_enum(choice.get("mode", "auto"), ("auto", "required"), "tool_choice.mode")
        refs, searches = [], False
        for i, ref in enumerate(require_field(choice, "tools", LIST, "tool_choice.tools")):
            path = f"tool_choice.tools[{i}]"
            kind = require_field(check_type(ref, DICT, path), "type", STR, f"{path}.type")
            if self._is_search(kind):
                searches = True
            elif kind not in self.dropped_tools:  # those are already reported
                refs.append(self._convert_reference(ref, path))
        if refs:
            return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": refs}}
        if searches:
            return "none" if self.chat_tools else None
        raise Unsupported(
            "'tool_choice' allows only tools that this upstream cannot run.", param="tool_choice"
        )

    def _is_search(self, tool_type: str) -> bool:
        return tool_type in WEB_SEARCH_TYPES and self.search_options is not None


def flatten_name(name: str, namespace: str | None) -> str:
    """Return one valid upstream name for a tool and its namespace.

    A name that is too long or has other characters than ``[A-Za-z0-9_-]`` gets a hash, which keeps
    it unique.
    """
    full = f"{namespace}__{name}" if namespace else name
    clean = re.sub(r"[^A-Za-z0-9_-]", "_", full[:MAX_TOOL_NAME_LENGTH])
    if clean == full:
        return full
    digest = hashlib.sha256(full.encode()).hexdigest()[:8]
    return f"{clean[: MAX_TOOL_NAME_LENGTH - 9]}_{digest}"


def is_hosted(tool: Json) -> bool:
    """Whether a shell runs in a container, or a tool search on the server, not at the client."""
    if tool["type"] == "shell":
        return is_container_shell(tool)
    return tool["type"] == "tool_search" and tool.get("execution") != "client"


def make_custom_tool(tool: Json, chat_name: str) -> Json:
    custom = {"name": chat_name}
    if tool.get("description"):
        custom["description"] = tool["description"]
    grammar = tool.get("format")
    if isinstance(grammar, dict) and grammar.get("type") == "grammar":
        inner = {k: v for k, v in grammar.items() if k != "type"}
        return {**custom, "format": {"type": "grammar", "grammar": inner}}
    return {**custom, "format": grammar} if grammar else custom


def make_search_options(tool: Json, path: str, loss_report: LossReport) -> Json:
    """Return ``web_search_options`` for a search tool; report its other settings as losses."""
    size = read_field(tool, "search_context_size", STR, f"{path}.search_context_size")
    location = read_field(tool, "user_location", DICT, f"{path}.user_location")
    for name in sorted(tool.keys() - set(_CARRIED_SEARCH_FIELDS)):
        if tool[name] is not None:
            loss_report.drop(f"tools.{tool['type']}.{name}", "Chat Completions has no such setting")
    options: Json = {"search_context_size": size} if size else {}
    if location:
        fields = {
            name: read_field(location, name, STR, f"{path}.user_location.{name}")
            for name in _LOCATION_FIELDS
        }
        approximate = {name: value for name, value in fields.items() if value}
        options["user_location"] = {"type": "approximate", "approximate": approximate}
    return options


def make_hosted_tool_error(tool_type: str, path: str) -> Unsupported:
    return Unsupported(
        f"The tool '{shorten_value(tool_type)}' is hosted by OpenAI "
        "and cannot run over this upstream.",
        param=path,
        code="unsupported_tool",
    )
