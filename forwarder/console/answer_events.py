"""The events of an answer, as the pages show them.

`EventSplitter` splits the bytes of an answer into events while they arrive. `shorten_strings`
limits their size. `read_parts` reads the
parts that an event adds to the answer: text, reasoning, calls of tools, usage, errors. It reads
streams and whole answers of every protocol of clients and upstreams, and accepts any JSON, since
upstreams may send anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import orjson

from forwarder.core.terminal_text import escape_control_characters
from forwarder.core.types import Json
from forwarder.observability.capture import serialize
from forwarder.protocols import chat_reasoning

MAX_EVENT_BYTES = 8 * 2**20
"""The largest event that is shown; the bytes of larger ones are counted only."""

MAX_SHOWN_TEXT = 100_000
MAX_SHOWN_BLOB = 500
"""Characters of a string that are shown: of a text, and of a string without spaces (Base64)."""

_SEPARATORS = {"text/event-stream": b"\n\n", "application/x-ndjson": b"\n"}
"""Media type -> separator of events. An answer of another type is one event."""

_SSE_HEAD_BYTES = 16
"""As many first bytes contain the field name by which server-sent events are recognized."""


class EventSplitter:
    """Splits the bytes of an answer into events.

    An event has ``data`` and perhaps ``event``, or else ``text``, as in `capture.serialize`. An
    answer that begins like server-sent events is read as such, whatever its ``content_type``.
    """

    def __init__(self, content_type: str) -> None:
        self._separator = _SEPARATORS.get(content_type.partition(";")[0].strip().lower())
        self._rest = bytearray()
        self._ends_with_cr = False

    def feed(self, piece: bytes) -> list[Json]:
        """Return the events that ``piece`` completes."""
        if self._separator is None and len(self._rest) < _SSE_HEAD_BYTES:
            piece = bytes(self._rest) + piece
            self._rest.clear()
            if serialize.SSE_START.match(piece):
                self._separator = _SEPARATORS["text/event-stream"]
        if self._separator is not None:
            piece = self._normalize_newlines(piece)
        searched = max(0, len(self._rest) - 1)
        self._rest += piece
        end = self._rest.rfind(self._separator, searched) if self._separator else -1
        if end < 0:
            return self._drop_excess()
        blocks = bytes(self._rest[:end])
        del self._rest[: end + len(self._separator or b"")]
        return self._parse_blocks(blocks)

    def flush(self) -> list[Json]:
        """Return the last event: a whole answer, or the rest after the last separator."""
        rest = bytes(self._rest)
        self._rest.clear()
        if self._separator is not None:
            return self._parse_blocks(rest)
        parsed = serialize.parse_answer([(0.0, rest)])
        if "body" in parsed:
            return [{"data": parsed["body"]}]
        return [{"text": rest.decode(errors="replace")}] if rest else []

    def _parse_blocks(self, blocks: bytes) -> list[Json]:
        return [
            parse_block(block, self._separator == b"\n")
            for block in blocks.split(self._separator)
            if block.strip()
        ]

    def _normalize_newlines(self, piece: bytes) -> bytes:
        if self._ends_with_cr:
            piece = b"\r" + piece
        self._ends_with_cr = piece.endswith(b"\r")
        return piece.removesuffix(b"\r").replace(b"\r\n", b"\n")

    def _drop_excess(self) -> list[Json]:
        size = len(self._rest)
        if size <= MAX_EVENT_BYTES:
            return []
        self._rest.clear()
        return [{"text": f"[{size} bytes left out]"}]


def parse_block(block: bytes, is_line: bool) -> Json:
    """Return one event from its bytes."""
    if not is_line:
        return serialize.parse_event(block.strip(b"\n"))
    value = serialize.parse_json(block)
    return {"text": block.decode(errors="replace")} if value is None else {"data": value}


def shorten_strings(value: Any) -> Any:
    """Return a JSON value whose long strings are cut, and whose control characters are visible."""
    if type(value) is str:
        limit = MAX_SHOWN_TEXT if " " in value[:MAX_SHOWN_BLOB] else MAX_SHOWN_BLOB
        if len(value) <= limit:
            return escape_control_characters(value)
        return (
            f"{escape_control_characters(value[:limit])}[{len(value) - limit} characters left out]"
        )
    if type(value) is list:
        return [shorten_strings(inner) for inner in value]
    if type(value) is dict:
        return {
            escape_control_characters(name): shorten_strings(inner) for name, inner in value.items()
        }
    return value


# -- parts ----------------------------------------------------------------------------------------


class Part(NamedTuple):
    """A part that an event adds to an answer.

    ``kind`` is ``text``, ``reasoning``, ``refusal``, ``call``, ``usage``, ``finish`` or ``error``.
    ``key`` tells several parts of a kind apart, such as two calls. ``name`` is the name of a tool.
    """

    kind: str
    text: str
    key: str = ""
    name: str = ""

    def to_json(self) -> Json:
        """Return the fields that are not empty."""
        return {name: value for name, value in self._asdict().items() if value}


def read_parts(protocol: str, value: Any) -> list[Part]:
    """Return the parts that an event, or a whole answer, of a protocol adds to the answer."""
    if not isinstance(value, dict):
        return []
    read = _READERS.get(protocol)
    parts = [] if read is None else [part for part in read(value) if part.text or part.name]
    return [*parts, *read_error(value)]


def read_chat(value: Json) -> Iterator[Part]:
    for choice in list_dicts(value.get("choices")):
        key = str(choice.get("index") or "")
        message = get_dict(choice, "delta") or get_dict(choice, "message")
        yield Part("reasoning", chat_reasoning.read_text(message), key)
        yield from read_chat_content(message.get("content"), key)
        yield Part("refusal", to_text(message.get("refusal")), key)
        for position, call in enumerate(list_dicts(message.get("tool_calls"))):
            tool = get_dict(call, "function") or get_dict(call, "custom")
            text = to_text(tool.get("arguments", tool.get("input")))
            name = to_text(tool.get("name"))
            yield Part("call", text, f"{key}/{call.get('index', position)}", name)
        yield Part("finish", to_text(choice.get("finish_reason")), key)
    yield from read_usage(value)


def read_chat_content(content: Any, key: str) -> Iterator[Part]:
    """Yield the parts of a content, which is a text or a list of parts."""
    if isinstance(content, list):
        reasoning, text = chat_reasoning.split_content(content)
        yield Part("reasoning", reasoning, key)
        yield Part("text", text, key)
    else:
        yield Part("text", to_text(content), key)


_DELTA_KINDS = {
    "response.output_text.delta": "text",
    "response.refusal.delta": "refusal",
    "response.reasoning_text.delta": "reasoning",
    "response.reasoning_summary_text.delta": "reasoning",
    "response.function_call_arguments.delta": "call",
    "response.custom_tool_call_input.delta": "call",
    "response.mcp_call_arguments.delta": "call",
    "response.code_interpreter_call_code.delta": "call",
}
"""Type of a Responses event -> the kind of part that its delta extends."""

_ARGUMENT_FIELDS = ("arguments", "input", "code", "action", "queries")
"""Fields of a call item with the tool's arguments."""


def read_responses(value: Json) -> Iterator[Part]:
    if value.get("object") == "response":
        yield from read_response(value)
        return
    kind, key = to_text(value.get("type")), str(value.get("output_index") or "")
    if kind in _DELTA_KINDS:
        yield Part(_DELTA_KINDS[kind], to_text(value.get("delta")), key)
    elif kind == "response.output_item.added":
        yield from read_call(get_dict(value, "item"), key, with_arguments=False)
    elif kind == "response.output_item.done":
        item = get_dict(value, "item")
        if item.get("type") not in ("function_call", "custom_tool_call", "mcp_call"):
            yield from read_call(item, key, with_arguments=True)  # their arguments have no deltas
    elif isinstance(value.get("response"), dict):
        yield from read_response_end(get_dict(value, "response"))


def read_response(response: Json) -> Iterator[Part]:
    """Yield the parts of a whole response."""
    for position, item in enumerate(list_dicts(response.get("output"))):
        key = str(position or "")
        is_reasoning = item.get("type") == "reasoning"
        for part in (*list_dicts(item.get("summary")), *list_dicts(item.get("content"))):
            yield Part("reasoning" if is_reasoning else "text", to_text(part.get("text")), key)
            yield Part("refusal", to_text(part.get("refusal")), key)
        yield from read_call(item, key, with_arguments=True)
    yield from read_response_end(response)


def read_call(item: Json, key: str, with_arguments: bool) -> Iterator[Part]:
    """Yield the part of an item that calls a tool."""
    kind = to_text(item.get("type"))
    if not kind.endswith("_call"):
        return
    arguments = next((item[name] for name in _ARGUMENT_FIELDS if item.get(name)), "")
    name = to_text(item.get("name")) or kind.removesuffix("_call")
    yield Part("call", to_text(arguments) if with_arguments else "", key, name)


def read_response_end(response: Json) -> Iterator[Part]:
    if response.get("status") in ("completed", "incomplete", "failed", "cancelled"):
        reason = to_text(get_dict(response, "incomplete_details").get("reason"))
        yield Part("finish", f"{response['status']}{f': {reason}' if reason else ''}")
        yield from read_usage(response)
        yield from read_error(response)


_MESSAGE_TEXTS = {"text": "text", "thinking": "reasoning", "partial_json": "call"}
"""Field of a delta of the Messages API -> the kind of its part."""


def read_messages(value: Json) -> Iterator[Part]:
    """Read an event or a whole answer of Anthropic's Messages API."""
    key = str(value.get("index", ""))
    if value.get("type") == "content_block_start":
        yield from read_block(get_dict(value, "content_block"), key)
    for position, block in enumerate(list_dicts(value.get("content"))):
        yield from read_block(block, str(position))
    delta = get_dict(value, "delta")
    for field, kind in _MESSAGE_TEXTS.items():
        if field in delta:
            yield Part(kind, to_text(delta[field]), key)
    reason = delta.get("stop_reason") or value.get("stop_reason")
    if reason:
        yield Part("finish", to_text(reason))
        yield from read_usage(value)


def read_block(block: Json, key: str) -> Iterator[Part]:
    kind = to_text(block.get("type"))
    if kind in ("text", "thinking"):
        yield Part(_MESSAGE_TEXTS[kind], to_text(block.get(kind)), key)
    elif kind.endswith("tool_use"):
        arguments = block.get("input")
        yield Part("call", to_text(arguments) if arguments else "", key, to_text(block.get("name")))


def read_ollama(value: Json) -> Iterator[Part]:
    message = get_dict(value, "message") or value
    yield Part("reasoning", to_text(message.get("thinking")))
    yield Part("text", to_text(message.get("content", value.get("response"))))
    for position, call in enumerate(list_dicts(message.get("tool_calls"))):
        tool = get_dict(call, "function")
        index = tool.get("index", position)
        yield Part("call", to_text(tool.get("arguments")), str(index), to_text(tool.get("name")))
    if value.get("done") is True:
        yield Part("finish", to_text(value.get("done_reason")))
        counts = (value.get("prompt_eval_count"), value.get("eval_count"))
        if any(isinstance(count, int) for count in counts):
            yield Part("usage", describe_counts(*counts))


def read_usage(value: Json) -> Iterator[Part]:
    usage = get_dict(value, "usage")
    if not usage:
        return
    details = (
        get_dict(usage, "completion_tokens_details") or get_dict(usage, "output_tokens_details")
    ).get("reasoning_tokens")
    reasoning = f", {details} of them reasoning" if details and isinstance(details, int) else ""
    counts = describe_counts(
        usage.get("input_tokens", usage.get("prompt_tokens")),
        usage.get("output_tokens", usage.get("completion_tokens")),
    )
    yield Part("usage", counts + reasoning)


def describe_counts(input_tokens: Any, output_tokens: Any) -> str:
    shown = [count if isinstance(count, int) else "?" for count in (input_tokens, output_tokens)]
    return f"{shown[0]} in, {shown[1]} out"


def read_error(value: Json) -> Iterator[Part]:
    """Yield the error of an event, of a response, or of a whole answer."""
    error = value.get("error")
    if isinstance(error, dict):
        yield Part("error", to_text(error.get("message")) or to_text(error))
    elif isinstance(error, str) and error:
        yield Part("error", error)
    elif value.get("type") == "error":
        yield Part("error", to_text(value.get("message")) or "error")


_READERS: dict[str, Callable[[Json], Iterator[Part]]] = {
    "chat": read_chat,
    "responses": read_responses,
    "messages": read_messages,
    "ollama": read_ollama,
    "ollama_generate": read_ollama,
}
"""Protocol -> the function that reads its events and whole answers."""


def collect_parts(protocol: str, values: Iterable[Any]) -> list[Part]:
    """Return the parts of an answer from its events, in the order in which they began."""
    texts: dict[tuple[str, str], list[str]] = {}
    names: dict[tuple[str, str], str] = {}
    for value in values:
        for kind, text, key, name in read_parts(protocol, value):
            part_id = (kind, key)
            if kind in REPLACED_KINDS:
                texts.pop(part_id, None)
            texts.setdefault(part_id, []).append(text)
            names[part_id] = names.get(part_id) or name
    return [Part(kind, "".join(text), key, names[kind, key]) for (kind, key), text in texts.items()]


REPLACED_KINDS = ("usage", "finish", "error")
"""Kinds of parts that replace an earlier one. Parts of other kinds are joined."""


# -- untrusted JSON -------------------------------------------------------------------------------


def get_dict(value: Json, name: str) -> Json:
    inner = value.get(name)
    return inner if isinstance(inner, dict) else {}


def list_dicts(value: Any) -> list[Json]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def to_text(value: Any) -> str:
    """Return a string as it is, null as nothing, other values as JSON."""
    if value is None or isinstance(value, str):
        return value or ""
    return orjson.dumps(value).decode()
