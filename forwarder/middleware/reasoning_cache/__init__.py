"""Gives a Responses upstream its own reasoning back, which chat clients cannot carry.

A wrapper around the call of a Responses upstream, beneath the translation for chat clients.  What
the model thought before a call or a text is kept when the answer is over, sealed as the upstream
gave it, and goes back before the same call or text when that comes back in the history.  It is
kept by the client's owner and the upstream's model, never for another; without it all goes on.
`shelf.py` keeps it for one process, `stored.py` for all that share a store.
"""

from __future__ import annotations

import hashlib
from typing import Any

import orjson

from forwarder.core.errors import UpstreamRefused
from forwarder.core.types import Batch, Call, Json, Stream
from forwarder.middleware.reasoning_cache import keys as anchors
from forwarder.middleware.reasoning_cache.memory_backend import Shelf
from forwarder.protocols.mappings import SEALED, TERMINALS


class Recall:
    """What upstreams have thought, on a shelf."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf

    def recalling(self, call: Call, whose: tuple[str, str, str], reasons: bool) -> Call:
        """Wrap a call; ``whose`` are the client's owner, the upstream's name and its model.

        With ``reasons`` the upstream is asked to seal its reasoning.
        """
        owner = hashlib.sha256(orjson.dumps(whose)).digest()

        def recalled(request: Json) -> Stream:
            asked = _asking_for_seals(request) if reasons else request
            stream = self._called(call, asked, owner)
            return self._keeping(stream, request["input"], owner)

        return recalled

    def _called(self, call: Call, request: Json, owner: bytes) -> Stream:
        restored = anchors.restored(request["input"], lambda keys: self._found(owner, keys))
        if len(restored) == len(request["input"]):
            return call({**request, "input": restored})
        try:
            return call({**request, "input": restored})
        except UpstreamRefused as refusal:
            if not _is_about_reasoning(refusal):
                raise
            return call(request)

    def _found(self, owner: bytes, keys: list[bytes]) -> dict[bytes, list[Json]]:
        found = self._shelf.find(owner, keys)
        return {key: orjson.loads(items) for key, items in found.items()}

    def _keeping(self, stream: Stream, asked: list[Any], owner: bytes) -> Stream:
        for batch in stream:
            if batch and batch[-1].get("type") in TERMINALS:
                self._keep(batch, asked, owner)
            yield batch

    def _keep(self, batch: Batch, asked: list[Any], owner: bytes) -> None:
        output = (batch[-1].get("response") or {}).get("output") or ()
        found = anchors.found(asked, output)
        if found:
            self._shelf.keep(owner, {key: orjson.dumps(items) for key, items in found.items()})


def _asking_for_seals(request: Json) -> Json:
    include = request.get("include") or []
    return request if SEALED in include else {**request, "include": [*include, SEALED]}


def _is_about_reasoning(refusal: UpstreamRefused) -> bool:
    """Does the upstream not accept the items that were put back, rather than the request?"""
    said = f"{refusal.code} {refusal.message}".lower()
    return refusal.status < 500 and ("encrypted" in said or "reasoning" in said)
