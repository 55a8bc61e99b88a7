"""The kind ``mcp``: tools of MCP servers, their lists, and approvals of their calls."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from forwarder.core.errors import ClientDisconnected, InvalidRequest, shorten_value
from forwarder.core.types import Json
from forwarder.core.validate import BOOL, STR, read_field, require_field
from forwarder.hosted_tools.asyncio_thread import PendingTask, TaskCancelled
from forwarder.hosted_tools.history import get_item_type
from forwarder.hosted_tools.hosted_function import (
    CallOutcome,
    HostedFunction,
    RunningCall,
    make_item_id,
    make_token,
    parse_item_id,
)
from forwarder.hosted_tools.mcp_client import McpClient, McpFailure
from forwarder.hosted_tools.mcp_content import McpTool
from forwarder.hosted_tools.mcp_session import INVALID_PARAMS, REQUEST_TIMEOUT
from forwarder.hosted_tools.mcp_tools import (
    MISSING_TOOL,
    McpFunction,
    McpPolicy,
    McpToolConfig,
    MissingMcpFunction,
    check_tool_count,
    find_listed_tools,
    list_event_types,
    make_call_item,
    make_failed_call,
    make_list_item,
    read_call_output,
    read_mcp_tools,
)
from forwarder.hosted_tools.tool_choice import unknown_label
from forwarder.hosted_tools.tool_context import ToolClient
from forwarder.hosted_tools.tool_kind import (
    HistoryCall,
    PreludeItem,
    ToolKind,
    ToolRequest,
    ToolSet,
    tool_name_collision,
)
from forwarder.translation.responses_over_chat.tools import flatten_name

NOT_ANSWERED = "The user has not answered the request to approve this call."

ToolList = list[McpTool] | PendingTask[list[McpTool]]
"""The tools of a server: from a list in the history, or from a request that is still running."""


class McpKind(ToolKind):
    name = "mcp"
    tool_types = frozenset({"mcp"})
    item_types = frozenset(
        {"mcp_call", "mcp_list_tools", "mcp_approval_request", "mcp_approval_response"}
    )

    def __init__(self, client: McpClient, policy: McpPolicy, is_restricted: bool = False) -> None:
        """With ``is_restricted``, only the operator's servers are used, by their labels."""
        self._client = client
        self._policy = policy
        self._is_restricted = is_restricted

    def restrict(self, native: frozenset[str]) -> ToolKind | None:
        """An upstream that runs MCP tools itself does not know the operator's servers."""
        if self.name not in native:
            return self
        if not self._policy.servers:
            return None
        return McpKind(self._client, self._policy._replace(allows_urls=False), is_restricted=True)

    def can_run(self, tool: Json, client: ToolClient) -> bool:
        return self._policy.can_run(tool)

    def open_tools(self, request: ToolRequest) -> ToolSet:
        configs = read_mcp_tools(request.tools, self._policy)
        labels = frozenset(self._policy.servers) if self._is_restricted else None
        return McpToolSet(self._client, request, configs, labels)


class McpToolSet(ToolSet):
    """The MCP servers of one request.

    ``own_labels`` are those of the servers that are used here if the upstream uses others itself.
    """

    def __init__(
        self,
        client: McpClient,
        request: ToolRequest,
        configs: list[McpToolConfig],
        own_labels: frozenset[str] | None = None,
    ) -> None:
        super().__init__()
        self._request = request
        self._configs = configs
        self._own_labels = own_labels
        self._approvals = read_approvals(
            [(i, item) for i, item in enumerate(request.items) if self.owns_item(item)]
        )
        self._check_due_approvals()
        self._connections = client.open_connections(request.client.account)
        self._functions: dict[tuple[str, str], McpFunction] = {}  # by label and tool

    def close(self) -> None:
        self._connections.close()

    # -- functions ------------------------------------------------------------------------------

    def list_functions(self, taken: set[str]) -> list[HostedFunction]:
        """List the tools of all servers; lists that are not in the history become items."""
        lists: list[tuple[McpToolConfig, ToolList]] = []
        for config in self._configs:
            known = find_listed_tools(self._request.items, config)
            if known or not self._request.is_preview:
                lists.append((config, known or self._connections.list_tools(config.server)))
        waiting = [found for _, found in lists if not isinstance(found, list)]
        with self._request.watch.cancel_on_disconnect(*waiting):
            for config, found in lists:
                self._add_server(config, found, taken)
        return [*self._functions.values()]

    def _add_server(self, config: McpToolConfig, found: ToolList, taken: set[str]) -> None:
        tools: list[McpTool] = []
        error: str | None = None
        label = config.server.label
        try:
            listed = found if isinstance(found, list) else self._await_tools(found)
            selected = config.select_tools(listed)
            check_tool_count(config, selected)
            tools = selected
        except McpFailure as failure:
            error = failure.message
            self.notes.append(f"The tools of the MCP server '{label}' are not available: {error}")
        if not isinstance(found, list):
            item_id = self._request.id_source.new_id("mcpl")
            item = make_list_item(item_id, config, tools, error)
            self.prelude.append(PreludeItem(item, list_event_types(item)))
        for tool in tools:
            name = choose_name(label, tool["name"], taken)
            taken.add(name)
            function = McpFunction(name, tool, config, self._connections)
            self._functions[label, tool["name"]] = function

    def _await_tools(self, task: PendingTask[list[McpTool]]) -> list[McpTool]:
        """Wait for a list of tools. Raises McpFailure or ClientDisconnected."""
        try:
            return task.unwrap()
        except (TimeoutError, TaskCancelled):
            if self._request.watch.is_gone:
                raise ClientDisconnected from None
            message = "The MCP server did not answer in time."
            raise McpFailure("mcp_protocol_error", REQUEST_TIMEOUT, message) from None

    def find_functions(self, reference: Json, path: str) -> list[str] | None:
        label = require_field(reference, "server_label", STR, f"{path}.server_label")
        if label not in self._labels and self._own_labels is not None:
            return None
        if label not in self._labels:
            raise unknown_label(label, path)
        name = read_field(reference, "name", STR, f"{path}.name")
        return [
            function.name
            for (server, tool), function in self._functions.items()
            if server == label and name in (None, tool)
        ]

    def find_missing_function(self, name: str) -> HostedFunction | None:
        for label in self._labels:
            for prefix in (f"{label}__", f"mcp__{label}__"):
                if name.startswith(prefix):
                    return MissingMcpFunction(name, label, name.removeprefix(prefix))
        return None

    @property
    def _labels(self) -> set[str]:
        return {config.server.label for config in self._configs}

    # -- approvals ------------------------------------------------------------------------------

    def _check_due_approvals(self) -> None:
        labels = self._labels
        for approval in self._approvals.values():
            if approval.is_due and approval.request["server_label"] not in labels:
                path = f"input[{approval.answer_index}].approval_request_id"
                raise InvalidRequest(
                    f"'{path}': the approved call belongs to an MCP server that is not in 'tools'.",
                    param=path,
                    code="invalid_value",
                )

    def run_due_calls(self) -> None:
        """Run the calls that the client has just approved."""
        if self._request.is_preview:
            return
        due = {name: approval for name, approval in self._approvals.items() if approval.is_due}
        outcomes: dict[str, CallOutcome] = self._request.memory.setdefault("approved_calls", {})
        running = {
            name: self._start_approved(approval)
            for name, approval in due.items()
            if name not in outcomes
        }
        watch = self._request.watch
        with watch.cancel_on_disconnect(*running.values()):
            token = make_token(self._request.id_source.new_id)
            for name, call in running.items():
                call.wait(None)
                watch.check()
                outcomes[name] = call.read_outcome(self._make_approved_item(due[name], token))
                self._request.on_call_end(outcomes[name].item)
        for name, approval in due.items():
            outcome = outcomes[name]
            self.call_count += 1
            events = (*McpFunction.start_events, *outcome.events)
            self.prelude.append(PreludeItem(outcome.item, events))
            self._approvals[name] = approval._replace(output=outcome.output)

    def _make_approved_item(self, approval: Approval, token: str) -> Json:
        request = approval.request
        call_id = parse_item_id(request["id"]).call_id
        return make_call_item(
            make_item_id("mcp", token, call_id, self._request.id_source.new_id),
            request["server_label"],
            request["name"],
            request["arguments"],
            request["id"],
        )

    def _start_approved(self, approval: Approval) -> RunningCall:
        request = approval.request
        function = self._functions.get((request["server_label"], request["name"]))
        if function is None:
            return make_failed_call(McpFailure("mcp_protocol_error", INVALID_PARAMS, MISSING_TOOL))
        return function.start_call(request["arguments"])

    # -- history --------------------------------------------------------------------------------

    def owns_item(self, item: Any) -> bool:
        """Whether the item was made here; other items belong to the upstream."""
        if self._own_labels is None or not isinstance(item, dict):
            return True
        kind = get_item_type(item)
        if kind == "mcp_list_tools":
            return item.get("server_label") in self._own_labels
        name = item.get("approval_request_id" if kind == "mcp_approval_response" else "id")
        return isinstance(name, str) and parse_item_id(name).round_token is not None

    def convert_item(self, item: Json, index: int) -> HistoryCall | None:
        kind = get_item_type(item)
        if kind == "mcp_call":
            return self._convert_call(item, f"input[{index}]")
        if kind == "mcp_approval_request":
            return self._convert_approval_request(item)
        return None  # the model sees neither lists nor answers

    def _convert_call(self, item: Json, path: str) -> HistoryCall | None:
        check_call_item(item, path)
        if item.get("approval_request_id") in self._approvals:
            return None  # `_convert_approval_request` returns this call
        item_id = require_field(item, "id", STR, f"{path}.id")
        return self._make_history_call(item, item_id, read_call_output(item))

    def _convert_approval_request(self, item: Json) -> HistoryCall:
        approval = self._approvals[item["id"]]
        output: str | list[Json] = NOT_ANSWERED
        if approval.output is not None:
            output = approval.output
        elif approval.call is not None:
            output = read_call_output(approval.call)
        elif approval.approve is False:
            reason = f" Reason: {approval.reason}" if approval.reason else ""
            output = f"The user did not approve this call.{reason}"
        return self._make_history_call(item, item["id"], output)

    def _make_history_call(self, item: Json, item_id: str, output: str | list[Json]) -> HistoryCall:
        label, tool = item["server_label"], item["name"]
        function = self._functions.get((label, tool))
        name = flatten_name(tool, label) if function is None else function.name
        return HistoryCall(item_id, name, item["arguments"], output)


def choose_name(label: str, tool: str, taken: set[str]) -> str:
    """Return the name of the function for a tool. Raises InvalidRequest if it is taken."""
    for namespace in (label, f"mcp__{label}"):
        name = flatten_name(tool, namespace)
        if name not in taken:
            return name
    raise tool_name_collision(f"{label}.{tool}", name)


class Approval(NamedTuple):
    """An ``mcp_approval_request`` of the history and its answer, which is ``input[answer_index]``.

    ``approve`` is ``None`` if there is no answer. ``call`` is the ``mcp_call`` that was run for it
    in an earlier turn, ``output`` the output of a call that was run for it in this turn.
    """

    request: Json
    answer_index: int | None = None
    approve: bool | None = None
    reason: str | None = None
    call: Json | None = None
    output: str | list[Json] | None = None

    @property
    def is_due(self) -> bool:
        """Whether the call was approved and has not been run yet."""
        return self.approve is True and self.call is None


def read_approvals(items: Iterable[tuple[int, Any]]) -> dict[str, Approval]:
    """Return the approval requests by id, with their answers; ``items`` are (index, item) pairs.

    Raises InvalidRequest for an answer to an unknown or already answered request.
    """
    approvals: dict[str, Approval] = {}
    for index, item in items:
        kind = get_item_type(item)
        path = f"input[{index}]"
        if kind == "mcp_approval_request":
            check_call_item(item, path)
            approvals[require_field(item, "id", STR, f"{path}.id")] = Approval(item)
        elif kind == "mcp_approval_response":
            param = f"{path}.approval_request_id"
            name = require_field(item, "approval_request_id", STR, param)
            approve = require_field(item, "approve", BOOL, f"{path}.approve")
            reason = read_field(item, "reason", STR, f"{path}.reason")
            if name not in approvals:
                raise make_answer_error(name, "No approval request has the id '{}'.", param)
            if approvals[name].approve is not None:
                raise make_answer_error(
                    name, "The approval request '{}' is already answered.", param
                )
            answer = {"answer_index": index, "approve": approve, "reason": reason}
            approvals[name] = approvals[name]._replace(**answer)
        elif kind == "mcp_call":
            param = f"{path}.approval_request_id"
            request_id = read_field(item, "approval_request_id", STR, param)
            if request_id in approvals:
                approvals[request_id] = approvals[request_id]._replace(call=item)
    return approvals


def make_answer_error(name: str, message: str, param: str) -> InvalidRequest:
    return InvalidRequest(message.format(shorten_value(name)), param=param, code="invalid_value")


def check_call_item(item: Json, path: str) -> None:
    for name in ("name", "server_label", "arguments"):
        require_field(item, name, STR, f"{path}.{name}")
