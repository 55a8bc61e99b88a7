"""Responses requests, checked as strictly as OpenAI does and read as a Prompt."""

from __future__ import annotations

from itertools import takewhile

from forwarder.core.errors import InvalidRequest, NotFound
from forwarder.demo.answer import DemoPrompt
from forwarder.demo.formats import read_format
from forwarder.demo.reading import (
    ARRAY,
    DECIMAL,
    FLAG,
    JSON,
    OBJECT,
    TEXT,
    WHOLE,
    JsonKind,
    check_enum,
    check_parameters,
    check_parts,
    count_words,
    join_text,
    read_field,
    read_integer,
    read_objects,
    require_field,
)
from forwarder.demo.tools import OfferedTool, choose_tool

PARAMETER_TYPES: dict[str, JsonKind] = {
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
MIN_OUTPUT_TOKENS = 16
INPUT_PART_TYPES = ("input_text", "input_image", "input_file")
PART_TYPES_BY_ROLE = {
    "user": INPUT_PART_TYPES,
    "system": INPUT_PART_TYPES,
    "developer": INPUT_PART_TYPES,
    "assistant": ("output_text", "refusal"),
}
CALL_FIELDS = {
    "function_call": ("call_id", "name", "arguments"),
    "custom_tool_call": ("call_id", "name", "input"),
}
OUTPUT_TYPES = {f"{call}_output": call for call in CALL_FIELDS}
ITEM_TYPES = (
    "message", "reasoning", *CALL_FIELDS, *OUTPUT_TYPES, "additional_tools", "apply_patch_call",
    "apply_patch_call_output", "code_interpreter_call", "compaction", "compaction_trigger",
    "computer_call", "computer_call_output", "configuration_update", "file_search_call",
    "image_generation_call", "item_reference", "local_shell_call", "local_shell_call_output",
    "mcp_approval_request", "mcp_approval_response", "mcp_call", "mcp_list_tools", "program",
    "program_output", "shell_call", "shell_call_output", "tool_search_call",
    "tool_search_output", "web_search_call",
)  # fmt: skip


def read_prompt(request: JSON) -> DemoPrompt:
    """The Prompt of a Responses request; raises ClientErrors that name the parameter."""
    check_parameters(request, PARAMETER_TYPES, required=("model", "input"))
    check_stored_references(request)
    items = read_items(request)
    words = count_words(items) + count_words(request.get("instructions"))
    said = find_user_text(items)
    text = request.get("text") or {}
    return DemoPrompt(
        user_text=said,
        word_count=words,
        tool_results=find_tool_results(items),
        tool=read_tool(request, items),
        format=read_format(
            read_field(text, "format", OBJECT, "text."), "text.format.", said, nested=False
        ),
        limit=read_integer(request, "max_output_tokens", MIN_OUTPUT_TOKENS),
        includes_reasoning=(request.get("reasoning") or {}).get("effort") != "none",
    )


def check_stored_references(request: JSON) -> None:
    if previous := request.get("previous_response_id"):
        raise InvalidRequest(
            f"Previous response with id '{previous}' not found.",
            param="previous_response_id",
            code="previous_response_not_found",
        )
    if request.get("conversation"):
        raise NotFound("The demo keeps no conversations.", param="conversation")


def read_items(request: JSON) -> list[JSON]:
    if isinstance(request["input"], str):
        return [{"type": "message", "role": "user", "content": request["input"]}]
    items = [(path, _typed_item(item)) for path, item in read_objects(request, "input")]
    for path, item in items:
        check_item(item, f"{path}.")
    plain = [item for _, item in items]
    check_pairs(plain)
    return plain


def _typed_item(item: JSON) -> JSON:
    return {**item, "type": "message"} if item.get("type") is None and "role" in item else item


def check_item(item: JSON, at: str) -> None:
    kind = check_enum(require_field(item, "type", TEXT, at), ITEM_TYPES, f"{at}type")
    if kind == "message":
        role = check_enum(
            require_field(item, "role", TEXT, at), tuple(PART_TYPES_BY_ROLE), f"{at}role"
        )
        require_field(item, "content", (str, list), at)
        check_parts(item, "content", PART_TYPES_BY_ROLE[role], at)
    elif kind in OUTPUT_TYPES:
        require_field(item, "call_id", TEXT, at)
        check_parts(
            {"output": require_field(item, "output", (str, list), at)},
            "output",
            INPUT_PART_TYPES,
            at,
        )
    elif kind == "item_reference":
        raise NotFound(f"Item with id '{item.get('id')}' not found.", param="input")
    for name in CALL_FIELDS.get(kind, ()):
        require_field(item, name, TEXT, at)


def check_pairs(items: list[JSON]) -> None:
    waiting: set[tuple[str, str]] = set()
    for item in items:
        if item["type"] in CALL_FIELDS:
            waiting.add((item["type"], item["call_id"]))
        elif item["type"] in OUTPUT_TYPES:
            match_output(waiting, OUTPUT_TYPES[item["type"]], item["call_id"])
    for kind, call_id in sorted(waiting):
        raise InvalidRequest(
            f"No tool output found for {format_type(kind)} {call_id}.", param="input"
        )


def match_output(waiting: set[tuple[str, str]], kind: str, call_id: str) -> None:
    if (kind, call_id) not in waiting:
        raise InvalidRequest(
            f"No tool call found for {format_type(kind)} output with call_id {call_id}.",
            param="input",
        )
    waiting.remove((kind, call_id))


def format_type(kind: str) -> str:
    return kind.replace("_", " ")


def find_user_text(items: list[JSON]) -> str:
    users = [item for item in items if item.get("role") == "user"]
    return join_text(users[-1]["content"]) if users else ""


def find_tool_results(items: list[JSON]) -> tuple[str, ...]:
    last = takewhile(lambda item: item["type"].endswith("_output"), reversed(items))
    return tuple(join_text(item.get("output")) for item in last)[::-1]


def read_tool(request: JSON, items: list[JSON]) -> OfferedTool | None:
    offers = read_objects(request, "tools")
    for index, item in enumerate(items):
        if item["type"] == "additional_tools":
            offers += read_objects(item, "tools", f"input[{index}].")
    if request.get("tool_choice") == "required" and not offers:
        raise InvalidRequest(
            "Tool choice 'required' must be specified with 'tools' parameter.",
            param="tool_choice",
        )
    return choose_tool(offers, request.get("tool_choice"))
