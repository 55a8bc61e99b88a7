"""The command: ``python -m bench``."""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from pathlib import Path

from bench import report
from bench.measure import Failed, measured, stage
from bench.workloads import WORKLOADS, Workload

_ABOUT = """\
Measure what the forwarder costs, next to a relay that copies the same bytes under the same server.

A scripted upstream, the relay, the forwarder (one worker each) and the load run as processes of
their own on loopback; nothing else is needed, and nothing is left running.  The figures are CPU
microseconds, user and system, of the target's processes alone.  Every answer is read to its end
and compared with what the upstream was told to say; a wrong one is reported and fails the run."""

_NOTES = """\
reading the table:
  client → upstream   the protocol asked in, and the one the forwarder asks in; the relay has no
                      choice and speaks the client's on both sides
  µs/chunk            per chunk that carries text, reasoning or arguments, the stream's opening
                      and ending included
  µs/request          per whole answer or per whole stream
  stored              beside a forwarder without a database instead of the relay
  ratio               the forwarder's cost to the relay's, in this run: the figure to compare
                      between machines and days, since microseconds change with both

How much of a burst arrives at once depends on how busy the machine is, and what arrives at once is
relayed at once; "paced", "short" and "history" are steadier than "burst" and "long".  All workloads
together take a little over a minute.

exit status: 0 when every answer was right, 1 otherwise.  Needs Linux (/proc)."""


def main() -> int:
    """Run the workloads that were asked for; 0 when every answer was right."""
    options = _options()
    for number in (signal.SIGINT, signal.SIGTERM):
        # an exception, so that what was started is stopped on the way out
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    try:
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            faults = _run(options.only or list(WORKLOADS), options.rounds, Path(folder))
    except Failed as failure:
        faults = [str(failure)]
    print("\n".join(["", *faults]) if faults else "", file=sys.stderr)
    return 1 if faults else 0


def _run(workloads: list[Workload], rounds: int, folder: Path) -> list[str]:
    faults = []
    with stage(folder) as (targets, ask):
        print(report.header(rounds), flush=True)
        for workload in workloads:
            figures = measured(workload, targets, ask, rounds)
            print(report.rows(workload, figures), flush=True)
            faults += report.faults(workload, figures)
    return faults


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description=_ABOUT,
        epilog=f"workloads:\n{_catalogue()}\n\n{_NOTES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--rounds", type=_positive, default=3, help="measurements of each figure (default: 3)"
    )
    parser.add_argument(
        "--only", type=_named, metavar="NAME,…", help="some workloads instead of all of them"
    )
    return parser.parse_args()


def _catalogue() -> str:
    return "\n".join(f"  {w.name:<13} {w.about} (c={w.connections})" for w in WORKLOADS)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError("must be a number from 1")
    return int(text)


def _named(text: str) -> list[Workload]:
    known = {workload.name: workload for workload in WORKLOADS}
    names = text.split(",")
    unknown = ", ".join(name for name in names if name not in known)
    if unknown:
        raise argparse.ArgumentTypeError(f"no workload is called {unknown}")
    return [known[name] for name in names]


if __name__ == "__main__":
    sys.exit(main())
