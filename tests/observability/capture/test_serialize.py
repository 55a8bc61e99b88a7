"""Parsing answers to JSON and encoding them again."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from forwarder.observability.capture import serialize
from forwarder.protocols.framing import SseDecoder
from tests.helpers.check_cases import check_each

CHUNK = {
    "a stream": b'data: {"a":1}\n\ndata: {"b":"\xc3\xbc"}\n\ndata: [DONE]\n\n',
    "named events": b'event: response.created\ndata: {"type":"response.created"}\n\n',
    "comments": b': keep-alive\n\ndata: {"a":1}\n\n: and more\n\n',
    "other line ends": b'data: {"a":1}\r\n\r\ndata: {"b":2}\r\n\r\n',
    "several data lines": b'data: {"a":\ndata: 1}\n\n',
    "an id": b'id: 7\ndata: {"a":1}\n\n',
    "no JSON": b'data: {"a":\n\ndata: {"b":2}\n\n',
    "no UTF-8": b'data: {"a":"\xff\xfe"}\n\ndata: {"b":2}\n\n',
    "half a character": b'data: {"a":"\\ud83d"}\n\n',
    "not a number": b'data: {"a":NaN}\n\n',
    "a cut end": b'data: {"a":1}\n\ndata: {"b":',
    "no last line end": b'data: {"a":1}\n\ndata: {"b":2}',
    "a whole answer": b'{"a": [1, 2.5, null]}',
    "half a whole answer": b'{"a": [1, 2',
    "a page": b"<html>\r\n\r\nno</html>",
    "no page in UTF-8": b"<html>\xff</html>",
    "nothing": b"",
}

every_answer = check_each("data", CHUNK.values(), ids=CHUNK.keys())


def decode_events(data: bytes) -> tuple[list[Any], str | None, bool]:
    """Decode bytes with the SSE decoder; returns the events, the error, and if [DONE] came."""
    decoder, events = SseDecoder(), []
    try:
        events += decoder.feed(data)
        events += decoder.flush()
    except Exception as error:
        return events, str(error), decoder.saw_done_marker
    return events, None, decoder.saw_done_marker


@every_answer
def test_encoded_answer_parses_to_the_same(data: bytes) -> None:
    parsed = serialize.parse_answer([(0.0, data)])
    written = b"".join(serialize.encode_answer(parsed))

    assert decode_events(written) == decode_events(data)
    assert serialize.parse_answer([(0.0, written)]) == parsed


@every_answer
def test_log_line_is_json(data: bytes) -> None:
    assert json.loads(json.dumps(serialize.parse_answer([(0.0, data)]))) is not None


@given(st.binary(max_size=60), st.sampled_from(sorted(CHUNK.values())))
def test_any_bytes_survive_parsing_and_encoding(noise: bytes, data: bytes) -> None:
    for answer in (noise, data + noise, b"data: " + noise):
        written = b"".join(serialize.encode_answer(serialize.parse_answer([(0.0, answer)])))
        assert decode_events(written) == decode_events(answer)


def test_events_do_not_depend_on_piece_boundaries() -> None:
    data = CHUNK["a stream"] + CHUNK["named events"]
    expected = [{**event, "at": 0} for event in serialize.parse_answer([(0.0, data)])["events"]]
    for cut in range(1, len(data)):
        read = serialize.parse_answer([(0.0, data[:cut]), (1.0, data[cut:])])
        assert [{**event, "at": 0} for event in read["events"]] == expected


def test_event_time_is_the_arrival_of_its_end() -> None:
    read = serialize.parse_answer(
        [(0.1, b'data: {"a"'), (0.2, b":1}\n\n"), (0.3, b"data: [DONE]\n\n")]
    )

    assert read == {
        "events": [{"at": 200.0, "data": {"a": 1}}, {"at": 300.0, "text": "data: [DONE]"}]
    }
    assert serialize.encode_answer(read) == [b'data: {"a":1}\n\n', b"data: [DONE]\n\n"]


def test_json_lines_are_parsed_separately() -> None:
    read = serialize.parse_answer([(0.1, b'{"a":1}\n{"b"'), (0.2, b":2}\n")])

    assert read == {"lines": [{"at": 100.0, "data": {"a": 1}}, {"at": 200.0, "data": {"b": 2}}]}
    assert b"".join(serialize.encode_answer(read)) == b'{"a":1}\n{"b":2}\n'


def test_truncated_answer_drops_its_incomplete_end() -> None:
    assert serialize.parse_answer([(0.0, b'data: {"a":1}\n\ndata: sk-hal')], whole=False) == {
        "events": [{"at": 0.0, "data": {"a": 1}}]
    }
    assert serialize.parse_answer([(0.0, b'{"message": "sk-hal')], whole=False) == {}
