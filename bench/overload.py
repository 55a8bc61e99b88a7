"""The overload test, with more requests than a worker can serve: ``python -m bench.overload``."""

from __future__ import annotations

import argparse
import asyncio
import itertools
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path

import orjson

from bench import wire
from bench.measure import make_forwarder_environment
from bench.processes import run_server
from bench.shape import Shape
from bench.workloads import Workload

_ABOUT = """\
Send one worker of the forwarder 1, 2, 5 and 10 times as many requests as it can serve. Report
their outcomes and the recovery time of the worker.

Half of the requests are streams of 50 chunks, one every 20 ms; the others are short whole answers.
The capacity is measured first, with a closed load: as many clients as 90 % of the admission limit,
each of which sends the next request after an answer. The following loads are open: requests arrive
at a fixed rate, independently of earlier ones. Takes at most about a minute.

exit status: 0 if every request was answered or refused with Retry-After and the worker recovered
within 5 seconds, 1 otherwise."""

_KINDS = (
    Workload("stream", "a paced stream", Shape(text=50, pause=20), 1, 1),
    Workload("short", "a short whole answer", Shape(text=20), 1, 1, streamed=False),
)
_SECONDS = 5.0
"""Duration of each load in seconds."""

_TIMEOUT_SECONDS = 20.0
"""Timeout of a request in seconds."""

MAX_RECOVERY = 5.0
"""Maximum recovery time of the worker in seconds."""

_FAST_SECONDS = 0.25
"""Latency in seconds below which a short request counts as fast, even on a busy machine."""


@dataclass
class Outcomes:
    """The outcomes of one load up to its last answer; times are in seconds."""

    served: int = 0
    elapsed: float = _SECONDS
    short: list[float] = field(default_factory=list)
    first_bytes: list[float] = field(default_factory=list)
    last_answer: float = 0.0
    gaps: list[float] = field(default_factory=list)
    refusals: list[float] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


async def send_request(port: int, workload: Workload, outcomes: Outcomes) -> None:
    """Send one request over a new connection and record its outcome."""
    request = wire.build_request(port, "responses", orjson.dumps(make_body(workload)))
    started = time.monotonic()
    try:
        async with asyncio.timeout(_TIMEOUT_SECONDS):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            with closing(writer):
                writer.write(request)
                raw, arrivals = bytearray(), []
                while not wire.is_complete(raw):
                    data = await reader.read(2**16)
                    if not data:
                        raise ConnectionError(f"closed after {len(raw)} bytes")
                    raw += data
                    arrivals.append(time.monotonic())
    except (OSError, TimeoutError) as error:
        outcomes.faults.append(f"{workload.name}: {error!r}")
        return
    outcomes.last_answer = arrivals[-1]
    status, seconds = wire.read_status(raw), arrivals[-1] - started
    if status in (429, 503) and b"\r\nretry-after:" in bytes(raw).lower():
        outcomes.refusals.append(seconds)
    elif status != 200:
        outcomes.faults.append(f"{workload.name}: status {status} {wire.read_body(raw)[:200]!r}")
    else:
        outcomes.served += 1
        if workload.streamed:
            outcomes.first_bytes.append(arrivals[0] - started)
            outcomes.gaps.append(max(b - a for a, b in itertools.pairwise(arrivals)))
        else:
            outcomes.short.append(seconds)


def make_body(workload: Workload) -> dict[str, object]:
    return {**workload.make_body("responses"), "store": False}


async def measure_capacity(port: int, clients: int, seconds: float = _SECONDS) -> float:
    """Return the requests served per second if each client waits for its answer."""
    kinds, outcomes = itertools.cycle(_KINDS), Outcomes()
    end = time.monotonic() + seconds

    async def ask_again() -> None:
        while time.monotonic() < end:
            await send_request(port, next(kinds), outcomes)

    started = time.monotonic()
    await asyncio.gather(*(ask_again() for _ in range(clients)))
    if outcomes.faults:
        raise SystemExit(f"not all were answered: {outcomes.faults[:3]}")
    return outcomes.served / (time.monotonic() - started)


async def send_load(port: int, rate: float, seconds: float = _SECONDS) -> tuple[Outcomes, float]:
    """Send ``rate`` requests per second; returns their outcomes and the recovery time."""
    outcomes, kinds = Outcomes(), itertools.cycle(_KINDS)
    started = time.monotonic()
    tasks = []
    for number in range(int(rate * seconds)):
        await asyncio.sleep(max(0.0, started + number / rate - time.monotonic()))
        tasks.append(asyncio.create_task(send_request(port, next(kinds), outcomes)))
    recovery = await measure_recovery(port)
    await asyncio.gather(*tasks)
    outcomes.elapsed = max(_SECONDS, outcomes.last_answer - started)
    return outcomes, recovery


async def measure_recovery(port: int) -> float:
    """Return the seconds until the first of five consecutive fast answers."""
    started_at = fast_since = time.monotonic()
    fast = 0
    while fast < 5 and time.monotonic() < started_at + _TIMEOUT_SECONDS:
        sent, outcomes = time.monotonic(), Outcomes()
        await send_request(port, _KINDS[1], outcomes)
        if outcomes.short and outcomes.short[0] < _FAST_SECONDS:
            fast_since = fast_since if fast else sent
            fast += 1
        else:
            fast = 0
        await asyncio.sleep(0.05)
    return fast_since - started_at if fast == 5 else _TIMEOUT_SECONDS


def find_percentile(seconds: list[float], share: float) -> str:
    """Return the percentile ``share`` (0 to 1) in milliseconds."""
    if not seconds:
        return "–"
    return f"{sorted(seconds)[min(len(seconds) - 1, int(len(seconds) * share))] * 1000:.0f}"


def describe_load(factor: float, rate: float, outcomes: Outcomes, recovery: float) -> str:
    """Format a row of the table."""
    total = outcomes.served + len(outcomes.refusals) + len(outcomes.faults)
    cells = [
        f"{factor:g}×",
        f"{rate:.0f}",
        f"{outcomes.served / outcomes.elapsed:.0f}",
        f"{len(outcomes.refusals) / max(1, total):.0%}",
        f"{find_percentile(outcomes.refusals, 0.5)} / {find_percentile(outcomes.refusals, 0.99)}",
        f"{find_percentile(outcomes.short, 0.5)} / {find_percentile(outcomes.short, 0.99)}",
        find_percentile(outcomes.first_bytes, 0.99),
        find_percentile(outcomes.gaps, 0.99),
        str(len(outcomes.faults)),
        f"{recovery:.1f}",
    ]
    return f"| {' | '.join(cells)} |"


_HEADER = """\
| load | offered/s | served/s | refused | refusal ms (p50 / p99) | short ms (p50 / p99) \
| first byte ms (p99) | longest gap ms (p99) | failed | recovery s |
|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|"""


def run_loads(limit: int, wait: float, folder: Path) -> Iterator[str]:
    """Run all loads, print the table, and yield the faults."""
    with ExitStack() as stack:
        upstream = stack.enter_context(run_server("upstream", ["bench.upstream", "{fd}"], folder))
        module = ["gunicorn", "-w", "1", "-b", "fd://{fd}", "wsgi:app"]
        env = make_forwarder_environment(upstream.port, "none") | {
            "FORWARDER_MAX_CONCURRENT": str(limit),
            "FORWARDER_QUEUE_TIMEOUT": str(wait),
            "FORWARDER_LOG_LEVEL": "ERROR",
        }
        port = stack.enter_context(run_server("forwarder", module, folder, env)).port
        asyncio.run(measure_capacity(port, 8, 0.5))  # warm-up
        capacity = asyncio.run(measure_capacity(port, limit * 9 // 10 or 90))
        print(f"One worker serves {capacity:.0f} requests a second.\n\n{_HEADER}", flush=True)
        for factor in (1, 2, 5, 10):
            outcomes, recovery = asyncio.run(send_load(port, capacity * factor))
            print(describe_load(factor, capacity * factor, outcomes, recovery), flush=True)
            yield from (f"{factor}×: {fault}" for fault in sorted(set(outcomes.faults))[:5])
            if recovery > MAX_RECOVERY:
                yield f"{factor}×: recovery took {recovery:.1f} s"


def main() -> int:
    """Run the loads; returns 0 if all requests were answered and the worker recovered."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.overload",
        description=_ABOUT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--limit",
        type=int,
        default=100,
        help="FORWARDER_MAX_CONCURRENT; 0 for no limit (default: 100)",
    )
    parser.add_argument(
        "--wait",
        type=float,
        default=2,
        help="FORWARDER_QUEUE_TIMEOUT in seconds; 0 for no limit (default: 2)",
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="overload-") as folder:
        faults = list(run_loads(options.limit, options.wait, Path(folder)))
    print("\n".join(["", *faults]), file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
