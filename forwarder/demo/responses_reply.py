"""An Answer as a Responses answer: whole, or as the events of a stream."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

from forwarder.demo.answer import Answer, Piece
from forwarder.demo.reading import JSON

SEALED = "reasoning.encrypted_content"
PREFIXES = {"reasoning": "rs", "text": "msg", "function": "fc", "custom": "ctc"}
# What the response repeats of the request, and what it says where the request is silent.
ECHOES: JSON = {
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


def whole(request: JSON, answer: Answer, key: str, created: int) -> JSON:
    """A finished ``response``; ``key`` makes its ids, ``created`` is in Unix seconds."""
    return {
        **_frame(request, key, created),
        "status": "incomplete" if answer.cut else "completed",
        "completed_at": None if answer.cut else created,
        "incomplete_details": {"reason": "max_output_tokens"} if answer.cut else None,
        "output": [_item(piece, key, request) for piece in answer.pieces],
        "usage": _usage(answer),
    }


def events(request: JSON, answer: Answer, key: str, created: int) -> Iterator[JSON]:
    """The events of its stream, numbered; the last one holds the whole answer."""
    for number, event in enumerate(_events(request, answer, key, created)):
        yield {"type": event["type"], "sequence_number": number, **event}


def _events(request: JSON, answer: Answer, key: str, created: int) -> Iterator[JSON]:
    started = _frame(request, key, created)
    yield {"type": "response.created", "response": started}
    yield {"type": "response.in_progress", "response": started}
    for index, piece in enumerate(answer.pieces):
        item = _item(piece, key, request)
        at = {"output_index": index}
        yield {"type": "response.output_item.added", **at, "item": _opened(item)}
        yield from COURSES[piece.kind](piece, {"item_id": item["id"], **at})
        yield {"type": "response.output_item.done", **at, "item": item}
    ended = whole(request, answer, key, created)
    yield {"type": f"response.{ended['status']}", "response": ended}


def _frame(request: JSON, key: str, created: int) -> JSON:
    return {
        "id": f"resp_{key}",
        "object": "response",
        "created_at": created,
        "status": "in_progress",
        "completed_at": None,
        "error": None,
        "incomplete_details": None,
        **{name: _given(request, name, default) for name, default in ECHOES.items()},
        "output": [],
        "reasoning": {"effort": "medium", "summary": None, **(request.get("reasoning") or {})},
        "service_tier": "default",
        "text": {"format": {"type": "text"}, "verbosity": "medium", **(request.get("text") or {})},
        "tools": [_echoed_tool(tool) for tool in request.get("tools") or ()],
        "usage": None,
    }


def _given(request: JSON, name: str, default: Any) -> Any:
    value = request.get(name)
    return default if value is None else value


def _echoed_tool(tool: JSON) -> JSON:
    if tool["type"] != "function":
        return tool
    return {"description": None, "parameters": None, "strict": True, **tool}


def _item(piece: Piece, key: str, request: JSON) -> JSON:
    item = {
        "id": f"{PREFIXES[piece.kind]}_{key}",
        "status": "incomplete" if piece.cut else "completed",
    }
    match piece.kind:
        case "reasoning":
            sealed = SEALED in (request.get("include") or ())
            return {**item, **_reasoning_body(piece.text, sealed)}
        case "text":
            body = {"type": "message", "role": "assistant", "content": [_text_part(piece.text)]}
            return {**item, **body}
        case "function":
            return {**item, "type": "function_call", **_call(piece, key), "arguments": piece.text}
        case "custom":
            return {**item, "type": "custom_tool_call", **_call(piece, key), "input": piece.text}


def _reasoning_body(text: str, sealed: bool) -> JSON:
    body = {"type": "reasoning", "summary": [_summary_part(text)]}
    secret = base64.b64encode(text.encode("utf-8", "replace")).decode()
    return {**body, "encrypted_content": secret} if sealed else body


def _call(piece: Piece, key: str) -> JSON:
    assert piece.tool
    space = {"namespace": piece.tool.namespace} if piece.tool.namespace else {}
    return {"call_id": f"call_{key}", "name": piece.tool.name, **space}


def _opened(item: JSON) -> JSON:
    empty = {"content": [], "summary": [], "arguments": "", "input": ""}
    opened = {name: empty.get(name, value) for name, value in item.items()}
    return {**opened, "status": "in_progress"}


def _text_part(text: str) -> JSON:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _summary_part(text: str) -> JSON:
    return {"type": "summary_text", "text": text}


def _reasoning_course(piece: Piece, at: JSON) -> Iterator[JSON]:
    at = {**at, "summary_index": 0}
    cut = {"status": "incomplete"} if piece.cut else {}
    part, text = "response.reasoning_summary_part", "response.reasoning_summary_text"
    yield {"type": f"{part}.added", **at, "part": _summary_part("")}
    for word in piece.words:
        yield {"type": f"{text}.delta", **at, "delta": word}
    yield {"type": f"{text}.done", **at, "text": piece.text}
    yield {"type": f"{part}.done", **at, "part": _summary_part(piece.text), **cut}


def _text_course(piece: Piece, at: JSON) -> Iterator[JSON]:
    at = {**at, "content_index": 0}
    part, text = "response.content_part", "response.output_text"
    yield {"type": f"{part}.added", **at, "part": _text_part("")}
    for word in piece.words:
        yield {"type": f"{text}.delta", **at, "delta": word, "logprobs": []}
    yield {"type": f"{text}.done", **at, "text": piece.text, "logprobs": []}
    yield {"type": f"{part}.done", **at, "part": _text_part(piece.text)}


def _function_course(piece: Piece, at: JSON) -> Iterator[JSON]:
    assert piece.tool
    kind = "response.function_call_arguments"
    for word in piece.words:
        yield {"type": f"{kind}.delta", **at, "delta": word}
    yield {"type": f"{kind}.done", **at, "name": piece.tool.name, "arguments": piece.text}


def _custom_course(piece: Piece, at: JSON) -> Iterator[JSON]:
    kind = "response.custom_tool_call_input"
    for word in piece.words:
        yield {"type": f"{kind}.delta", **at, "delta": word}
    yield {"type": f"{kind}.done", **at, "input": piece.text}


COURSES = {
    "reasoning": _reasoning_course,
    "text": _text_course,
    "function": _function_course,
    "custom": _custom_course,
}


def _usage(answer: Answer) -> JSON:
    return {
        "input_tokens": answer.input_words,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": answer.output_words,
        "output_tokens_details": {"reasoning_tokens": answer.reasoning_words},
        "total_tokens": answer.input_words + answer.output_words,
    }
