"""Chat completions that are to be stored, on their way to the client, and as the API shows them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from forwarder.core.ids import generate_id
from forwarder.core.types import Batch, EventStream, Json
from forwarder.core.validate import BOOL, DICT, INT, LIST, check_type, read_field
from forwarder.middleware.reasoning_style import drop_usage_chunks, wants_usage
from forwarder.storage.db import Database, completions
from forwarder.storage.db.completions import StoredCompletion
from forwarder.storage.pagination import read_metadata
from forwarder.translation import FOLDS


def check_stored_completion(request: Json) -> None:
    """Raise InvalidRequest for a completion that could not be stored as it is asked for."""
    if not read_field(request, "store", BOOL, "store"):
        return
    read_metadata(request, check_type)
    read_field(request, "n", INT, "n")
    for i, message in enumerate(read_field(request, "messages", LIST, "messages") or ()):
        check_type(message, DICT, f"messages[{i}]")


def is_completion_stored(request: Json) -> bool:
    """Is the answer to be stored?  Not unless the request says so."""
    return bool(read_field(request, "store", BOOL, "store"))


class CompletionRecorder:
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
        self._get_origin = origin
        self._metadata = read_metadata(request, check_type)
        self._open_choices = request.get("n") or 1
        self._wants_usage = wants_usage(request)
        self._id: str | None = None

    def record(self, stream: EventStream) -> EventStream:
        """The stream, whose end comes when what it says is stored.

        It may have the usage, which the client gets only when it asks for it.
        """
        stored = self._record_stream(stream)
        return stored if self._wants_usage else drop_usage_chunks(stored)

    def _record_stream(self, stream: EventStream) -> EventStream:
        told: list[Batch] = []
        held: list[Batch] = []
        for batch in map(self._set_stored_id, stream):
            if batch:
                told.append(batch)
                self._open_choices -= sum(map(count_finished_choices, batch))
            if batch and self._open_choices <= 0:
                held.append(batch)  # whoever hears that it is over finds it stored
            else:
                yield batch
        if not has_failed(told):
            completion = self._build_completion(told)
            self._database.write(lambda c: completions.add(c, self._owner, completion))
        yield from held

    def _set_stored_id(self, batch: Batch) -> Batch:
        """The chunks with the id that the completion has here."""
        return [e if e.get("error") else {**e, "id": self._read_id(e)} for e in batch]

    def _read_id(self, chunk: Json) -> str:
        """Ids of upstreams that keep nothing need not be the only ones of their kind."""
        if self._id is None:
            given = chunk.get("id") if self._get_origin() else None
            self._id = str(given or generate_id("chatcmpl").replace("_", "-"))
        return self._id

    def _build_completion(self, told: list[Batch]) -> StoredCompletion:
        body = FOLDS["chat"](iter(told))
        given = self._request.get("messages")
        messages: list[Any] = given if isinstance(given, list) else []
        model = str(body.get("model") or self._request["model"])
        name = str(body["id"])
        return StoredCompletion(name, time.time(), model, self._metadata, messages, body)


def count_finished_choices(chunk: Json) -> int:
    """How many choices end with a chunk; a whole answer has all of them."""
    return sum(bool(choice.get("finish_reason")) for choice in chunk.get("choices") or ())


def has_failed(told: list[Batch]) -> bool:
    return not told or bool(told[-1][-1].get("error"))


def render_completion(completion: StoredCompletion) -> Json:
    """A stored completion."""
    return {**completion.body, "metadata": completion.metadata}


RENDERED_PART_TYPES = ("text", "image_url")


def render_messages(completion: StoredCompletion) -> list[Json]:
    """The messages of a stored completion, in their order."""
    return [
        render_message(message, f"{completion.id}-{i}")
        for i, message in enumerate(completion.messages)
    ]


def render_message(message: Any, message_id: str) -> Json:
    """A message; an upstream may have answered what is none."""
    if not isinstance(message, dict):
        message = {"content": message if isinstance(message, str) else None}
    content, parts = message.get("content"), None
    if isinstance(content, list):
        known = [{"type": "text", "text": p} if isinstance(p, str) else p for p in content]
        parts = [p for p in known if isinstance(p, dict) and p.get("type") in RENDERED_PART_TYPES]
        texts = [p.get("text") for p in parts if p["type"] == "text"]
        content = "".join(text for text in texts if isinstance(text, str)) or None
    said = {"content": content, "refusal": None, "content_parts": parts}
    return {**message, **said, "id": message_id}
