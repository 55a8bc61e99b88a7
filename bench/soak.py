"""Many mixed streams for a long time, some of them broken: ``python -m bench.soak``."""

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
from bench.measure import environment_for
from bench.mixture import Turn, drawn
from bench.processes import Running, serving, tree

_ABOUT = """\
Ask one worker of the forwarder for many answers at once, for some time: both protocols on either
side, streams and whole answers, reasoning and tools.  One in twenty is cut by the upstream, one
in twenty refused with a 500, and one in twenty left by its client.

The laws: every answer ends exactly once, as it has to; memory does not grow from the second
quarter of the time to the last; and in the end nothing is held that was not held before.

exit status: 0 when they hold, 1 otherwise.  Needs Linux (/proc)."""

_PATIENCE = 60
"""Seconds in which an answer has to end, and in which everything has to be let go of."""

_GROWTH = 12 * 2**20
"""Bytes that memory may grow: what an allocator moves, not what a leak takes in ten minutes."""

_SPARE = {"descriptors": 4, "connections": 4, "greenlets": 4, "threads": 1, "exchanges": 0}
"""How much more of each may be held after than before: the pools' kept connections."""

Held = dict[str, int]


class Soak:
    """The load, and what became of it."""

    def __init__(self, port: int, seed: int = 0) -> None:
        self.outcomes: Counter[str] = Counter()
        self.broken: Counter[str] = Counter()
        self._port = port
        self._random = Random(seed)

    async def run(self, streams: int, seconds: float) -> None:
        """Keep so many streams open for so long, and let them end."""
        end = time.monotonic() + seconds
        await asyncio.gather(*(self._client(end) for _ in range(streams)))

    async def _client(self, end: float) -> None:
        """One client after the other; each keeps its connection until something goes wrong."""
        while time.monotonic() < end:
            reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
            with closing(writer):
                while time.monotonic() < end:
                    turn = drawn(self._random)
                    writer.write(turn.request(self._port))
                    if not await self._took(turn, reader):
                        break

    async def _took(self, turn: Turn, reader: asyncio.StreamReader) -> bool:
        """Take the answer of a turn and note how it ended; may the connection be used again?"""
        if turn.fault == "leave":
            with suppress(TimeoutError):
                await asyncio.wait_for(reader.read(4096), self._random.random())
            self.outcomes["left by the client"] += 1
            return False
        try:
            raw = await asyncio.wait_for(load.answer(reader), _PATIENCE)
        except (OSError, TimeoutError) as error:
            self._note(turn, f"{turn.client}, {turn.fault or 'sound'}: no end ({error!r})")
            return False
        self._note(turn, turn.wrong(raw))
        return True

    def _note(self, turn: Turn, wrong: str | None) -> None:
        if wrong:
            self.broken[wrong] += 1
        kind = "streamed" if turn.workload.streamed else "whole"
        outcome = {"cut": "cut by the upstream", "fail": "refused by the upstream"}
        self.outcomes[f"{outcome.get(turn.fault or '', 'completed')}, {kind}"] += 1


class Watch:
    """The memory of a worker, looked at each second."""

    def __init__(self, pid: int) -> None:
        self.memory: list[int] = []
        self._pid = pid

    async def run(self, soak: Soak, streams: int, seconds: float) -> None:
        """Run a soak, and say now and then how it goes."""
        began, told = time.monotonic(), 0.0
        running = asyncio.create_task(soak.run(streams, seconds))
        while not running.done():
            self.memory.append(memory_of(self._pid))
            passed = time.monotonic() - began
            if passed >= told:
                size = f"{self.memory[-1] / 2**20:6.1f} MiB"
                print(f"{passed:6.0f} s  {size}  {soak.outcomes.total():7d} answers", flush=True)
                told += max(5.0, seconds / 20)
            await asyncio.wait([running], timeout=1)
        await running

    def growth(self) -> float:
        """Bytes by which the last quarter of the time needs more memory than the second."""
        quarter = max(1, len(self.memory) // 4)
        return median(self.memory[-quarter:]) - median(self.memory[quarter : 2 * quarter])


def memory_of(pid: int) -> int:
    """The resident bytes of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def held_by(port: int) -> Held:
    """What the worker holds."""
    with urlopen(f"http://127.0.0.1:{port}/_held", timeout=_PATIENCE) as answer:
        held: Held = json.loads(answer.read())
    return held


def let_go(port: int, before: Held) -> Held:
    """What is held when all is quiet again, or after some time.

    An idle connection to an upstream is let go of when the next one is given back and it is too
    old, so a few requests are made.
    """
    end = time.monotonic() + _PATIENCE
    while leaks(before, held_by(port)) and time.monotonic() < end:
        time.sleep(3)
        warm(port)
    return held_by(port)


def warm(port: int) -> None:
    """One request of every kind, so that what is made once is there."""
    asyncio.run(Soak(port).run(streams=8, seconds=0.5))


def leaks(before: Held, after: Held) -> list[str]:
    """What is held after that was not before."""
    more = {name: after[name] - before[name] for name in before}
    return [f"{count} more {n} than before" for n, count in more.items() if count > _SPARE[n]]


def soaked(streams: int, minutes: float, seed: int, folder: Path) -> list[str]:
    """Run all of it; the laws that were broken."""
    with ExitStack() as stack:
        upstream = stack.enter_context(serving("upstream", ["bench.upstream", "{fd}"], folder))
        module = ["gunicorn", "-w", "1", "-b", "fd://{fd}", "bench.watched:app"]
        settings = environment_for(upstream.port, f"sqlite:///{folder}/state.db")
        env = {**settings, "FORWARDER_LOG_LEVEL": "ERROR"}
        forwarder = stack.enter_context(serving("forwarder", module, folder, env))
        warm(forwarder.port)
        before = held_by(forwarder.port)
        soak, watch = Soak(forwarder.port, seed), Watch(_worker_of(forwarder))
        asyncio.run(watch.run(soak, streams, minutes * 60))
        after = let_go(forwarder.port, before)
        print(_report(soak, watch, before, after), flush=True)
        words = forwarder.last_words().strip()
    unforeseen = [words] if "Traceback" in words else []
    return broken_laws(soak.broken, watch.growth(), leaks(before, after)) + unforeseen


def _worker_of(forwarder: Running) -> int:
    _, worker = tree(forwarder.pid)
    return worker


def _report(soak: Soak, watch: Watch, before: Held, after: Held) -> str:
    lines = [f"  {count:8d}  {outcome}" for outcome, count in sorted(soak.outcomes.items())]
    grown = f"memory: {watch.growth() / 2**20:+.1f} MiB from the second quarter to the last"
    held = [f"{name}: {count} before, {after[name]} after" for name, count in before.items()]
    return "\n".join(["", "outcomes:", *lines, grown, *held])


def broken_laws(wrong: Counter[str], growth: float, leaked: list[str]) -> list[str]:
    """One line for each law that did not hold."""
    grown = [f"memory grew by {growth / 2**20:.1f} MiB"] if growth > _GROWTH else []
    return [f"{count} x {what}" for what, count in wrong.most_common(20)] + grown + leaked


def main() -> int:
    """Soak as long and as wide as asked; 0 when every law held."""
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
        broken = soaked(options.streams, options.minutes, options.seed, Path(folder))
    print("\n".join(["", "broken laws:", *broken]) if broken else "\nall laws held", flush=True)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
