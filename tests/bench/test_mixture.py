"""The mixture of the soak: everything occurs, and each answer is held to its own ending."""

from __future__ import annotations

from collections import Counter
from random import Random

import orjson
import pytest

from bench import script, wire
from bench.mixture import Turn, drawn
from bench.shape import FAULTS, Shape, fault_of
from bench.workloads import CLIENTS, Workload

SHAPE = Shape(text=3)
TOLD = {
    "chat": b'data: {"choices":[]}\n\ndata: {"error":{"message":"gone"}}\n\n',
    "responses": b'data: {"type":"error"}\n\ndata: {"type":"response.failed"}\n\n',
}
HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n"


def turn(client: str, fault: str | None = None, streamed: bool = True) -> Turn:
    return Turn(client, Workload("w", "", SHAPE, 1, 1, streamed), fault)


def stream(body: bytes) -> bytes:
    return HEAD % len(body) + body


def test_everything_occurs_and_faults_are_rare():
    random = Random(1)
    turns = [drawn(random) for _ in range(4000)]

    faults = Counter(turn.fault for turn in turns)
    assert set(faults) == {None, "leave", *FAULTS}
    assert all(120 < count < 280 for fault, count in faults.items() if fault)
    kinds = {(t.client, t.workload.passthrough, t.workload.streamed) for t in turns}
    assert len(kinds) == 8
    assert any(t.workload.shape.arguments for t in turns)
    assert any(t.workload.shape.reasoning for t in turns)


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("fault", [*FAULTS, "leave", None])
def test_a_request_says_what_shall_go_wrong_upstream(client: str, fault: str | None):
    raw = turn(client, fault).request(80)
    model = orjson.loads(raw.partition(b"\r\n\r\n")[2])["model"]

    assert fault_of(model) == (fault if fault in FAULTS else None)
    assert Shape.of(model) == SHAPE


@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize("client", CLIENTS)
def test_sound_answers_are_sound(client: str, streamed: bool):
    raw = b"".join(script.writes(client, SHAPE, streamed, True))

    assert turn(client, streamed=streamed).wrong(raw) is None
    assert "endings" in str(turn(client, "cut").wrong(raw)) or not streamed


@pytest.mark.parametrize("client", CLIENTS)
def test_a_cut_has_to_be_told_once_and_last(client: str):
    cut, told = turn(client, "cut"), TOLD[client]

    assert cut.wrong(stream(told)) is None
    assert "endings" in str(cut.wrong(stream(told + told)))
    assert "endings" in str(cut.wrong(stream(told[: told.index(b"\n\n") + 2])))
    assert "cannot be read" in str(cut.wrong(stream(told[:-1])))
    assert "sound" in str(turn(client).wrong(stream(told)))


def test_nothing_may_follow_the_failure():
    late = TOLD["chat"] + b'data: {"choices":[]}\n\n'

    assert "after the failure" in str(turn("chat", "cut").wrong(stream(late)))


def test_an_upstream_s_refusal_has_its_status_and_says_why():
    assert turn("chat", "fail").wrong(script.failure()) is None
    assert "400 instead of 500" in str(turn("chat", "fail").wrong(script.refusal("no")))
    assert "status 500" in str(turn("chat").wrong(script.failure()))
    assert "500 instead of 502" in str(turn("chat", "cut", streamed=False).wrong(script.failure()))
    assert not wire.body_of(script.failure()).endswith(b"\n")
