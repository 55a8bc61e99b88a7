"""An Answer as a Chat Completions answer: whole, or as the chunks of a stream.

Reasoning stands in ``reasoning_content``, as DeepSeek and its relatives send it.
"""

from __future__ import annotations

from collections.abc import Iterator

from forwarder.demo.answer import Answer, Piece
from forwarder.demo.reading import JSON

# What a call of each kind writes into.
BODIES = {"function": "arguments", "custom": "input"}


def whole(request: JSON, answer: Answer, key: str, created: int) -> JSON:
    """A ``chat.completion``; ``key`` makes its ids, ``created`` is in Unix seconds."""
    choice = {
        "index": 0,
        "message": _message(answer, key),
        "logprobs": None,
        "finish_reason": _finish(answer),
    }
    frame = _frame(request, "chat.completion", key, created)
    return {**frame, "choices": [choice], "usage": _usage(answer)}


def events(request: JSON, answer: Answer, key: str, created: int) -> Iterator[JSON]:
    """The ``chat.completion.chunk`` objects that fold to the whole answer."""
    frame = _frame(request, "chat.completion.chunk", key, created)
    counted = (request.get("stream_options") or {}).get("include_usage")
    if counted:
        frame["usage"] = None
    for delta in _deltas(answer, key):
        yield {**frame, "choices": [_choice(delta, None)]}
    yield {**frame, "choices": [_choice({}, _finish(answer))]}
    if counted:
        yield {**frame, "choices": [], "usage": _usage(answer)}


def _frame(request: JSON, kind: str, key: str, created: int) -> JSON:
    return {
        "id": f"chatcmpl-{key}",
        "object": kind,
        "created": created,
        "model": request["model"],
        "service_tier": "default",
        "system_fingerprint": None,
    }


def _choice(delta: JSON, finish: str | None) -> JSON:
    return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}


def _finish(answer: Answer) -> str:
    if answer.cut:
        return "length"
    return "tool_calls" if _calls(answer) else "stop"


def _calls(answer: Answer) -> list[Piece]:
    return [piece for piece in answer.pieces if piece.tool]


def _opening(answer: Answer) -> JSON:
    return {"role": "assistant", "content": None if _calls(answer) else "", "refusal": None}


def _message(answer: Answer, key: str) -> JSON:
    message = _opening(answer)
    for piece in answer.pieces:
        match piece.kind:
            case "reasoning":
                message["reasoning_content"] = piece.text
            case "text":
                message["content"] = piece.text
            case kind:
                message["tool_calls"] = [_call(piece, key, {BODIES[kind]: piece.text})]
    return message


def _deltas(answer: Answer, key: str) -> Iterator[JSON]:
    yield _opening(answer)
    for piece in answer.pieces:
        match piece.kind:
            case "reasoning":
                yield from ({"reasoning_content": word} for word in piece.words)
            case "text":
                yield from ({"content": word} for word in piece.words)
            case kind:
                yield _part(_call(piece, key, {BODIES[kind]: ""}))
                yield from (_part({kind: {BODIES[kind]: word}}) for word in piece.words)


def _call(piece: Piece, key: str, body: JSON) -> JSON:
    assert piece.tool
    named = {"name": piece.tool.name, **body}
    return {"id": f"call_{key}", "type": piece.kind, piece.kind: named}


def _part(call: JSON) -> JSON:
    return {"tool_calls": [{"index": 0, **call}]}


def _usage(answer: Answer) -> JSON:
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
