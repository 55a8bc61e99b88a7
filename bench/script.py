"""Renders the answers of the scripted upstream: shape -> the bytes of each write, cached.

Chunks and events have all fields that OpenAI sends, because their size affects the cost.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import orjson

from bench.shape import Shape, make_argument_pieces, make_words

Json = dict[str, Any]

_CREATED = 1763600000
_LAST_CHUNK = b"0\r\n\r\n"


@lru_cache(maxsize=64)
def build_writes(protocol: str, shape: Shape, streamed: bool, chunked: bool) -> tuple[bytes, ...]:
    """Return the writes of an answer, one per event.

    ``chunked`` selects HTTP/1.1 chunked framing; otherwise the head has a ``Content-Length``.
    """
    if not streamed:
        body = orjson.dumps(_WHOLE[protocol](shape))
        return (build_head("application/json", f"Content-Length: {len(body)}") + body,)
    events = _STREAM[protocol](shape)
    if not chunked:
        length = sum(map(len, events))
        return prepend_head(f"Content-Length: {length}", events)
    framed = [b"%x\r\n%s\r\n" % (len(event), event) for event in events]
    return (*prepend_head("Transfer-Encoding: chunked", framed), _LAST_CHUNK)


def cut_in_half(pieces: tuple[bytes, ...]) -> tuple[bytes, ...]:
    """Return the first half of an answer, which ends in the middle of an event."""
    middle = len(pieces) // 2
    middle_piece = pieces[middle]
    return (*pieces[:middle], middle_piece[: len(middle_piece) // 2])


def build_refusal(message: str) -> bytes:
    """Return a 400 response in OpenAI's format."""
    return build_error(b"400 Bad Request", message, "invalid_request_error")


def build_failure() -> bytes:
    """Return a 500 response in OpenAI's format."""
    return build_error(b"500 Internal Server Error", "The server had an error.", "server_error")


def build_error(status: bytes, message: str, kind: str) -> bytes:
    body = orjson.dumps({"error": {"message": message, "type": kind}})
    head = build_head("application/json", f"Content-Length: {len(body)}")
    return head.replace(b"200 OK", status) + body


def prepend_head(framing: str, events: list[bytes]) -> tuple[bytes, ...]:
    return (build_head("text/event-stream; charset=utf-8", framing) + events[0], *events[1:])


def build_head(content_type: str, framing: str) -> bytes:
    return (
        f"HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\n"
        f"x-request-id: req_bench\r\n{framing}\r\n\r\n"
    ).encode()


# -- chat completions ---------------------------------------------------------------------------

_CALL = {"id": "call_bench", "type": "function"}


def build_chat_stream(shape: Shape) -> list[bytes]:
    deltas = [{"role": "assistant", "content": "", "refusal": None}, *list_chat_deltas(shape)]
    reasons = [None] * len(deltas) + [get_finish_reason(shape)]
    chunks = [
        {
            **make_chat_base("chat.completion.chunk", shape),
            "choices": [{"index": 0, "delta": d, "logprobs": None, "finish_reason": reason}],
            "usage": None,
        }
        for d, reason in zip([*deltas, {}], reasons, strict=True)
    ]
    last = make_chat_base("chat.completion.chunk", shape) | {
        "choices": [],
        "usage": make_chat_usage(shape),
    }
    return [b"data: %s\n\n" % orjson.dumps(c) for c in (*chunks, last)] + [b"data: [DONE]\n\n"]


def list_chat_deltas(shape: Shape) -> list[Json]:
    deltas: list[Json] = [{"reasoning_content": word} for word in make_words(shape.reasoning)]
    deltas += [{"content": word} for word in make_words(shape.text)]
    if shape.arguments:
        call_start = {"index": 0, **_CALL, "function": {"name": "lookup", "arguments": ""}}
        deltas.append({"tool_calls": [call_start]})
    deltas += [
        {"tool_calls": [{"index": 0, "function": {"arguments": piece}}]}
        for piece in make_argument_pieces(shape.arguments)
    ]
    return deltas


def build_completion(shape: Shape) -> Json:
    message: Json = {"role": "assistant", "content": "".join(make_words(shape.text)) or None}
    if shape.reasoning:
        message["reasoning_content"] = "".join(make_words(shape.reasoning))
    if shape.arguments:
        function = {"name": "lookup", "arguments": "".join(make_argument_pieces(shape.arguments))}
        message["tool_calls"] = [{**_CALL, "function": function}]
    choice = {
        "index": 0,
        "message": message,
        "logprobs": None,
        "finish_reason": get_finish_reason(shape),
    }
    fields = {"choices": [choice], "usage": make_chat_usage(shape)}
    return make_chat_base("chat.completion", shape) | fields


def make_chat_base(kind: str, shape: Shape) -> Json:
    return {
        "id": "chatcmpl-bench",
        "object": kind,
        "created": _CREATED,
        "model": shape.model,
        "service_tier": "default",
        "system_fingerprint": "fp_bench",
    }


def get_finish_reason(shape: Shape) -> str:
    return "tool_calls" if shape.arguments else "stop"


def make_chat_usage(shape: Shape) -> Json:
    return {
        "prompt_tokens": 10,
        "completion_tokens": shape.chunks,
        "total_tokens": 10 + shape.chunks,
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": shape.reasoning},
    }


# -- responses ----------------------------------------------------------------------------------


def build_responses_stream(shape: Shape) -> list[bytes]:
    opening = make_response(shape, "in_progress", [])
    items = make_items(shape)
    events: list[Json] = [
        {"type": "response.created", "response": opening},
        {"type": "response.in_progress", "response": opening},
    ]
    for index, item in enumerate(items):
        events += _ITEM_EVENTS[item["type"]](shape, index, item)
    done = make_response(shape, "completed", items)
    events.append({"type": "response.completed", "response": done})
    return [encode_event({**event, "sequence_number": i}) for i, event in enumerate(events)]


def encode_event(event: Json) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (event["type"].encode(), orjson.dumps(event))


def list_reasoning_events(shape: Shape, index: int, item: Json) -> list[Json]:
    position = {"item_id": item["id"], "output_index": index, "summary_index": 0}
    part = item["summary"][0]
    prefix = "response.reasoning_summary"
    return [
        make_added_event(index, {**item, "summary": []}),
        {"type": f"{prefix}_part.added", **position, "part": {**part, "text": ""}},
        *list_delta_events(f"{prefix}_text.delta", make_words(shape.reasoning), position),
        {"type": f"{prefix}_text.done", **position, "text": part["text"]},
        {"type": f"{prefix}_part.done", **position, "part": part},
        make_done_event(index, item),
    ]


def list_message_events(shape: Shape, index: int, item: Json) -> list[Json]:
    position = {"item_id": item["id"], "output_index": index, "content_index": 0}
    part = item["content"][0]
    text = {**position, "logprobs": []}
    return [
        make_added_event(index, {**item, "status": "in_progress", "content": []}),
        {"type": "response.content_part.added", **position, "part": {**part, "text": ""}},
        *list_delta_events("response.output_text.delta", make_words(shape.text), text),
        {"type": "response.output_text.done", **text, "text": part["text"]},
        {"type": "response.content_part.done", **position, "part": part},
        make_done_event(index, item),
    ]


def list_call_events(shape: Shape, index: int, item: Json) -> list[Json]:
    position = {"item_id": item["id"], "output_index": index}
    prefix = "response.function_call_arguments"
    return [
        make_added_event(index, {**item, "status": "in_progress", "arguments": ""}),
        *list_delta_events(f"{prefix}.delta", make_argument_pieces(shape.arguments), position),
        {"type": f"{prefix}.done", **position, "arguments": item["arguments"]},
        make_done_event(index, item),
    ]


def make_added_event(index: int, item: Json) -> Json:
    return {"type": "response.output_item.added", "output_index": index, "item": item}


def make_done_event(index: int, item: Json) -> Json:
    return {"type": "response.output_item.done", "output_index": index, "item": item}


def list_delta_events(kind: str, texts: list[str], position: Json) -> list[Json]:
    return [{"type": kind, **position, "delta": text, "obfuscation": "x8Kq"} for text in texts]


def make_items(shape: Shape) -> list[Json]:
    items: list[Json] = []
    if shape.reasoning:
        summary = {"type": "summary_text", "text": "".join(make_words(shape.reasoning))}
        items.append({"id": "rs_bench", "type": "reasoning", "summary": [summary]})
    if shape.text:
        text = "".join(make_words(shape.text))
        part = {"type": "output_text", "annotations": [], "logprobs": [], "text": text}
        items.append({"id": "msg_bench", "type": "message", "role": "assistant", "content": [part]})
    if shape.arguments:
        arguments = "".join(make_argument_pieces(shape.arguments))
        call_fields = {"call_id": "call_bench", "name": "lookup", "arguments": arguments}
        items.append({"id": "fc_bench", "type": "function_call", **call_fields})
    return [{**item, "status": "completed"} for item in items]


def build_whole_response(shape: Shape) -> Json:
    return make_response(shape, "completed", make_items(shape))


def make_response(shape: Shape, status: str, output: list[Json]) -> Json:
    return {
        "id": "resp_bench",
        "object": "response",
        "created_at": _CREATED,
        "status": status,
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "max_output_tokens": None,
        "model": shape.model,
        "output": output,
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None},
        "store": False,
        "temperature": 1.0,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "truncation": "disabled",
        "usage": make_responses_usage(shape) if status == "completed" else None,
        "metadata": {},
    }


def make_responses_usage(shape: Shape) -> Json:
    return {
        "input_tokens": 10,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": shape.chunks,
        "output_tokens_details": {"reasoning_tokens": shape.reasoning},
        "total_tokens": 10 + shape.chunks,
    }


_ITEM_EVENTS = {
    "reasoning": list_reasoning_events,
    "message": list_message_events,
    "function_call": list_call_events,
}
_STREAM = {"chat": build_chat_stream, "responses": build_responses_stream}
_WHOLE = {"chat": build_completion, "responses": build_whole_response}
