"""Encoding of event logs."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forwarder.core.types import Json
from forwarder.storage.db.compression import unpack_json
from forwarder.storage.db.event_log_encoding import (
    EventLogChunk,
    EventLogPacker,
    InvalidSequenceNumber,
    pack_events,
    unpack_events,
)
from tests.helpers.check_cases import check_each

RESPONSE: Json = {"id": "resp_1", "output": []}


def make_delta(number: int, text: str, item: str = "msg_1") -> Json:
    return {
        "type": "response.output_text.delta",
        "item_id": item,
        "delta": text,
        "logprobs": [],
        "sequence_number": number,
    }


@given(st.lists(st.tuples(st.sampled_from("ab"), st.text(max_size=3), st.booleans()), min_size=1))
def test_event_log_round_trip(steps: list[tuple[str, str, bool]]) -> None:
    events = [
        make_delta(i + 7, text, item) if is_delta else {"type": "x", "sequence_number": i + 7}
        for i, (item, text, is_delta) in enumerate(steps)
    ]

    piece = pack_events(events)
    assert list(unpack_events(piece.data, RESPONSE)) == events
    assert (piece.first, piece.last) == (7, 6 + len(events))


def _generate_events() -> st.SearchStrategy[Json]:
    """Generate events of few kinds, so that runs are likely, with or without the relevant keys."""
    values = st.none() | st.text("ab", max_size=1) | st.integers(0, 1) | st.just({"b": [1]})
    names = {"delta": values, "item_id": values, "response": values, "x": values}
    kinds = {"type": st.sampled_from(["a", "response.output_text.delta", "error"])}
    return st.fixed_dictionaries({}, optional=kinds | names)


@given(
    st.lists(
        st.tuples(
            _generate_events(), st.sampled_from([1, 1, 1, 2, 9]), st.booleans(), st.booleans()
        )
    ),
    st.integers(0, 9),
)
def test_event_log_round_trip_of_generated_events(
    steps: list[tuple[Json, int, bool, bool]], number: int
) -> None:
    """Events are numbered in ascending order with gaps; batches and chunks may end after each."""
    packer, events, batch = EventLogPacker(), [], []
    pieces: list[EventLogChunk] = []
    for event, step, ends_batch, ends_piece in steps:
        number += step
        batch.append({**event, "sequence_number": number})
        if ends_batch or ends_piece:
            packer.add_events(batch)
            events, batch = events + batch, []
        if ends_piece:
            pieces.append(packer.pop_chunk())
    if batch:
        packer.add_events(batch)
        events += batch
    if packer.pending_count:
        pieces.append(packer.pop_chunk())

    unpacked = [list(unpack_events(piece.data, RESPONSE)) for piece in pieces]
    assert [event for part in unpacked for event in part] == events
    assert [(part[0]["sequence_number"], part[-1]["sequence_number"]) for part in unpacked] == [
        (piece.first, piece.last) for piece in pieces
    ]


@check_each("ends_piece", [True, False])
@check_each("number", [None, 6, 7, -1, "8", 8.5, True, 2**60])
@check_each("first", [{}, {"delta": "a"}])
def test_invalid_sequence_numbers_are_rejected(
    first: Json, number: object, ends_piece: bool
) -> None:
    packer = EventLogPacker()
    packer.add_events([{"type": "x", "sequence_number": 7, **first}])
    if ends_piece:
        packer.pop_chunk()
    for event in ({"type": "x"}, {"type": "x", "delta": "a"}):
        with pytest.raises(InvalidSequenceNumber):
            packer.add_events([{**event, "sequence_number": number}])


def test_a_run_of_deltas_is_one_record() -> None:
    events = [make_delta(i, "word ") for i in range(100)]

    assert len(unpack_json(pack_events(events).data)) == 1
    assert len(pack_events(events).data) < len(orjson.dumps(events)) / 10


def test_deltas_that_do_not_follow_each_other_keep_their_numbers() -> None:
    events = [
        make_delta(0, "a"),
        make_delta(5, "b"),
        make_delta(6, "c"),
        make_delta(7, "d", "msg_2"),
    ]

    assert list(unpack_events(pack_events(events).data, RESPONSE)) == events


@check_each("end", ["completed", "incomplete", "failed"])
def test_terminal_event_gets_the_stored_response(end: str) -> None:
    last = {"type": f"response.{end}", "response": RESPONSE, "sequence_number": 1}
    packed = pack_events([last])

    assert b"resp_1" not in packed.data
    assert list(unpack_events(packed.data, RESPONSE)) == [last]
    assert list(unpack_events(packed.data, {"id": "new"}))[0]["response"] == {"id": "new"}  # noqa: RUF015
