"""The pipeline stage that runs hosted tools between a Responses client and any upstream.

`with_hosted_tools` wraps a Responses handler, outside of translation. Hosted tools of the request
that run here are offered to the model as functions. When the model calls them, they are run, and
the model is asked again with their outputs, until it answers or calls a tool of the client. The
client gets one response.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Generator, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from forwarder.core.cancellation import CancelToken
from forwarder.core.errors import (
    ClientDisconnected,
    ClientError,
    InvalidRequest,
    Unsupported,
    shorten_value,
)
from forwarder.core.ids import ID_SOURCE, IdSource
from forwarder.core.types import Batch, EventStream, Handler, Json
from forwarder.core.validate import INT, LIST, STR, check_type, read_field, require_field
from forwarder.hosted_tools.asyncio_thread import PendingTask, TaskCancelled
from forwarder.hosted_tools.file_search import (
    RESULTS_INCLUDE,
    FileSearchFunction,
    PrepareFileSearch,
    is_file_search,
)
from forwarder.hosted_tools.history import (
    FILE_SEARCH_FUNCTION,
    MCP_ITEMS,
    SEARCH_FUNCTIONS,
    Approval,
    HistoryConverter,
    has_items,
    make_function_output,
    read_approvals,
)
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
from forwarder.hosted_tools.mcp_session import INVALID_PARAMS
from forwarder.hosted_tools.mcp_tools import (
    McpFunction,
    McpPolicy,
    McpToolConfig,
    check_tool_count,
    find_carried_tools,
    list_events,
    make_call_item,
    make_failed_call,
    make_list_item,
    read_mcp_tools,
)
from forwarder.hosted_tools.response_merger import HostedCall, ResponseMerger, Round, new_round
from forwarder.hosted_tools.tool_choice import (
    FunctionLookup,
    convert_choice,
    make_final_choice,
    relax_choice,
    unknown_label,
)
from forwarder.hosted_tools.web_search import (
    SOURCES_INCLUDE,
    SearchSession,
    WebSearch,
    can_search,
    read_search_tool,
)
from forwarder.protocols.mappings import INCLUDE_ENCRYPTED_REASONING
from forwarder.protocols.tool_secrets import hide_tool_secrets
from forwarder.translation.responses_over_chat.toolbox import WEB_SEARCH_TYPES, flatten_name

MAX_ROUNDS = 32
"""Maximum number of requests to the upstream for one response; in the last one, the model may call
no hosted tool."""

MAX_CALLS = 128
"""Maximum number of hosted calls of one response; ``max_tool_calls`` can only lower it."""

MIN_OUTPUT_TOKENS = 16
"""The smallest ``max_output_tokens`` that upstreams accept."""

LIMIT_NOTE = "This call was not run, because the limit of tool calls of this response is reached."


_PLACE = re.compile(r"\b(tools|input)\[(\d{1,6})\]")
"""A place in the request, in an error."""


class LoopContext(NamedTuple):
    """What the loop needs beside the handler.

    ``token`` is the waiting client. ``heartbeat`` is the interval in seconds of empty batches while
    tools run. ``keeps_encrypted_reasoning`` is true if the response is stored with it even though
    the client did not ask for it. ``history_items`` are the types of items in the history that the
    upstream does not know. ``search`` is ``None`` if no search engine is configured or the upstream
    searches itself, ``prepare_file_search`` if no files are stored here; ``call_seconds`` limits a
    call of that. With ``is_preview`` no server is called, so only lists of tools that the history
    has are offered. ``approved_calls`` are the outcomes of approved calls by request id; they
    belong to the client's request, so that a fallback to another upstream does not run the calls
    again.
    """

    client: McpClient
    policy: McpPolicy
    token: CancelToken
    id_source: IdSource = ID_SOURCE
    heartbeat: float = 5.0
    max_rounds: int = MAX_ROUNDS
    keeps_encrypted_reasoning: bool = False
    history_items: Collection[str] = MCP_ITEMS
    search: WebSearch | None = None
    prepare_file_search: PrepareFileSearch | None = None
    call_seconds: float = 60.0
    is_preview: bool = False
    approved_calls: dict[str, Any] | None = None

    def can_run(self, tool: Any) -> bool:
        """Whether a tool of a request is run here."""
        return (
            self.policy.can_run(tool)
            or (self.search is not None and can_search(tool))
            or (self.prepare_file_search is not None and is_file_search(tool))
        )


def with_hosted_tools(handler: Handler, context: LoopContext) -> Handler:
    """Wrap a Responses handler so that the hosted tools which ``context`` allows run here."""

    def handle_request(request: Json) -> EventStream:
        tools = read_field(request, "tools", LIST, "tools") or []
        if not any(map(context.can_run, tools)) and not has_items(
            request.get("input"), context.history_items
        ):
            return handler(request)
        run = ResponseRun(handler, request, context)
        try:
            stream = run.start()
        except BaseException:
            run.close()
            raise
        return stream

    return handle_request


class ResponseRun:
    """One response: its tools, its rounds and its connections."""

    def __init__(self, handler: Handler, request: Json, context: LoopContext) -> None:
        self._handler = handler
        self._request = request
        self._context = context
        self._connections = context.client.open_connections()
        self._functions: dict[str, HostedFunction] = {}
        self._names: dict[tuple[str, str], str] = {}  # label and tool -> function
        self._lost_servers: dict[str, str] = {}  # label -> reason
        self._origins: list[int] = []  # place of an item upstream -> place in the client's input
        self._token = make_token(context.id_source.new_id)

    def close(self) -> None:
        self._connections.close()

    def start(self) -> EventStream:
        """Prepare the tools and connect to the upstream; return the events of the response.

        Raises InvalidRequest, Unsupported, or the upstream's error.
        """
        request = self._request
        items = normalize_input(request.get("input"))
        tools = request.get("tools") or []
        max_calls = read_field(request, "max_tool_calls", INT, "max_tool_calls")
        configs = read_mcp_tools(
            [(i, tool) for i, tool in enumerate(tools) if self._context.policy.can_run(tool)],
            self._context.policy,
        )
        client_tools = [tool for tool in tools if not self._context.can_run(tool)]
        search = self._open_search(tools)
        sources: dict[str, str] = search.sources if search else {}
        file_search = self._open_file_search(tools, sources)
        approvals = read_approvals(items)
        self._check_due_approvals(approvals, configs)
        merger = ResponseMerger(
            self._functions,
            self._context.id_source,
            self._make_shown_fields(),
            MAX_CALLS if max_calls is None else min(max_calls, MAX_CALLS),
            self._hides_encrypted(),
            sources,
        )
        self._add_mcp_functions(configs, items, client_tools, merger)
        for function in search.make_functions() if search else ():
            self._add_search_function("web_search", function, client_tools)
        if file_search is not None:
            self._add_search_function("file_search", file_search, client_tools)
        approvals = self._run_approved_calls(approvals, merger)
        upstream_request = self._make_request(items, client_tools, configs, approvals)
        try:
            stream = self._handler(upstream_request)
        except (InvalidRequest, Unsupported) as error:
            raise self._restore_paths(error, tools) from None
        if not self._functions and not merger.has_prelude:
            return stream
        rounds = self._run_rounds(merger, upstream_request, stream, client_tools)
        next(rounds)  # its cleanup runs only once it has begun
        return rounds

    # -- the first request ----------------------------------------------------------------------

    def _make_request(
        self,
        items: list[Any],
        client_tools: list[Any],
        configs: list[McpToolConfig],
        approvals: dict[str, Approval],
    ) -> Json:
        request = {k: v for k, v in self._request.items() if k != "max_tool_calls"}
        converter = HistoryConverter(self._find_name, approvals, self._context.history_items)
        request["input"] = [*converter.convert_items(items), *self._make_notes()]
        self._origins = converter.origins
        definitions = [function.definition for function in self._functions.values()]
        if self._request.get("tools") is not None:
            request["tools"] = [*client_tools, *definitions]
        choice = self._request.get("tool_choice")
        if choice is not None:
            labels = {config.server.label for config in configs}
            converters: dict[str, FunctionLookup] = {
                "mcp": lambda ref, path: self._find_mcp_functions(ref, path, labels)
            }
            if SEARCH_FUNCTIONS["search"] in self._functions:
                converters |= dict.fromkeys(WEB_SEARCH_TYPES, find_search_functions)
            if FILE_SEARCH_FUNCTION in self._functions:
                converters["file_search"] = lambda ref, path: [FILE_SEARCH_FUNCTION]
            request["tool_choice"] = convert_choice(choice, converters)
        include = read_field(request, "include", LIST, "include") or []
        if self._functions and INCLUDE_ENCRYPTED_REASONING not in include:
            # Without it, reasoning could not be sent back in the next round.
            include = [*include, INCLUDE_ENCRYPTED_REASONING]
        if include:
            request["include"] = [
                value for value in include if value not in (SOURCES_INCLUDE, RESULTS_INCLUDE)
            ]
        return request

    def _restore_paths(self, error: ClientError, tools: list[Any]) -> ClientError:
        """Return an error of the translation that names the places in the client's request."""
        client_tools = [i for i, tool in enumerate(tools) if not self._context.can_run(tool)]
        places = {"tools": client_tools, "input": self._origins}

        def restore_path(match: re.Match[str]) -> str:
            name, index = match[1], int(match[2])
            return f"{name}[{places[name][index]}]" if index < len(places[name]) else match[0]

        error.message = _PLACE.sub(restore_path, error.message)
        error.param = None if error.param is None else _PLACE.sub(restore_path, error.param)
        return error

    def _find_mcp_functions(self, reference: Json, path: str, labels: set[str]) -> list[str]:
        label = require_field(reference, "server_label", STR, f"{path}.server_label")
        if label not in labels:
            raise unknown_label(label, path)
        name = read_field(reference, "name", STR, f"{path}.name")
        return [
            function
            for (server, tool), function in self._names.items()
            if server == label and name in (None, tool)
        ]

    def _make_notes(self) -> list[Json]:
        """Make the message that tells the model which servers' tools are missing."""
        if not self._lost_servers:
            return []
        lost = "\n".join(
            f"The tools of the MCP server '{label}' are not available: {reason}"
            for label, reason in self._lost_servers.items()
        )
        return [{"type": "message", "role": "developer", "content": lost}]

    def _make_shown_fields(self) -> Json:
        request = self._request
        shown = {name: request[name] for name in ("tool_choice", "max_tool_calls")
                 if request.get(name) is not None}  # fmt: skip
        return {**shown, "tools": hide_tool_secrets(request.get("tools") or [])}

    def _hides_encrypted(self) -> bool:
        include = read_field(self._request, "include", LIST, "include") or []
        is_wanted = INCLUDE_ENCRYPTED_REASONING in include
        return not (is_wanted or self._context.keeps_encrypted_reasoning)

    # -- tools ----------------------------------------------------------------------------------

    def _add_mcp_functions(
        self,
        configs: list[McpToolConfig],
        items: list[Any],
        client_tools: list[Any],
        merger: ResponseMerger,
    ) -> None:
        """List the tools of all servers, offer them, and show the lists that are new."""
        lists: list[tuple[McpToolConfig, list[McpTool] | PendingTask[list[McpTool]]]] = []
        for config in configs:
            carried = find_carried_tools(items, config)
            if carried or not self._context.is_preview:
                lists.append((config, carried or self._connections.list_tools(config.server)))
        taken = find_names(client_tools)
        with self._cancel_on_disconnect(*(found for _, found in lists)):
            for config, found in lists:
                self._add_server(config, found, taken, merger)

    def _add_server(
        self,
        config: McpToolConfig,
        found: list[McpTool] | PendingTask[list[McpTool]],
        taken: set[str],
        merger: ResponseMerger,
    ) -> None:
        tools: list[McpTool] = []
        error: str | None = None
        try:
            listed = found if isinstance(found, list) else self._await(found)
            selected = config.select_tools(listed)
            check_tool_count(config, selected)
            tools = selected
        except McpFailure as failure:
            error = self._lost_servers[config.server.label] = failure.message
        if not isinstance(found, list):
            item_id = self._context.id_source.new_id("mcpl")
            item = make_list_item(item_id, config, tools, error)
            merger.add_prelude(item, list_events(item))
        for tool in tools:
            name = choose_name(config.server.label, tool["name"], taken)
            taken.add(name)
            self._names[config.server.label, tool["name"]] = name
            self._functions[name] = McpFunction(name, tool, config, self._connections)

    def _open_search(self, tools: list[Any]) -> SearchSession | None:
        """Return the web search of the request; if it has several such tools, the first counts."""
        search = self._context.search
        for index, tool in enumerate(tools if search else ()):
            if search is not None and can_search(tool):
                include = read_field(self._request, "include", LIST, "include") or []
                config = read_search_tool(tool, f"tools[{index}]")
                return SearchSession(search, config, SOURCES_INCLUDE in include)
        return None

    def _open_file_search(
        self, tools: list[Any], sources: dict[str, str]
    ) -> FileSearchFunction | None:
        """Return the file search of the request; of several such tools the first counts."""
        prepare = self._context.prepare_file_search
        for index, tool in enumerate(tools if prepare else ()):
            if prepare is not None and is_file_search(tool):
                include = read_field(self._request, "include", LIST, "include") or []
                search = prepare(tool, f"tools[{index}]")
                shows_results = RESULTS_INCLUDE in include
                return FileSearchFunction(
                    search, sources, shows_results, self._context.call_seconds
                )
        return None

    def _add_search_function(
        self, kind: str, function: HostedFunction, client_tools: list[Any]
    ) -> None:
        if function.name in find_names(client_tools):
            raise tool_name_collision(kind, function.name)
        self._functions[function.name] = function

    def _await(self, task: PendingTask[list[McpTool]]) -> list[McpTool]:
        """Wait for a list of tools. Raises McpFailure or ClientDisconnected."""
        try:
            return task.unwrap()
        except (TimeoutError, TaskCancelled):
            if self._context.token.is_cancelled:
                raise ClientDisconnected from None
            message = "The MCP server did not answer in time."
            raise McpFailure("mcp_protocol_error", -32001, message) from None

    def _find_name(self, label: str, tool: str) -> str:
        """Return the name of the function for a tool in the history, offered now or not."""
        return self._names.get((label, tool)) or flatten_name(tool, label)

    # -- approvals ------------------------------------------------------------------------------

    def _check_due_approvals(
        self, approvals: dict[str, Approval], configs: list[McpToolConfig]
    ) -> None:
        labels = {config.server.label for config in configs}
        for approval in approvals.values():
            if approval.is_due and approval.request["server_label"] not in labels:
                path = f"input[{approval.answer_index}].approval_request_id"
                raise InvalidRequest(
                    f"'{path}': the approved call is one of an MCP server that 'tools' does not "
                    "have.",
                    param=path,
                    code="invalid_value",
                )

    def _run_approved_calls(
        self, approvals: dict[str, Approval], merger: ResponseMerger
    ) -> dict[str, Approval]:
        """Run the calls that the client has just approved; return the approvals with outputs."""
        if self._context.is_preview:
            return approvals
        due = {name: approval for name, approval in approvals.items() if approval.is_due}
        known = self._context.approved_calls
        outcomes: dict[str, CallOutcome] = {} if known is None else known
        running = {
            name: self._start_approved(approval)
            for name, approval in due.items()
            if name not in outcomes
        }
        with self._cancel_on_disconnect(*running.values()):
            for name, call in running.items():
                call.wait(None)
                self._check_client()
                outcomes[name] = call.read_outcome(self._make_approved_item(due[name].request))
        done = dict(approvals)
        for name, approval in due.items():
            outcome = outcomes[name]
            merger.call_count += 1
            merger.add_prelude(outcome.item, (*McpFunction.start_events, *outcome.events))
            done[name] = approval._replace(output=outcome.output)
        return done

    def _make_approved_item(self, request: Json) -> Json:
        call_id = parse_item_id(request["id"]).call_id
        return make_call_item(
            make_item_id("mcp", self._token, call_id, self._context.id_source.new_id),
            request["server_label"],
            request["name"],
            request["arguments"],
            request["id"],
        )

    def _start_approved(self, approval: Approval) -> RunningCall:
        request = approval.request
        name = self._names.get((request["server_label"], request["name"]))
        if name is None:
            message = "The server does not offer this tool, or 'allowed_tools' does not allow it."
            return make_failed_call(McpFailure("mcp_protocol_error", INVALID_PARAMS, message))
        return self._functions[name].start_call(request["arguments"])

    # -- rounds ---------------------------------------------------------------------------------

    def _run_rounds(
        self,
        merger: ResponseMerger,
        request: Json,
        stream: EventStream,
        client_tools: list[Any],
    ) -> EventStream:
        """Yield the events of the response; the first batch is empty."""
        try:
            yield []
            for number in range(1, self._context.max_rounds + 1):
                round_ = new_round(self._context.id_source)
                yield from merger.read_round(stream, round_)
                outputs = yield from self._finish_round(merger, round_)
                reason = find_stop_reason(request, merger)
                is_over = not outputs or round_.has_client_calls or needs_approval(round_)
                if is_over or reason is not None or number == self._context.max_rounds:
                    self.close()  # readers of whole answers do not read on after the last event
                    yield merger.make_terminal(round_, None if is_over else reason)
                    return
                is_last = merger.is_limit_reached or number == self._context.max_rounds - 1
                request = make_next_request(request, round_, outputs, is_last, client_tools)
                stream = self._handler(limit_output(request, merger))
        finally:
            self.close()

    def _finish_round(
        self, merger: ResponseMerger, round_: Round
    ) -> Generator[Batch, None, list[Json]]:
        """Run the hosted calls of a round and send what was held; returns the calls' outputs."""
        started: dict[int, RunningCall] = {}
        outcomes: dict[int, CallOutcome] = {}
        if round_.is_complete:
            for call in round_.calls:
                if call.mode == "run":
                    started[id(call)] = call.function.start_call(call.arguments)
        with self._cancel_on_disconnect(*started.values()):
            held = merger.take_held() if merger.is_streamed else round_.calls
            for thing in held:
                if not isinstance(thing, HostedCall):
                    yield merger.number_events([thing])
                elif id(thing) in started:
                    running = started[id(thing)]
                    while not running.wait(self._context.heartbeat):
                        self._check_client()
                        yield []
                    self._check_client()
                    outcome = outcomes[id(thing)] = running.read_outcome(thing.item)
                    yield merger.finish_call(thing, outcome)
                elif thing.mode == "run":
                    yield merger.cut_call(thing)
        return [
            make_function_output(call.call_id, outcomes[id(call)].output)
            if id(call) in outcomes
            else make_function_output(call.call_id, LIMIT_NOTE)
            for call in round_.calls
            if id(call) in outcomes or (call.mode == "skip" and round_.is_complete)
        ]

    def _check_client(self) -> None:
        if self._context.token.is_cancelled:
            raise ClientDisconnected

    @contextmanager
    def _cancel_on_disconnect(self, *tasks: Any) -> Iterator[None]:
        """Cancel the tasks when the client disconnects, or when the block is left early."""
        self._check_client()
        cancels: list[Callable[[], None]] = [
            task.cancel for task in tasks if not isinstance(task, list)
        ]
        callbacks = self._context.token.cancel_callbacks
        callbacks.update(cancels)
        try:
            yield
        except BaseException:
            for cancel in cancels:
                cancel()
            raise
        finally:
            callbacks.difference_update(cancels)


def find_names(tools: list[Any]) -> set[str]:
    """Return the names of tools; translation refuses malformed ones."""
    names = (tool.get("name") for tool in tools if isinstance(tool, dict))
    return {name for name in names if isinstance(name, str)}


def choose_name(label: str, tool: str, taken: set[str]) -> str:
    """Return the name of the function for a tool. Raises InvalidRequest if it is taken."""
    for namespace in (label, f"mcp__{label}"):
        name = flatten_name(tool, namespace)
        if name not in taken:
            return name
    raise tool_name_collision(f"{label}.{tool}", name)


def tool_name_collision(tool: str, name: str) -> InvalidRequest:
    return InvalidRequest(
        f"The hosted tool '{shorten_value(tool)}' would have the name of another tool, "
        f"'{shorten_value(name)}'.",
        param="tools",
        code="tool_name_collision",
    )


def find_search_functions(reference: Json, path: str) -> list[str]:
    """A forced web search is a search: the model cannot open a page before it."""
    return [SEARCH_FUNCTIONS["search"]]


def normalize_input(value: Any) -> list[Any]:
    if value is None:
        return []
    if isinstance(value, str):
        return [{"type": "message", "role": "user", "content": value}]
    items: list[Any] = check_type(value, (str, list), "input")
    return items


def needs_approval(round_: Round) -> bool:
    return any(call.mode == "ask" for call in round_.calls)


def find_stop_reason(request: Json, merger: ResponseMerger) -> str | None:
    """Return why no further round may begin: the rounds share ``max_output_tokens``."""
    limit = request.get("max_output_tokens")
    if type(limit) is int and limit - read_output_tokens(merger) < MIN_OUTPUT_TOKENS:
        return "max_output_tokens"
    return None


def limit_output(request: Json, merger: ResponseMerger) -> Json:
    """Return the request with the output tokens that are left."""
    limit = request.get("max_output_tokens")
    if type(limit) is not int:
        return request
    return {**request, "max_output_tokens": limit - read_output_tokens(merger)}


def read_output_tokens(merger: ResponseMerger) -> int:
    used = (merger.usage or {}).get("output_tokens")
    return used if type(used) is int else 0


def make_next_request(
    request: Json, round_: Round, outputs: list[Json], is_last: bool, client_tools: list[Any]
) -> Json:
    """Return the request of the next round: the last one, its answer, and the calls' outputs."""
    following = {**request, "input": [*request["input"], *round_.items, *outputs]}
    if "tool_choice" in request:
        following["tool_choice"] = relax_choice(request["tool_choice"])
    if is_last:
        following["tool_choice"] = make_final_choice(client_tools)
    return following
