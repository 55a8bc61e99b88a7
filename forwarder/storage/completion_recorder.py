"""Chat completions that are to be stored, on their way to the client, and as the API shows them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from forwarder.core.ids import random_id
from forwarder.core.types import Batch, Json, Stream
from forwarder.core.validate import BOOL, DICT, INT, LIST, expect, optional
from forwarder.middleware.reasoning_style import takes_usage_of, without_usage
from forwarder.storage.db import Database, completions
from forwarder.storage.db.completions import Completion
from forwarder.storage.pagination import metadata_of
from forwarder.translation import FOLDS


def check(request: Json) -> None:
    """Raise InvalidRequest for a completion that could not be stored as it is asked for."""
    if not optional(request, "store", BOOL, "store"):
        return
    metadata_of(request, expect)
    optional(request, "n", INT, "n")
    for i, message in enumerate(optional(request, "messages", LIST, "messages") or ()):
        expect(message, DICT, f"messages[{i}]")


def is_kept(request: Json) -> bool:
    """Is the answer to be stored?  Not unless the request says so."""
    return bool(optional(request, "store", BOOL, "store"))


class CompletionKeeper:
    """Stores the completion that a request gets.

    ``origin`` gives, once the answer has begun, the upstream that keeps it too, or ``None``.
    Raises InvalidRequest for metadata that cannot be stored.
    """

    def __init__(
        self, database: Database, owner: str, request: Json, origin: Callable[[], str | None]
    ) -> None:
        self._database = database
        self._owner = owner
        self._request = request
        self._origin = origin
        self._metadata = metadata_of(request, expect)
        self._unfinished = request.get("n") or 1
        self._takes_usage = takes_usage_of(request)
        self._id: str | None = None

    def kept(self, stream: Stream) -> Stream:
        """The stream, whose end comes when what it says is stored.

        It may have the usage, which the client gets only when it asks for it.
        """
        stored = self._kept(stream)
        return stored if self._takes_usage else without_usage(stored)

    def _kept(self, stream: Stream) -> Stream:
        told: list[Batch] = []
        held: list[Batch] = []
        for batch in map(self._marked, stream):
            if batch:
                told.append(batch)
                self._unfinished -= sum(map(_finishes, batch))
            if batch and self._unfinished <= 0:
                held.append(batch)  # whoever hears that it is over finds it stored
            else:
                yield batch
        if not _failed(told):
            completion = self._completion(told)
            self._database.write(lambda c: completions.add(c, self._owner, completion))
        yield from held

    def _marked(self, batch: Batch) -> Batch:
        """The chunks with the id that the completion has here."""
        return [e if e.get("error") else {**e, "id": self._id_of(e)} for e in batch]

    def _id_of(self, chunk: Json) -> str:
        """Ids of upstreams that keep nothing need not be the only ones of their kind."""
        if self._id is None:
            given = chunk.get("id") if self._origin() else None
            self._id = str(given or random_id("chatcmpl").replace("_", "-"))
        return self._id

    def _completion(self, told: list[Batch]) -> Completion:
        body = FOLDS["chat"](iter(told))
        given = self._request.get("messages")
        messages: list[Any] = given if isinstance(given, list) else []
        model = str(body.get("model") or self._request["model"])
        name = str(body["id"])
        return Completion(name, time.time(), model, self._metadata, messages, body)


def _finishes(chunk: Json) -> int:
    """How many choices end with a chunk; a whole answer has all of them."""
    return sum(bool(choice.get("finish_reason")) for choice in chunk.get("choices") or ())


def _failed(told: list[Batch]) -> bool:
    return not told or bool(told[-1][-1].get("error"))


def shown(completion: Completion) -> Json:
    """A stored completion."""
    return {**completion.body, "metadata": completion.metadata}


_PARTS = ("text", "image_url")


def messages_of(completion: Completion) -> list[Json]:
    """The messages of a stored completion, in their order."""
    return [
        _message(message, f"{completion.id}-{i}") for i, message in enumerate(completion.messages)
    ]


def _message(message: Any, message_id: str) -> Json:
    """A message; an upstream may have answered what is none."""
    if not isinstance(message, dict):
        message = {"content": message if isinstance(message, str) else None}
    content, parts = message.get("content"), None
    if isinstance(content, list):
        known = [{"type": "text", "text": p} if isinstance(p, str) else p for p in content]
        parts = [p for p in known if isinstance(p, dict) and p.get("type") in _PARTS]
        texts = [p.get("text") for p in parts if p["type"] == "text"]
        content = "".join(text for text in texts if isinstance(text, str)) or None
    said = {"content": content, "refusal": None, "content_parts": parts}
    return {**message, **said, "id": message_id}
