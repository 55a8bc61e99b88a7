"""Checks events and answers with the types and accumulators of OpenAI's SDK.

The accumulators in ``openai.lib`` are semi-private. Only this module imports them, so only it has to
change if they move.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any, get_args

from openai import omit
from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.lib.streaming.responses._responses import ResponseStreamState
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.chat.completion_create_params import CompletionCreateParamsBase
from openai.types.responses import CompactedResponse, Response, ResponseStreamEvent
from openai.types.responses.response_create_params import ResponseCreateParamsBase
from pydantic import BaseModel, TypeAdapter, ValidationError

Json = dict[str, Any]

REQUEST_PARAMETERS = {
    "chat": frozenset(CompletionCreateParamsBase.__annotations__) | {"stream"},
    "responses": frozenset(ResponseCreateParamsBase.__annotations__) | {"stream"},
}
"""Protocol -> every parameter that the SDK can send."""

_KNOWN_EXTRAS = frozenset(
    {
        # the nested shape of an error event, as OpenAI sends it
        "error",
        # sent by OpenAI with the arguments of a function call, though not in its types
        "name",
        # in the log probabilities of text deltas: sent, and in the Open Responses schema
        "bytes",
        # in the Open Responses schema
        "frequency_penalty", "presence_penalty", "completed_at", "store",
        # of text in tool search and freeform calls: sent, though not in the types
        "status",
        # reasoning and freeform tools in chat
        "reasoning_content", "reasoning", "metadata", "annotations", "custom",
        # images for clients of OpenRouter
        "images",
    }
)  # fmt: skip


def event_mistakes(event: Json) -> list[str]:
    """Return the mistakes of a Responses event, by the model for the event's own type."""
    model = _event_models().get(event.get("type", ""))
    return _list_mistakes(model, event) if model else [f"no such event: {event.get('type')}"]


def chunk_mistakes(chunk: Json) -> list[str]:
    """Return the mistakes of a chat chunk."""
    return _list_mistakes(ChatCompletionChunk, _without_freeform(chunk))


def response_mistakes(response: Json) -> list[str]:
    """Return the mistakes of a whole response."""
    return _list_mistakes(Response, response)


def completion_mistakes(completion: Json) -> list[str]:
    """Return the mistakes of a whole chat completion."""
    return _list_mistakes(ChatCompletion, completion)


def compaction_mistakes(compaction: Json) -> list[str]:
    """Return the mistakes of a compacted conversation, except those of user messages.

    User messages are documented, but the SDK has no type for them.
    """
    output = [item for item in compaction["output"] if item.get("role") != "user"]
    return _list_mistakes(CompactedResponse, {**compaction, "output": output})


def rebuild_response(events: list[Json]) -> Json:
    """Return the response that ``client.responses.stream()`` accumulates from the deltas."""
    state: Any = ResponseStreamState(input_tools=omit, text_format=omit)
    for event in events:
        state.handle_event(_event_models()[event["type"]].model_validate(event))
    snapshot: Json = state._ResponseStreamState__current_snapshot.to_dict(warnings=False)
    return snapshot


def rebuild_completion(chunks: list[Json]) -> Json:
    """Return the completion that ``client.chat.completions.stream()`` accumulates."""
    state: Any = ChatCompletionStreamState()
    for chunk in chunks:
        state.handle_chunk(ChatCompletionChunk.construct(**chunk))
    completion: Json = state.current_completion_snapshot.to_dict()
    return completion


@functools.cache
def _event_models() -> dict[str, type[BaseModel]]:
    union = get_args(ResponseStreamEvent)[0]
    return {get_args(model.model_fields["type"].annotation)[0]: model for model in get_args(union)}


@functools.cache
def _adapter(model: type[BaseModel]) -> TypeAdapter[Any]:
    return TypeAdapter(model)


def _list_mistakes(model: type[BaseModel], value: Json) -> list[str]:
    try:
        model_value = _adapter(model).validate_python(value, strict=True)
    except ValidationError as error:
        return _format_errors(error)
    return [f"{path}: unknown field" for path in _list_extras(model_value, "")]


def _format_errors(error: ValidationError) -> list[str]:
    """Format the errors, without those that only report a mismatch with other union members."""
    errors = error.errors()
    other_members = {
        e["loc"][:-1] for e in errors if e["loc"][-1] == "type" and e["type"] == "literal_error"
    }
    relevant_errors = [
        e
        for e in errors
        if not any(e["loc"][:n] in other_members for n in range(1, len(e["loc"]) + 1))
    ]
    return [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in relevant_errors or errors]


def _list_extras(value: Any, path: str) -> Iterator[str]:
    if isinstance(value, BaseModel):
        for key in value.model_extra or {}:
            if key not in _KNOWN_EXTRAS:
                yield f"{path}.{key}"
        for key in value.model_fields_set:
            yield from _list_extras(getattr(value, key, None), f"{path}.{key}")
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from _list_extras(inner, f"{path}[{i}]")


def _without_freeform(chunk: Json) -> Json:
    """Return the chunk with freeform tool calls as function calls, for which the SDK has types."""
    return {**chunk, "choices": [_function_calls_only(choice) for choice in chunk["choices"]]}


def _function_calls_only(choice: Json) -> Json:
    delta = choice["delta"]
    calls = [{**c, "type": "function"} if c.get("type") == "custom" else c
             for c in delta.get("tool_calls") or ()]  # fmt: skip
    return {**choice, "delta": {**delta, "tool_calls": calls}} if calls else choice


_QUIET_EVENTS = frozenset(
    {
        "response.queued", "response.in_progress", "response.compaction.compacting",
        # other events have their content
        "response.content_part.added", "response.content_part.done",
        "response.reasoning_summary_part.added", "response.reasoning_summary_part.done",
        "response.function_call_arguments.done", "response.custom_tool_call_input.done",
    }
)  # fmt: skip
_HOSTED_TOOL_EVENTS = (
    "response.audio", "response.code_interpreter", "response.file_search",
    "response.image_generation_call.generating", "response.image_generation_call.in_progress",
    "response.image_generation_call.completed", "response.mcp", "response.web_search",
    "response.shell",
)  # fmt: skip
"""The beginnings of events of hosted tools; the item of a call has its result."""

CONTENT_EVENT_TYPES = frozenset(
    kind
    for kind in _event_models()
    if kind not in _QUIET_EVENTS and not kind.startswith(_HOSTED_TOOL_EVENTS)
)
"""The types of events in a Responses stream that may change the answer of another API."""
