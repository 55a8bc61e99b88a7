"""An Answer as a Chat Completions answer: whole, or as the chunks of a stream.

Reasoning stands in ``reasoning_content``, as DeepSeek and its relatives send it.
"""

from __future__ import annotations

from collections.abc import Iterator

from forwarder.demo.answer import AnswerPart, DemoAnswer
from forwarder.demo.reading import JSON

# What a call of each kind writes into.
CALL_INPUT_FIELDS = {"function": "arguments", "custom": "input"}


def build_completion(request: JSON, answer: DemoAnswer, key: str, created: int) -> JSON:
    """A ``chat.completion``; ``key`` makes its ids, ``created`` is in Unix seconds."""
    choice = {
        "index": 0,
        "message": build_message(answer, key),
        "logprobs": None,
        "finish_reason": get_finish_reason(answer),
    }
    frame = make_frame(request, "chat.completion", key, created)
    return {**frame, "choices": [choice], "usage": make_usage(answer)}


def iter_chunks(request: JSON, answer: DemoAnswer, key: str, created: int) -> Iterator[JSON]:
    """The ``chat.completion.chunk`` objects that fold to the whole answer."""
    frame = make_frame(request, "chat.completion.chunk", key, created)
    counted = (request.get("stream_options") or {}).get("include_usage")
    if counted:
        frame["usage"] = None
    for delta in iter_deltas(answer, key):
        yield {**frame, "choices": [make_choice(delta, None)]}
    yield {**frame, "choices": [make_choice({}, get_finish_reason(answer))]}
    if counted:
        yield {**frame, "choices": [], "usage": make_usage(answer)}


def make_frame(request: JSON, kind: str, key: str, created: int) -> JSON:
    return {
        "id": f"chatcmpl-{key}",
        "object": kind,
        "created": created,
        "model": request["model"],
        "service_tier": "default",
        "system_fingerprint": None,
    }


def make_choice(delta: JSON, finish: str | None) -> JSON:
    return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}


def get_finish_reason(answer: DemoAnswer) -> str:
    if answer.is_cut:
        return "length"
    return "tool_calls" if list_calls(answer) else "stop"


def list_calls(answer: DemoAnswer) -> list[AnswerPart]:
    return [piece for piece in answer.parts if piece.tool]


def make_opening_delta(answer: DemoAnswer) -> JSON:
    return {"role": "assistant", "content": None if list_calls(answer) else "", "refusal": None}


def build_message(answer: DemoAnswer, key: str) -> JSON:
    message = make_opening_delta(answer)
    for piece in answer.parts:
        match piece.kind:
            case "reasoning":
                message["reasoning_content"] = piece.text
            case "text":
                message["content"] = piece.text
            case kind:
                message["tool_calls"] = [
                    make_call(piece, key, {CALL_INPUT_FIELDS[kind]: piece.text})
                ]
    return message


def iter_deltas(answer: DemoAnswer, key: str) -> Iterator[JSON]:
    yield make_opening_delta(answer)
    for piece in answer.parts:
        match piece.kind:
            case "reasoning":
                yield from ({"reasoning_content": word} for word in piece.words)
            case "text":
                yield from ({"content": word} for word in piece.words)
            case kind:
                yield make_call_delta(make_call(piece, key, {CALL_INPUT_FIELDS[kind]: ""}))
                yield from (
                    make_call_delta({kind: {CALL_INPUT_FIELDS[kind]: word}}) for word in piece.words
                )


def make_call(piece: AnswerPart, key: str, body: JSON) -> JSON:
    assert piece.tool
    named = {"name": piece.tool.name, **body}
    return {"id": f"call_{key}", "type": piece.kind, piece.kind: named}


def make_call_delta(call: JSON) -> JSON:
    return {"tool_calls": [{"index": 0, **call}]}


def make_usage(answer: DemoAnswer) -> JSON:
    return {
        "prompt_tokens": answer.input_words,
        "completion_tokens": answer.output_words,
        "total_tokens": answer.input_words + answer.output_words,
        "prompt_tokens_details": {"audio_tokens": 0, "cached_tokens": 0, "cache_write_tokens": 0},
        "completion_tokens_details": {
            "accepted_prediction_tokens": 0,
            "audio_tokens": 0,
            "reasoning_tokens": answer.reasoning_words,
            "rejected_prediction_tokens": 0,
        },
    }
