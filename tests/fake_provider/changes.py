"""Vendors' variations of a chat stream. Each function changes OpenAI's chunks for a request.

The answer stays the same, so a client must read the same result.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy

from .answers import Json, ModelRequest, Usage


def usage_in_every_chunk(chunks: list[Json], request: ModelRequest) -> list[Json]:
    """Every chunk has a usage, which is null in the first; no usage chunk follows at the end."""
    usage = Usage().chat()
    head, *later_chunks = [chunk for chunk in chunks if chunk["choices"]]
    return [{**head, "usage": None}, *({**chunk, "usage": usage} for chunk in later_chunks)]


def usage_null(chunks: list[Json], request: ModelRequest) -> list[Json]:
    """``usage: null`` in every chunk without usage, requested or not."""
    return [{"usage": None, **chunk} for chunk in chunks]


def usage_with_finish(chunks: list[Json], request: ModelRequest) -> list[Json]:
    """The chunk with the finish reason also has the usage."""
    with_choices = [chunk for chunk in chunks if chunk["choices"]]
    return [*with_choices[:-1], {**with_choices[-1], "usage": Usage().chat()}]


def roleless(chunks: list[Json], request: ModelRequest) -> list[Json]:
    """No delta has a ``role``, and no chunk has only a role."""
    return _change_deltas(chunks[1:], lambda delta: {k: v for k, v in delta.items() if k != "role"})


def role_everywhere(chunks: list[Json], request: ModelRequest) -> list[Json]:
    """Every delta has a ``role`` and content, which may be empty."""
    return _change_deltas(chunks, lambda delta: {"role": "assistant", "content": "", **delta})


def content_null(chunks: list[Json], request: ModelRequest) -> list[Json]:
    """Every delta has every field; fields without content are null."""
    nothing = {"content": None, "reasoning_content": None, "tool_calls": None, "refusal": None}
    return _change_deltas(chunks, lambda delta: {**nothing, **delta})


def finish_empty(chunks: list[Json], request: ModelRequest) -> list[Json]:
    """``finish_reason`` is an empty string instead of null."""
    return _change_choices(
        chunks, lambda choice: {**choice, "finish_reason": choice["finish_reason"] or ""}
    )


def filters_first(chunks: list[Json], request: ModelRequest) -> list[Json]:
    """A chunk without choices opens the stream, with the results of a prompt filter (Azure)."""
    results = [{"prompt_index": 0, "content_filter_results": {}}]
    first = {"id": "", "object": "", "created": 0, "model": "", "choices": []}
    return [{**first, "prompt_filter_results": results}, *chunks]


def message_for_delta(chunks: list[Json], request: ModelRequest) -> list[Json]:
    """The choices have ``message`` instead of ``delta``."""
    return _change_choices(chunks, lambda choice: _rename_key(choice, "delta", "message"))


def names_blank_later(chunks: list[Json], request: ModelRequest) -> list[Json]:
    """Only the first delta of a call has its id and name; in later ones they are empty."""

    def fill_with_blanks(call: Json) -> Json:
        if "id" in call:
            return call
        return {**call, "id": "", "type": "function", "function": {"name": "", **call["function"]}}

    return _change_calls(chunks, fill_with_blanks)


def names_repeated(chunks: list[Json], request: ModelRequest) -> list[Json]:
    """Every delta of a call repeats its id and name."""
    first_deltas: dict[int, Json] = {}

    def repeat(call: Json) -> Json:
        first = first_deltas.setdefault(call["index"], call)
        function = {"name": first["function"]["name"], **call["function"]}
        return {**call, "id": first["id"], "type": "function", "function": function}

    return _change_calls(chunks, repeat)


def one_index(chunks: list[Json], request: ModelRequest) -> list[Json]:
    """All calls have index 0; a new id begins a new call."""
    return _change_calls(chunks, lambda call: {**call, "index": 0})


def no_index(chunks: list[Json], request: ModelRequest) -> list[Json]:
    """Deltas of calls without an index; a new id begins a new call."""
    return _change_calls(chunks, lambda call: {k: v for k, v in call.items() if k != "index"})


def whole_calls(chunks: list[Json], request: ModelRequest) -> list[Json]:
    """Each call comes whole in one chunk."""
    merged_chunks: list[Json] = []
    for chunk in deepcopy(chunks):
        call = _first_call(chunk)
        if call is None or "id" in call:
            merged_chunks.append(chunk)
            continue
        started = _first_call(merged_chunks[-1])
        assert started is not None, "a delta continues a call that has not started"
        started["function"]["arguments"] += call["function"]["arguments"]
    return merged_chunks


def object_arguments(chunks: list[Json], request: ModelRequest) -> list[Json]:
    """Each call comes whole, with an object instead of JSON text as arguments."""

    def parse_arguments(call: Json) -> Json:
        arguments = json.loads(call["function"]["arguments"])
        return {**call, "function": {**call["function"], "arguments": arguments}}

    return _change_calls(whole_calls(chunks, request), parse_arguments)


def finish_stop(chunks: list[Json], request: ModelRequest) -> list[Json]:
    """``stop`` is the finish reason even after calls."""
    return _change_choices(chunks, lambda c: {**c, "finish_reason": c["finish_reason"] and "stop"})


def _change_deltas(chunks: list[Json], change: Callable[[Json], Json]) -> list[Json]:
    return _change_choices(chunks, lambda choice: {**choice, "delta": change(choice["delta"])})


def _change_calls(chunks: list[Json], change: Callable[[Json], Json]) -> list[Json]:
    def in_delta(delta: Json) -> Json:
        if "tool_calls" not in delta:
            return delta
        return {**delta, "tool_calls": [change(call) for call in delta["tool_calls"]]}

    return _change_deltas(chunks, in_delta)


def _change_choices(chunks: list[Json], change: Callable[[Json], Json]) -> list[Json]:
    return [{**c, "choices": [change(choice) for choice in c["choices"]]} for c in chunks]


def _rename_key(value: Json, old: str, new: str) -> Json:
    return {new if key == old else key: inner for key, inner in value.items()}


def _first_call(chunk: Json) -> Json | None:
    calls = [call for choice in chunk["choices"] for call in choice["delta"].get("tool_calls", ())]
    call: Json | None = calls[0] if calls else None
    return call
