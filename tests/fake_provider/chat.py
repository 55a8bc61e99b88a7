"""Renders an answer as Chat Completions: a list of chunks, or one completion."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from .answers import CREATED, Answer, Call, Json, ModelRequest, make_obfuscation

REASONING: dict[str, Callable[[str], Json]] = {
    "reasoning_content": lambda text: {"reasoning_content": text},
    "reasoning": lambda text: {"reasoning": text},
    "reasoning_details": lambda text: {"reasoning_details": [_make_reasoning_detail(text)]},
    "openrouter": lambda text: {
        "reasoning": text,
        "reasoning_details": [_make_reasoning_detail(text)],
    },
    "think": lambda text: {"content": text},
    "parts": lambda text: {"content": [_make_thinking(text)]},
}
"""Reasoning field -> the delta that carries a piece of reasoning."""


def make_chunks(answer: Answer, request: ModelRequest) -> list[Json]:
    """Return the events of a stream, in order. The last one has the usage if it was requested."""
    choices = range(request.body.get("n") or 1)
    chunks = [chunk for index in choices for chunk in _choice_chunks(answer, request, index)]
    if not request.option("include_usage", default=False):
        return chunks
    chunks = [{**chunk, "usage": None} for chunk in chunks]
    if answer.usage:
        chunks.append({**_make_envelope(request, "chat.completion.chunk"), "choices": [],
                       "usage": answer.usage.chat()})  # fmt: skip
    return chunks


def make_completion(answer: Answer, request: ModelRequest) -> Json:
    """Return the answer as one object."""
    choices = [_whole_choice(answer, request, index) for index in range(request.body.get("n") or 1)]
    usage = {"usage": answer.usage.chat()} if answer.usage else {}
    return {**_make_envelope(request, "chat.completion"), "choices": choices, **usage}


def finish_reason(answer: Answer) -> str:
    """Return the finish reason of an answer."""
    return answer.finish or ("tool_calls" if answer.calls else "stop")


def _make_envelope(request: ModelRequest, kind: str) -> Json:
    return {
        "id": request.id("chatcmpl-"),
        "object": kind,
        "created": CREATED,
        "model": request.model,
        "service_tier": "default",
        "system_fingerprint": "fp_scripted",
    }


def _choice_chunks(answer: Answer, request: ModelRequest, index: int) -> Iterator[Json]:
    first = {"role": "assistant", "content": None if _only_calls(answer) else "", "refusal": None}
    for delta in (first, *_make_deltas(answer, request)):
        yield _make_chunk(request, index, delta, None)
    yield _make_chunk(request, index, {}, finish_reason(answer))


def _make_chunk(request: ModelRequest, index: int, delta: Json, finish: str | None) -> Json:
    choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}
    chunk = {**_make_envelope(request, "chat.completion.chunk"), "choices": [choice]}
    if request.option("include_obfuscation", default=True):
        chunk["obfuscation"] = make_obfuscation(str(delta))
    return chunk


def _only_calls(answer: Answer) -> bool:
    return bool(answer.calls) and not answer.text


def _make_deltas(answer: Answer, request: ModelRequest) -> Iterator[Json]:
    yield from _reasoning_deltas(answer)
    yield from ({"content": piece} for piece in answer.cut_text(answer.text or ""))
    yield from ({"refusal": piece} for piece in answer.cut_text(answer.refusal or ""))
    for number, call in enumerate(answer.calls):
        yield from _call_deltas(answer, call, number, request.call_id(call, number))


def _reasoning_deltas(answer: Answer) -> Iterator[Json]:
    make_delta = REASONING[answer.reasoning_field]
    yield from (make_delta(piece) for piece in answer.cut_text(reasoning_text(answer)))


def reasoning_text(answer: Answer) -> str:
    """Return the reasoning, with tags if it is sent within the content."""
    if answer.reasoning and answer.reasoning_field == "think":
        return f"<think>{answer.reasoning}</think>"
    return answer.reasoning or ""


def _call_deltas(answer: Answer, call: Call, number: int, call_id: str) -> Iterator[Json]:
    head = {"index": number, **_make_call(call, call_id, "")}
    yield {"tool_calls": [head]}
    for piece in answer.cut_text(call.text):
        yield {"tool_calls": [{"index": number, call.kind: {_name_input_field(call): piece}}]}


def _make_call(call: Call, call_id: str, text: str) -> Json:
    name = f"{call.namespace}__{call.name}" if call.namespace else call.name
    return {
        "id": call_id,
        "type": call.kind,
        call.kind: {"name": name, _name_input_field(call): text},
    }


def _name_input_field(call: Call) -> str:
    return "input" if call.kind == "custom" else "arguments"


def _whole_choice(answer: Answer, request: ModelRequest, index: int) -> Json:
    return {
        "index": index,
        "message": _make_message(answer, request),
        "logprobs": None,
        "finish_reason": finish_reason(answer),
    }


def _make_message(answer: Answer, request: ModelRequest) -> Json:
    message: Json = {
        "role": "assistant",
        "content": answer.text,
        "refusal": answer.refusal,
        "annotations": [],
    }
    if answer.reasoning:
        message |= _whole_reasoning(answer)
    if answer.calls:
        message["tool_calls"] = [
            _make_call(call, request.call_id(call, i), call.text)
            for i, call in enumerate(answer.calls)
        ]
    return message


def _whole_reasoning(answer: Answer) -> Json:
    fields: Json = REASONING[answer.reasoning_field](reasoning_text(answer))
    if answer.reasoning_field == "think":
        return {"content": fields["content"] + (answer.text or "")}
    if answer.reasoning_field == "parts":
        return {"content": [*fields["content"], {"type": "text", "text": answer.text or ""}]}
    return fields


def _make_reasoning_detail(text: str) -> Json:
    return {"type": "reasoning.text", "text": text, "format": "unknown", "index": 0}


def _make_thinking(text: str) -> Json:
    return {"type": "thinking", "thinking": [{"type": "text", "text": text}]}
