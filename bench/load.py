"""The load generator: ``python -m bench.load``.

It is a separate process, so that its CPU time is not attributed to a target. It reads one job per
line on standard input and writes one outcome per line on standard output. Answers are only
collected during a job and validated after it.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass

import orjson

from bench import reading, wire
from bench.workloads import WORKLOADS, Workload

_TIMEOUT_SECONDS = 120
"""Timeout of a job in seconds."""

_WORKLOADS = {workload.name: workload for workload in WORKLOADS}


@dataclass(frozen=True)
class Job:
    """Send ``requests`` requests of a workload in the protocol ``client`` to a loopback port."""

    port: int
    client: str
    workload: str
    requests: int


@dataclass(frozen=True)
class Outcome:
    """The number of complete and correct answers, and the distinct faults of the others."""

    completed: int
    faults: list[str]


def run_job(job: Job) -> Outcome:
    """Run a job and validate its answers."""
    workload = _WORKLOADS[job.workload]
    answers, faults = asyncio.run(collect_answers(job, workload))
    verdicts = [find_fault(answer, job, workload) for answer in answers]
    faults += [fault for fault in verdicts if fault]
    return Outcome(verdicts.count(None), sorted(set(faults)))


async def collect_answers(job: Job, workload: Workload) -> tuple[list[bytearray], list[str]]:
    answers: list[bytearray] = []
    turns = iter(range(job.requests))
    request = wire.build_request(job.port, job.client, orjson.dumps(workload.make_body(job.client)))
    connections = min(workload.connections, job.requests)
    clients = [run_client(job.port, request, turns, answers) for _ in range(connections)]
    try:
        ends = await asyncio.wait_for(
            asyncio.gather(*clients, return_exceptions=True), _TIMEOUT_SECONDS
        )
    except TimeoutError:
        return answers, [f"not done after {_TIMEOUT_SECONDS} s"]
    return answers, [f"connection: {end!r}" for end in ends if end is not None]


async def run_client(
    port: int, request: bytes, turns: Iterator[int], answers: list[bytearray]
) -> None:
    """Send requests over one connection until no turns are left."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    with closing(writer):
        for _ in turns:
            writer.write(request)
            answers.append(await read_answer(reader))


async def read_answer(reader: asyncio.StreamReader) -> bytearray:
    """Read one complete response; raises ConnectionError if the connection closes before."""
    raw = bytearray()
    while not wire.is_complete(raw):
        data = await reader.read(2**18)
        if not data:
            raise ConnectionError(f"closed after {len(raw)} bytes")
        raw += data
    return raw


def find_fault(raw: bytearray, job: Job, workload: Workload) -> str | None:
    status = wire.read_status(raw)
    if status != 200:
        return f"status {status}: {wire.read_body(raw)[:200]!r}"
    return reading.find_fault(wire.read_body(raw), job.client, workload.shape, workload.streamed)


def main() -> None:
    """Run jobs until standard input ends."""
    for line in sys.stdin:
        outcome = run_job(Job(**json.loads(line)))
        print(json.dumps(asdict(outcome)), flush=True)


if __name__ == "__main__":
    main()
