"""The upstream's script and the load's reading agree, and faults are seen."""

from __future__ import annotations

from bench import reading, script, wire
from bench.shape import Shape
from tests.helpers.check_cases import check_each

SHAPES = [
    Shape(text=7),
    Shape(reasoning=4, text=2),
    Shape(arguments=5),
    Shape(reasoning=3, text=3, arguments=2),
    Shape(text=1200),
]
PROTOCOLS = ["chat", "responses"]
FEW = Shape(text=3)


def read_body(protocol: str, shape: Shape, streamed: bool = True) -> bytes:
    return wire.read_body(b"".join(script.build_writes(protocol, shape, streamed, True)))


def find_fault(changed: bytes, protocol: str = "chat", shape: Shape = FEW) -> str:
    """The mistake that is found in a wrong stream."""
    return str(reading.find_fault(changed, protocol, shape, True))


@check_each("shape", SHAPES, ids=lambda shape: shape.model)
@check_each("protocol", PROTOCOLS)
def test_a_stream_is_read_as_it_was_scripted(protocol: str, shape: Shape):
    answer = reading.read_answer(read_body(protocol, shape), protocol, True)
    assert answer == reading.make_expected_answer(protocol, shape, True)
    assert answer.deltas == shape.chunks
    assert reading.find_fault(read_body(protocol, shape), protocol, shape, True) is None


@check_each("shape", SHAPES, ids=lambda shape: shape.model)
@check_each("protocol", PROTOCOLS)
def test_a_whole_answer_is_read_as_it_was_scripted(protocol: str, shape: Shape):
    assert reading.find_fault(read_body(protocol, shape, False), protocol, shape, False) is None


@check_each("protocol", PROTOCOLS)
def test_an_answer_of_another_shape_is_a_fault(protocol: str):
    assert "deltas" in find_fault(read_body(protocol, Shape(text=2)), protocol)
    assert "other text" in find_fault(read_body(protocol, Shape(text=4)), protocol)
    assert "other reasoning" in find_fault(read_body(protocol, Shape(1, 3)), protocol)
    assert "endings" in find_fault(read_body("chat", Shape(text=3, arguments=2)))


def test_a_merged_delta_is_a_fault():
    merged = (
        read_body("chat", FEW).replace(b'"w0000 "', b'""').replace(b'"w0001 "', b'"w0000 w0001 "')
    )
    assert find_fault(merged) == "2 deltas instead of 3"


@check_each("protocol", PROTOCOLS)
def test_a_stream_without_its_terminal_event_is_a_fault(protocol: str):
    events = read_body(protocol, FEW).split(b"\n\n")
    cut = b"\n\n".join([*events[:-2], b""])
    assert find_fault(cut, protocol).startswith("other endings")


@check_each("protocol", PROTOCOLS)
def test_a_second_terminal_event_is_a_fault(protocol: str):
    events = read_body(protocol, FEW).split(b"\n\n")
    twice = b"\n\n".join([*events[:-1], events[-2], b""])
    assert find_fault(twice, protocol) == "1 events after the end"


def test_another_terminal_event_is_a_fault():
    failed = read_body("responses", FEW).replace(b'"response.completed"', b'"response.failed"')
    assert find_fault(failed, "responses") == "other endings: \"('response.failed',)\""


def test_a_stream_cut_in_an_event_cannot_be_read():
    assert find_fault(read_body("chat", FEW)[:-1]).startswith("cannot be read")
    assert find_fault(b"data: {oops}\n\n").startswith("cannot be read")


def test_keep_alive_comments_are_ignored():
    commented = read_body("chat", FEW).replace(b"data: [DONE]", b": keep-alive\n\ndata: [DONE]")
    assert reading.find_fault(commented, "chat", FEW, True) is None


def test_reasoning_at_the_head_of_the_content_is_reasoning():
    whole = b'{"choices":[{"message":{"content":"[thinking]w0000 [/thinking]\\n\\nw0000 "},'
    answer = reading.read_answer(whole + b'"finish_reason":"stop"}]}', "chat", False)
    assert (answer.reasoning, answer.text) == ("w0000 ", "w0000 ")
