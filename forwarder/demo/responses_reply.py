"""An Answer as a Responses answer: whole, or as the events of a stream."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

from forwarder.demo.answer import AnswerPart, DemoAnswer
from forwarder.demo.reading import JSON

ENCRYPTED_REASONING = "reasoning.encrypted_content"
ID_PREFIXES = {"reasoning": "rs", "text": "msg", "function": "fc", "custom": "ctc"}
# What the response repeats of the request, and what it says where the request is silent.
REQUEST_DEFAULTS: JSON = {
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


def build_response(request: JSON, answer: DemoAnswer, key: str, created: int) -> JSON:
    """A finished ``response``; ``key`` makes its ids, ``created`` is in Unix seconds."""
    return {
        **make_frame(request, key, created),
        "status": "incomplete" if answer.is_cut else "completed",
        "completed_at": None if answer.is_cut else created,
        "incomplete_details": {"reason": "max_output_tokens"} if answer.is_cut else None,
        "output": [make_item(piece, key, request) for piece in answer.parts],
        "usage": make_usage(answer),
    }


def iter_events(request: JSON, answer: DemoAnswer, key: str, created: int) -> Iterator[JSON]:
    """The events of its stream, numbered; the last one holds the whole answer."""
    for number, event in enumerate(generate_events(request, answer, key, created)):
        yield {"type": event["type"], "sequence_number": number, **event}


def generate_events(request: JSON, answer: DemoAnswer, key: str, created: int) -> Iterator[JSON]:
    started = make_frame(request, key, created)
    yield {"type": "response.created", "response": started}
    yield {"type": "response.in_progress", "response": started}
    for index, piece in enumerate(answer.parts):
        item = make_item(piece, key, request)
        at = {"output_index": index}
        yield {"type": "response.output_item.added", **at, "item": make_open_item(item)}
        yield from PART_STREAMERS[piece.kind](piece, {"item_id": item["id"], **at})
        yield {"type": "response.output_item.done", **at, "item": item}
    ended = build_response(request, answer, key, created)
    yield {"type": f"response.{ended['status']}", "response": ended}


def make_frame(request: JSON, key: str, created: int) -> JSON:
    return {
        "id": f"resp_{key}",
        "object": "response",
        "created_at": created,
        "status": "in_progress",
        "completed_at": None,
        "error": None,
        "incomplete_details": None,
        **{name: _given(request, name, default) for name, default in REQUEST_DEFAULTS.items()},
        "output": [],
        "reasoning": {"effort": "medium", "summary": None, **(request.get("reasoning") or {})},
        "service_tier": "default",
        "text": {"format": {"type": "text"}, "verbosity": "medium", **(request.get("text") or {})},
        "tools": [echo_tool(tool) for tool in request.get("tools") or ()],
        "usage": None,
    }


def _given(request: JSON, name: str, default: Any) -> Any:
    value = request.get(name)
    return default if value is None else value


def echo_tool(tool: JSON) -> JSON:
    if tool["type"] != "function":
        return tool
    return {"description": None, "parameters": None, "strict": True, **tool}


def make_item(piece: AnswerPart, key: str, request: JSON) -> JSON:
    item = {
        "id": f"{ID_PREFIXES[piece.kind]}_{key}",
        "status": "incomplete" if piece.is_cut else "completed",
    }
    match piece.kind:
        case "reasoning":
            sealed = ENCRYPTED_REASONING in (request.get("include") or ())
            return {**item, **make_reasoning_body(piece.text, sealed)}
        case "text":
            body = {"type": "message", "role": "assistant", "content": [make_text_part(piece.text)]}
            return {**item, **body}
        case "function":
            return {
                **item,
                "type": "function_call",
                **make_call_fields(piece, key),
                "arguments": piece.text,
            }
        case "custom":
            return {
                **item,
                "type": "custom_tool_call",
                **make_call_fields(piece, key),
                "input": piece.text,
            }


def make_reasoning_body(text: str, sealed: bool) -> JSON:
    body = {"type": "reasoning", "summary": [make_summary_part(text)]}
    secret = base64.b64encode(text.encode("utf-8", "replace")).decode()
    return {**body, "encrypted_content": secret} if sealed else body


def make_call_fields(piece: AnswerPart, key: str) -> JSON:
    assert piece.tool
    space = {"namespace": piece.tool.namespace} if piece.tool.namespace else {}
    return {"call_id": f"call_{key}", "name": piece.tool.name, **space}


def make_open_item(item: JSON) -> JSON:
    empty = {"content": [], "summary": [], "arguments": "", "input": ""}
    opened = {name: empty.get(name, value) for name, value in item.items()}
    return {**opened, "status": "in_progress"}


def make_text_part(text: str) -> JSON:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def make_summary_part(text: str) -> JSON:
    return {"type": "summary_text", "text": text}


def stream_reasoning(piece: AnswerPart, at: JSON) -> Iterator[JSON]:
    at = {**at, "summary_index": 0}
    cut = {"status": "incomplete"} if piece.is_cut else {}
    part, text = "response.reasoning_summary_part", "response.reasoning_summary_text"
    yield {"type": f"{part}.added", **at, "part": make_summary_part("")}
    for word in piece.words:
        yield {"type": f"{text}.delta", **at, "delta": word}
    yield {"type": f"{text}.done", **at, "text": piece.text}
    yield {"type": f"{part}.done", **at, "part": make_summary_part(piece.text), **cut}


def stream_text(piece: AnswerPart, at: JSON) -> Iterator[JSON]:
    at = {**at, "content_index": 0}
    part, text = "response.content_part", "response.output_text"
    yield {"type": f"{part}.added", **at, "part": make_text_part("")}
    for word in piece.words:
        yield {"type": f"{text}.delta", **at, "delta": word, "logprobs": []}
    yield {"type": f"{text}.done", **at, "text": piece.text, "logprobs": []}
    yield {"type": f"{part}.done", **at, "part": make_text_part(piece.text)}


def stream_function_call(piece: AnswerPart, at: JSON) -> Iterator[JSON]:
    assert piece.tool
    kind = "response.function_call_arguments"
    for word in piece.words:
        yield {"type": f"{kind}.delta", **at, "delta": word}
    yield {"type": f"{kind}.done", **at, "name": piece.tool.name, "arguments": piece.text}


def stream_custom_call(piece: AnswerPart, at: JSON) -> Iterator[JSON]:
    kind = "response.custom_tool_call_input"
    for word in piece.words:
        yield {"type": f"{kind}.delta", **at, "delta": word}
    yield {"type": f"{kind}.done", **at, "input": piece.text}


PART_STREAMERS = {
    "reasoning": stream_reasoning,
    "text": stream_text,
    "function": stream_function_call,
    "custom": stream_custom_call,
}


def make_usage(answer: DemoAnswer) -> JSON:
    return {
        "input_tokens": answer.input_words,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": answer.output_words,
        "output_tokens_details": {"reasoning_tokens": answer.reasoning_words},
        "total_tokens": answer.input_words + answer.output_words,
    }
