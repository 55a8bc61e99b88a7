"""Streams of compaction: order, sequence numbers and progress events."""

from __future__ import annotations

from typing import Any

import pytest

from forwarder.core.errors import UpstreamError
from forwarder.middleware.compaction import events
from tests.middleware.compaction.talking import (
    Model,
    events_of,
    make_text_response,
    make_translation_context,
)

Json = dict[str, Any]
ITEM: Json = {"id": "cmp_1", "type": "compaction", "encrypted_content": "sealed"}


def test_client_gets_progress_events_during_the_summary() -> None:
    stream = events.stream_compaction_item(
        Model(make_text_response("Long."))({}),
        lambda text: ITEM,
        make_translation_context().id_source,
    )

    kinds = [event["type"].removeprefix("response.") for event in events_of(stream)]

    assert kinds[:3] == ["created", "in_progress", "output_item.added"]
    assert set(kinds[3:-2]) == {"compaction.compacting"}
    assert kinds[-2:] == ["output_item.done", "completed"]


def test_summary_in_one_batch_gets_an_item_added_event() -> None:
    batches = [[{"type": "response.completed", "response": make_text_response("Short.")}]]

    sent_events = events_of(
        events.stream_compaction_item(
            iter(batches), lambda text: ITEM, make_translation_context().id_source
        )
    )

    assert [event["type"].removeprefix("response.") for event in sent_events] == [
        "output_item.added",
        "output_item.done",
        "completed",
    ]


def test_error_event_fails_the_compaction() -> None:
    batches = [[], [{"type": "error", "message": "full", "code": "server_error"}]]
    stream = events.stream_compaction_item(
        iter(batches), lambda text: ITEM, make_translation_context().id_source
    )

    with pytest.raises(UpstreamError, match="full"):
        events_of(stream)


def test_empty_batches_are_passed_on() -> None:
    [event] = [{"type": "response.completed", "response": make_text_response("x")}]

    batches = list(
        events.stream_compaction_item(
            iter([[], [event]]), lambda text: ITEM, make_translation_context().id_source
        )
    )

    assert batches[0] == []


def test_answer_in_one_event_has_the_compaction_item() -> None:
    model = Model(make_text_response("Sum."))
    answer_stream = iter([[{"type": "response.completed", "response": make_text_response("Yes.")}]])

    sent_events = events_of(
        events.stream_continuation(
            model({}), lambda text: (ITEM, {}), {}, lambda request: answer_stream
        )
    )

    assert [item["type"] for item in sent_events[-1]["response"]["output"]] == [
        "compaction",
        "message",
    ]
