"""What stands beside a text that is cut: of the part before the cut it is told, at its end.

The translator tells the notes of such an answer as they come (see
`translation/chat_over_responses/side_data.py`), all that are known each time.
"""

from __future__ import annotations

from typing import Any

from forwarder.core.types import Batch, Call, Event, Json, Stream
from forwarder.middleware.chat_chunks import choice_of, has_notes, with_choice
from forwarder.translation.chat_over_responses.request import is_cut
from forwarder.translation.chat_over_responses.side_data import NOTES


def with_notes(call: Call) -> Call:
    """Wrap a chat call that cuts its answer, so that its notes come at the end as ever."""

    def noting(request: Json) -> Stream:
        stream = call(request)
        return _gathered(stream) if is_cut(request) else stream

    return noting


def _gathered(stream: Stream) -> Stream:
    said, notes = 0, {}
    for batch in stream:
        out: Batch = []
        for chunk in batch:
            choice = choice_of(chunk)
            delta = choice.get("delta") or {}
            if has_notes(chunk):
                notes = delta[NOTES]
                continue
            said += len(delta.get("content") or "")
            out += _ended(chunk, notes, said) if notes and choice.get("finish_reason") else [chunk]
        if out or not batch:
            yield out


def _ended(chunk: Event, notes: Json, said: int) -> Batch:
    """The chunk that finishes, and before it the annotations of the text that came."""
    choice = choice_of(chunk)
    annotations, files = _within(notes["annotations"], said), _within(notes["files"], said)
    metadata = {**notes["metadata"], **({"files": files} if files else {})}
    last = {**choice["delta"], **({"metadata": metadata} if metadata else {})}
    ending = with_choice(chunk, {**choice, "delta": last})
    if not annotations:
        return [ending]
    noted = {"index": choice.get("index") or 0, "delta": {"annotations": annotations}}
    return [with_choice(chunk, {**noted, "logprobs": None, "finish_reason": None}), ending]


def _within(placed: list[tuple[int, Json]], said: int) -> list[Any]:
    return [what for at, what in placed if at <= said]
