"""Caches the signatures of a Chat upstream and restores them in later requests.

The cache wraps the handler of a Chat upstream, below translation. It serves clients of both
protocols, because many Chat clients drop unknown fields and the Responses API has no field for
signatures. The signatures of an answer are stored before its end is sent, separately for each
client, upstream and model. Their keys are the id, name and arguments of a call, or a text and the
message that it answers. A message that still has signatures is not changed.
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
from forwarder.middleware.reasoning_cache.matching import normalize_arguments
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
"""Roles of messages to which the assistant's message is the answer."""

MAX_TEXT_PIECES = 512
"""After this many pieces they are joined, because short pieces need ten times the memory."""

REFUSAL_WORDS = ("signature", "encrypted", "reasoning", "thinking", "thought")
"""A refusal with one of these words may be caused by restored signatures."""


class SignatureCache:
    """Restores cached signatures in requests and caches the signatures of answers."""

    def __init__(self, backend: CacheBackend) -> None:
        self._backend = backend

    def with_signature_cache(
        self, handler: Handler, scope: tuple[str, str, str], loss_report: LossReport
    ) -> Handler:
        """Wrap a handler; ``scope`` is the client's owner, the upstream's name and its model.

        If the upstream refuses restored signatures, the request is sent again without them.
        """
        owner = hashlib.sha256(orjson.dumps(["signatures", *scope])).digest()

        def handle_request(request: Json) -> EventStream:
            messages = request.get("messages")
            if not isinstance(messages, list):
                return handler(request)
            signed = self._attach_signatures(messages, owner)
            question = find_question(messages)
            try:
                stream = handler({**request, "messages": signed})
                return self._record_stream(stream, question, owner)
            except UpstreamRefused as refusal:
                if signed is messages or not is_about_signatures(refusal):
                    raise
                loss_report.note("messages.signatures", "the upstream refused them")
                return self._record_stream(handler(request), question, owner)

        return handle_request

    def _attach_signatures(self, messages: list[Any], owner: bytes) -> list[Any]:
        """Return the messages with cached signatures, or ``messages`` itself without any."""
        # One look-up shows whether this model uses signatures at all, before reading messages.
        if not any(map(is_answer, messages)) or not self._backend.has_mark(owner, SIGNATURE_MARK):
            return messages
        unsigned = {
            number for number, message in enumerate(messages) if is_unsigned_message(message)
        }
        keys_by_message = dict(iterate_message_keys(messages, unsigned))
        wanted = {key for keys in keys_by_message.values() for key in keys}
        entries = {k: orjson.loads(v) for k, v in self._backend.find(owner, wanted).items()}
        if not entries:
            return messages
        signed = list(messages)
        for number, keys in keys_by_message.items():
            signed[number] = sign_message(messages[number], keys, entries)
        return signed

    def _record_stream(self, stream: EventStream, question: Any, owner: bytes) -> EventStream:
        readers: defaultdict[Any, ChoiceReader] = defaultdict(ChoiceReader)
        is_finished = False
        for batch in stream:
            has_choices = False
            for chunk in batch:
                for choice in chunk.get("choices") or ():
                    has_choices = True
                    readers[choice.get("index")].add_choice(choice)
                    if choice.get("finish_reason"):
                        is_finished = True
            if is_finished and has_choices:
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
            encoded = {key: orjson.dumps(value) for key, value in values.items()}
            self._backend.store(owner, encoded, SIGNATURE_MARK)


class ChoiceReader:
    """Collects text, calls and signatures of one choice to build its cache entries."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._pieces: list[str] = []  # recent pieces of the text that are not joined yet
        self._call_index = ToolCallIndex()
        self._calls: list[Json] = []
        self._signatures = SignatureCollector()

    def add_choice(self, choice: Json) -> None:
        """Add the delta or the whole message of a choice."""
        delta = choice.get("delta")
        if delta is None:
            delta = read_delta(choice)
        content = delta.get("content")
        if content:
            self._pieces.append(content if type(content) is str else read_text(content))
            if len(self._pieces) == MAX_TEXT_PIECES:
                self._texts.append("".join(self._pieces))
                self._pieces.clear()
            if len(delta) == 1:  # fast path: most deltas hold only a piece of text
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
        """Return key -> signatures for this choice.

        The signatures of a message with calls are stored with its first call.
        """
        message, signatures = self._signatures.read_message(), self._signatures.read_calls()
        if not self._calls:
            text = "".join([*self._texts, *self._pieces])
            return {make_text_key(question, text): {"message": message}}
        values: dict[bytes, Json] = {}
        for number, call in enumerate(self._calls):
            value = {"call": signatures.get(number, {}), "message": {} if number else message}
            if any(value.values()):
                joined = {**call, "arguments": "".join(call["arguments"])}
                values |= dict.fromkeys(make_call_keys(question, number, joined), value)
        return values


# -- cache keys -----------------------------------------------------------------------------------


def is_answer(message: Any) -> bool:
    return isinstance(message, dict) and message.get("role") == "assistant"


def is_unsigned_message(message: Any) -> bool:
    if not is_answer(message) or read_message_signatures(message):
        return False
    return not any(map(read_call_signatures, read_tool_calls(message)))


def iterate_message_keys(
    messages: list[Any], wanted: set[int]
) -> Iterator[tuple[int, list[bytes]]]:
    """Yield index and keys of the wanted messages; two keys for each call, or one for the text."""
    question = hash_json(None)
    for number, message in enumerate(messages):
        if number in wanted:
            calls = read_tool_calls(message)
            if calls:
                pairs = (
                    make_call_keys(question, i, flatten_call(call)) for i, call in enumerate(calls)
                )
                yield number, [key for pair in pairs for key in pair]
            else:
                yield number, [make_text_key(question, read_text(message.get("content")))]
        elif isinstance(message, dict) and message.get("role") in QUESTION_ROLES:
            question = hash_json(message)


def sign_message(message: Json, keys: list[bytes], entries: dict[bytes, Json]) -> Json:
    values = [entries.get(key, {}) for key in keys]
    signed = dict(message)
    for value in values:
        signed = {**value.get("message", {}), **signed}
    calls = read_tool_calls(message)
    if calls:
        # Each call has two keys.
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
    """Return two keys of a call: one by its id, one by the question and the call's index.

    The second key is needed because some calls have no id, Ollama clients drop the id, and other
    clients replace it.
    """
    content = [call["name"], normalize_arguments(call["arguments"])]
    by_id = hash_json(["call", call["id"], *content])
    return by_id, hash_json(["call of", question.hex(), number, *content])


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


SIGNATURE_MARK = hash_json(["signs"])
"""The mark of a client, upstream and model for which signatures are cached."""


def is_about_signatures(refusal: UpstreamRefused) -> bool:
    text = f"{refusal.code} {refusal.message}".lower()
    return refusal.status < 500 and any(word in text for word in REFUSAL_WORDS)
