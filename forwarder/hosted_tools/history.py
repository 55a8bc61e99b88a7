"""Hosted calls of earlier turns -> function calls with outputs, which every upstream understands.

Calls that were parallel become parallel again: their outputs follow after the last of them. So the
upstream sees the conversation as it was when the calls were made, and its prompt cache matches.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import orjson

from forwarder.core.errors import InvalidRequest, shorten_value
from forwarder.core.types import Json
from forwarder.core.validate import BOOL, LIST, STR, read_field, require_field
from forwarder.hosted_tools.hosted_function import parse_item_id
from forwarder.hosted_tools.mcp_tools import read_call_output

NOT_ANSWERED = "The user has not answered the request to approve this call."

_CLIENT_CALLS = frozenset(
    {
        "function_call", "custom_tool_call", "local_shell_call", "shell_call", "apply_patch_call",
        "tool_search_call",
    }
)  # fmt: skip

NameLookup = Callable[[str, str], str]
"""Server label and tool name -> the name of the function upstream."""


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


def read_approvals(items: list[Any]) -> dict[str, Approval]:
    """Return the requests for approval by id, with their answers.

    Raises InvalidRequest for an answer to an unknown or already answered request.
    """
    approvals: dict[str, Approval] = {}
    for index, item in enumerate(items):
        kind = read_kind(item)
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
                raise refuse_answer(name, "No approval request has the id '{}'.", param)
            if approvals[name].approve is not None:
                raise refuse_answer(name, "The approval request '{}' is already answered.", param)
            answer = {"answer_index": index, "approve": approve, "reason": reason}
            approvals[name] = approvals[name]._replace(**answer)
        elif kind == "mcp_call":
            param = f"{path}.approval_request_id"
            request_id = read_field(item, "approval_request_id", STR, param)
            if request_id in approvals:
                approvals[request_id] = approvals[request_id]._replace(call=item)
    return approvals


def refuse_answer(name: str, message: str, param: str) -> InvalidRequest:
    return InvalidRequest(message.format(shorten_value(name)), param=param, code="invalid_value")


class HistoryConverter:
    """Converts the items of one request's input.

    ``kinds`` are the item types to convert; others are left to the upstream. ``origins`` are the
    places in the input that the converted items come from.
    """

    def __init__(
        self, find_name: NameLookup, approvals: dict[str, Approval], kinds: Collection[str]
    ) -> None:
        self._find_name = find_name
        self._approvals = approvals
        self._kinds = kinds
        self.origins: list[int] = []
        self._index = 0
        self._items: list[Any] = []
        self._outputs: list[tuple[int, Json]] = []
        self._round: str | None = None

    def convert_items(self, items: list[Any]) -> list[Any]:
        """Return the items for the upstream. Raises InvalidRequest for malformed hosted calls."""
        for index, item in enumerate(items):
            self._index = index
            kind = read_kind(item)
            converter = _CONVERTERS.get(kind) if kind in self._kinds else None
            if converter is not None:
                converter(self, item, f"input[{index}]")
            else:
                if kind not in _CLIENT_CALLS:
                    self._end_round()
                self._add_item(index, item)
        self._end_round()
        return self._items

    def _add_item(self, index: int, item: Any) -> None:
        self._items.append(item)
        self.origins.append(index)

    def _end_round(self) -> None:
        for index, output in self._outputs:
            self._add_item(index, output)
        self._outputs = []
        self._round = None

    def _add_call(self, item_id: str, name: str, arguments: str, output: str | list[Json]) -> None:
        parts = parse_item_id(item_id)
        if self._outputs and (parts.round_token is None or parts.round_token != self._round):
            self._end_round()
        self._round = parts.round_token
        self._add_item(self._index, make_function_call(parts.call_id, name, arguments))
        self._outputs.append((self._index, make_function_output(parts.call_id, output)))

    def _convert_mcp_call(self, item: Json, path: str) -> None:
        check_call_item(item, path)
        if item.get("approval_request_id") in self._approvals:
            return  # it stands where its approval was requested
        name = self._find_name(item["server_label"], item["name"])
        call_id = require_field(item, "id", STR, f"{path}.id")
        self._add_call(call_id, name, item["arguments"], read_call_output(item))

    def _convert_approval_request(self, item: Json, path: str) -> None:
        approval = self._approvals[item["id"]]
        name = self._find_name(item["server_label"], item["name"])
        output: str | list[Json] = NOT_ANSWERED
        if approval.output is not None:
            output = approval.output
        elif approval.call is not None:
            output = read_call_output(approval.call)
        elif approval.approve is False:
            reason = f" Reason: {approval.reason}" if approval.reason else ""
            output = f"The user did not approve this call.{reason}"
        self._add_call(item["id"], name, item["arguments"], output)

    def _convert_web_search(self, item: Json, path: str) -> None:
        call_id = read_field(item, "id", STR, f"{path}.id") or f"ws_{len(self._items)}"
        action = item.get("action") if isinstance(item.get("action"), dict) else {}
        name, arguments, output = describe_search(action or {}, f"{path}.action")
        self._add_call(call_id, name, arguments, output)

    def _convert_file_search(self, item: Json, path: str) -> None:
        call_id = read_field(item, "id", STR, f"{path}.id") or f"fs_{len(self._items)}"
        queries = read_field(item, "queries", LIST, f"{path}.queries") or []
        arguments = orjson.dumps({"query": " ".join(map(str, queries))}).decode()
        results = read_field(item, "results", LIST, f"{path}.results") or []
        texts = [str(each.get("text") or "") for each in results if isinstance(each, dict)]
        output = "\n\n".join(filter(None, texts)) or UNKNOWN_RESULT
        self._add_call(call_id, FILE_SEARCH_FUNCTION, arguments, output)

    def _skip(self, item: Json, path: str) -> None:
        """Leave an item out that is not part of the conversation with the model."""


SEARCH_FUNCTIONS = {
    "search": "web_search",
    "open_page": "web_open_page",
    "find_in_page": "web_find_in_page",
}
"""Action of a ``web_search_call`` -> the function of the model."""


UNKNOWN_RESULT = "The result was used in the answer that follows."
"""The output of an earlier search whose results the client does not send."""


def describe_search(action: Json, path: str) -> tuple[str, str, str]:
    """Return function, arguments and output of a web search of an earlier turn.

    Its results are not in the item, only their sources if the client asked for them. Raises
    InvalidRequest.
    """
    kind = str(action.get("type"))
    if kind == "open_page":
        arguments = {"url": action.get("url") or ""}
    elif kind == "find_in_page":
        arguments = {"url": action.get("url") or "", "pattern": action.get("pattern") or ""}
    else:
        kind = "search"
        queries = read_field(action, "queries", LIST, f"{path}.queries") or ()
        arguments = {"query": action.get("query") or " ".join(map(str, queries))}
    sources = read_field(action, "sources", LIST, f"{path}.sources") or ()
    urls = [source.get("url") for source in sources if isinstance(source, dict)]
    found = "\n".join(str(url) for url in urls if url)
    output = f"Sources:\n{found}" if found else UNKNOWN_RESULT
    return SEARCH_FUNCTIONS[kind], orjson.dumps(arguments).decode(), output


FILE_SEARCH_FUNCTION = "file_search"
"""The function of the model for a ``file_search_call``."""


_CONVERTERS: dict[str, Callable[[HistoryConverter, Json, str], None]] = {
    "mcp_call": HistoryConverter._convert_mcp_call,
    "mcp_approval_request": HistoryConverter._convert_approval_request,
    "mcp_approval_response": HistoryConverter._skip,
    "mcp_list_tools": HistoryConverter._skip,
    "web_search_call": HistoryConverter._convert_web_search,
    "file_search_call": HistoryConverter._convert_file_search,
}

MCP_ITEMS = frozenset(
    {"mcp_call", "mcp_list_tools", "mcp_approval_request", "mcp_approval_response"}
)
SEARCH_ITEMS = frozenset({"web_search_call", "file_search_call"})


def has_items(items: Any, kinds: Collection[str]) -> bool:
    """Return whether an input has an item of one of these types."""
    return isinstance(items, list) and any(read_kind(item) in kinds for item in items)


def read_kind(item: Any) -> str:
    """Return the type of an item; empty if it has none. Translation refuses a malformed type."""
    kind = item.get("type") if isinstance(item, dict) else None
    return kind if isinstance(kind, str) else ""


def check_call_item(item: Json, path: str) -> None:
    for name in ("name", "server_label", "arguments"):
        require_field(item, name, STR, f"{path}.{name}")


def make_function_call(call_id: str, name: str, arguments: str) -> Json:
    return {"type": "function_call", "call_id": call_id, "name": name, "arguments": arguments}


def make_function_output(call_id: str, output: str | list[Json]) -> Json:
    return {"type": "function_call_output", "call_id": call_id, "output": output}
