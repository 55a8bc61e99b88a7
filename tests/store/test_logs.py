"""Event logs as the store keeps them."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forwarder.store.logs import pack, unpack
from forwarder.store.packing import unpacked
from forwarder.translate.call import Json

RESPONSE: Json = {"id": "resp_1", "output": []}


def delta(number: int, text: str, item: str = "msg_1") -> Json:
    return {
        "type": "response.output_text.delta",
        "item_id": item,
        "delta": text,
        "logprobs": [],
        "sequence_number": number,
    }


@given(st.lists(st.tuples(st.sampled_from("ab"), st.text(max_size=3), st.booleans()), min_size=1))
def test_every_log_comes_out_as_it_was(said: list[tuple[str, str, bool]]) -> None:
    events = [
        delta(i + 7, text, item) if is_delta else {"type": "x", "sequence_number": i + 7}
        for i, (item, text, is_delta) in enumerate(said)
    ]

    piece = pack(events)
    assert list(unpack(piece.data, RESPONSE)) == events
    assert (piece.first, piece.last) == (7, 6 + len(events))


def test_a_run_of_deltas_is_one_record() -> None:
    events = [delta(i, "word ") for i in range(100)]

    assert len(unpacked(pack(events).data)) == 1
    assert len(pack(events).data) < len(orjson.dumps(events)) / 10


def test_deltas_that_do_not_follow_each_other_keep_their_numbers() -> None:
    events = [delta(0, "a"), delta(5, "b"), delta(6, "c"), delta(7, "d", "msg_2")]

    assert list(unpack(pack(events).data, RESPONSE)) == events


@pytest.mark.parametrize("end", ["completed", "incomplete", "failed"])
def test_the_last_event_has_the_response_that_is_stored(end: str) -> None:
    last = {"type": f"response.{end}", "response": RESPONSE, "sequence_number": 1}
    packed = pack([last])

    assert b"resp_1" not in packed.data
    assert list(unpack(packed.data, RESPONSE)) == [last]
    assert list(unpack(packed.data, {"id": "new"}))[0]["response"] == {"id": "new"}  # noqa: RUF015
