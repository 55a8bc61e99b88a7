"""Delivers annotations and files of an answer that the forwarder cuts.

The translator emits side-data chunks during such an answer, each with all annotations so far (see
`translation/chat_over_responses/citations_and_files.py`). This middleware removes these chunks and
sends the annotations that lie before the cut at the end of the answer.
"""

from __future__ import annotations

from typing import Any

from forwarder.core.types import Batch, Event, EventStream, Handler, Json
from forwarder.middleware.chat_chunks import has_side_data, read_first_choice, replace_choice
from forwarder.translation.chat_over_responses.citations_and_files import SIDE_DATA
from forwarder.translation.chat_over_responses.request import is_answer_cut


def with_cut_annotations(handler: Handler) -> Handler:
    """Wrap a chat handler that cuts its answer, so that annotations come at its end."""

    def handle_request(request: Json) -> EventStream:
        stream = handler(request)
        return gather_side_data(stream) if is_answer_cut(request) else stream

    return handle_request


def gather_side_data(stream: EventStream) -> EventStream:
    text_length, side_data = 0, {}
    for batch in stream:
        out: Batch = []
        for chunk in batch:
            choice = read_first_choice(chunk)
            delta = choice.get("delta") or {}
            if has_side_data(chunk):
                side_data = delta[SIDE_DATA]
                continue
            text_length += len(delta.get("content") or "")
            out += (
                finish_with_side_data(chunk, side_data, text_length)
                if side_data and choice.get("finish_reason")
                else [chunk]
            )
        if out or not batch:
            yield out


def finish_with_side_data(chunk: Event, side_data: Json, text_length: int) -> Batch:
    """Return the final chunk, preceded by the annotations of the text that was sent."""
    choice = read_first_choice(chunk)
    annotations = select_within(side_data["annotations"], text_length)
    files = select_within(side_data["files"], text_length)
    metadata = {**side_data["metadata"], **({"files": files} if files else {})}
    last_delta = {**choice["delta"], **({"metadata": metadata} if metadata else {})}
    final = replace_choice(chunk, {**choice, "delta": last_delta})
    if not annotations:
        return [final]
    annotated = {"index": choice.get("index") or 0, "delta": {"annotations": annotations}}
    return [replace_choice(chunk, {**annotated, "logprobs": None, "finish_reason": None}), final]


def select_within(positioned: list[tuple[int, Json]], text_length: int) -> list[Any]:
    return [value for position, value in positioned if position <= text_length]
