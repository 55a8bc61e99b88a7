"""Hosted tools that the operator maps to a tool of an MCP server.

The model gets one function with the schema of the MCP tool. The client sees its calls as items of
the protocol where those fit (``code_interpreter_call``, ``image_generation_call``), otherwise as
``mcp_call`` items. The fields of the client's tool, such as ``container``, have no meaning for the
MCP tool.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import orjson

from forwarder.core.errors import ClientDisconnected
from forwarder.core.types import Event, Json
from forwarder.core.validate import LIST, STR, read_field
from forwarder.hosted_tools.asyncio_thread import TaskCancelled
from forwarder.hosted_tools.hosted_function import (
    CallOutcome,
    HostedFunction,
    RunningCall,
    parse_arguments,
)
from forwarder.hosted_tools.image_generation import make_image_item
from forwarder.hosted_tools.mcp_client import McpClient, McpConnections, McpFailure
from forwarder.hosted_tools.mcp_content import McpTool
from forwarder.hosted_tools.mcp_server import McpServer
from forwarder.hosted_tools.mcp_tools import (
    ApprovalRule,
    McpFunction,
    McpToolConfig,
    ToolFilter,
    make_call_item,
)
from forwarder.hosted_tools.tool_context import ToolClient
from forwarder.hosted_tools.tool_kind import (
    UNKNOWN_RESULT,
    HistoryCall,
    ToolKind,
    ToolRequest,
    ToolSet,
    reserve_name,
)
from forwarder.protocols.hosted_tool_names import HOSTED_TOOLS, find_hosted_name
from forwarder.translation.responses_over_chat.tools import flatten_name

CODE_ARGUMENTS = ("code", "source", "script", "python", "command", "input")
"""Names of the argument with the code, the most likely first."""

OUTPUTS_INCLUDE = "code_interpreter_call.outputs"


class MappedTool(NamedTuple):
    """A tool of an MCP server that runs in place of the hosted tool ``name``."""

    name: str
    server: McpServer
    tool: str


# -- functions ----------------------------------------------------------------------------------


class MappedFunction(McpFunction):
    """The MCP tool as a function; its calls are ``mcp_call`` items."""

    def __init__(
        self, name: str, tool: McpTool, server: McpServer, connections: McpConnections
    ) -> None:
        approval = ApprovalRule(never=ToolFilter())
        config = McpToolConfig(server, "", ToolFilter(), approval, None, defer_loading=False)
        super().__init__(name, tool, config, connections)


class ItemFunction(MappedFunction):
    """A function whose calls are items of the protocol."""

    argument_events = ""

    def start_call(self, arguments: str) -> RunningCall:
        return ItemCall(super().start_call(arguments), self.make_outcome)

    def make_outcome(self, item: Json, status: str, output: str | list[Json]) -> CallOutcome:
        """Make the outcome of a call from its item, its status and the MCP tool's output."""
        raise NotImplementedError


class CodeFunction(ItemFunction):
    """Runs code; ``container`` is the id that the items show."""

    id_prefix = "ci"
    start_events = ("response.code_interpreter_call.in_progress",)

    def __init__(self, *parts: Any, container: str, shows_outputs: bool) -> None:
        super().__init__(*parts)
        self.code_argument = find_code_argument(self.tool["input_schema"])
        self._container = container
        self._shows_outputs = shows_outputs

    def make_item(self, item_id: str, arguments: str, *_: Any) -> Json:
        code = (parse_arguments(arguments) or {}).get(self.code_argument)
        return {
            "id": item_id,
            "type": "code_interpreter_call",
            "status": "in_progress",
            "code": code if isinstance(code, str) else arguments,
            "container_id": self._container,
            "outputs": None,
        }

    def make_detail_events(self, item: Json) -> list[Event]:
        stem = "response.code_interpreter_call"
        return [
            {"type": f"{stem}_code.delta", "delta": item["code"]},
            {"type": f"{stem}_code.done", "code": item["code"]},
            {"type": f"{stem}.interpreting"},
        ]

    def make_outcome(self, item: Json, status: str, output: str | list[Json]) -> CallOutcome:
        outputs = make_code_outputs(output) if self._shows_outputs else None
        events = ("response.code_interpreter_call.completed",) if status == "completed" else ()
        return CallOutcome({**item, "status": status, "outputs": outputs}, events, output)


class MappedImageFunction(ItemFunction):
    """Makes an image."""

    id_prefix = "ig"
    start_events = (
        "response.image_generation_call.in_progress",
        "response.image_generation_call.generating",
    )

    def make_item(self, item_id: str, arguments: str, *_: Any) -> Json:
        return make_image_item(item_id)

    def cut_item(self, item: Json) -> Json:
        return {**item, "status": "failed"}  # these items have no status "incomplete"

    def make_outcome(self, item: Json, status: str, output: str | list[Json]) -> CallOutcome:
        urls = [part["image_url"] for part in iterate_parts(output) if "image_url" in part]
        result = urls[0].partition(",")[2] if urls else None
        events = ("response.image_generation_call.completed",) if status == "completed" else ()
        return CallOutcome({**item, "status": status, "result": result}, events, output)


class ItemCall:
    """A call of an MCP tool that is shown as another item."""

    def __init__(self, call: RunningCall, make_outcome: Callable[..., CallOutcome]) -> None:
        self._call = call
        self._make_outcome = make_outcome

    def wait(self, seconds: float | None) -> bool:
        return self._call.wait(seconds)

    def cancel(self) -> None:
        self._call.cancel()

    def read_outcome(self, item: Json) -> CallOutcome:
        outcome = self._call.read_outcome(make_call_item("", "", "", ""))
        return self._make_outcome(item, outcome.item["status"], outcome.output)


def find_code_argument(schema: Json) -> str:
    """Return the name of the argument that has the code."""
    properties = schema.get("properties")
    known: Json = properties if isinstance(properties, dict) else {}
    texts = [name for name, value in known.items()
             if isinstance(value, dict) and value.get("type") == "string"]  # fmt: skip
    likely = [name for name in CODE_ARGUMENTS if name in texts]
    return next(iter([*likely, *texts]), CODE_ARGUMENTS[0])


def iterate_parts(output: str | list[Json]) -> list[Json]:
    return [{"type": "input_text", "text": output}] if isinstance(output, str) else output


def make_code_outputs(output: str | list[Json]) -> list[Json]:
    return [
        {"type": "image", "url": part["image_url"]}
        if "image_url" in part
        else {"type": "logs", "logs": part.get("text") or ""}
        for part in iterate_parts(output)
    ]


# -- the kinds ----------------------------------------------------------------------------------


class MappedKind(ToolKind):
    """A hosted tool that is mapped to an MCP tool."""

    item_types = frozenset[str]()

    def __init__(self, client: McpClient, mapped: MappedTool) -> None:
        self.name = mapped.name
        self.tool_types = HOSTED_TOOLS[mapped.name]
        self.mapped = mapped
        self._client = client

    def can_run(self, tool: Json, client: ToolClient) -> bool:
        return find_hosted_name(tool) == self.name

    def open_tools(self, request: ToolRequest) -> MappedToolSet:
        return MappedToolSet(self, self._client, request)

    def make_function(
        self, tool: McpTool, connections: McpConnections, request: ToolRequest
    ) -> HostedFunction:
        server = self.mapped.server
        # The name of the function for an `mcp_call` of the history is the same.
        return MappedFunction(flatten_name(tool["name"], server.label), tool, server, connections)


class CodeInterpreterKind(MappedKind):
    item_types = frozenset({"code_interpreter_call"})
    include_values = frozenset({OUTPUTS_INCLUDE})

    def open_tools(self, request: ToolRequest) -> MappedToolSet:
        return CodeToolSet(self, self._client, request)

    def make_function(
        self, tool: McpTool, connections: McpConnections, request: ToolRequest
    ) -> HostedFunction:
        server = self.mapped.server
        container = request.tools[0][1].get("container")
        return CodeFunction(
            self.name, tool, server, connections,
            container=container if isinstance(container, str) else server.label,
            shows_outputs=OUTPUTS_INCLUDE in request.include,
        )  # fmt: skip


class MappedImageGenerationKind(MappedKind):
    def make_function(
        self, tool: McpTool, connections: McpConnections, request: ToolRequest
    ) -> HostedFunction:
        return MappedImageFunction(self.name, tool, self.mapped.server, connections)


def build_mapped_kind(client: McpClient, mapped: MappedTool) -> MappedKind:
    """Return the kind for a mapped tool."""
    return _KINDS_WITH_ITEMS.get(mapped.name, MappedKind)(client, mapped)


_KINDS_WITH_ITEMS = {
    "code_interpreter": CodeInterpreterKind,
    "image_generation": MappedImageGenerationKind,
}


class MappedToolSet(ToolSet):
    """A mapped tool of one request, if it has one; only the first of several is used."""

    def __init__(self, kind: MappedKind, client: McpClient, request: ToolRequest) -> None:
        super().__init__()
        self._kind = kind
        self._request = request
        self._connections = client.open_connections(request.client.account)
        self.function: HostedFunction | None = None

    def list_functions(self, taken: set[str]) -> list[HostedFunction]:
        """Return the function; a server that does not offer the tool is named to the model."""
        if not self._request.tools or self._request.is_preview:
            return []
        try:
            tool = self._find_tool()
        except McpFailure as failure:
            note = f"The tool {self._kind.name} is not available: {failure.message}"
            self.notes.append(note)
            return []
        self.function = self._kind.make_function(tool, self._connections, self._request)
        reserve_name(self._kind.name, self.function.name, taken)
        return [self.function]

    def _find_tool(self) -> McpTool:
        server, name = self._kind.mapped.server, self._kind.mapped.tool
        listing = self._connections.list_tools(server)
        with self._request.watch.cancel_on_disconnect(listing):
            try:
                tools = listing.unwrap()
            except (TimeoutError, TaskCancelled):
                if self._request.watch.is_gone:
                    raise ClientDisconnected from None
                message = f"The MCP server '{server.label}' did not answer in time."
                raise McpFailure("mcp_protocol_error", 0, message) from None
        found = [tool for tool in tools if tool["name"] == name]
        if not found:
            message = f"The MCP server '{server.label}' has no tool '{name}'."
            raise McpFailure("mcp_protocol_error", 0, message)
        return found[0]

    def find_functions(self, reference: Json, path: str) -> list[str] | None:
        if not self._request.tools:
            return None
        return [] if self.function is None else [self.function.name]

    def convert_item(self, item: Json, index: int) -> HistoryCall | None:
        raise NotImplementedError  # these kinds own no items

    def close(self) -> None:
        self._connections.close()


class CodeToolSet(MappedToolSet):
    """The code interpreter of one request."""

    def convert_item(self, item: Json, index: int) -> HistoryCall | None:
        path = f"input[{index}]"
        item_id = read_field(item, "id", STR, f"{path}.id") or f"ci_{index}"
        code = read_field(item, "code", STR, f"{path}.code") or ""
        outputs = read_field(item, "outputs", LIST, f"{path}.outputs") or []
        logs = [str(each.get("logs") or "") for each in outputs if isinstance(each, dict)]
        argument = CODE_ARGUMENTS[0]
        if isinstance(self.function, CodeFunction):
            argument = self.function.code_argument
        arguments = orjson.dumps({argument: code}).decode()
        output = "\n".join(filter(None, logs)) or UNKNOWN_RESULT
        return HistoryCall(item_id, self._kind.name, arguments, output)
