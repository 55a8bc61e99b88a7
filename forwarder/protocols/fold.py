"""Folds a stream into one complete answer, for clients that do not stream.

An upstream's complete answer arrives as a stream of one event and is returned unchanged.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from forwarder.core.errors import UpstreamProtocolError
from forwarder.core.types import Event, EventStream, Json
from forwarder.protocols.chat_responses_mappings import (
    TERMINAL_EVENTS,
    read_usage,
    to_upstream_error,
)
from forwarder.protocols.signatures import MESSAGE_FIELDS, merge_value, read_merged
from forwarder.protocols.tool_call_index import ToolCallIndex, stringify_arguments


def fold_responses(stream: EventStream) -> Json:
    """Return the response of the terminal event, with the finished items if its output is empty.

    Raises UpstreamError for an ``error`` event or a stream without a terminal event.
    """
    items: list[Json] = []
    for batch in stream:
        for event in batch:
            kind = event.get("type")
            if kind in TERMINAL_EVENTS and isinstance(event.get("response"), dict):
                response = event["response"]
                return {**response, "output": response.get("output") or items}
            if kind == "response.output_item.done":
                items.append(event.get("item") or {})
            elif kind == "error":
                raise to_upstream_error(event.get("error") or event)
    raise UpstreamProtocolError("The upstream's stream ended before its response was finished.")


def fold_chat(stream: EventStream) -> Json:
    """Merge chunks into one chat completion.

    Raises UpstreamError for a chunk with an error or a stream without choices.
    """
    completion: Json = {}
    messages: dict[int, Json] = {}
    for batch in stream:
        for chunk in batch:
            if chunk.get("error"):
                raise to_upstream_error(chunk["error"])
            if is_complete_answer(chunk):
                return chunk
            merge_chunk(completion, messages, chunk)
    if not messages:
        raise UpstreamProtocolError("The upstream's answer has no choices.")
    usage = read_usage(completion)
    choices = [build_choice(messages[index]) for index in sorted(messages)]
    return {**completion, "object": "chat.completion", "choices": choices, "usage": usage}


def is_complete_answer(chunk: Event) -> bool:
    """Return True for a chunk with a message and no delta.

    Perplexity sends the message so far beside each delta, Writer a null message.
    """
    choice = (chunk.get("choices") or [{}])[0]
    return bool(choice.get("message")) and "delta" not in choice


def merge_chunk(completion: Json, choices: dict[int, Json], chunk: Event) -> None:
    for key, value in chunk.items():
        if key not in ("choices", "obfuscation") and value is not None:
            completion[key] = value
    for choice in chunk.get("choices") or ():
        whole = choices.setdefault(choice.get("index") or 0, {})
        for key, value in choice.items():
            if key == "delta":
                merge_delta(whole.setdefault("message", MessagePieces()), value or {})
            elif key == "message":
                continue  # it only repeats the deltas
            elif key == "usage":
                completion.setdefault(key, value)
            elif key == "logprobs" and isinstance(value, dict):
                merge_logprobs(whole.setdefault(key, {}), value)
            elif value is not None:
                whole[key] = value


def merge_logprobs(whole: Json, logprobs: Json) -> None:
    """Append the log probabilities of a chunk: they arrive with their pieces of text."""
    for key, value in logprobs.items():
        if not isinstance(value, list):
            whole.setdefault(key, value)
        elif isinstance(whole.get(key), list):
            whole[key] += value
        else:
            whole[key] = [*value]


class MessagePieces(dict[str, Any]):
    """An unfinished message: texts are lists of pieces until `build_choice` joins them."""

    def __init__(self) -> None:
        super().__init__()
        self.call_index = ToolCallIndex()
        self.image_positions: dict[int, int] = {}


def merge_delta(message: MessagePieces, delta: Json) -> None:
    for key, value in delta.items():
        merger = _MERGERS.get(key)
        if value is None:
            continue
        if merger is not None:
            merger(message, key, value)
        else:
            message[key] = value


def merge_text(message: MessagePieces, key: str, value: Any) -> None:
    """Append a text or a list of content parts to the pieces."""
    if not isinstance(message.get(key), list):
        message[key] = []
    message[key] += value if isinstance(value, list) else [value]


def extend_list(message: MessagePieces, key: str, value: Any) -> None:
    message.setdefault(key, []).extend(value or ())


def merge_signatures(message: MessagePieces, key: str, value: Any) -> None:
    if value:
        message[key] = merge_value(message.get(key), value)


def merge_images(message: MessagePieces, key: str, value: Any) -> None:
    """Append images; an image with the index of an earlier one replaces it."""
    if not value:
        return
    images = message.setdefault(key, [])
    for image in value:
        index = image.get("index") if isinstance(image, dict) else None
        position = len(images)
        if isinstance(index, int):
            position = message.image_positions.setdefault(index, position)
        if position < len(images):
            images[position] = image
        else:
            images.append(image)


def merge_metadata(message: MessagePieces, key: str, value: Any) -> None:
    """Merge metadata without ``partial_images``: a complete answer has no drafts of images."""
    if not isinstance(value, dict):
        return
    fields = {k: v for k, v in value.items() if k != "partial_images"}
    if fields:
        message[key] = {**message.get(key, {}), **fields}


def merge_tool_calls(message: MessagePieces, key: str, value: Any) -> None:
    calls = message.setdefault(key, []) if value else []
    for delta in value:
        number = message.call_index.find(delta)
        if number == len(calls):
            calls.append({"type": "custom" if "custom" in delta else "function"})
        for name, field in delta.items():
            if name in ("function", "custom"):
                merge_call_body(calls[number].setdefault(name, {}), field or {})
            elif field and name != "index":
                calls[number][name] = merge_value(calls[number].get(name), field)


def merge_function_call(message: MessagePieces, key: str, value: Any) -> None:
    merge_call_body(message.setdefault(key, {}), value or {})


_TEXTS = ("arguments", "input")
_CALL_BODY_FIELDS = ("name", *_TEXTS)
"""OpenAI's fields of the body of a call; all others hold signatures."""


def merge_call_body(body: Json, delta: Json) -> None:
    for key, value in delta.items():
        if key not in _CALL_BODY_FIELDS:
            body[key] = merge_value(body.get(key), value)
        elif key in _TEXTS:
            body.setdefault(key, []).append(stringify_arguments(value))
        elif value != body.get(key):  # some vendors repeat the name in each delta
            body[key] = body.get(key, "") + stringify_arguments(value)


def join_call(call: Json) -> Json:
    bodies = ("function", "custom")
    return {k: join_call_body(v) if k in bodies else read_merged(v) for k, v in call.items()}


def join_call_body(body: Json) -> Json:
    return {k: "".join(v) if k in _TEXTS else read_merged(v) for k, v in body.items()}


_MERGERS: dict[str, Callable[[MessagePieces, str, Any], None]] = {
    "content": merge_text,
    "refusal": merge_text,
    "reasoning_content": merge_text,
    "reasoning": merge_text,
    **dict.fromkeys(MESSAGE_FIELDS, merge_signatures),
    "annotations": extend_list,
    "images": merge_images,
    "metadata": merge_metadata,
    "tool_calls": merge_tool_calls,
    "function_call": merge_function_call,
}


def build_choice(choice: Json) -> Json:
    message = choice.get("message") or {}
    whole: Json = {"role": "assistant", "content": None, "refusal": None}
    for key, value in message.items():
        if key in ("content", "refusal", "reasoning_content", "reasoning") and value is not None:
            value = join_content(value)
        elif key == "tool_calls":
            value = [join_call(call) for call in value]
        elif key == "function_call":
            value = join_call_body(value)
        elif key in MESSAGE_FIELDS:
            value = read_merged(value)
        whole[key] = value
    if not whole["content"]:
        # Beside a refusal or calls, empty content becomes null; alone, it stays an empty text.
        has_other = whole["refusal"] or "tool_calls" in whole or "function_call" in whole
        whole["content"] = None if has_other else whole["content"]
    return {"index": 0, "logprobs": None, **choice, "message": whole}


def join_content(pieces: list[Any]) -> Any:
    """Join pieces into one text, or into a list of parts if one of them is a part.

    Neighbouring parts of one type become one part.
    """
    if all(isinstance(piece, str) for piece in pieces):
        return "".join(pieces)
    parts: list[Json] = []
    for piece in pieces:
        part = {"type": "text", "text": piece} if isinstance(piece, str) else dict(piece)
        kind = str(part.get("type"))
        content = part.get(kind, True)
        last = parts[-1] if parts else {}
        if content and kind in ("text", "thinking") and type(content) is type(last.get(kind)):
            last[kind] = last[kind] + content
        elif content:
            parts.append(part)
    return parts
