"""Decoding with any cuts, and encoding that the SDK's decoder also reads."""

from __future__ import annotations

import itertools
import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai._streaming import SSEDecoder

from forwarder.core.errors import UpstreamProtocolError
from forwarder.protocols import framing
from tests.helpers.check_cases import check_each

CHUNK = {"id": "c1", "choices": [{"index": 0, "delta": {"content": "grüße 🎉 \u2028 end"}}]}
CREATED = {"type": "response.created", "sequence_number": 0}

CASES: dict[str, tuple[bytes, list[dict[str, Any]]]] = {
    "plain": (b'data: {"a":1}\n\ndata: {"a":2}\n\n', [{"a": 1}, {"a": 2}]),
    "event line": (b'event: x\ndata: {"type":"y"}\n\n', [{"type": "y"}]),
    "CRLF": (b'data: {"a":1}\r\n\r\ndata: {"a":2}\r\n\r\n', [{"a": 1}, {"a": 2}]),
    "CRLF in a block": (b'event: error\r\ndata: {"a":1}\r\n\r\n', [{"a": 1, "type": "error"}]),
    "CR": (b'data: {"a":1}\r\rdata: {"a":2}\r\r', [{"a": 1}, {"a": 2}]),
    "mixed ends": (b'data: {"a":1}\n\r\ndata: {"a":2}\r\n\n', [{"a": 1}, {"a": 2}]),
    "no space": (b'data:{"a":1}\n\n', [{"a": 1}]),
    "more space": (b'data:   {"a":1} \n\n', [{"a": 1}]),
    "no space, the words inside": (b'data:{"a":"data: b"}\n\n', [{"a": "data: b"}]),
    "the words inside": (b'data: {"a":"data: b"}\n\n', [{"a": "data: b"}]),
    "several data lines": (b'data: {"a":\ndata: 1}\n\n', [{"a": 1}]),
    "comments": (b': ping\n\n:\ndata: {"a":1}\n: in between\n\n', [{"a": 1}]),
    "other fields": (b'id: 7\nretry: 10\ndata: {"a":1}\nfoo\n\n', [{"a": 1}]),
    "event line below": (b'data: {"a":1}\nevent: response.x\n\n', [{"a": 1, "type": "response.x"}]),
    "BOM": (b'\xef\xbb\xbfdata: {"a":1}\n\n', [{"a": 1}]),
    "no data": (b'event: ping\n\ndata\n\ndata:\n\ndata: \n\ndata: {"a":1}\n\n', [{"a": 1}]),
    "blank lines": (b'\n\n\n\ndata: {"a":1}\n\n\n\n\ndata: {"a":2}\n\n', [{"a": 1}, {"a": 2}]),
    "other characters": (b"data: " + orjson.dumps(CHUNK) + b"\n\n", [CHUNK]),
    "type by event line": (
        b'event: response.x\ndata: {"a":1}\n\n',
        [{"type": "response.x", "a": 1}],
    ),
    "error by event line": (b'event: error\ndata: {"a":1}\n\n', [{"type": "error", "a": 1}]),
    "type in both": (b'event: response.x\ndata: {"type":"y"}\n\n', [{"type": "y"}]),
    "foreign event line": (b'event: message\ndata: {"a":1}\n\n', [{"a": 1}]),
    "late usage": (b'data: [DONE]\n\ndata: {"usage":1}\n\n', [{"usage": 1}]),
    "not a number": (b'data: {"a":[NaN,-Infinity]}\n\n', [{"a": [None, None]}]),
    "a null between events": (b'data: null\n\ndata: {"a":1}\n\n', [{"a": 1}]),
    "half a pair": (rb'data: {"a":"\ud83d!"}' + b"\n\n", [{"a": "\ufffd!"}]),
}

BROKEN = {
    "text": b"data: hello\n\n",
    "array": b"data: [1]\n\n",
    "string": b'data: "a"\n\n',
    "half an object": b'data: {"a":\n\n',
    "too deep": b'data: {"a":' + b"[" * 100_000 + b"\n\n",
}


def decode(pieces: list[bytes]) -> list[dict[str, Any]]:
    decoder = framing.SseDecoder()
    events = [event for piece in pieces for event in decoder.feed(piece)]
    return events + decoder.flush()


@check_each("name", CASES)
def test_decode_in_one_piece(name: str) -> None:
    data, events = CASES[name]

    assert decode([data]) == events


@check_each("name", CASES)
def test_decode_byte_by_byte(name: str) -> None:
    data, events = CASES[name]

    assert decode([data[at : at + 1] for at in range(len(data))]) == events


@given(
    st.lists(st.sampled_from(sorted(CASES)), max_size=6),
    st.lists(st.integers(min_value=0, max_value=400), max_size=12),
)
def test_decode_with_any_cuts(names: list[str], cuts: list[int]) -> None:
    data = b"".join(CASES[name][0] for name in names if name != "BOM")
    events = [event for name in names if name != "BOM" for event in CASES[name][1]]
    bounds = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]

    assert decode([data[a:b] for a, b in itertools.pairwise(bounds)]) == events


@check_each("separator", [b"\n\n", b"\r\n\r", b"\r\r"])
def test_decoder_returns_event_at_its_last_byte(separator: bytes) -> None:
    decoder = framing.SseDecoder()

    assert decoder.feed(b'data: {"a":1}' + separator[:-1]) == []
    assert decoder.feed(separator[-1:]) == [{"a": 1}]


def test_decoder_sees_done_marker() -> None:
    decoder = framing.SseDecoder()

    assert decoder.feed(b'data: {"a":1}\n\n') == [{"a": 1}]
    assert not decoder.saw_done_marker
    assert decoder.feed(b"data: [DO") == []
    assert decoder.feed(b"NE]\n\n") == []
    assert decoder.saw_done_marker


def test_decoder_sees_done_marker_without_blank_line() -> None:
    decoder = framing.SseDecoder()
    decoder.feed(b"data: [DONE]")

    assert decoder.flush() == []
    assert decoder.saw_done_marker


def test_flush_completes_event_without_blank_line() -> None:
    decoder = framing.SseDecoder()

    assert decoder.feed(b'data: {"a":1}\n') == []
    assert decoder.flush() == [{"a": 1}]
    assert decoder.flush() == []


def test_flush_ignores_half_an_event() -> None:
    decoder = framing.SseDecoder()
    decoder.feed(b'data: {"a":1}\n\ndata: {"a":')

    assert decoder.flush() == []


@check_each("name", BROKEN)
def test_decoder_refuses_data_that_is_no_object_without_quoting_it(name: str) -> None:
    with pytest.raises(UpstreamProtocolError) as caught:
        framing.SseDecoder().feed(BROKEN[name])

    assert "hello" not in caught.value.message


def test_decoder_refuses_endless_event(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(framing, "MAX_EVENT_BYTES", 1000)
    decoder = framing.SseDecoder()

    assert decoder.feed(b"data: " + b"x" * 900) == []
    with pytest.raises(UpstreamProtocolError, match="1000 bytes"):
        decoder.feed(b"x" * 200)


def test_decoder_reads_large_event_in_linear_time() -> None:
    text = "x" * (8 * 2**20)
    data = b'data: {"a":"' + text.encode() + b'"}\n\n'

    assert decode([data[at : at + 2000] for at in range(0, len(data), 2000)]) == [{"a": text}]


def _decode_with_sdk(data: bytes) -> list[tuple[str | None, str]]:
    return [(event.event, event.data) for event in SSEDecoder().iter_bytes(iter([data]))]


def test_sdk_reads_encoded_responses_events() -> None:
    events = [CREATED, {"type": "response.output_text.delta", "delta": "a\nb\u2028c"}]

    read = _decode_with_sdk(framing.encode_responses(events))

    assert [(name, json.loads(data)) for name, data in read] == [(e["type"], e) for e in events]


def test_sdk_reads_encoded_chat_chunks() -> None:
    read = _decode_with_sdk(framing.encode_chat([CHUNK, CHUNK]) + framing.KEEP_ALIVE + framing.DONE)

    assert [name for name, _ in read] == [None, None, None]
    assert [json.loads(data) for _, data in read[:2]] == [CHUNK, CHUNK]
    assert read[2][1] == "[DONE]"


@check_each("encode", [framing.encode_chat, framing.encode_responses])
def test_encode_decode_round_trip(encode: Any) -> None:
    events = [CREATED, CHUNK, {"type": "error\ndata: {}", "message": "m"}]

    assert decode([encode(events)]) == events


@check_each("encode", [framing.encode_chat, framing.encode_responses])
def test_encode_empty_batch(encode: Any) -> None:
    assert encode([]) == b""


def test_encode_lines() -> None:
    events: list[dict[str, Any]] = [{"text": "ü\u2028\n"}, {"done": True}]
    data = framing.encode_lines(events)
    assert data.endswith(b"\n")
    assert [json.loads(line) for line in data.removesuffix(b"\n").split(b"\n")] == events


def test_keep_alive_is_part_of_the_next_line() -> None:
    data = framing.LINE_KEEP_ALIVE + framing.LINE_KEEP_ALIVE + framing.encode_lines([{"a": 1}])
    [line] = data.splitlines()
    assert json.loads(line) == {"a": 1}


def test_encode_lines_raises_for_non_json() -> None:
    with pytest.raises(TypeError):
        framing.encode_lines([{"a": 2**70}])
