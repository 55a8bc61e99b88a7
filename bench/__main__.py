"""The command: ``python -m bench``."""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from bench import report
from bench.measure import MeasurementFailed, measure_workload, start_targets
from bench.workloads import WORKLOADS, Workload

_ABOUT = """\
Measure the cost of the forwarder, compared with a relay that copies the same bytes under the same
server.

A scripted upstream, the relay, the forwarder (one worker each) and the load run as separate
processes on loopback. The command needs nothing else and leaves nothing running. The figures are
CPU microseconds (user and system) of the target's processes only. Every answer is read completely
and compared with the script; the command reports wrong answers and fails."""

_NOTES = """\
reading the table:
  client → upstream   the protocol of the client, and the one of the forwarder's upstream request;
                      the relay uses the client's protocol on both sides
  µs/chunk            per chunk with text, reasoning or arguments, including the start and the end
                      of the stream
  µs/request          per whole answer or per whole stream
  stored              compared with a forwarder without a database instead of the relay
  ratio               cost of the forwarder / cost of the relay in this run: compare this figure
                      between machines and days, since microseconds vary with both

On a busy machine more chunks of a burst arrive together and are relayed together, so "paced",
"short" and "history" are more stable than "burst" and "long". All workloads together take a little
over a minute.

exit status: 0 if every answer was correct, 1 otherwise. Needs Linux (/proc)."""


def main() -> int:
    """Run the selected workloads; returns 0 if every answer was correct, otherwise 1."""
    options = parse_options()
    for number in (signal.SIGINT, signal.SIGTERM):
        # SystemExit, so that the context managers stop the started processes
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    try:
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            workloads = options.only or list(WORKLOADS)
            faults = run_workloads(workloads, options.rounds, Path(folder), options.base)
    except MeasurementFailed as failure:
        faults = [str(failure)]
    print("\n".join(["", *faults]) if faults else "", file=sys.stderr)
    return 1 if faults else 0


def run_workloads(
    workloads: list[Workload], rounds: int, folder: Path, base: Path | None
) -> list[str]:
    faults = []
    if base is not None:
        workloads = [replace(workload, beside="base") for workload in workloads]
    with start_targets(folder, base) as (targets, run_job):
        print(report.format_header(rounds, "relay" if base is None else "base"), flush=True)
        for workload in workloads:
            figures = measure_workload(workload, targets, run_job, rounds)
            print(report.format_rows(workload, figures), flush=True)
            faults += report.list_faults(workload, figures)
    return faults


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description=_ABOUT,
        epilog=f"workloads:\n{describe_workloads()}\n\n{_NOTES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--rounds", type=parse_positive, default=3, help="measurements of each figure (default: 3)"
    )
    parser.add_argument(
        "--base",
        type=Path,
        metavar="DIRECTORY",
        help="compare with the forwarder of another checkout instead of the relay",
    )
    parser.add_argument(
        "--only",
        type=parse_workload_names,
        metavar="NAME,…",
        help="some workloads instead of all of them",
    )
    return parser.parse_args()


def describe_workloads() -> str:
    return "\n".join(f"  {w.name:<13} {w.about} (c={w.connections})" for w in WORKLOADS)


def parse_positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError("must be a number from 1")
    return int(text)


def parse_workload_names(text: str) -> list[Workload]:
    workloads = {workload.name: workload for workload in WORKLOADS}
    names = text.split(",")
    unknown = ", ".join(name for name in names if name not in workloads)
    if unknown:
        raise argparse.ArgumentTypeError(f"no workload is called {unknown}")
    return [workloads[name] for name in names]


if __name__ == "__main__":
    sys.exit(main())
