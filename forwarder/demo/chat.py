"""The Chat Completions protocol: validates and parses requests, serializes answers.

Reasoning is sent in ``reasoning_content``, as by DeepSeek and similar providers.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import takewhile
from typing import Any

from forwarder.core.errors import InvalidRequest, shorten_value
from forwarder.core.types import Json
from forwarder.demo.answer import DemoAnswer, DemoAnswerPart, DemoPrompt
from forwarder.demo.options import OfferedTool, ToolOffer, choose_tool, read_format
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
    read_integer,
    read_objects,
    require_field,
)
from forwarder.protocols.types import ChatUsage, ChoiceDelta, ChunkChoice, FinishReason

# -- requests --------------------------------------------------------------------------------------

PARAMETER_TYPES: dict[str, JsonKind] = {
    "model": TEXT,
    "messages": ARRAY,
    "frequency_penalty": DECIMAL,
    "logit_bias": OBJECT,
    "logprobs": FLAG,
    "max_completion_tokens": WHOLE,
    "max_tokens": WHOLE,
    "metadata": OBJECT,
    "n": WHOLE,
    "parallel_tool_calls": FLAG,
    "presence_penalty": DECIMAL,
    "reasoning_effort": TEXT,
    "response_format": OBJECT,
    "seed": WHOLE,
    "service_tier": TEXT,
    "stop": (str, list),
    "store": FLAG,
    "stream": FLAG,
    "stream_options": OBJECT,
    "temperature": DECIMAL,
    "tool_choice": (str, dict),
    "tools": ARRAY,
    "top_logprobs": WHOLE,
    "top_p": DECIMAL,
    "user": TEXT,
    "verbosity": TEXT,
}
PART_TYPES_BY_ROLE = {
    "system": ("text",),
    "developer": ("text",),
    "user": ("text", "image_url", "input_audio", "file"),
    "assistant": ("text", "refusal"),
    "tool": ("text",),
    "function": ("text",),
}
# Fields that can replace the content of an assistant message.
CONTENT_ALTERNATIVES = ("tool_calls", "function_call", "refusal", "audio")
REQUIRED_COMPANIONS = {
    "tool_choice": "tools",
    "parallel_tool_calls": "tools",
    "stream_options": "stream",
}
TOOL_TYPES = ("function", "custom")


def read_prompt(request: Json) -> DemoPrompt:
    """Parse a Chat Completions request; raises InvalidRequest that names the parameter."""
    check_parameters(request, PARAMETER_TYPES, required=("model", "messages"))
    check_companions(request)
    messages = read_messages(request)
    return DemoPrompt(
        user_text=find_user_text(messages),
        word_count=count_words(messages),
        tool_results=find_tool_results(messages),
        tool=read_tool(request),
        format=read_format(
            request.get("response_format"),
            "response_format.",
            find_user_text(messages),
            nested=True,
        ),
        limit=read_limit(request),
        includes_reasoning=request.get("reasoning_effort") != "none",
    )


def check_companions(request: Json) -> None:
    for name, companion in REQUIRED_COMPANIONS.items():
        if request.get(name) is not None and not request.get(companion):
            raise InvalidRequest(
                f"The '{name}' parameter is only allowed when '{companion}' is set.", param=name
            )
    if request.get("n") not in (None, 1):
        raise InvalidRequest("Invalid value for 'n': the demo upstream supports only 1.", param="n")


def read_limit(request: Json) -> int | None:
    limits = (read_integer(request, name, 1) for name in ("max_completion_tokens", "max_tokens"))
    return next((limit for limit in limits if limit is not None), None)


def read_messages(request: Json) -> list[Json]:
    messages = read_objects(request, "messages")
    if not messages:
        raise InvalidRequest(
            "Invalid 'messages': empty array. Expected an array with minimum length 1.",
            param="messages",
            code="empty_array",
        )
    for path, message in messages:
        check_message(message, f"{path}.")
    check_pairs(messages)
    return [message for _, message in messages]


def check_message(message: Json, at: str) -> None:
    role = check_enum(
        require_field(message, "role", TEXT, at), tuple(PART_TYPES_BY_ROLE), f"{at}role"
    )
    if role != "assistant" or not any(message.get(name) for name in CONTENT_ALTERNATIVES):
        require_field(message, "content", (str, list), at)
    if message.get("content") is not None:
        check_parts(message, "content", PART_TYPES_BY_ROLE[role], at)
    for path, call in read_objects(message, "tool_calls", at):
        check_call(call, f"{path}.")


def check_call(call: Json, at: str) -> None:
    require_field(call, "id", TEXT, at)
    kind = check_enum(require_field(call, "type", TEXT, at), TOOL_TYPES, f"{at}type")
    body = require_field(call, kind, OBJECT, at)
    for name in ("name", "arguments" if kind == "function" else "input"):
        require_field(body, name, TEXT, f"{at}{kind}.")


def check_pairs(messages: list[tuple[str, Json]]) -> None:
    waiting: set[str] = set()
    for path, message in messages:
        if message["role"] == "tool":
            match_output(waiting, message, f"{path}.")
        else:
            require_no_pending_calls(waiting)
            waiting = {call["id"] for call in message.get("tool_calls") or ()}
    require_no_pending_calls(waiting)


def match_output(waiting: set[str], message: Json, at: str) -> None:
    call_id = require_field(message, "tool_call_id", TEXT, at)
    if call_id not in waiting:
        raise InvalidRequest(
            "messages with role 'tool' must be a response to a preceding message "
            f"with 'tool_calls'; '{shorten_value(call_id)}' is not waiting for one.",
            param=f"{at}tool_call_id",
        )
    waiting.remove(call_id)


def require_no_pending_calls(waiting: set[str]) -> None:
    if waiting:
        raise InvalidRequest(
            "An assistant message with 'tool_calls' must be followed by tool messages responding "
            "to each 'tool_call_id'. The following tool_call_ids did not have response messages: "
            + ", ".join(sorted(waiting)),
            param="messages",
        )


def find_user_text(messages: list[Json]) -> str:
    users = [message for message in messages if message["role"] == "user"]
    return join_text(users[-1]["content"]) if users else ""


def find_tool_results(messages: list[Json]) -> tuple[str, ...]:
    last = takewhile(lambda message: message["role"] in ("tool", "function"), reversed(messages))
    return tuple(join_text(message["content"]) for message in last)[::-1]


def read_tool(request: Json) -> OfferedTool | None:
    offers = [flatten_tool(path, tool) for path, tool in read_objects(request, "tools")]
    return choose_tool(offers, flatten_choice(request.get("tool_choice")))


def flatten_tool(path: str, tool: Json) -> ToolOffer:
    kind = check_enum(require_field(tool, "type", TEXT, f"{path}."), TOOL_TYPES, f"{path}.type")
    return f"{path}.{kind}", {**require_field(tool, kind, OBJECT, f"{path}."), "type": kind}


def flatten_choice(choice: Any) -> Any:
    if not isinstance(choice, dict):
        return choice
    if choice.get("type") == "allowed_tools":
        allowed = require_field(choice, "allowed_tools", OBJECT, "tool_choice.")
        tools = read_objects(allowed, "tools", "tool_choice.allowed_tools.")
        flat = [tool for _, tool in (flatten_tool(path, tool) for path, tool in tools)]
        return {**allowed, "type": "allowed_tools", "tools": flat}
    return flatten_tool("tool_choice", choice)[1]


# -- answers ---------------------------------------------------------------------------------------

# The input field of each kind of tool call.
CALL_INPUT_FIELDS = {"function": "arguments", "custom": "input"}


def build_completion(request: Json, answer: DemoAnswer, key: str, created: int) -> Json:
    """Return a ``chat.completion``; its ids contain ``key``; ``created`` is in Unix seconds."""
    choice = {
        "index": 0,
        "message": build_message(answer, key),
        "logprobs": None,
        "finish_reason": get_finish_reason(answer),
    }
    frame = make_frame(request, "chat.completion", key, created)
    return {**frame, "choices": [choice], "usage": make_usage(answer)}


def iter_chunks(request: Json, answer: DemoAnswer, key: str, created: int) -> Iterator[Json]:
    """Yield the ``chat.completion.chunk`` objects of the answer; see `build_completion`."""
    frame = make_frame(request, "chat.completion.chunk", key, created)
    include_usage = (request.get("stream_options") or {}).get("include_usage")
    if include_usage:
        frame["usage"] = None
    for delta in iter_deltas(answer, key):
        yield {**frame, "choices": [make_choice(delta, None)]}
    yield {**frame, "choices": [make_choice({}, get_finish_reason(answer))]}
    if include_usage:
        yield {**frame, "choices": [], "usage": make_usage(answer)}


def make_frame(request: Json, kind: str, key: str, created: int) -> Json:
    return {
        "id": f"chatcmpl-{key}",
        "object": kind,
        "created": created,
        "model": request["model"],
        "service_tier": "default",
        "system_fingerprint": None,
    }


def make_choice(delta: ChoiceDelta, finish: FinishReason | None) -> ChunkChoice:
    return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}


def get_finish_reason(answer: DemoAnswer) -> FinishReason:
    if answer.is_cut:
        return "length"
    return "tool_calls" if list_calls(answer) else "stop"


def list_calls(answer: DemoAnswer) -> list[DemoAnswerPart]:
    return [part for part in answer.parts if part.tool]


def make_opening_delta(answer: DemoAnswer) -> ChoiceDelta:
    return {"role": "assistant", "content": None if list_calls(answer) else "", "refusal": None}


def build_message(answer: DemoAnswer, key: str) -> ChoiceDelta:
    message = make_opening_delta(answer)
    for part in answer.parts:
        match part.kind:
            case "reasoning":
                message["reasoning_content"] = part.text
            case "text":
                message["content"] = part.text
            case kind:
                message["tool_calls"] = [make_call(part, key, {CALL_INPUT_FIELDS[kind]: part.text})]
    return message


def iter_deltas(answer: DemoAnswer, key: str) -> Iterator[ChoiceDelta]:
    yield make_opening_delta(answer)
    for part in answer.parts:
        match part.kind:
            case "reasoning":
                for word in part.words:
                    yield {"reasoning_content": word}
            case "text":
                for word in part.words:
                    yield {"content": word}
            case kind:
                yield make_call_delta(make_call(part, key, {CALL_INPUT_FIELDS[kind]: ""}))
                yield from (
                    make_call_delta({kind: {CALL_INPUT_FIELDS[kind]: word}}) for word in part.words
                )


def make_call(part: DemoAnswerPart, key: str, body: Json) -> Json:
    assert part.tool
    return {
        "id": f"call_{key}",
        "type": part.kind,
        part.kind: {"name": part.tool.name, **body},
    }


def make_call_delta(call: Json) -> ChoiceDelta:
    return {"tool_calls": [{"index": 0, **call}]}


def make_usage(answer: DemoAnswer) -> ChatUsage:
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
