"""Makes the first request of a response.

Hosted tools become functions, and items of hosted tools in the history become function calls.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from forwarder.core.cancellation import CancelToken
from forwarder.core.errors import ClientError
from forwarder.core.ids import ID_SOURCE, IdSource
from forwarder.core.types import Json
from forwarder.core.validate import LIST, check_type, read_field
from forwarder.hosted_tools.history import HistoryConverter, get_item_type
from forwarder.hosted_tools.hosted_function import HostedFunction
from forwarder.hosted_tools.kind_table import KindTable
from forwarder.hosted_tools.tool_choice import FunctionLookup, convert_choice
from forwarder.hosted_tools.tool_context import ToolClient
from forwarder.hosted_tools.tool_kind import (
    ClientWatch,
    PreludeItem,
    ToolKind,
    ToolRequest,
    ToolSet,
    ignore_call,
)
from forwarder.protocols.chat_responses_mappings import INCLUDE_ENCRYPTED_REASONING
from forwarder.protocols.hosted_tool_names import find_hosted_name
from forwarder.protocols.input_items import has_items_of
from forwarder.protocols.tool_secrets import hide_tool_secrets

MAX_ROUNDS = 32
"""Maximum number of requests to the upstream for one response; in the last one, the model may call
no hosted tool."""

ADDITIONAL_TOOLS = "additional_tools"
"""The type of items that offer more tools from their place in the conversation on."""

MAX_OUTPUT_BYTES = 2**25
"""Maximum size of the results of all hosted calls of one response. Each round sends them again."""

_PLACE = re.compile(r"\b(tools|input)\[(\d{1,6})\]")
"""A path of the request in an error."""


class LoopContext(NamedTuple):
    """The inputs of the loop besides the handler.

    ``kinds`` are the kinds of tools that run here, ``native`` the names of the tools that the
    upstream runs itself. ``token`` is the waiting client. ``heartbeat`` is the interval in seconds
    of empty batches while tools run. ``keeps_encrypted_reasoning`` is true if encrypted reasoning
    is stored although the client did not ask for it. With ``is_preview`` no server is called; only
    the tools of lists in the history are offered. ``asks_encrypted_reasoning`` is false for an
    upstream that would reject the request for encrypted reasoning. ``keeps_calls`` is false if the
    client cannot send hosted calls back in its next request.
    ``memory`` belongs to the client's request, so that a fallback to another upstream does not run
    approved calls again. ``on_call_end`` gets the item of each call that has ended, and
    ``on_round_end`` the usage of all rounds that have ended.
    """

    kinds: KindTable
    token: CancelToken
    client: ToolClient = ToolClient()
    id_source: IdSource = ID_SOURCE
    heartbeat: float = 5.0
    max_rounds: int = MAX_ROUNDS
    max_output_bytes: int = MAX_OUTPUT_BYTES
    keeps_encrypted_reasoning: bool = False
    asks_encrypted_reasoning: bool = True
    native: frozenset[str] = frozenset()
    keeps_calls: bool = True
    is_preview: bool = False
    memory: dict[str, Any] | None = None
    on_call_end: Callable[[Json], object] = ignore_call
    on_round_end: Callable[[Json | None], object] = lambda usage: None

    def find_kind(self, tool: Any) -> ToolKind | None:
        """Return the kind that runs a tool of a request here, if one does."""
        kind = self.kinds.find_kind(tool)
        return kind if kind is not None and kind.can_run(tool, self.client) else None

    def is_needed(self, request: Json) -> bool:
        """Whether a request has tools that run here, or items in its history of such tools."""
        if not self.kinds:
            return False
        tools, items = read_field(request, "tools", LIST, "tools") or (), request.get("input")
        if any(self.find_kind(tool) is not None for tool in tools):
            return True
        searched = (*self.kinds.by_item_type, ADDITIONAL_TOOLS)
        if not isinstance(items, list) or not has_items_of(items, searched):
            return False  # a fast check, because histories may be long
        for item in items:
            kind = get_item_type(item)
            if kind in self.kinds.by_item_type:
                return True
            more = item.get("tools") if kind == ADDITIONAL_TOOLS else None
            if isinstance(more, list) and any(self.find_kind(tool) is not None for tool in more):
                return True
        return False


class FirstRequest:
    """A client's request with its hosted tools, and its conversion for the upstream.

    ``functions`` are the hosted functions by name, ``client_tools`` the tools of the parameter
    ``tools`` that are passed to the upstream. Tools in ``additional_tools`` items are run here too.
    """

    def __init__(self, request: Json, context: LoopContext) -> None:
        """Validate the hosted tools and items; call no server. Raises InvalidRequest."""
        self.functions: dict[str, HostedFunction] = {}
        self.sources: dict[str, str] = {}
        self.items = normalize_input(request.get("input"))
        self._request = request
        self._context = context
        self._include = read_field(request, "include", LIST, "include") or []
        self._origins: list[int] = []  # place of an item upstream -> place in the client's input
        self._client_places: list[int] = []  # of the client's tools in the request
        self._client_names: set[str] = set()
        self._sets: dict[ToolKind, ToolSet] = {}
        try:
            self._open_tools()
        except BaseException:
            self.close()
            raise

    def _open_tools(self) -> None:
        context = self._context
        tools: dict[ToolKind, list[tuple[str, Json]]] = {each: [] for each in context.kinds.kinds}
        for index, tool in enumerate(self._tools):
            kind = context.find_kind(tool)
            if kind is None:
                self._client_places.append(index)
            else:
                tools[kind].append((f"tools[{index}]", tool))
        self._client_names = find_names(self.client_tools)
        for i, item in enumerate(self.items):
            if get_item_type(item) != ADDITIONAL_TOOLS:
                continue
            path = f"input[{i}].tools"
            for j, tool in enumerate(read_field(item, "tools", LIST, path) or ()):
                kind = context.find_kind(tool)
                if kind is None:
                    self._client_names |= find_names([tool])
                else:
                    tools[kind].append((f"{path}[{j}]", tool))
        watch, memory = ClientWatch(context.token), {} if context.memory is None else context.memory
        for kind, own in tools.items():
            self._sets[kind] = kind.open_tools(
                ToolRequest(
                    own, self.items, self._include, context.client, watch, context.id_source,
                    self.sources, context.is_preview, memory, context.on_call_end,
                )
            )  # fmt: skip

    def close(self) -> None:
        for tool_set in self._sets.values():
            tool_set.close()

    @property
    def _tools(self) -> Sequence[Any]:
        return self._request.get("tools") or ()

    @property
    def client_tools(self) -> list[Any]:
        return [self._tools[index] for index in self._client_places]

    @property
    def callable_tools(self) -> list[Any]:
        """The client's tools that the upstream does not drop."""
        native = {None, *self._context.native}
        return [tool for tool in self.client_tools if find_hosted_name(tool) in native]

    @property
    def prelude(self) -> list[PreludeItem]:
        """The items that come before the model's."""
        return [item for tool_set in self._sets.values() for item in tool_set.prelude]

    @property
    def call_count(self) -> int:
        """The number of calls in the prelude."""
        return sum(tool_set.call_count for tool_set in self._sets.values())

    def prepare(self) -> Json:
        """List the functions, run the calls that are due, and return the request for the upstream.

        Raises InvalidRequest or ClientDisconnected.
        """
        taken = {*self._client_names}
        for tool_set in self._sets.values():
            for function in tool_set.list_functions(taken):
                self.functions[function.name] = function
                taken.add(function.name)
        request = {k: v for k, v in self._request.items() if k != "max_tool_calls"}
        if self._request.get("tools") is not None or self.functions:
            definitions = [function.definition for function in self.functions.values()]
            request["tools"] = [*self.client_tools, *definitions]
        if self._request.get("tool_choice") is not None:
            request["tool_choice"] = convert_choice(request["tool_choice"], self._make_lookups())
        include = self._make_include()
        if include or "include" in request:
            request["include"] = include
        for tool_set in self._sets.values():
            tool_set.run_due_calls()
        request["input"] = [*self._convert_items(), *self._make_notes()]
        return request

    def _make_lookups(self) -> dict[str, FunctionLookup]:
        return {
            name: tool_set.find_functions
            for kind, tool_set in self._sets.items()
            for name in kind.tool_types
        }

    def _make_include(self) -> list[Any]:
        include = self._include
        asks = self.functions and self._context.asks_encrypted_reasoning
        if asks and INCLUDE_ENCRYPTED_REASONING not in include:
            # Without it, reasoning could not be sent back in the next round.
            include = [*include, INCLUDE_ENCRYPTED_REASONING]
        own = self._context.kinds.include_values
        return [value for value in include if not isinstance(value, str) or value not in own]

    def _convert_items(self) -> list[Any]:
        kinds = self._context.kinds.by_item_type
        converter = HistoryConverter({name: self._sets[kind] for name, kind in kinds.items()})
        self._origins = converter.origins
        return converter.convert_items([*map(self._remove_hosted_tools, self.items)])

    def _remove_hosted_tools(self, item: Any) -> Any:
        """Return an ``additional_tools`` item without the tools that run here."""
        if get_item_type(item) != ADDITIONAL_TOOLS or not item.get("tools"):
            return item
        passed = [tool for tool in item["tools"] if self._context.find_kind(tool) is None]
        return item if len(passed) == len(item["tools"]) else {**item, "tools": passed}

    def find_function(self, name: str) -> HostedFunction | None:
        """Return the hosted function that the model means by a name, offered or not."""
        function = self.functions.get(name)
        if function is None and name not in self._client_names:
            missing = (each.find_missing_function(name) for each in self._sets.values())
            function = next(filter(None, missing), None)
        return function

    @property
    def notes(self) -> list[str]:
        """Texts that name the missing tools."""
        return [note for tool_set in self._sets.values() for note in tool_set.notes]

    def _make_notes(self) -> list[Json]:
        """Make the message that names the missing tools to the model."""
        if not self.notes:
            return []
        return [{"type": "message", "role": "developer", "content": "\n".join(self.notes)}]

    # -- fields of the client's response --------------------------------------------------------

    @property
    def shown_fields(self) -> Json:
        """The fields of the client's request that every response object repeats."""
        request = self._request
        names = ("tool_choice", "max_tool_calls")
        shown = {name: request[name] for name in names if request.get(name) is not None}
        return {**shown, "tools": hide_tool_secrets(request.get("tools") or [])}

    @property
    def hides_encrypted(self) -> bool:
        """Whether the response has no encrypted reasoning, because only the loop asked for it."""
        is_wanted = INCLUDE_ENCRYPTED_REASONING in self._include
        return not (is_wanted or self._context.keeps_encrypted_reasoning)

    def restore_paths(self, error: ClientError) -> ClientError:
        """Return an error of the translation with the paths of the client's own request."""
        places = {"tools": self._client_places, "input": self._origins}

        def restore_path(match: re.Match[str]) -> str:
            name, index = match[1], int(match[2])
            return f"{name}[{places[name][index]}]" if index < len(places[name]) else match[0]

        error.message = _PLACE.sub(restore_path, error.message)
        error.param = None if error.param is None else _PLACE.sub(restore_path, error.param)
        return error


def find_names(tools: list[Any]) -> set[str]:
    """Return the names of tools. Malformed tools are skipped: the translation rejects them."""
    names = (tool.get("name") for tool in tools if isinstance(tool, dict))
    return {name for name in names if isinstance(name, str)}


def normalize_input(value: Any) -> list[Any]:
    if value is None:
        return []
    if isinstance(value, str):
        return [{"type": "message", "role": "user", "content": value}]
    items: list[Any] = check_type(value, (str, list), "input")
    return items
