"""The lines of an answer added up, for a client that did not ask to stream."""

from __future__ import annotations

from typing import Any

from forwarder.core.errors import UpstreamProtocolError
from forwarder.core.types import EventStream, Json

_TEXT_FIELDS = ("content", "response", "thinking")
_LIST_FIELDS = ("tool_calls", "logprobs")


def fold_ollama(stream: EventStream) -> Json:
    """The last line, with what all of them have said."""
    said: dict[str, list[Any]] = {}
    line: Json = {}
    for batch in stream:
        for line in batch:
            gather_fields(line, said)
            gather_fields(line.get("message") or {}, said)
    if not line.get("done"):
        raise UpstreamProtocolError("The upstream's stream ended before its answer was finished.")
    whole: Json = {name: "".join(said[name]) for name in _TEXT_FIELDS if name in said}
    whole |= {
        name: [e for each in said[name] for e in each] for name in _LIST_FIELDS if name in said
    }
    logprobs = {"logprobs": whole.pop("logprobs")} if "logprobs" in whole else {}
    if "message" not in line:
        return {**line, **whole, **logprobs}
    return {**line, "message": {**line["message"], **whole}, **logprobs}


def gather_fields(holder: Json, said: dict[str, list[Any]]) -> None:
    for name in (*_TEXT_FIELDS, *_LIST_FIELDS):
        if name in holder:
            said.setdefault(name, []).append(holder[name])
