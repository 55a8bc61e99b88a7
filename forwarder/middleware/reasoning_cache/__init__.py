"""Caches reasoning items of a Responses upstream for chat clients, which cannot send them back.

The cache wraps the handler of a Responses upstream, below the translation for chat clients. At the
end of an answer it stores the (encrypted) reasoning before each call or text. When the same call or
text comes back in the history, it inserts the reasoning again. Entries are separate for each
client, upstream and model. A request works without cached reasoning too. `memory_backend.py` stores
entries in one process, `storage/reasoning_cache.py` in the shared database.
"""

from __future__ import annotations

import hashlib
from typing import Any

import orjson

from forwarder.core.errors import UpstreamRefused
from forwarder.core.types import Batch, EventStream, Handler, Json
from forwarder.middleware.reasoning_cache import matching
from forwarder.middleware.reasoning_cache.memory_backend import CacheBackend
from forwarder.protocols.chat_responses_mappings import INCLUDE_ENCRYPTED_REASONING, TERMINAL_EVENTS


class ReasoningCache:
    """Inserts cached reasoning into requests and caches the reasoning of answers."""

    def __init__(self, backend: CacheBackend) -> None:
        self._backend = backend

    def with_reasoning_cache(
        self, handler: Handler, scope: tuple[str, str, str], request_encrypted: bool
    ) -> Handler:
        """Wrap a handler; ``scope`` is the client's owner, the upstream's name and its model.

        With ``request_encrypted`` every request asks for encrypted reasoning. If the upstream
        refuses cached reasoning, the request is sent again without it.
        """
        owner = hashlib.sha256(orjson.dumps(scope)).digest()

        def handle_request(request: Json) -> EventStream:
            inner = request_encrypted_reasoning(request) if request_encrypted else request
            stream = self._call_with_reasoning(handler, inner, owner)
            return self._record_stream(stream, request["input"], owner)

        return handle_request

    def _call_with_reasoning(self, handler: Handler, request: Json, owner: bytes) -> EventStream:
        items = request["input"]
        # One look-up shows whether this model has any reasoning, before the history is hashed.
        if not any(map(matching.has_key, items)) or not self._backend.has_mark(
            owner, REASONING_MARK
        ):
            return handler(request)
        restored = matching.restore_reasoning(items, lambda keys: self._find_reasoning(owner, keys))
        if len(restored) == len(items):
            return handler({**request, "input": restored})
        try:
            return handler({**request, "input": restored})
        except UpstreamRefused as refusal:
            if not is_about_reasoning(refusal):
                raise
            return handler(request)

    def _find_reasoning(self, owner: bytes, keys: list[bytes]) -> dict[bytes, list[Json]]:
        entries = self._backend.find(owner, keys)
        return {key: orjson.loads(items) for key, items in entries.items()}

    def _record_stream(self, stream: EventStream, history: list[Any], owner: bytes) -> EventStream:
        for batch in stream:
            if batch and batch[-1].get("type") in TERMINAL_EVENTS:
                self._store_reasoning(batch, history, owner)
            yield batch

    def _store_reasoning(self, batch: Batch, history: list[Any], owner: bytes) -> None:
        output = (batch[-1].get("response") or {}).get("output") or ()
        entries = matching.collect_reasoning(history, output)
        if entries:
            values = {key: orjson.dumps(items) for key, items in entries.items()}
            self._backend.store(owner, values, REASONING_MARK)


REASONING_MARK = matching.hash_json(["reasons"])
"""The mark of a client, upstream and model for which reasoning is cached."""


def request_encrypted_reasoning(request: Json) -> Json:
    include = request.get("include") or []
    if INCLUDE_ENCRYPTED_REASONING in include:
        return request
    return {**request, "include": [*include, INCLUDE_ENCRYPTED_REASONING]}


def is_about_reasoning(refusal: UpstreamRefused) -> bool:
    """Return whether the upstream refused the inserted reasoning rather than the request."""
    text = f"{refusal.code} {refusal.message}".lower()
    return refusal.status < 500 and ("encrypted" in text or "reasoning" in text)
