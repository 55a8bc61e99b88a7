"""Streams of compacted conversations: order, numbers, signs of life."""

from __future__ import annotations

from typing import Any

import pytest

from forwarder.core.errors import UpstreamError
from forwarder.middleware.compaction import events
from tests.middleware.compaction.talking import Model, events_of, said, terms

Json = dict[str, Any]
ITEM: Json = {"id": "cmp_1", "type": "compaction", "encrypted_content": "sealed"}


def test_while_the_summary_is_written_the_client_hears_that_it_is() -> None:
    stream = events.stream_compaction_item(
        Model(said("Long."))({}), lambda text: ITEM, terms().id_source
    )

    kinds = [event["type"].removeprefix("response.") for event in events_of(stream)]

    assert kinds[:3] == ["created", "in_progress", "output_item.added"]
    assert set(kinds[3:-2]) == {"compaction.compacting"}
    assert kinds[-2:] == ["output_item.done", "completed"]


def test_a_summary_that_comes_whole_is_announced_all_the_same() -> None:
    whole = [[{"type": "response.completed", "response": said("Short.")}]]

    told = events_of(
        events.stream_compaction_item(iter(whole), lambda text: ITEM, terms().id_source)
    )

    assert [event["type"].removeprefix("response.") for event in told] == [
        "output_item.added",
        "output_item.done",
        "completed",
    ]


def test_an_error_on_the_way_is_a_failure() -> None:
    broken = [[], [{"type": "error", "message": "full", "code": "server_error"}]]
    stream = events.stream_compaction_item(iter(broken), lambda text: ITEM, terms().id_source)

    with pytest.raises(UpstreamError, match="full"):
        events_of(stream)


def test_silence_is_passed_on() -> None:
    [event] = [{"type": "response.completed", "response": said("x")}]

    batches = list(
        events.stream_compaction_item(iter([[], [event]]), lambda text: ITEM, terms().id_source)
    )

    assert batches[0] == []


def test_an_answer_in_one_event_gets_the_item_too() -> None:
    model = Model(said("Sum."))
    whole = iter([[{"type": "response.completed", "response": said("Yes.")}]])

    told = events_of(
        events.stream_continuation(model({}), lambda text: (ITEM, {}), {}, lambda request: whole)
    )

    assert [item["type"] for item in told[-1]["response"]["output"]] == ["compaction", "message"]
