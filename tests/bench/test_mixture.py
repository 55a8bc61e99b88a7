"""The mixture of the soak: everything occurs, and each answer is held to its own ending."""

from __future__ import annotations

from collections import Counter
from random import Random

import orjson

from bench import script, wire
from bench.mixture import Turn, draw_turn
from bench.shape import FAULTS, Shape, read_fault
from bench.workloads import CLIENTS, Workload
from tests.helpers.check_cases import check_each

SHAPE = Shape(text=3)
TOLD = {
    "chat": b'data: {"choices":[]}\n\ndata: {"error":{"message":"gone"}}\n\n',
    "responses": b'data: {"type":"error"}\n\ndata: {"type":"response.failed"}\n\n',
}
HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n"


def make_turn(client: str, fault: str | None = None, streamed: bool = True) -> Turn:
    return Turn(client, Workload("w", "", SHAPE, 1, 1, streamed), fault)


def make_stream(body: bytes) -> bytes:
    return HEAD % len(body) + body


def test_everything_occurs_and_faults_are_rare():
    random = Random(1)
    turns = [draw_turn(random) for _ in range(4000)]

    faults = Counter(turn.fault for turn in turns)
    assert set(faults) == {None, "leave", *FAULTS}
    assert all(120 < count < 280 for fault, count in faults.items() if fault)
    kinds = {(t.client, t.workload.passthrough, t.workload.streamed) for t in turns}
    assert len(kinds) == 8
    assert any(t.workload.shape.arguments for t in turns)
    assert any(t.workload.shape.reasoning for t in turns)


@check_each("client", CLIENTS)
@check_each("fault", [*FAULTS, "leave", None])
def test_request_names_the_upstream_failure(client: str, fault: str | None):
    raw = make_turn(client, fault).build_request(80)
    model = orjson.loads(raw.partition(b"\r\n\r\n")[2])["model"]

    assert read_fault(model) == (fault if fault in FAULTS else None)
    assert Shape.parse(model) == SHAPE


@check_each("streamed", [True, False])
@check_each("client", CLIENTS)
def test_sound_answers_are_sound(client: str, streamed: bool):
    raw = b"".join(script.build_writes(client, SHAPE, streamed, True))

    assert make_turn(client, streamed=streamed).find_fault(raw) is None
    assert "endings" in str(make_turn(client, "cut").find_fault(raw)) or not streamed


@check_each("client", CLIENTS)
def test_cut_stream_must_end_with_one_error(client: str):
    cut, told = make_turn(client, "cut"), TOLD[client]

    assert cut.find_fault(make_stream(told)) is None
    assert "endings" in str(cut.find_fault(make_stream(told + told)))
    assert "endings" in str(cut.find_fault(make_stream(told[: told.index(b"\n\n") + 2])))
    assert "cannot be read" in str(cut.find_fault(make_stream(told[:-1])))
    assert "sound" in str(make_turn(client).find_fault(make_stream(told)))


def test_data_after_a_failure_is_a_mistake():
    late = TOLD["chat"] + b'data: {"choices":[]}\n\n'

    assert "after the failure" in str(make_turn("chat", "cut").find_fault(make_stream(late)))


def test_an_upstream_s_refusal_has_its_status_and_says_why():
    assert make_turn("chat", "fail").find_fault(script.build_failure()) is None
    assert "400 instead of 500" in str(
        make_turn("chat", "fail").find_fault(script.build_refusal("no"))
    )
    assert "status 500" in str(make_turn("chat").find_fault(script.build_failure()))
    assert "500 instead of 502" in str(
        make_turn("chat", "cut", streamed=False).find_fault(script.build_failure())
    )
    assert not wire.read_body(script.build_failure()).endswith(b"\n")
