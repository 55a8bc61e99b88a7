"""Responses requests, checked as strictly as OpenAI does and read as a Prompt."""

from __future__ import annotations

from itertools import takewhile

from forwarder.core.errors import InvalidRequest, NotFound
from forwarder.demo.answer import Prompt
from forwarder.demo.formats import format_of
from forwarder.demo.reading import (
    ARRAY,
    DECIMAL,
    FLAG,
    JSON,
    OBJECT,
    TEXT,
    WHOLE,
    Kind,
    at_least,
    check,
    check_parts,
    count_words,
    need,
    objects,
    one_of,
    optional,
    text_of,
)
from forwarder.demo.tools import Tool, chosen

KINDS: dict[str, Kind] = {
    "model": TEXT,
    "input": (str, list),
    "background": FLAG,
    "include": ARRAY,
    "instructions": TEXT,
    "max_output_tokens": WHOLE,
    "max_tool_calls": WHOLE,
    "metadata": OBJECT,
    "parallel_tool_calls": FLAG,
    "previous_response_id": TEXT,
    "prompt_cache_key": TEXT,
    "reasoning": OBJECT,
    "service_tier": TEXT,
    "store": FLAG,
    "stream": FLAG,
    "stream_options": OBJECT,
    "temperature": DECIMAL,
    "text": OBJECT,
    "tool_choice": (str, dict),
    "tools": ARRAY,
    "top_logprobs": WHOLE,
    "top_p": DECIMAL,
    "truncation": TEXT,
    "user": TEXT,
}
LEAST_TOKENS = 16
ASKS = ("input_text", "input_image", "input_file")
PARTS = {
    "user": ASKS,
    "system": ASKS,
    "developer": ASKS,
    "assistant": ("output_text", "refusal"),
}
CALLS = {
    "function_call": ("call_id", "name", "arguments"),
    "custom_tool_call": ("call_id", "name", "input"),
}
OUTPUTS = {f"{call}_output": call for call in CALLS}
ITEMS = (
    "message", "reasoning", *CALLS, *OUTPUTS, "additional_tools", "apply_patch_call",
    "apply_patch_call_output", "code_interpreter_call", "compaction", "compaction_trigger",
    "computer_call", "computer_call_output", "configuration_update", "file_search_call",
    "image_generation_call", "item_reference", "local_shell_call", "local_shell_call_output",
    "mcp_approval_request", "mcp_approval_response", "mcp_call", "mcp_list_tools", "program",
    "program_output", "shell_call", "shell_call_output", "tool_search_call",
    "tool_search_output", "web_search_call",
)  # fmt: skip


def read(request: JSON) -> Prompt:
    """The Prompt of a Responses request; raises ClientErrors that name the parameter."""
    check(request, KINDS, required=("model", "input"))
    _check_memory(request)
    items = _items(request)
    words = count_words(items) + count_words(request.get("instructions"))
    said = _said(items)
    text = request.get("text") or {}
    return Prompt(
        said=said,
        words=words,
        results=_results(items),
        tool=_tool(request, items),
        format=format_of(
            optional(text, "format", OBJECT, "text."), "text.format.", said, nested=False
        ),
        limit=at_least(request, "max_output_tokens", LEAST_TOKENS),
        thinks=(request.get("reasoning") or {}).get("effort") != "none",
    )


def _check_memory(request: JSON) -> None:
    if previous := request.get("previous_response_id"):
        raise InvalidRequest(
            f"Previous response with id '{previous}' not found.",
            param="previous_response_id",
            code="previous_response_not_found",
        )
    if request.get("conversation"):
        raise NotFound("The demo keeps no conversations.", param="conversation")


def _items(request: JSON) -> list[JSON]:
    if isinstance(request["input"], str):
        return [{"type": "message", "role": "user", "content": request["input"]}]
    items = [(path, _typed_item(item)) for path, item in objects(request, "input")]
    for path, item in items:
        _check_item(item, f"{path}.")
    plain = [item for _, item in items]
    _check_pairs(plain)
    return plain


def _typed_item(item: JSON) -> JSON:
    return {**item, "type": "message"} if item.get("type") is None and "role" in item else item


def _check_item(item: JSON, at: str) -> None:
    kind = one_of(need(item, "type", TEXT, at), ITEMS, f"{at}type")
    if kind == "message":
        role = one_of(need(item, "role", TEXT, at), tuple(PARTS), f"{at}role")
        need(item, "content", (str, list), at)
        check_parts(item, "content", PARTS[role], at)
    elif kind in OUTPUTS:
        need(item, "call_id", TEXT, at)
        check_parts({"output": need(item, "output", (str, list), at)}, "output", ASKS, at)
    elif kind == "item_reference":
        raise NotFound(f"Item with id '{item.get('id')}' not found.", param="input")
    for name in CALLS.get(kind, ()):
        need(item, name, TEXT, at)


def _check_pairs(items: list[JSON]) -> None:
    waiting: set[tuple[str, str]] = set()
    for item in items:
        if item["type"] in CALLS:
            waiting.add((item["type"], item["call_id"]))
        elif item["type"] in OUTPUTS:
            _answered(waiting, OUTPUTS[item["type"]], item["call_id"])
    for kind, call_id in sorted(waiting):
        raise InvalidRequest(f"No tool output found for {_spoken(kind)} {call_id}.", param="input")


def _answered(waiting: set[tuple[str, str]], kind: str, call_id: str) -> None:
    if (kind, call_id) not in waiting:
        raise InvalidRequest(
            f"No tool call found for {_spoken(kind)} output with call_id {call_id}.",
            param="input",
        )
    waiting.remove((kind, call_id))


def _spoken(kind: str) -> str:
    return kind.replace("_", " ")


def _said(items: list[JSON]) -> str:
    users = [item for item in items if item.get("role") == "user"]
    return text_of(users[-1]["content"]) if users else ""


def _results(items: list[JSON]) -> tuple[str, ...]:
    last = takewhile(lambda item: item["type"].endswith("_output"), reversed(items))
    return tuple(text_of(item.get("output")) for item in last)[::-1]


def _tool(request: JSON, items: list[JSON]) -> Tool | None:
    offers = objects(request, "tools")
    for index, item in enumerate(items):
        if item["type"] == "additional_tools":
            offers += objects(item, "tools", f"input[{index}].")
    if request.get("tool_choice") == "required" and not offers:
        raise InvalidRequest(
            "Tool choice 'required' must be specified with 'tools' parameter.",
            param="tool_choice",
        )
    return chosen(offers, request.get("tool_choice"))
