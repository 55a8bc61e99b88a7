"""The overload notes each end of a request, and waits for the worker to recover."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from bench import overload
from bench.overload import Outcomes, describe_load, find_percentile
from tests.helpers.check_cases import check_each
from tests.helpers.loopback import Peer, run_server


@contextmanager
def answering(answer: bytes) -> Iterator[int]:
    """The port of a server that answers each request with these bytes, and closes."""

    def script(peer: Peer) -> None:
        peer.request()
        peer.send(answer)

    with run_server(script) as peer:
        yield int(peer.url.rpartition(":")[2])


def ask(port: int) -> Outcomes:
    """The result of one short request."""
    outcomes = Outcomes()
    asyncio.run(overload.send_request(port, overload._KINDS[1], outcomes))
    return outcomes


REFUSAL = b"HTTP/1.1 503 Late\r\nRetry-After: 1\r\nContent-Length: 2\r\n\r\n{}"


@check_each(
    ("answer", "served", "refused", "fault"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", 1, 0, ""),
        (REFUSAL, 0, 1, ""),
        (REFUSAL.replace(b"Retry", b"X"), 0, 0, "status 503"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}", 0, 0, "closed after"),
    ],
    ids=["served", "refused", "refused without Retry-After", "cut"],
)
def test_each_end_of_a_request_is_noted(
    answer: bytes, served: int, refused: int, fault: str
) -> None:
    with answering(answer) as port:
        outcomes = ask(port)
    assert (outcomes.served, len(outcomes.refusals)) == (served, refused)
    assert len(outcomes.faults) == bool(fault)
    assert fault in "".join(outcomes.faults)


def test_a_worker_that_refuses_has_not_recovered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overload, "_TIMEOUT_SECONDS", 0.3)
    with answering(REFUSAL) as port:
        assert asyncio.run(overload.measure_recovery(port)) == 0.3


def test_report_row_shows_the_results_of_a_load() -> None:
    outcomes = Outcomes(served=50, short=[0.01, 0.02], refusals=[0.5] * 50)
    row = describe_load(2, 20.0, outcomes, 1.25)
    assert row == "| 2× | 20 | 10 | 50% | 500 / 500 | 20 / 20 | – | – | 0 | 1.2 |"
    assert find_percentile([], 0.5) == "–"
