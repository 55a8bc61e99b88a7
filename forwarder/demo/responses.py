"""The Responses protocol: validates and parses requests, serializes answers."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from itertools import takewhile

from forwarder.core.errors import InvalidRequest, NotFound, shorten_value
from forwarder.core.types import Json
from forwarder.demo.answer import DemoAnswer, DemoAnswerPart, DemoPrompt
from forwarder.demo.options import OfferedTool, choose_tool, read_format
from forwarder.demo.validation import (
    ARRAY,
    DECIMAL,
    FLAG,
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
from forwarder.protocols.input_items import make_previous_response_error, read_input_items
from forwarder.protocols.types import (
    MIN_OUTPUT_TOKENS,
    ResponsesUsage,
    SummaryText,
    make_item_added,
    make_item_done,
    make_output_text,
)

# -- requests --------------------------------------------------------------------------------------

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


def read_prompt(request: Json) -> DemoPrompt:
    """Parse a Responses request; raises InvalidRequest or NotFound that name the parameter."""
    check_parameters(request, PARAMETER_TYPES, required=("model", "input"))
    check_stored_references(request)
    items = read_items(request)
    words = count_words(items) + count_words(request.get("instructions"))
    user_text = find_user_text(items)
    text = request.get("text") or {}
    return DemoPrompt(
        user_text=user_text,
        word_count=words,
        tool_results=find_tool_results(items),
        tool=read_tool(request, items),
        format=read_format(
            read_field(text, "format", OBJECT, "text."), "text.format.", user_text, nested=False
        ),
        limit=read_integer(request, "max_output_tokens", MIN_OUTPUT_TOKENS),
        includes_reasoning=(request.get("reasoning") or {}).get("effort") != "none",
    )


def check_stored_references(request: Json) -> None:
    if previous := request.get("previous_response_id"):
        raise make_previous_response_error(previous)
    if request.get("conversation"):
        raise NotFound("The demo upstream does not store conversations.", param="conversation")


def read_items(request: Json) -> list[Json]:
    if isinstance(request["input"], str):
        return read_input_items(request["input"])
    items: list[Json] = []
    for path, item in read_objects(request, "input"):
        if item.get("type") is None and "role" in item:
            item = {**item, "type": "message"}
        check_item(item, f"{path}.")
        items.append(item)
    check_pairs(items)
    return items


def check_item(item: Json, at: str) -> None:
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
        raise NotFound(f"Item with id '{shorten_value(item.get('id'))}' not found.", param="input")
    for name in CALL_FIELDS.get(kind, ()):
        require_field(item, name, TEXT, at)


def check_pairs(items: list[Json]) -> None:
    waiting: set[tuple[str, str]] = set()
    for item in items:
        if item["type"] in CALL_FIELDS:
            waiting.add((item["type"], item["call_id"]))
        elif item["type"] in OUTPUT_TYPES:
            match_output(waiting, OUTPUT_TYPES[item["type"]], item["call_id"])
    if waiting:
        kind, call_id = min(waiting)
        raise InvalidRequest(
            f"No tool output found for {format_type(kind)} {shorten_value(call_id)}.", param="input"
        )


def match_output(waiting: set[tuple[str, str]], kind: str, call_id: str) -> None:
    if (kind, call_id) not in waiting:
        raise InvalidRequest(
            f"No tool call found for {format_type(kind)} output with call_id "
            f"{shorten_value(call_id)}.",
            param="input",
        )
    waiting.remove((kind, call_id))


def format_type(kind: str) -> str:
    return kind.replace("_", " ")


def find_user_text(items: list[Json]) -> str:
    users = [item for item in items if item.get("role") == "user"]
    return join_text(users[-1]["content"]) if users else ""


def find_tool_results(items: list[Json]) -> tuple[str, ...]:
    last = takewhile(lambda item: item["type"].endswith("_output"), reversed(items))
    return tuple(join_text(item.get("output")) for item in last)[::-1]


def read_tool(request: Json, items: list[Json]) -> OfferedTool | None:
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


# -- answers ---------------------------------------------------------------------------------------

ENCRYPTED_REASONING = "reasoning.encrypted_content"
ID_PREFIXES = {"reasoning": "rs", "text": "msg", "function": "fc", "custom": "ctc"}
# Request parameters that the response repeats, with their defaults.
REQUEST_DEFAULTS: Json = {
    "background": False,
    "frequency_penalty": 0,
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "metadata": {},
    "model": None,
    "parallel_tool_calls": True,
    "presence_penalty": 0,
    "previous_response_id": None,
    "prompt_cache_key": None,
    "safety_identifier": None,
    "store": True,
    "temperature": 1,
    "tool_choice": "auto",
    "top_logprobs": 0,
    "top_p": 1,
    "truncation": "disabled",
    "user": None,
}


def build_response(request: Json, answer: DemoAnswer, key: str, created: int) -> Json:
    """Return a finished ``response``; its ids contain ``key``; ``created`` is in Unix seconds."""
    return {
        **make_frame(request, key, created),
        "status": "incomplete" if answer.is_cut else "completed",
        "completed_at": None if answer.is_cut else created,
        "incomplete_details": {"reason": "max_output_tokens"} if answer.is_cut else None,
        "output": [make_item(part, key, request) for part in answer.parts],
        "usage": make_usage(answer),
    }


def iter_events(request: Json, answer: DemoAnswer, key: str, created: int) -> Iterator[Json]:
    """Yield the numbered stream events; the last one holds the whole response."""
    for number, event in enumerate(generate_events(request, answer, key, created)):
        yield {"type": event["type"], "sequence_number": number, **event}


def generate_events(request: Json, answer: DemoAnswer, key: str, created: int) -> Iterator[Json]:
    opening = make_frame(request, key, created)
    yield {"type": "response.created", "response": opening}
    yield {"type": "response.in_progress", "response": opening}
    for index, part in enumerate(answer.parts):
        item = make_item(part, key, request)
        yield make_item_added(make_open_item(item), index)
        at = {"item_id": item["id"], "output_index": index}
        yield from PART_STREAMERS[part.kind](part, at)
        yield make_item_done(item, index)
    response = build_response(request, answer, key, created)
    yield {"type": f"response.{response['status']}", "response": response}


def make_frame(request: Json, key: str, created: int) -> Json:
    parameters = {name: request.get(name) for name in REQUEST_DEFAULTS}
    return {
        "id": f"resp_{key}",
        "object": "response",
        "created_at": created,
        "status": "in_progress",
        "completed_at": None,
        "error": None,
        "incomplete_details": None,
        **REQUEST_DEFAULTS,
        **{name: value for name, value in parameters.items() if value is not None},
        "output": [],
        "reasoning": {"effort": "medium", "summary": None, **(request.get("reasoning") or {})},
        "service_tier": "default",
        "text": {"format": {"type": "text"}, "verbosity": "medium", **(request.get("text") or {})},
        "tools": [echo_tool(tool) for tool in request.get("tools") or ()],
        "usage": None,
    }


def echo_tool(tool: Json) -> Json:
    if tool["type"] != "function":
        return tool
    return {"description": None, "parameters": None, "strict": True, **tool}


def make_item(part: DemoAnswerPart, key: str, request: Json) -> Json:
    item = {
        "id": f"{ID_PREFIXES[part.kind]}_{key}",
        "status": "incomplete" if part.is_cut else "completed",
    }
    match part.kind:
        case "reasoning":
            encrypted = ENCRYPTED_REASONING in (request.get("include") or ())
            return {**item, **make_reasoning_body(part.text, encrypted)}
        case "text":
            body = {
                "type": "message",
                "role": "assistant",
                "content": [make_output_text(part.text)],
            }
            return {**item, **body}
        case "function":
            return {
                **item,
                "type": "function_call",
                **make_call_fields(part, key),
                "arguments": part.text,
            }
        case "custom":
            return {
                **item,
                "type": "custom_tool_call",
                **make_call_fields(part, key),
                "input": part.text,
            }


def make_reasoning_body(text: str, encrypted: bool) -> Json:
    body = {"type": "reasoning", "summary": [make_summary_part(text)]}
    content = base64.b64encode(text.encode("utf-8", "replace")).decode()
    return {**body, "encrypted_content": content} if encrypted else body


def make_call_fields(part: DemoAnswerPart, key: str) -> Json:
    assert part.tool
    space = {"namespace": part.tool.namespace} if part.tool.namespace else {}
    return {"call_id": f"call_{key}", "name": part.tool.name, **space}


def make_open_item(item: Json) -> Json:
    empty = {"content": [], "summary": [], "arguments": "", "input": ""}
    emptied = {name: empty.get(name, value) for name, value in item.items()}
    return {**emptied, "status": "in_progress"}


def make_summary_part(text: str) -> SummaryText:
    return {"type": "summary_text", "text": text}


def stream_reasoning(part: DemoAnswerPart, at: Json) -> Iterator[Json]:
    at = {**at, "summary_index": 0}
    cut = {"status": "incomplete"} if part.is_cut else {}
    part_event, text_event = "response.reasoning_summary_part", "response.reasoning_summary_text"
    yield {"type": f"{part_event}.added", **at, "part": make_summary_part("")}
    for word in part.words:
        yield {"type": f"{text_event}.delta", **at, "delta": word}
    yield {"type": f"{text_event}.done", **at, "text": part.text}
    yield {"type": f"{part_event}.done", **at, "part": make_summary_part(part.text), **cut}


def stream_text(part: DemoAnswerPart, at: Json) -> Iterator[Json]:
    at = {**at, "content_index": 0}
    part_event, text_event = "response.content_part", "response.output_text"
    yield {"type": f"{part_event}.added", **at, "part": make_output_text("")}
    for word in part.words:
        yield {"type": f"{text_event}.delta", **at, "delta": word, "logprobs": []}
    yield {"type": f"{text_event}.done", **at, "text": part.text, "logprobs": []}
    yield {"type": f"{part_event}.done", **at, "part": make_output_text(part.text)}


def stream_function_call(part: DemoAnswerPart, at: Json) -> Iterator[Json]:
    assert part.tool
    kind = "response.function_call_arguments"
    for word in part.words:
        yield {"type": f"{kind}.delta", **at, "delta": word}
    yield {"type": f"{kind}.done", **at, "name": part.tool.name, "arguments": part.text}


def stream_custom_call(part: DemoAnswerPart, at: Json) -> Iterator[Json]:
    kind = "response.custom_tool_call_input"
    for word in part.words:
        yield {"type": f"{kind}.delta", **at, "delta": word}
    yield {"type": f"{kind}.done", **at, "input": part.text}


PART_STREAMERS = {
    "reasoning": stream_reasoning,
    "text": stream_text,
    "function": stream_function_call,
    "custom": stream_custom_call,
}


def make_usage(answer: DemoAnswer) -> ResponsesUsage:
    return {
        "input_tokens": answer.input_words,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": answer.output_words,
        "output_tokens_details": {"reasoning_tokens": answer.reasoning_words},
        "total_tokens": answer.input_words + answer.output_words,
    }
