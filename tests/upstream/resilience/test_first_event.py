"""Until its first batch an answer has not begun."""

from __future__ import annotations

from typing import Any

import pytest

from forwarder.core.errors import UpstreamUnreachable
from forwarder.core.types import EventStream
from forwarder.upstream.resilience.first_event import await_first_event

Json = dict[str, Any]


def told(read: list[str], *batches: list[Json]) -> EventStream:
    for batch in batches:
        read.append("batch")
        yield batch


@pytest.mark.parametrize("batches", [[], [[]], [[{"a": 1}]], [[], [{"a": 1}], [{"b": 2}]]])
def test_nothing_is_lost(batches: list[list[Json]]) -> None:
    assert list(await_first_event(iter(batches))) == batches


def test_one_batch_is_read_and_no_more() -> None:
    read: list[str] = []

    await_first_event(told(read, [], [{"a": 1}]))

    assert read == ["batch"]


def breaking() -> EventStream:
    raise UpstreamUnreachable("gone")
    yield []


def test_what_breaks_before_breaks_here() -> None:
    with pytest.raises(UpstreamUnreachable):
        await_first_event(breaking())
