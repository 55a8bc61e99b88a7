"""The fold of a stream: the whole answer, for a client that did not ask to stream.

A whole answer that came as one event is given back as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from forwarder.errors import UpstreamBroken
from forwarder.translate.call import Event, Json, Stream
from forwarder.translate.vocabulary import TERMINALS, failure


def fold_responses(stream: Stream) -> Json:
    """The response of the terminal event."""
    for batch in stream:
        for event in batch:
            if event.get("type") in TERMINALS:
                return dict(event["response"])
            if event.get("type") == "error":
                raise failure(event.get("error") or event)
    raise UpstreamBroken("The upstream's stream ended before its response was finished.")


def fold_chat(stream: Stream) -> Json:
    """The chat completion that the chunks add up to."""
    completion: Json = {}
    messages: dict[int, Json] = {}
    for batch in stream:
        for chunk in batch:
            if chunk.get("error"):
                raise failure(chunk["error"])
            if _is_whole(chunk):
                return chunk
            _take_chunk(completion, messages, chunk)
    if not messages:
        raise UpstreamBroken("The upstream's answer has no choices.")
    usage = completion.pop("usage", None)
    choices = [_finished(messages[index]) for index in sorted(messages)]
    return {**completion, "object": "chat.completion", "choices": choices, "usage": usage}


def _is_whole(chunk: Event) -> bool:
    choices = chunk.get("choices") or [{}]
    return "message" in choices[0]


def _take_chunk(completion: Json, choices: dict[int, Json], chunk: Event) -> None:
    for key, value in chunk.items():
        if key != "choices" and value is not None:
            completion[key] = value
    for choice in chunk.get("choices") or ():
        whole = choices.setdefault(choice.get("index", 0), {})
        for key, value in choice.items():
            if key == "delta":
                _merge(whole.setdefault("message", _Pieces()), value or {})
            elif value is not None:
                whole[key] = value


class _Pieces(dict[str, Any]):
    """A message in the making: texts are lists of pieces until they are joined."""


def _merge(message: _Pieces, delta: Json) -> None:
    for key, value in delta.items():
        merger = _MERGERS.get(key)
        if merger is not None:
            merger(message, key, value)
        elif value is not None:
            message[key] = value


def _text(message: _Pieces, key: str, value: Any) -> None:
    if isinstance(value, list):
        _parts(message, key, value)
    elif value is None:
        message.setdefault(key, None)
    elif isinstance(message.get(key), list):
        message[key].append(value)
    else:
        message[key] = [value]


def _parts(message: _Pieces, key: str, value: list[Json]) -> None:
    """Content parts: those of one type that follow each other are one part."""
    if not isinstance(message.get(key), list):
        message[key] = []
    message[key] += value


def _extend(message: _Pieces, key: str, value: Any) -> None:
    message[key] = [*message.get(key, ()), *(value or ())]


def _calls(message: _Pieces, key: str, value: Any) -> None:
    calls = message.setdefault(key, {})
    for delta in value or ():
        call = calls.setdefault(delta.get("index", 0), {})
        for name in ("id", "type"):
            if delta.get(name):
                call[name] = delta[name]
        for shape in ("function", "custom"):
            if shape in delta:
                _join_body(call.setdefault(shape, {}), delta[shape] or {})


def _legacy_call(message: _Pieces, key: str, value: Any) -> None:
    _join_body(message.setdefault(key, {}), value or {})


def _join_body(body: Json, delta: Json) -> None:
    for key, value in delta.items():
        body[key] = body.get(key, "") + (value or "")


_MERGERS: dict[str, Callable[[_Pieces, str, Any], None]] = {
    "content": _text,
    "refusal": _text,
    "reasoning_content": _text,
    "reasoning": _text,
    "reasoning_details": _extend,
    "annotations": _extend,
    "tool_calls": _calls,
    "function_call": _legacy_call,
}


def _finished(choice: Json) -> Json:
    message = choice.get("message") or {}
    whole: Json = {"role": "assistant", "content": None, "refusal": None}
    for key, value in message.items():
        if key == "tool_calls":
            value = [value[index] for index in sorted(value)]
        elif key in ("content", "refusal", "reasoning_content", "reasoning") and value is not None:
            value = _joined(value)
        whole[key] = value
    if not whole["content"]:
        # A message that says nothing has no content; a plain empty answer has an empty one.
        whole["content"] = None if whole["refusal"] or "tool_calls" in whole else whole["content"]
    return {"index": 0, "logprobs": None, **choice, "message": whole}


def _joined(pieces: list[Any]) -> Any:
    if all(isinstance(piece, str) for piece in pieces):
        return "".join(pieces)
    parts: list[Json] = []
    for piece in pieces:
        part = {"type": "text", "text": piece} if isinstance(piece, str) else dict(piece)
        if not part.get(str(part.get("type")), True):
            continue
        last = parts[-1] if parts else {}
        if last.get("type") == part.get("type") and part.get("type") in ("text", "thinking"):
            key = str(part["type"])
            last[key] += part[key]
        else:
            parts.append(part)
    return parts
