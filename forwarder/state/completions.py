"""Chat completions that are to be stored, on their way to the client, and as the API shows them."""

from __future__ import annotations

import time
from typing import Any

from forwarder.state.pages import metadata_of
from forwarder.store import Database, completions
from forwarder.store.completions import Completion
from forwarder.translate import FOLDS
from forwarder.translate.call import Batch, Json, Stream
from forwarder.translate.check import BOOL, DICT, INT, LIST, expect, optional


def check(request: Json) -> None:
    """Raise InvalidRequest for a completion that could not be stored as it is asked for."""
    if not optional(request, "store", BOOL, "store"):
        return
    metadata_of(request, expect)
    optional(request, "n", INT, "n")
    for i, message in enumerate(optional(request, "messages", LIST, "messages") or ()):
        expect(message, DICT, f"messages[{i}]")


def kept(stream: Stream, database: Database, owner: str, request: Json) -> Stream:
    """The stream, whose end comes when what it says is stored, if that is asked for."""
    if not optional(request, "store", BOOL, "store"):
        return stream
    metadata = metadata_of(request, expect)
    choices = request.get("n") or 1
    return _kept(stream, database, owner, request, metadata, choices)


def _kept(
    stream: Stream, database: Database, owner: str, request: Json, metadata: Json, choices: int
) -> Stream:
    told: list[Batch] = []
    held: list[Batch] = []
    unfinished = choices
    for batch in stream:
        if batch:
            told.append(batch)
            unfinished -= sum(map(_finishes, batch))
        if batch and unfinished <= 0:
            held.append(batch)  # whoever hears that it is over finds it stored
        else:
            yield batch
    if not _failed(told):
        completion = _completion(told, request, metadata)
        database.write(lambda c: completions.add(c, owner, completion))
    yield from held


def _finishes(chunk: Json) -> int:
    """How many choices end with a chunk; a whole answer has all of them."""
    return sum(bool(choice.get("finish_reason")) for choice in chunk.get("choices") or ())


def _failed(told: list[Batch]) -> bool:
    return not told or bool(told[-1][-1].get("error"))


def _completion(told: list[Batch], request: Json, metadata: Json) -> Completion:
    body = FOLDS["chat"](iter(told))
    messages: list[Any] = request.get("messages") or []
    model = str(body.get("model") or request["model"])
    return Completion(str(body["id"]), time.time(), model, metadata, messages, body)


def shown(completion: Completion) -> Json:
    """A stored completion."""
    return {**completion.body, "metadata": completion.metadata}


def messages_of(completion: Completion) -> list[Json]:
    """The messages of a stored completion, in their order."""
    return [
        _message(message, f"{completion.id}-{i}") for i, message in enumerate(completion.messages)
    ]


def _message(message: Json, message_id: str) -> Json:
    content, parts = message.get("content"), None
    if isinstance(content, list):
        parts = [p for p in content if p.get("type") in ("text", "image_url")]
        texts = [p.get("text") or "" for p in content if p.get("type") == "text"]
        content = "".join(texts) or None
    said = {"content": content, "refusal": None, "content_parts": parts}
    return {**message, **said, "id": message_id}
