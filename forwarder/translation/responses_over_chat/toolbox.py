"""The tools of one request: Responses definitions in, chat functions out, and the way back.

Names are flattened on the way up (``namespace__tool``) and restored on the way down, so a call
always names the tool as its client knows it.
"""

from __future__ import annotations

import hashlib
import re
from typing import Any, NamedTuple

from forwarder.core.errors import InvalidRequest, Unsupported, shorten_value
from forwarder.core.translation_context import TranslationContext
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
from forwarder.translation.responses_over_chat.search import WEB_SEARCH_TYPES, make_search_options
from forwarder.translation.responses_over_chat.tool_kinds import (
    CUSTOM,
    FUNCTION,
    TOOL_KINDS,
    ToolKind,
)

MAX_TOOL_NAME_LENGTH = 64
"""The longest function name that OpenAI and most vendors take."""

_FIELD_TYPES: dict[str, JsonTypes] = {
    "description": STR,
    "environment": DICT,
    "execution": STR,
    "format": DICT,
    "parameters": DICT,
    "strict": BOOL,
}
"""The fields of a definition that are read here; hosted tools may have others of these names."""


class ClientTool(NamedTuple):
    """A tool as its client knows it, found by the name that the upstream knows."""

    kind: ToolKind
    name: str
    namespace: str | None = None


class Toolbox:
    """What may be called in this request.

    ``chat_tools`` lists the definitions for the upstream.  Definitions come from ``tools`` and from
    items of the history; the first of a name wins.  ``search_options`` has the options of the web search,
    if the client offers one and the upstream's model does it.
    """

    def __init__(self, context: TranslationContext) -> None:
        self.chat_tools: list[Json] = []
        self.dropped_tools: list[str] = []
        self.search_options: Json | None = None
        self._context = context
        self._tools: dict[str, ClientTool] = {}

    def add_tools(self, tools: list[Any], path: str) -> None:
        """Take in a list of Responses tool definitions."""
        for i, tool in enumerate(tools):
            self._add_tool(check_type(tool, DICT, f"{path}[{i}]"), f"{path}[{i}]", None)

    def find(self, chat_name: str) -> ClientTool:
        """The tool that the upstream calls ``chat_name``; an unknown one is a plain function."""
        return self._tools.get(chat_name) or ClientTool(FUNCTION, chat_name)

    def is_native(self, kind: ToolKind) -> bool:
        """Does the upstream know this kind itself, so that it need not wear a function?"""
        return kind is CUSTOM and self._context.custom_tools

    def convert_choice(self, choice: Any) -> Any:
        """``tool_choice`` in chat's shape, or ``None`` when there is nothing to choose from."""
        if isinstance(choice, str):
            return self._convert_mode(
                check_enum(choice, ("none", "auto", "required"), "tool_choice")
            )
        kind = require_field(choice, "type", STR, "tool_choice.type")
        if kind == "allowed_tools":
            return self._convert_allowed_tools(choice)
        # A model that searches does so before every answer, whether it is told to or not.
        return None if self._is_search(kind) else self._convert_reference(choice, "tool_choice")

    def is_search_allowed(self, choice: Any) -> bool:
        """Does a ``tool_choice``, which has been read, leave the search open?"""
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
            self._add_namespace(tool, path)
        elif tool_type in TOOL_KINDS and not is_hosted(tool):
            self._add_definition(tool, tool_type, path, namespace)
        elif tool_type in WEB_SEARCH_TYPES and self._context.web_search:
            self.search_options = make_search_options(tool, path, self._context.loss_report)
        else:
            self._drop_tool(tool_type, path)

    def _add_namespace(self, tool: Json, path: str) -> None:
        name = require_field(tool, "name", STR, f"{path}.name")
        for i, inner in enumerate(require_field(tool, "tools", LIST, f"{path}.tools")):
            inner_path = f"{path}.tools[{i}]"
            self._add_tool(check_type(inner, DICT, inner_path), inner_path, name)

    def _add_definition(self, tool: Json, tool_type: str, path: str, namespace: str | None) -> None:
        named = tool_type in ("function", "custom")
        name = require_field(tool, "name", STR, f"{path}.name") if named else tool_type
        entry = ClientTool(TOOL_KINDS[tool_type], name, namespace)
        chat_name = flatten_name(name, namespace)
        known = self._tools.setdefault(chat_name, entry)
        if known is not entry:
            self._check_same_tool(known, entry, chat_name, path)
            return
        self.chat_tools.append(self._make_definition(tool, entry.kind, chat_name, path))

    def _check_same_tool(
        self, known: ClientTool, entry: ClientTool, chat_name: str, path: str
    ) -> None:
        if known != entry:
            raise InvalidRequest(
                f"'{path}': two different tools would both be called '{shorten_value(chat_name)}' "
                "upstream.",
                param=path,
                code="tool_name_collision",
            )

    def _make_definition(self, tool: Json, kind: ToolKind, chat_name: str, path: str) -> Json:
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

    def _drop_tool(self, tool_type: str, path: str) -> None:
        if self._context.hosted_tools == "refuse":
            raise unsupported_hosted_tool(tool_type, path)
        self.dropped_tools.append(tool_type)
        self._context.loss_report.drop(f"tools.{tool_type}", "the upstream cannot run this tool")

    # -- choosing -------------------------------------------------------------------------------

    def _convert_mode(self, mode: str) -> str | None:
        if self.chat_tools:
            return mode
        if self.search_options is not None:
            return None
        if mode == "required" and self.dropped_tools:
            raise unsupported_hosted_tool(self.dropped_tools[0], "tool_choice")
        if mode == "required":
            raise InvalidRequest(
                "'tool_choice' is 'required', but no tools are given.", param="tool_choice"
            )
        return None

    def _convert_reference(self, ref: Json, path: str) -> Json:
        """A reference to one tool, in chat's nested shape."""
        tool_type = require_field(ref, "type", STR, f"{path}.type")
        if tool_type not in TOOL_KINDS:
            raise unsupported_hosted_tool(tool_type, path)
        named = tool_type in ("function", "custom")
        name = require_field(ref, "name", STR, f"{path}.name") if named else tool_type
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
        raise Unsupported("None of the allowed tools can be called here.", param="tool_choice")

    def _is_search(self, tool_type: str) -> bool:
        return tool_type in WEB_SEARCH_TYPES and self.search_options is not None


def flatten_name(name: str, namespace: str | None) -> str:
    """One function name for a tool and its namespace, within what upstreams take as a name."""
    full = f"{namespace}__{name}" if namespace else name
    clean = re.sub(r"[^A-Za-z0-9_-]", "_", full)
    if clean == full and len(full) <= MAX_TOOL_NAME_LENGTH:
        return full
    digest = hashlib.sha256(full.encode()).hexdigest()[:8]
    return f"{clean[: MAX_TOOL_NAME_LENGTH - 9]}_{digest}"


def is_hosted(tool: Json) -> bool:
    """Shells in a container and server-side tool search are hosted, not the client's."""
    if tool["type"] == "shell":
        return bool((tool.get("environment") or {}).get("type", "local") != "local")
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


def unsupported_hosted_tool(tool_type: str, path: str) -> Unsupported:
    return Unsupported(
        f"The tool '{shorten_value(tool_type)}' is hosted by OpenAI "
        "and cannot run over this upstream.",
        param=path,
        code="unsupported_tool",
    )
