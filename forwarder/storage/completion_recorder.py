"""Store chat completions while they are streamed, and render stored completions for the API."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from forwarder.core.ids import generate_id
from forwarder.core.types import Batch, EventStream, Json
from forwarder.core.validate import BOOL, DICT, INT, LIST, check_type, read_field
from forwarder.middleware.reasoning_style import drop_usage_chunks, wants_usage
from forwarder.protocols.fold import fold_chat
from forwarder.storage.db.completions import StoredCompletion
from forwarder.storage.pagination import read_metadata
from forwarder.storage.repositories.completions import CompletionRepository


def check_stored_completion(request: Json) -> None:
    """Raise InvalidRequest if ``store`` is set and the completion cannot be stored as requested."""
    if not read_field(request, "store", BOOL, "store"):
        return
    read_metadata(request)
    read_field(request, "n", INT, "n")
    for i, message in enumerate(read_field(request, "messages", LIST, "messages") or ()):
        check_type(message, DICT, f"messages[{i}]")


def is_completion_stored(request: Json) -> bool:
    """Whether the request asks to store the completion. The default is no."""
    return bool(read_field(request, "store", BOOL, "store"))


class CompletionRecorder:
    """Stores the completion of one request.

    ``origin`` returns the upstream that stores the completion too, or ``None``, once the answer has
    begun. Raises InvalidRequest for invalid metadata.
    """

    def __init__(
        self,
        completions: CompletionRepository,
        owner: str,
        request: Json,
        origin: Callable[[], str | None],
    ) -> None:
        self._completions = completions
        self._owner = owner
        self._request = request
        self._get_origin = origin
        self._metadata = read_metadata(request)
        self._open_choices = request.get("n") or 1
        self._wants_usage = wants_usage(request)
        self._id: str | None = None

    def record(self, stream: EventStream) -> EventStream:
        """Pass a stream on, and store the completion before its last chunks.

        The upstream stream may contain a usage chunk; the client receives it only if it asked for
        usage.
        """
        stored = self._record_stream(stream)
        return stored if self._wants_usage else drop_usage_chunks(stored)

    def _record_stream(self, stream: EventStream) -> EventStream:
        batches: list[Batch] = []
        final_batches: list[Batch] = []
        for batch in map(self._set_stored_id, stream):
            if batch:
                batches.append(batch)
                self._open_choices -= sum(map(count_finished_choices, batch))
            if batch and self._open_choices <= 0:
                # Sent after the write, so that the client can read the completion at once.
                final_batches.append(batch)
            else:
                yield batch
        if batches and not batches[-1][-1].get("error"):
            completion = self._build_completion(batches)
            self._completions.add(self._owner, completion)
        yield from final_batches

    def _set_stored_id(self, batch: Batch) -> Batch:
        return [e if e.get("error") else {**e, "id": self._read_id(e)} for e in batch]

    def _read_id(self, chunk: Json) -> str:
        """Return the id, replaced unless the upstream stores completions: other ids may collide."""
        if self._id is None:
            upstream_id = chunk.get("id") if self._get_origin() else None
            self._id = str(upstream_id or generate_id("chatcmpl").replace("_", "-"))
        return self._id

    def _build_completion(self, batches: list[Batch]) -> StoredCompletion:
        body = fold_chat(iter(batches))
        raw_messages = self._request.get("messages")
        messages: list[Any] = raw_messages if isinstance(raw_messages, list) else []
        model = str(body.get("model") or self._request["model"])
        name = str(body["id"])
        return StoredCompletion(name, time.time(), model, self._metadata, messages, body)


def count_finished_choices(chunk: Json) -> int:
    """Return the number of choices that end with a chunk, or with a non-streamed answer."""
    return sum(bool(choice.get("finish_reason")) for choice in chunk.get("choices") or ())


def render_completion(completion: StoredCompletion) -> Json:
    """Return a stored completion as the API shows it."""
    return {**completion.body, "metadata": completion.metadata}


RENDERED_PART_TYPES = ("text", "image_url")


def render_messages(completion: StoredCompletion) -> list[Json]:
    """Return the messages of a stored completion in request order."""
    return [
        render_message(message, f"{completion.id}-{i}")
        for i, message in enumerate(completion.messages)
    ]


def render_message(message: Any, message_id: str) -> Json:
    """Return a message as the API shows it; stored requests may contain malformed messages."""
    if not isinstance(message, dict):
        message = {"content": message if isinstance(message, str) else None}
    content, parts = message.get("content"), None
    if isinstance(content, list):
        known = [{"type": "text", "text": p} if isinstance(p, str) else p for p in content]
        parts = [p for p in known if isinstance(p, dict) and p.get("type") in RENDERED_PART_TYPES]
        texts = [p.get("text") for p in parts if p["type"] == "text"]
        content = "".join(text for text in texts if isinstance(text, str)) or None
    return {
        "refusal": None,
        **message,
        "content": content,
        "content_parts": parts,
        "id": message_id,
    }
