"""The soak test, many mixed streams for a long time, some with faults: ``python -m bench.soak``."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from random import Random
from statistics import median
from urllib.request import urlopen

from bench import load
from bench.measure import make_forwarder_environment
from bench.mixture import Turn, draw_turn
from bench.processes import ServerProcess, list_process_tree, run_server

_ABOUT = """\
Keep many concurrent streams open on one worker of the forwarder for some time: both protocols on
either side, streams and whole answers, reasoning and tools. The upstream cuts 5 % of the answers
and refuses 5 % with a 500; clients abandon another 5 %.

The laws: every answer ends exactly once, as expected; memory does not grow between the second and
the last quarter of the time; and afterwards no additional resources are open.

exit status: 0 if the laws hold, 1 otherwise. Needs Linux (/proc)."""

_TIMEOUT_SECONDS = 60
"""Timeout in seconds of an answer, and of the release of all resources."""

_MAX_GROWTH_BYTES = 12 * 2**20
"""Allowed memory growth in bytes: above allocator noise, below a leak of ten minutes."""

_ALLOWED_DIFFERENCES = {
    "descriptors": 4,
    "connections": 4,
    "greenlets": 4,
    "threads": 1,
    "exchanges": 0,
}
"""Allowed difference of open resources: idle connections of the pools."""

OpenResources = dict[str, int]


class Soak:
    """Sends the load and counts outcomes and faults."""

    def __init__(self, port: int, seed: int = 0) -> None:
        self.outcomes: Counter[str] = Counter()
        self.broken: Counter[str] = Counter()
        self._port = port
        self._random = Random(seed)

    async def run(self, streams: int, seconds: float) -> None:
        """Keep ``streams`` streams open for ``seconds``, then wait for the last answers."""
        end = time.monotonic() + seconds
        await asyncio.gather(*(self._run_clients(end) for _ in range(streams)))

    async def _run_clients(self, end: float) -> None:
        """Run one client after another; each one keeps its connection until a fault."""
        while time.monotonic() < end:
            reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
            with closing(writer):
                while time.monotonic() < end:
                    turn = draw_turn(self._random)
                    writer.write(turn.build_request(self._port))
                    if not await self._receive_answer(turn, reader):
                        break

    async def _receive_answer(self, turn: Turn, reader: asyncio.StreamReader) -> bool:
        """Read and record the answer of a turn. Returns whether the connection is reusable."""
        if turn.fault == "leave":
            with suppress(TimeoutError):
                await asyncio.wait_for(reader.read(4096), self._random.random())
            self.outcomes["left by the client"] += 1
            return False
        try:
            raw = await asyncio.wait_for(load.read_answer(reader), _TIMEOUT_SECONDS)
        except (OSError, TimeoutError) as error:
            self._record_outcome(
                turn, f"{turn.client}, {turn.fault or 'sound'}: no end ({error!r})"
            )
            return False
        self._record_outcome(turn, turn.find_fault(raw))
        return True

    def _record_outcome(self, turn: Turn, fault: str | None) -> None:
        if fault:
            self.broken[fault] += 1
        kind = "streamed" if turn.workload.streamed else "whole"
        outcome = {"cut": "cut by the upstream", "fail": "refused by the upstream"}
        self.outcomes[f"{outcome.get(turn.fault or '', 'completed')}, {kind}"] += 1


class Watch:
    """Samples the memory of a worker once per second."""

    def __init__(self, pid: int) -> None:
        self.memory: list[int] = []
        self._pid = pid

    async def run(self, soak: Soak, streams: int, seconds: float) -> None:
        """Run a soak and print its progress."""
        started_at, next_report_at = time.monotonic(), 0.0
        running = asyncio.create_task(soak.run(streams, seconds))
        while not running.done():
            self.memory.append(read_memory(self._pid))
            passed = time.monotonic() - started_at
            if passed >= next_report_at:
                size = f"{self.memory[-1] / 2**20:6.1f} MiB"
                print(f"{passed:6.0f} s  {size}  {soak.outcomes.total():7d} answers", flush=True)
                next_report_at += max(5.0, seconds / 20)
            await asyncio.wait([running], timeout=1)
        await running

    def compute_growth(self) -> float:
        """Return the memory growth in bytes from the second quarter of the time to the last."""
        quarter = max(1, len(self.memory) // 4)
        return median(self.memory[-quarter:]) - median(self.memory[quarter : 2 * quarter])


def read_memory(pid: int) -> int:
    """Return the resident memory of a process in bytes."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def read_open_resources(port: int) -> OpenResources:
    """Return the open resources of the worker."""
    with urlopen(f"http://127.0.0.1:{port}/_held", timeout=_TIMEOUT_SECONDS) as answer:
        resources: OpenResources = json.loads(answer.read())
    return resources


def wait_for_release(port: int, before: OpenResources) -> OpenResources:
    """Wait until no additional resources are open, or for the timeout; returns the open resources.

    A pool closes expired idle connections only when another connection is returned, so this sends
    a few requests.
    """
    end = time.monotonic() + _TIMEOUT_SECONDS
    while list_leaks(before, read_open_resources(port)) and time.monotonic() < end:
        time.sleep(3)
        warm_up(port)
    return read_open_resources(port)


def warm_up(port: int) -> None:
    """Send a few mixed requests, so that lazily created resources exist."""
    asyncio.run(Soak(port).run(streams=8, seconds=0.5))


def list_leaks(before: OpenResources, after: OpenResources) -> list[str]:
    """Describe the resources that are open after but not before."""
    growth = {name: after[name] - before[name] for name in before}
    return [
        f"{count} more {n} than before"
        for n, count in growth.items()
        if count > _ALLOWED_DIFFERENCES[n]
    ]


def run_soak(streams: int, minutes: float, seed: int, folder: Path) -> list[str]:
    """Run the soak test; returns the broken laws."""
    with ExitStack() as stack:
        upstream = stack.enter_context(run_server("upstream", ["bench.upstream", "{fd}"], folder))
        module = ["gunicorn", "-w", "1", "-b", "fd://{fd}", "bench.watched:app"]
        settings = make_forwarder_environment(upstream.port, f"sqlite:///{folder}/state.db")
        env = {**settings, "FORWARDER_LOG_LEVEL": "ERROR"}
        forwarder = stack.enter_context(run_server("forwarder", module, folder, env))
        warm_up(forwarder.port)
        before = read_open_resources(forwarder.port)
        soak, watch = Soak(forwarder.port, seed), Watch(find_worker(forwarder))
        asyncio.run(watch.run(soak, streams, minutes * 60))
        after = wait_for_release(forwarder.port, before)
        print(format_report(soak, watch, before, after), flush=True)
        log_end = forwarder.read_log_end().strip()
    tracebacks = [log_end] if "Traceback" in log_end else []
    return (
        list_broken_laws(soak.broken, watch.compute_growth(), list_leaks(before, after))
        + tracebacks
    )


def find_worker(forwarder: ServerProcess) -> int:
    _, worker = list_process_tree(forwarder.pid)
    return worker


def format_report(soak: Soak, watch: Watch, before: OpenResources, after: OpenResources) -> str:
    lines = [f"  {count:8d}  {outcome}" for outcome, count in sorted(soak.outcomes.items())]
    grown = f"memory: {watch.compute_growth() / 2**20:+.1f} MiB from the second quarter to the last"
    resource_lines = [
        f"{name}: {count} before, {after[name]} after" for name, count in before.items()
    ]
    return "\n".join(["", "outcomes:", *lines, grown, *resource_lines])


def list_broken_laws(broken_laws: Counter[str], growth: float, leaked: list[str]) -> list[str]:
    """Return one line per broken law."""
    grown = [f"memory grew by {growth / 2**20:.1f} MiB"] if growth > _MAX_GROWTH_BYTES else []
    return [f"{count} x {law}" for law, count in broken_laws.most_common(20)] + grown + leaked


def main() -> int:
    """Run the soak test from the command line; returns 0 if all laws held."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.soak",
        description=_ABOUT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--minutes", type=float, default=10, help="how long (default: 10)")
    parser.add_argument("--streams", type=int, default=200, help="at once (default: 200)")
    parser.add_argument("--seed", type=int, default=1, help="of the mixture (default: 1)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        broken = run_soak(options.streams, options.minutes, options.seed, Path(folder))
    print("\n".join(["", "broken laws:", *broken]) if broken else "\nall laws held", flush=True)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
