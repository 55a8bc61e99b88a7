"""Gives a Responses upstream its own reasoning back, which chat clients cannot carry.

A wrapper around the call of a Responses upstream, beneath the translation for chat clients.  What
the model thought before a call or a text is kept when the answer is over, sealed as the upstream
gave it, and goes back before the same call or text when that comes back in the history.  It is
kept by the client's owner and the upstream's model, never for another; without it all goes on.
`backend.py` keeps it for one process, `stored.py` for all that share a store.
"""

from __future__ import annotations

import hashlib
from typing import Any

import orjson

from forwarder.core.errors import UpstreamRefused
from forwarder.core.types import Batch, EventStream, Handler, Json
from forwarder.middleware.reasoning_cache import keys as anchors
from forwarder.middleware.reasoning_cache.memory_backend import CacheBackend
from forwarder.protocols.mappings import INCLUDE_ENCRYPTED_REASONING, TERMINAL_EVENTS


class ReasoningCache:
    """What upstreams have thought, on a shelf."""

    def __init__(self, backend: CacheBackend) -> None:
        self._backend = backend

    def with_reasoning_cache(
        self, call: Handler, whose: tuple[str, str, str], reasons: bool
    ) -> Handler:
        """Wrap a call; ``whose`` are the client's owner, the upstream's name and its model.

        With ``reasons`` the upstream is asked to seal its reasoning.
        """
        owner = hashlib.sha256(orjson.dumps(whose)).digest()

        def handle_request(request: Json) -> EventStream:
            asked = request_encrypted_reasoning(request) if reasons else request
            stream = self._call_with_reasoning(call, asked, owner)
            return self._record_stream(stream, request["input"], owner)

        return handle_request

    def _call_with_reasoning(self, call: Handler, request: Json, owner: bytes) -> EventStream:
        restored = anchors.restore_reasoning(
            request["input"], lambda keys: self._find_reasoning(owner, keys)
        )
        if len(restored) == len(request["input"]):
            return call({**request, "input": restored})
        try:
            return call({**request, "input": restored})
        except UpstreamRefused as refusal:
            if not is_about_reasoning(refusal):
                raise
            return call(request)

    def _find_reasoning(self, owner: bytes, keys: list[bytes]) -> dict[bytes, list[Json]]:
        found = self._backend.find(owner, keys)
        return {key: orjson.loads(items) for key, items in found.items()}

    def _record_stream(self, stream: EventStream, asked: list[Any], owner: bytes) -> EventStream:
        for batch in stream:
            if batch and batch[-1].get("type") in TERMINAL_EVENTS:
                self._store_reasoning(batch, asked, owner)
            yield batch

    def _store_reasoning(self, batch: Batch, asked: list[Any], owner: bytes) -> None:
        output = (batch[-1].get("response") or {}).get("output") or ()
        found = anchors.collect_reasoning(asked, output)
        if found:
            self._backend.store(owner, {key: orjson.dumps(items) for key, items in found.items()})


def request_encrypted_reasoning(request: Json) -> Json:
    include = request.get("include") or []
    return (
        request
        if INCLUDE_ENCRYPTED_REASONING in include
        else {**request, "include": [*include, INCLUDE_ENCRYPTED_REASONING]}
    )


def is_about_reasoning(refusal: UpstreamRefused) -> bool:
    """Does the upstream not accept the items that were put back, rather than the request?"""
    said = f"{refusal.code} {refusal.message}".lower()
    return refusal.status < 500 and ("encrypted" in said or "reasoning" in said)
