"""The end and the content of a response."""

from __future__ import annotations

from bench import script, wire
from bench.shape import Shape
from tests.helpers.check_cases import check_each

SHAPE = Shape(reasoning=2, text=3, arguments=2)

ANSWERS = {
    f"{protocol}-{'stream' if streamed else 'whole'}-{'chunked' if chunked else 'length'}": (
        script.build_writes(protocol, SHAPE, streamed, chunked)
    )
    for protocol in ("chat", "responses")
    for streamed in (True, False)
    for chunked in (True, False)
}


@check_each("writes", ANSWERS.values(), ids=ANSWERS)
def test_a_response_is_complete_with_its_last_byte_and_not_before(writes: tuple[bytes, ...]):
    raw = b"".join(writes)
    complete = [end for end in range(len(raw) + 1) if wire.is_complete(raw[:end])]
    assert complete == [len(raw)]


@check_each("protocol", ["chat", "responses"])
def test_both_framings_hold_the_same_body(protocol: str):
    framed, plain = (
        wire.read_body(b"".join(script.build_writes(protocol, SHAPE, True, chunked)))
        for chunked in (True, False)
    )
    assert framed == plain
    assert plain.startswith((b"data: {", b"event: "))


def test_a_refusal_has_its_status():
    raw = script.build_refusal("no")
    assert wire.read_status(raw) == 400
    assert wire.is_complete(raw)
