"""Gives a Chat upstream back the signatures that its client did not keep.

A wrapper around the call of a Chat upstream, beneath every translation, so that it serves clients
of both protocols: those that drop fields which they don't know, and those whose API has no place
for them.  The signatures of an answer are stored before its end is sent, under the client's key,
the upstream and its model.  They are found again by the id, name and arguments of a call, or by a
text and the message that it answers.  A message that still has signatures is sent as it is.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

import orjson

from forwarder.core.errors import UpstreamRefused
from forwarder.core.translation_context import LossReport
from forwarder.core.types import EventStream, Handler, Json
from forwarder.middleware.reasoning_cache.keys import normalize_arguments
from forwarder.middleware.reasoning_cache.memory_backend import CacheBackend
from forwarder.protocols.answer_choice import read_delta
from forwarder.protocols.signatures import (
    SignatureCollector,
    attach_call_signatures,
    has_signature,
    read_call_signatures,
    read_message_signatures,
    read_tool_calls,
)
from forwarder.protocols.tool_call_index import ToolCallIndex, stringify_arguments

QUESTION_ROLES = ("user", "tool", "function")
"""Roles whose messages an answer answers."""

MAX_TEXT_PIECES = 512
"""Pieces of a text that are held apart: short ones take ten times the memory of the text."""

REFUSAL_WORDS = ("signature", "encrypted", "reasoning", "thinking", "thought")
"""Words of a refusal that may be about signatures."""


class SignatureCache:
    """The signatures of earlier answers, on a shelf."""

    def __init__(self, backend: CacheBackend) -> None:
        self._backend = backend

    def with_signature_cache(
        self, call: Handler, whose: tuple[str, str, str], ledger: LossReport
    ) -> Handler:
        """Wrap a call; ``whose`` are the client's owner, the upstream's name and its model.

        If the upstream refuses signatures that were put back, it is asked again without them.
        """
        owner = hashlib.sha256(orjson.dumps(["signatures", *whose])).digest()

        def handle_request(request: Json) -> EventStream:
            messages = request.get("messages")
            if not isinstance(messages, list):
                return call(request)
            signed = self._attach_signatures(messages, owner)
            question = find_question(messages)
            try:
                return self._record_stream(call({**request, "messages": signed}), question, owner)
            except UpstreamRefused as refusal:
                if signed is messages or not is_about_signatures(refusal):
                    raise
                ledger.note("messages.signatures", "the upstream refused them")
                return self._record_stream(call(request), question, owner)

        return handle_request

    def _attach_signatures(self, messages: list[Any], owner: bytes) -> list[Any]:
        """The messages with the signatures that are known of them."""
        unsigned = [
            number for number, message in enumerate(messages) if is_unsigned_message(message)
        ]
        # One look says whether this model signs at all, before anything is hashed.
        if not unsigned or not self._backend.find(owner, [SIGNS_KEY]):
            return messages
        anchors = dict(iterate_message_keys(messages, set(unsigned)))
        wanted = {key for keys in anchors.values() for key in keys}
        found = {k: orjson.loads(v) for k, v in self._backend.find(owner, wanted).items()}
        if not found:
            return messages
        signed = list(messages)
        for number, keys in anchors.items():
            signed[number] = sign_message(messages[number], keys, found)
        return signed

    def _record_stream(self, stream: EventStream, question: Any, owner: bytes) -> EventStream:
        readers: defaultdict[Any, ChoiceReader] = defaultdict(ChoiceReader)
        is_over = False
        for batch in stream:
            spoke = False
            for chunk in batch:
                for choice in chunk.get("choices") or ():
                    spoke = True
                    readers[choice.get("index")].add_choice(choice)
                    if choice.get("finish_reason"):
                        is_over = True
            if is_over and spoke:
                self._store_signatures(readers.values(), question, owner)
            yield batch

    def _store_signatures(
        self, readers: Iterable[ChoiceReader], question: Any, owner: bytes
    ) -> None:
        values: dict[bytes, Json] = {}
        for reader in readers:
            if reader.has_signatures:
                values |= reader.make_entries(hash_json(question))
        if values:
            values[SIGNS_KEY] = {}
            self._backend.store(owner, {key: orjson.dumps(value) for key, value in values.items()})


class ChoiceReader:
    """Reads from one choice what is needed to know it again, and its signatures."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._pieces: list[str] = []  # of the text, until they are joined
        self._call_index = ToolCallIndex()
        self._calls: list[Json] = []
        self._signatures = SignatureCollector()

    def add_choice(self, choice: Json) -> None:
        """Read a delta, or a whole message."""
        delta = choice.get("delta")
        if delta is None:
            delta = read_delta(choice)
        content = delta.get("content")
        if content:
            self._pieces.append(content if type(content) is str else read_text(content))
            if len(self._pieces) == MAX_TEXT_PIECES:
                self._texts.append("".join(self._pieces))
                self._pieces.clear()
            if len(delta) == 1:  # most deltas are a piece of text
                return
        self._signatures.add_delta(delta)
        for call in delta.get("tool_calls") or ():
            self._add_call(call)

    def _add_call(self, delta: Json) -> None:
        number = self._call_index.find(delta)
        if number == len(self._calls):
            self._calls.append({"id": "", "name": "", "arguments": []})
        call = self._calls[number]
        body = delta.get("function") or delta.get("custom") or {}
        call["id"] = call["id"] or delta.get("id") or ""
        if body.get("name") and body["name"] != call["name"]:
            call["name"] += body["name"]
        call["arguments"].append(stringify_arguments(body.get("arguments") or body.get("input")))
        self._signatures.add_call(number, delta)

    @property
    def has_signatures(self) -> bool:
        return bool(self._signatures.read_calls()) or has_signature(self._signatures.read_message())

    def make_entries(self, question: bytes) -> dict[bytes, Json]:
        """Anchor -> the signatures that belong there.

        Those of a message with calls belong to its first call.
        """
        message, signatures = self._signatures.read_message(), self._signatures.read_calls()
        if not self._calls:
            text = "".join([*self._texts, *self._pieces])
            return {make_text_key(question, text): {"message": message}}
        values: dict[bytes, Json] = {}
        for number, call in enumerate(self._calls):
            value = {"call": signatures.get(number, {}), "message": {} if number else message}
            if any(value.values()):
                said = {**call, "arguments": "".join(call["arguments"])}
                values |= dict.fromkeys(make_call_keys(question, number, said), value)
        return values


# -- where signatures belong ----------------------------------------------------------------------


def is_unsigned_message(message: Any) -> bool:
    if not isinstance(message, dict) or message.get("role") != "assistant":
        return False
    return not read_message_signatures(message) and not any(
        map(read_call_signatures, read_tool_calls(message))
    )


def iterate_message_keys(
    messages: list[Any], wanted: set[int]
) -> Iterator[tuple[int, list[bytes]]]:
    """The anchors of the messages with these numbers, calls first."""
    question = hash_json(None)
    for number, message in enumerate(messages):
        if number in wanted:
            calls = read_tool_calls(message)
            if calls:
                found = (
                    make_call_keys(question, i, flatten_call(call)) for i, call in enumerate(calls)
                )
                yield number, [key for keys in found for key in keys]
            else:
                yield number, [make_text_key(question, read_text(message.get("content")))]
        elif isinstance(message, dict) and message.get("role") in QUESTION_ROLES:
            question = hash_json(message)


def sign_message(message: Json, keys: list[bytes], found: dict[bytes, Json]) -> Json:
    values = [found.get(key, {}) for key in keys]
    signed = dict(message)
    for value in values:
        signed = {**value.get("message", {}), **signed}
    calls = read_tool_calls(message)
    if calls:
        # Each call has two anchors.
        fields = [
            a.get("call") or b.get("call", {})
            for a, b in zip(values[::2], values[1::2], strict=True)
        ]
        signed["tool_calls"] = [
            attach_call_signatures(c, f) for c, f in zip(calls, fields, strict=True)
        ]
    return signed


def find_question(messages: list[Any]) -> Any:
    return next(
        (m for m in reversed(messages) if isinstance(m, dict) and m.get("role") in QUESTION_ROLES),
        None,
    )


def flatten_call(call: Json) -> Json:
    body = call.get("function") or call.get("custom") or {}
    if not isinstance(body, dict):
        body = {}
    arguments = stringify_arguments(body.get("arguments") or body.get("input"))
    return {"id": call.get("id"), "name": body.get("name"), "arguments": arguments}


def make_call_keys(question: bytes, number: int, call: Json) -> tuple[bytes, bytes]:
    """The anchors of a call: by its id, and by what it answers and its place.

    Not every call has an id, Ollama's clients lose it, and others write their own.
    """
    said = [call["name"], normalize_arguments(call["arguments"])]
    by_id = hash_json(["call", call["id"], *said])
    return by_id, hash_json(["call of", question.hex(), number, *said])


def make_text_key(question: bytes, text: str) -> bytes:
    return hash_json(["text", question.hex(), text.strip()])


def read_text(content: Any) -> str:
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    texts = [part.get("text") for part in parts if isinstance(part, dict)]
    return "".join(text for text in texts if isinstance(text, str))


def hash_json(value: Any) -> bytes:
    return hashlib.sha256(orjson.dumps(value, option=orjson.OPT_SORT_KEYS)).digest()


SIGNS_KEY = hash_json(["signs"])
"""Stands on the shelf of every model that has signed something."""


def is_about_signatures(refusal: UpstreamRefused) -> bool:
    said = f"{refusal.code} {refusal.message}".lower()
    return refusal.status < 500 and any(word in said for word in REFUSAL_WORDS)
