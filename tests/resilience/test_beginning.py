"""Until its first batch an answer has not begun."""

from __future__ import annotations

from typing import Any

import pytest

from forwarder.errors import UpstreamRefused, UpstreamUnreachable
from forwarder.resilience.beginning import begun
from forwarder.translate.call import Stream

Json = dict[str, Any]

CREATED = {"type": "response.created", "response": {"status": "in_progress"}}
DELTA = {"type": "response.output_text.delta", "delta": "Hi"}


def failed(code: str) -> Json:
    error = {"code": code, "message": "no"}
    return {"type": "response.failed", "response": {"status": "failed", "error": error}}


def told(read: list[str], *batches: list[Json]) -> Stream:
    for batch in batches:
        read.append("batch")
        yield batch


@pytest.mark.parametrize("batches", [[], [[]], [[{"a": 1}]], [[], [{"a": 1}], [{"b": 2}]]])
def test_nothing_is_lost(batches: list[list[Json]]) -> None:
    assert list(begun(iter(batches))) == batches


def test_one_batch_is_read_and_no_more() -> None:
    read: list[str] = []

    begun(told(read, [], [{"a": 1}]))

    assert read == ["batch"]


def breaking() -> Stream:
    raise UpstreamUnreachable("gone")
    yield []


def test_what_breaks_before_breaks_here() -> None:
    with pytest.raises(UpstreamUnreachable):
        begun(breaking())


@pytest.mark.parametrize("batch", [[failed("server_error")], [CREATED, failed("server_error")]])
def test_a_response_that_fails_at_once_has_not_begun(batch: list[Json]) -> None:
    with pytest.raises(UpstreamRefused) as refused:
        begun(iter([batch]))

    assert refused.value.status >= 500
    assert refused.value.message == "no"


@pytest.mark.parametrize(
    "batch", [[CREATED, DELTA, failed("server_error")], [CREATED, failed("invalid_prompt")]]
)
def test_one_that_said_something_or_is_no_better_later_stays_as_it_is(batch: list[Json]) -> None:
    assert list(begun(iter([batch]))) == [batch]
