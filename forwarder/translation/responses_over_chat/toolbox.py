"""The tools of one request: Responses definitions in, chat functions out, and the way back.

Names are flattened on the way up (``namespace__tool``) and restored on the way down, so a call
always names the tool as its client knows it.
"""

from __future__ import annotations

import hashlib
import re
from typing import Any, NamedTuple

from forwarder.core.errors import InvalidRequest, Unsupported, shorten
from forwarder.core.translation_context import Terms
from forwarder.core.types import Json
from forwarder.core.validate import BOOL, DICT, LIST, STR, Types, choose, expect, optional, require
from forwarder.translation.responses_over_chat.search import SEARCHES, options
from forwarder.translation.responses_over_chat.tool_kinds import CUSTOM, FUNCTION, KINDS, Kind

NAME_LIMIT = 64
"""The longest function name that OpenAI and most vendors take."""

_TYPES: dict[str, Types] = {
    "description": STR,
    "environment": DICT,
    "execution": STR,
    "format": DICT,
    "parameters": DICT,
    "strict": BOOL,
}
"""The fields of a definition that are read here; hosted tools may have others of these names."""


class Tool(NamedTuple):
    """A tool as its client knows it, found by the name that the upstream knows."""

    kind: Kind
    name: str
    namespace: str | None = None


class Toolbox:
    """What may be called in this request.

    ``chat`` lists the definitions for the upstream.  Definitions come from ``tools`` and from
    items of the history; the first of a name wins.  ``search`` has the options of the web search,
    if the client offers one and the upstream's model does it.
    """

    def __init__(self, terms: Terms) -> None:
        self.chat: list[Json] = []
        self.left_out: list[str] = []
        self.search: Json | None = None
        self._terms = terms
        self._tools: dict[str, Tool] = {}

    def add(self, tools: list[Any], path: str) -> None:
        """Take in a list of Responses tool definitions."""
        for i, tool in enumerate(tools):
            self._add(expect(tool, DICT, f"{path}[{i}]"), f"{path}[{i}]", None)

    def find(self, chat_name: str) -> Tool:
        """The tool that the upstream calls ``chat_name``; an unknown one is a plain function."""
        return self._tools.get(chat_name) or Tool(FUNCTION, chat_name)

    def is_native(self, kind: Kind) -> bool:
        """Does the upstream know this kind itself, so that it need not wear a function?"""
        return kind is CUSTOM and self._terms.custom_tools

    def choice(self, choice: Any) -> Any:
        """``tool_choice`` in chat's shape, or ``None`` when there is nothing to choose from."""
        if isinstance(choice, str):
            return self._mode(choose(choice, ("none", "auto", "required"), "tool_choice"))
        kind = require(choice, "type", STR, "tool_choice.type")
        if kind == "allowed_tools":
            return self._allowed(choice)
        # A model that searches does so before every answer, whether it is told to or not.
        return None if self._searches(kind) else self._reference(choice, "tool_choice")

    def may_search(self, choice: Any) -> bool:
        """Does a ``tool_choice``, which has been read, leave the search open?"""
        if not isinstance(choice, dict):
            return bool(choice != "none")
        refs = choice["tools"] if choice["type"] == "allowed_tools" else [choice]
        return any(ref["type"] in SEARCHES for ref in refs)

    # -- definitions ----------------------------------------------------------------------------

    def _add(self, tool: Json, path: str, namespace: str | None) -> None:
        tool_type = require(tool, "type", STR, f"{path}.type")
        for name, types in _TYPES.items() if tool_type in KINDS else ():
            optional(tool, name, types, f"{path}.{name}")
        if tool_type == "namespace":
            self._add_namespace(tool, path)
        elif tool_type in KINDS and not _runs_upstream(tool):
            self._define(tool, tool_type, path, namespace)
        elif tool_type in SEARCHES and self._terms.web_search:
            self.search = options(tool, path, self._terms.ledger)
        else:
            self._leave_out(tool_type, path)

    def _add_namespace(self, tool: Json, path: str) -> None:
        name = require(tool, "name", STR, f"{path}.name")
        for i, inner in enumerate(require(tool, "tools", LIST, f"{path}.tools")):
            inner_path = f"{path}.tools[{i}]"
            self._add(expect(inner, DICT, inner_path), inner_path, name)

    def _define(self, tool: Json, tool_type: str, path: str, namespace: str | None) -> None:
        named = tool_type in ("function", "custom")
        name = require(tool, "name", STR, f"{path}.name") if named else tool_type
        entry = Tool(KINDS[tool_type], name, namespace)
        chat_name = flat_name(name, namespace)
        known = self._tools.setdefault(chat_name, entry)
        if known is not entry:
            self._same_or_refuse(known, entry, chat_name, path)
            return
        self.chat.append(self._definition(tool, entry.kind, chat_name, path))

    def _same_or_refuse(self, known: Tool, entry: Tool, chat_name: str, path: str) -> None:
        if known != entry:
            raise InvalidRequest(
                f"'{path}': two different tools would both be called '{shorten(chat_name)}' "
                "upstream.",
                param=path,
                code="tool_name_collision",
            )

    def _definition(self, tool: Json, kind: Kind, chat_name: str, path: str) -> Json:
        if self.is_native(kind):
            return {"type": "custom", "custom": _native_custom(tool, chat_name)}
        function: Json = {"name": chat_name}
        description = kind.describe(tool)
        if description:
            function["description"] = description
        function["parameters"] = kind.parameters(tool)
        if kind is FUNCTION and tool.get("strict") is not None:
            function["strict"] = tool["strict"]
        return {"type": "function", "function": function}

    def _leave_out(self, tool_type: str, path: str) -> None:
        if self._terms.hosted_tools == "refuse":
            raise _not_here(tool_type, path)
        self.left_out.append(tool_type)
        self._terms.ledger.drop(f"tools.{tool_type}", "the upstream cannot run this tool")

    # -- choosing -------------------------------------------------------------------------------

    def _mode(self, mode: str) -> str | None:
        if self.chat:
            return mode
        if self.search is not None:
            return None
        if mode == "required" and self.left_out:
            raise _not_here(self.left_out[0], "tool_choice")
        if mode == "required":
            raise InvalidRequest(
                "'tool_choice' is 'required', but no tools are given.", param="tool_choice"
            )
        return None

    def _reference(self, ref: Json, path: str) -> Json:
        """A reference to one tool, in chat's nested shape."""
        tool_type = require(ref, "type", STR, f"{path}.type")
        if tool_type not in KINDS:
            raise _not_here(tool_type, path)
        named = tool_type in ("function", "custom")
        name = require(ref, "name", STR, f"{path}.name") if named else tool_type
        chat_name = self._chat_name(name, ref.get("namespace"))
        if chat_name is None:
            raise InvalidRequest(
                f"Tool choice '{shorten(name)}' not found in 'tools' parameter.", param=path
            )
        shape = "custom" if self.is_native(self._tools[chat_name].kind) else "function"
        return {"type": shape, shape: {"name": chat_name}}

    def _chat_name(self, name: str, namespace: str | None) -> str | None:
        exact = flat_name(name, namespace)
        if exact in self._tools:
            return exact
        matching = [key for key, tool in self._tools.items() if tool.name == name]
        return matching[0] if len(matching) == 1 and namespace is None else None

    def _allowed(self, choice: Json) -> Any:
        mode = choose(choice.get("mode", "auto"), ("auto", "required"), "tool_choice.mode")
        refs, searches = [], False
        for i, ref in enumerate(require(choice, "tools", LIST, "tool_choice.tools")):
            path = f"tool_choice.tools[{i}]"
            kind = require(expect(ref, DICT, path), "type", STR, f"{path}.type")
            if self._searches(kind):
                searches = True
            elif kind not in self.left_out:  # those are already reported
                refs.append(self._reference(ref, path))
        if refs:
            return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": refs}}
        if searches:
            return "none" if self.chat else None
        raise Unsupported("None of the allowed tools can be called here.", param="tool_choice")

    def _searches(self, tool_type: str) -> bool:
        return tool_type in SEARCHES and self.search is not None


def flat_name(name: str, namespace: str | None) -> str:
    """One function name for a tool and its namespace, within what upstreams take as a name."""
    full = f"{namespace}__{name}" if namespace else name
    clean = re.sub(r"[^A-Za-z0-9_-]", "_", full)
    if clean == full and len(full) <= NAME_LIMIT:
        return full
    digest = hashlib.sha256(full.encode()).hexdigest()[:8]
    return f"{clean[: NAME_LIMIT - 9]}_{digest}"


def _runs_upstream(tool: Json) -> bool:
    """Shells in a container and server-side tool search are hosted, not the client's."""
    if tool["type"] == "shell":
        return bool((tool.get("environment") or {}).get("type", "local") != "local")
    return tool["type"] == "tool_search" and tool.get("execution") != "client"


def _native_custom(tool: Json, chat_name: str) -> Json:
    custom = {"name": chat_name}
    if tool.get("description"):
        custom["description"] = tool["description"]
    grammar = tool.get("format")
    if isinstance(grammar, dict) and grammar.get("type") == "grammar":
        inner = {k: v for k, v in grammar.items() if k != "type"}
        return {**custom, "format": {"type": "grammar", "grammar": inner}}
    return {**custom, "format": grammar} if grammar else custom


def _not_here(tool_type: str, path: str) -> Unsupported:
    return Unsupported(
        f"The tool '{shorten(tool_type)}' is hosted by OpenAI and cannot run over this upstream.",
        param=path,
        code="unsupported_tool",
    )
