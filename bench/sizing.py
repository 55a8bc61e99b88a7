"""The figures that size a deployment, as one table: ``python -m bench.sizing``."""

from __future__ import annotations

import argparse
import asyncio
import itertools
import sys
import tempfile
import time
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import orjson

from bench import load, wire
from bench.measure import make_forwarder_environment
from bench.overload import find_percentile
from bench.processes import ServerProcess, run_server
from bench.shape import Shape
from bench.soak import find_worker, read_memory

_ABOUT = """\
Measure one worker of the forwarder that stores its answers: its start and memory, long histories,
conversations of many turns, and many slow streams at once. Responses clients, a Chat upstream.

exit status: 0 if every answer was complete, 1 otherwise. Needs Linux (/proc)."""

_SERVER = ["gunicorn", "-w", "1", "-b", "fd://{fd}", "wsgi:app"]
_SHORT = Shape(text=20)
_SLOW = Shape(text=100, pause=100)
_SLOW_SECONDS = _SLOW.text * _SLOW.pause / 1000
_PACED = Shape(text=200, pause=10)
_RAMP_SECONDS = 4.0
"""The slow streams start evenly within this time."""

_TIMEOUT_SECONDS = 60.0
_ROUNDS = 12
"""Requests per measurement of CPU time."""

_TURNS = (10, 100, 400)
"""The turns of a conversation that are measured."""


@dataclass
class Timings:
    """Seconds until the first byte and until the end of each stream, and the failures."""

    first_bytes: list[float] = field(default_factory=list)
    durations: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


def make_body(shape: Shape, **more: Any) -> bytes:
    body = {"model": shape.model, "instructions": "You are terse.", "input": "Say something."}
    return orjson.dumps(body | more)


def make_items(count: int) -> list[dict[str, str]]:
    """Return a history of ``count`` messages with 0.5 kB of text each."""
    roles = ("user", "assistant")
    return [{"role": roles[i % 2], "content": "lorem ipsum " * 40} for i in range(count)]


async def send_request(port: int, body: bytes) -> dict[str, Any]:
    """Send a request for a whole answer over a new connection; returns the answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    with closing(writer):
        writer.write(wire.build_request(port, "responses", body))
        raw = await asyncio.wait_for(load.read_answer(reader), _TIMEOUT_SECONDS)
    if wire.read_status(raw) != 200:
        raise SystemExit(f"status {wire.read_status(raw)}: {wire.read_body(raw)[:300]!r}")
    answer: dict[str, Any] = orjson.loads(wire.read_body(raw))
    return answer


async def read_stream(port: int, shape: Shape, timings: Timings) -> None:
    """Read a stream to its end and record its timings."""
    started = time.monotonic()
    raw, arrivals = bytearray(), []
    try:
        async with asyncio.timeout(_TIMEOUT_SECONDS):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            with closing(writer):
                writer.write(wire.build_request(port, "responses", make_body(shape, stream=True)))
                while not wire.is_complete(raw):
                    data = await reader.read(2**16)
                    if not data:
                        raise ConnectionError("closed before the end")
                    raw += data
                    arrivals.append(time.monotonic())
    except (OSError, TimeoutError) as error:
        timings.faults.append(repr(error))
        return
    if wire.read_status(raw) != 200 or b"response.completed" not in raw:
        timings.faults.append(wire.read_body(raw)[-200:].decode(errors="replace"))
        return
    timings.first_bytes.append(arrivals[0] - started)
    timings.durations.append(arrivals[-1] - started)
    timings.gaps.append(max((b - a for a, b in itertools.pairwise(arrivals)), default=0.0))


async def measure_cpu_time(forwarder: ServerProcess, bodies: list[bytes]) -> float:
    """Return the median CPU milliseconds per request, sent one after another."""
    costs = []
    for body in bodies:
        before = forwarder.read_cpu_time()
        await send_request(forwarder.port, body)
        await asyncio.sleep(0.05)  # work after the answer, such as a store, counts too
        costs.append(forwarder.read_cpu_time() - before)
    return median(costs) / 1000


async def measure_history(forwarder: ServerProcess) -> tuple[float, float, float]:
    """Return CPU milliseconds of a short request, of one after 100 and one after 1000 items."""
    short, hundred, thousand = (
        [make_body(_SHORT, store=False, input=[*make_items(count), *make_items(1)])] * _ROUNDS
        for count in (0, 100, 1000)
    )
    return (
        await measure_cpu_time(forwarder, short),
        await measure_cpu_time(forwarder, hundred),
        await measure_cpu_time(forwarder, thousand),
    )


async def measure_pause(forwarder: ServerProcess) -> tuple[float, float]:
    """Return the longest gaps in ms of a paced stream, alone and beside long histories."""
    body = make_body(_SHORT, store=False, input=make_items(1001))
    alone, beside = Timings(), Timings()
    await read_stream(forwarder.port, _PACED, alone)
    stream = asyncio.create_task(read_stream(forwarder.port, _PACED, beside))
    while not stream.done():
        await send_request(forwarder.port, body)
        await asyncio.sleep(0.02)
    await stream
    return max(alone.gaps) * 1000, max(beside.gaps) * 1000


async def measure_turns(forwarder: ServerProcess) -> dict[int, float]:
    """Return CPU milliseconds of some turns of one conversation, by their number."""
    costs: dict[int, list[float]] = {turn: [] for turn in _TURNS}
    previous: dict[str, str] = {}
    for number in range(1, max(_TURNS) + _ROUNDS):
        near = [turn for turn in _TURNS if 0 <= number - turn < _ROUNDS]
        before = forwarder.read_cpu_time()
        answer = await send_request(forwarder.port, make_body(_SHORT, **previous))
        previous = {"previous_response_id": answer["id"]}
        if near:
            await asyncio.sleep(0.05)
            costs[near[0]].append(forwarder.read_cpu_time() - before)
    return {turn: median(turn_costs) / 1000 for turn, turn_costs in costs.items()}


async def run_slow_streams(forwarder: ServerProcess, count: int) -> tuple[Timings, float]:
    """Return the timings of ``count`` slow streams and the memory in KiB that each one took."""
    timings, worker = Timings(), find_worker(forwarder)
    before = peak = read_memory(worker)
    tasks = []
    for _ in range(count):
        tasks.append(asyncio.create_task(read_stream(forwarder.port, _SLOW, timings)))
        await asyncio.sleep(_RAMP_SECONDS / count)
    while not all(task.done() for task in tasks):
        peak = max(peak, read_memory(worker))
        await asyncio.sleep(0.2)
    return timings, (peak - before) / count / 1024


def run_measurements(streams: int, folder: Path) -> list[str]:
    """Measure everything and print the table; returns the faults."""
    rows: list[tuple[str, str]] = []
    with ExitStack() as stack:
        upstream = stack.enter_context(run_server("upstream", ["bench.upstream", "{fd}"], folder))
        env = make_forwarder_environment(upstream.port, f"sqlite:///{folder}/state.db") | {
            "FORWARDER_MAX_CONCURRENT": "0",
            "FORWARDER_LOG_LEVEL": "ERROR",
        }
        started = time.monotonic()
        forwarder = stack.enter_context(run_server("forwarder", _SERVER, folder, env))
        asyncio.run(send_request(forwarder.port, make_body(_SHORT)))
        rows.append(("start to first answer", f"{time.monotonic() - started:.2f} s"))
        start_cpu = forwarder.read_cpu_time() / 1e6
        rows.append(("CPU time of the start", f"{start_cpu:.2f} s"))
        memory = read_memory(find_worker(forwarder)) / 2**20
        rows.append(("memory of the idle worker", f"{memory:.0f} MiB"))
        asyncio.run(measure_cpu_time(forwarder, [make_body(_SHORT)] * 50))  # warm-up
        short, hundred, thousand = asyncio.run(measure_history(forwarder))
        rows.append(("short request, unstored", f"{short:.1f} ms CPU"))
        rows.append(
            ("100 messages of history", f"{hundred:.1f} ms CPU, {hundred / short:.2f} × short")
        )
        rows.append(("1000 messages of history (0.5 MB)", f"{thousand:.1f} ms CPU"))
        alone, beside = asyncio.run(measure_pause(forwarder))
        rows.append(
            ("gap in a stream of 10 ms beside them", f"{beside:.0f} ms (alone {alone:.0f} ms)")
        )
        turns = asyncio.run(measure_turns(forwarder))
        first = turns[_TURNS[0]]
        rows.extend(
            (f"turn {turn} of a conversation", f"{cost:.1f} ms CPU, {cost / first:.2f} × turn 10")
            for turn, cost in turns.items()
        )
        timings, kib = asyncio.run(run_slow_streams(forwarder, streams))
        slowest = float(find_percentile(timings.durations, 0.99)) / 1000
        rows += [
            (
                f"{streams} streams of {_SLOW_SECONDS:.0f} s at once",
                f"{len(timings.durations)} complete, {kib:.0f} KiB each",
            ),
            ("their first byte, p99", f"{find_percentile(timings.first_bytes, 0.99)} ms"),
            ("their duration, p99", f"+{(slowest / _SLOW_SECONDS - 1) * 100:.0f} %"),
        ]
    print("| figure | measured |\n|---|---|")
    print("\n".join(f"| {name} | {value} |" for name, value in rows), flush=True)
    return sorted(set(timings.faults))


def main() -> int:
    """Run all measurements; returns 0 if every answer was complete."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.sizing",
        description=_ABOUT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--streams", type=int, default=1000, help="at once (default: 1000)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sizing-") as folder:
        faults = run_measurements(options.streams, Path(folder))
    print("\n".join(["", *faults]) if faults else "", file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
