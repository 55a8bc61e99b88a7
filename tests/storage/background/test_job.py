"""The events of a job."""

from __future__ import annotations

import pytest

from forwarder.storage.background import BackgroundRunner
from tests.storage.background.helpers import (
    ANSWER,
    ITEM,
    read_events,
    start_job,
)

with_short_intervals = pytest.mark.usefixtures("_short_intervals")


def test_events_carry_the_response_own_id_and_numbers(
    background: BackgroundRunner,
) -> None:
    response_id = start_job(background, iter(ANSWER), metadata={"a": "b"})

    events = read_events(background, response_id)
    assert [e["type"].removeprefix("response.") for e in events] == [
        "created", "queued", "in_progress", "output_text.delta", "completed",
    ]  # fmt: skip
    assert [e["sequence_number"] for e in events] == [0, 1, 2, 3, 4]
    assert {e["response"]["id"] for e in events if "response" in e} == {response_id}
    stored = background.read_response("o", response_id)
    assert stored.body == events[-1]["response"]
    assert (stored.body["output"], stored.body["background"]) == ([ITEM], True)
    assert read_events(background, response_id, 3) == events[4:]
    assert read_events(background, response_id, 9) == []
