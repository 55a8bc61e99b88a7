"""``mcp`` tools of a request: their validation, and their servers' tools as hosted functions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import orjson

from forwarder.core.errors import InvalidRequest, Unsupported, shorten_value
from forwarder.core.types import Json
from forwarder.core.validate import (
    BOOL,
    DICT,
    LIST,
    STR,
    check_enum,
    check_type,
    make_missing_parameter_error,
    read_field,
    require_field,
)
from forwarder.hosted_tools.asyncio_thread import PendingTask, TaskCancelled
from forwarder.hosted_tools.hosted_function import (
    CallOutcome,
    FinishedCall,
    HostedFunction,
    RunningCall,
    make_function_tool,
    parse_arguments,
)
from forwarder.hosted_tools.mcp_client import McpConnections, McpFailure
from forwarder.hosted_tools.mcp_content import MAX_TOOLS, McpTool, ToolResult
from forwarder.hosted_tools.mcp_server import (
    MAX_LABEL_LENGTH,
    McpServer,
    is_allowed_header,
    is_label,
    is_server_url,
)
from forwarder.hosted_tools.mcp_session import INVALID_PARAMS, REQUEST_TIMEOUT

MAX_SERVERS = 16
"""Maximum number of MCP servers of one request."""

MAX_HEADERS = 32

MISSING_TOOL = "The server does not offer this tool, or 'allowed_tools' does not allow it."


class ToolFilter(NamedTuple):
    """Selects tools by name or by their ``readOnlyHint``; ``None`` selects all."""

    names: frozenset[str] | None = None
    read_only: bool | None = None

    def matches(self, tool: McpTool) -> bool:
        if self.names is not None and tool["name"] not in self.names:
            return False
        is_read_only = (tool["annotations"] or {}).get("readOnlyHint") is True
        return self.read_only is None or self.read_only == is_read_only


class ApprovalRule(NamedTuple):
    """Which tools need an approval: all except those that ``never`` but not ``always`` selects."""

    always: ToolFilter | None = None
    never: ToolFilter | None = None

    def needs_approval(self, tool: McpTool) -> bool:
        if self.always is not None and self.always.matches(tool):
            return True
        return self.never is None or not self.never.matches(tool)


class McpToolConfig(NamedTuple):
    """A validated ``mcp`` tool of a request; ``path`` is its place in the request."""

    server: McpServer
    path: str
    allowed: ToolFilter
    approval: ApprovalRule
    description: str | None
    defer_loading: bool

    def select_tools(self, tools: list[McpTool]) -> list[McpTool]:
        return [tool for tool in tools if self.allowed.matches(tool)]


class McpPolicy(NamedTuple):
    """Which servers requests may use: those of the operator, and others by URL if allowed."""

    servers: Mapping[str, McpServer] = {}
    allows_urls: bool = False

    def can_run(self, tool: Any) -> bool:
        """Whether an ``mcp`` tool is run here; others are left to the upstream or dropped."""
        if not isinstance(tool, dict) or tool.get("type") != "mcp":
            return False
        label = tool.get("server_label")
        return self.allows_urls or (
            tool.get("server_url") is None and isinstance(label, str) and label in self.servers
        )


def read_mcp_tools(tools: list[tuple[str, Json]], policy: McpPolicy) -> list[McpToolConfig]:
    """Validate ``mcp`` tools, given with their paths. Raises InvalidRequest or Unsupported."""
    configs = [read_mcp_tool(tool, path, policy) for path, tool in tools]
    if len(configs) > MAX_SERVERS:
        raise InvalidRequest(f"A request may use at most {MAX_SERVERS} MCP servers.", param="tools")
    seen: set[str] = set()
    for config in configs:
        label = config.server.label
        if label in seen:
            raise InvalidRequest(
                f"Two MCP servers have the label '{label}'.",
                param=f"{config.path}.server_label",
                code="invalid_value",
            )
        seen.add(label)
    return configs


def read_mcp_tool(tool: Json, path: str, policy: McpPolicy) -> McpToolConfig:
    label = require_field(tool, "server_label", STR, f"{path}.server_label")
    if not is_label(label):
        raise invalid_value(
            f"{path}.server_label",
            f"a label has at most {MAX_LABEL_LENGTH} letters, digits, - and _",
        )
    return McpToolConfig(
        server=read_server(tool, label, path, policy),
        path=path,
        allowed=read_allowed_tools(tool, f"{path}.allowed_tools"),
        approval=read_approval_rule(tool, f"{path}.require_approval"),
        description=read_field(tool, "server_description", STR, f"{path}.server_description"),
        defer_loading=bool(read_field(tool, "defer_loading", BOOL, f"{path}.defer_loading")),
    )


def read_server(tool: Json, label: str, path: str, policy: McpPolicy) -> McpServer:
    for name in ("connector_id", "tunnel_id"):
        if tool.get(name) is not None:
            raise Unsupported(
                f"'{path}.{name}': OpenAI's own connectors and tunnels cannot be used over this "
                "upstream. Name an MCP server by 'server_url' instead.",
                param=f"{path}.{name}",
                code="unsupported_tool",
            )
    url = read_field(tool, "server_url", STR, f"{path}.server_url")
    headers = read_headers(tool, path)
    if url is None:
        server = policy.servers.get(label)
        if server is None:
            raise make_missing_parameter_error(f"{path}.server_url")
        if headers:
            raise InvalidRequest(
                f"'{path}': the server '{shorten_value(label)}' is configured here, so 'headers' "
                "and 'authorization' cannot be set.",
                param=f"{path}.headers" if tool.get("headers") else f"{path}.authorization",
                code="invalid_value",
            )
        return server
    if not is_server_url(url):
        raise invalid_value(
            f"{path}.server_url", "it must be an http or https URL without user and fragment"
        )
    return McpServer(label, url=url, headers=headers)


def read_headers(tool: Json, path: str) -> dict[str, str]:
    """Return the headers of a tool, with its ``authorization``."""
    given = read_field(tool, "headers", DICT, f"{path}.headers") or {}
    headers: dict[str, str] = {}
    if len(given) > MAX_HEADERS:
        raise invalid_value(f"{path}.headers", f"at most {MAX_HEADERS} headers are allowed")
    for name, value in given.items():
        check_type(value, STR, f"{path}.headers.{shorten_value(name)}")
        if not is_allowed_header(name, value):
            raise invalid_value(
                f"{path}.headers", f"the header '{shorten_value(name)}' cannot be sent"
            )
        headers[name] = value
    token = read_field(tool, "authorization", STR, f"{path}.authorization")
    if token is None:
        return headers
    if any(name.lower() == "authorization" for name in headers):
        raise invalid_value(
            f"{path}.authorization", "'headers' already has the header 'Authorization'"
        )
    value = f"Bearer {token.removeprefix('Bearer ').strip()}"
    if not is_allowed_header("Authorization", value):
        raise invalid_value(f"{path}.authorization", "it has characters that cannot be sent")
    return {**headers, "Authorization": value}


def read_allowed_tools(tool: Json, path: str) -> ToolFilter:
    value = read_field(tool, "allowed_tools", (list, dict), path)
    if value is None:
        return ToolFilter()
    return (
        ToolFilter(read_names(value, path)) if isinstance(value, list) else read_filter(value, path)
    )


def read_filter(value: Json, path: str) -> ToolFilter:
    names = read_field(value, "tool_names", LIST, f"{path}.tool_names")
    return ToolFilter(
        None if names is None else read_names(names, f"{path}.tool_names"),
        read_field(value, "read_only", BOOL, f"{path}.read_only"),
    )


def read_names(value: list[Any], path: str) -> frozenset[str]:
    return frozenset(check_type(name, STR, f"{path}[{i}]") for i, name in enumerate(value))


def read_approval_rule(tool: Json, path: str) -> ApprovalRule:
    """Return which tools need an approval. As at OpenAI, the default is all tools."""
    value = read_field(tool, "require_approval", (str, dict), path)
    if value is None:
        return ApprovalRule()
    if isinstance(value, str):
        mode = check_enum(value, ("always", "never"), path)
        return ApprovalRule(never=ToolFilter()) if mode == "never" else ApprovalRule()
    rules: dict[str, ToolFilter | None] = {}
    for name in ("always", "never"):
        entry = read_field(value, name, DICT, f"{path}.{name}")
        rules[name] = None if entry is None else read_filter(entry, f"{path}.{name}")
    return ApprovalRule(**rules)


def invalid_value(path: str, reason: str) -> InvalidRequest:
    return InvalidRequest(
        f"Invalid value for '{path}': {reason}.", param=path, code="invalid_value"
    )


def check_tool_count(config: McpToolConfig, tools: list[McpTool]) -> None:
    """Raise McpFailure if a server offers too many tools."""
    if len(tools) > MAX_TOOLS:
        raise McpFailure(
            "mcp_protocol_error",
            INVALID_PARAMS,
            f"The MCP server '{config.server.label}' has {len(tools)} tools; at most {MAX_TOOLS} "
            "can be offered. Select some by 'allowed_tools'.",
        )


# -- functions ----------------------------------------------------------------------------------


class McpFunction(HostedFunction):
    """A tool of an MCP server as a function of the model."""

    id_prefix = "mcp"
    start_events: tuple[str, ...] = ("response.mcp_call.in_progress",)
    argument_events = "response.mcp_call_arguments"

    def __init__(
        self, name: str, tool: McpTool, config: McpToolConfig, connections: McpConnections
    ) -> None:
        super().__init__(name)
        self.tool = tool
        self.server = config.server
        self.needs_approval = config.approval.needs_approval(tool)
        self._config = config
        self._connections = connections

    @property
    def definition(self) -> Json:
        description = self.tool["description"]
        if not description and self._config.description:
            description = f"{self.tool['name']}: {self._config.description}"
        more = {"defer_loading": True} if self._config.defer_loading else {}
        schema = self.tool["input_schema"]
        parameters = schema if "properties" in schema else {**schema, "properties": {}}
        return make_function_tool(self.name, description, parameters, **more)

    def make_item(
        self, item_id: str, arguments: str, approval_request_id: str | None = None
    ) -> Json:
        return make_call_item(
            item_id, self.server.label, self.tool["name"], arguments, approval_request_id
        )

    def make_approval_request(self, item_id: str, arguments: str) -> Json:
        return {
            "id": item_id,
            "type": "mcp_approval_request",
            "arguments": arguments,
            "name": self.tool["name"],
            "server_label": self.server.label,
        }

    def start_call(self, arguments: str) -> RunningCall:
        values = parse_arguments(arguments)
        if values is None:
            message = "The arguments of the call are not a JSON object."
            return make_failed_call(McpFailure("mcp_protocol_error", INVALID_PARAMS, message))
        task = self._connections.call_tool(self.server, self.tool["name"], values)
        return McpCall(task, self.server)


class MissingMcpFunction(HostedFunction):
    """A tool that the model calls although its server does not offer it; the call fails."""

    id_prefix = "mcp"
    start_events = McpFunction.start_events
    argument_events = McpFunction.argument_events

    def __init__(self, name: str, label: str, tool: str) -> None:
        super().__init__(name)
        self._label = label
        self._tool = tool

    @property
    def definition(self) -> Json:
        return make_function_tool(self.name, None, {"type": "object", "properties": {}})

    def make_item(self, item_id: str, arguments: str) -> Json:
        return make_call_item(item_id, self._label, self._tool, arguments)

    def start_call(self, arguments: str) -> RunningCall:
        return make_failed_call(McpFailure("mcp_protocol_error", INVALID_PARAMS, MISSING_TOOL))


class McpCall:
    """A running call of a tool of an MCP server."""

    def __init__(self, task: PendingTask[ToolResult], server: McpServer) -> None:
        self._task = task
        self._server = server

    def wait(self, seconds: float | None) -> bool:
        return self._task.wait(seconds)

    def cancel(self) -> None:
        self._task.cancel()

    def read_outcome(self, item: Json) -> CallOutcome:
        try:
            result = self._task.unwrap()
        except McpFailure as failure:
            return make_failed_outcome(item, failure)
        except (TimeoutError, TaskCancelled):
            return make_failed_outcome(item, make_timeout_failure(self._server))
        if result.is_error:
            error = {
                "type": "mcp_tool_execution_error",
                "content": [{"type": "text", "text": result.text}],
            }
            return finish_call(item, error, result.output)
        done = {**item, "output": result.text, "status": "completed"}
        return CallOutcome(done, ("response.mcp_call.completed",), result.output)


def make_call_item(
    item_id: str, label: str, name: str, arguments: str, approval_request_id: str | None = None
) -> Json:
    return {
        "id": item_id,
        "type": "mcp_call",
        "approval_request_id": approval_request_id,
        "arguments": arguments,
        "error": None,
        "name": name,
        "output": None,
        "server_label": label,
        "status": "in_progress",
    }


def make_failed_call(failure: McpFailure) -> FinishedCall:
    return FinishedCall(lambda item: make_failed_outcome(item, failure))


def make_failed_outcome(item: Json, failure: McpFailure) -> CallOutcome:
    error = {"type": failure.kind, "code": failure.code, "message": failure.message}
    return finish_call(item, error)


def finish_call(item: Json, error: Json, output: str | list[Json] | None = None) -> CallOutcome:
    failed = {**item, "error": error, "status": "failed"}
    text = read_call_output(failed) if output is None else output
    return CallOutcome(failed, ("response.mcp_call.failed",), text)


def make_timeout_failure(server: McpServer) -> McpFailure:
    message = f"The MCP server '{server.label}' did not answer in time."
    return McpFailure("mcp_protocol_error", REQUEST_TIMEOUT, message)


def read_call_output(item: Json) -> str:
    """Return the model's text for an ``mcp_call`` item: its output or the reason of failure."""
    output = item.get("output")
    if isinstance(output, str):
        return output
    error = item.get("error")
    if error is None:
        return "The call was not completed."
    if isinstance(error, dict):
        content = error.get("content")
        blocks = content if isinstance(content, list) else []
        texts = [str(b["text"]) for b in blocks if isinstance(b, dict) and b.get("text")]
        error = "\n".join(texts) or error.get("message") or content
    return error if isinstance(error, str) else orjson.dumps(error).decode()


# -- lists of tools -----------------------------------------------------------------------------


def make_list_item(
    item_id: str, config: McpToolConfig, tools: list[McpTool], error: str | None = None
) -> Json:
    return {
        "id": item_id,
        "type": "mcp_list_tools",
        "error": error,
        "server_label": config.server.label,
        "tools": tools,
    }


def list_event_types(item: Json) -> tuple[str, ...]:
    """Return the types of the events between the first and the last of ``mcp_list_tools``."""
    end = "failed" if item["error"] else "completed"
    return ("response.mcp_list_tools.in_progress", f"response.mcp_list_tools.{end}")


def find_listed_tools(items: list[Any], config: McpToolConfig) -> list[McpTool] | None:
    """Return the tools of the server's latest ``mcp_list_tools`` item in the history, if usable.

    A list that failed, or that lacks a tool which the request names, is not used. Raises
    InvalidRequest if ``tools`` is not an array.
    """
    for index, item in reversed([*enumerate(items)]):
        if not isinstance(item, dict) or item.get("type") != "mcp_list_tools":
            continue
        if item.get("server_label") != config.server.label or item.get("error"):
            continue
        listed = read_field(item, "tools", LIST, f"input[{index}].tools") or []
        tools = [read_listed_tool(tool) for tool in listed]
        valid = [tool for tool in tools if tool is not None]
        wanted = config.allowed.names or frozenset()
        if len(valid) == len(tools) and wanted <= {tool["name"] for tool in valid}:
            return valid
        return None
    return None


def read_listed_tool(tool: Any) -> McpTool | None:
    if not isinstance(tool, dict) or not isinstance(tool.get("input_schema"), dict):
        return None
    name, description = tool.get("name"), tool.get("description")
    if not isinstance(name, str) or not name:
        return None
    annotations = tool.get("annotations")
    return {
        "name": name,
        "description": description if isinstance(description, str) else None,
        "input_schema": tool["input_schema"],
        "annotations": annotations if isinstance(annotations, dict) else None,
    }
