"""The measurement: every target runs the same job in each round, and its CPU time is recorded.

Targets alternate within a round, so that a slow drift of the machine affects all of them equally.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from bench.load import Job, Outcome
from bench.processes import ROOT, ServerProcess, make_environment, run_server, stop_process
from bench.workloads import Workload

_SERVER = ["gunicorn", "-w", "1", "-b", "fd://{fd}", "--no-control-socket"]
JobRunner = Callable[[Job], Outcome]


class MeasurementFailed(Exception):
    """A target could not be measured."""


@dataclass
class Figures:
    """CPU microseconds per answered request, one figure per round, and the faults."""

    costs: list[float] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


Key = tuple[str, str]
"""The client's protocol and the target's name."""


@contextmanager
def start_targets(
    folder: Path, base: Path | None = None
) -> Iterator[tuple[list[ServerProcess], JobRunner]]:
    """Start the targets and the load generator; stop all of them at the end of the context.

    ``base`` is another checkout, whose forwarder is the target ``base``.
    """
    with ExitStack() as stack:
        upstream = stack.enter_context(run_server("upstream", ["bench.upstream", "{fd}"], folder))
        relay = [*_SERVER, "bench.relay:app"]
        forwarder = [*_SERVER, "wsgi:app"]
        forwarders = [
            ("unstored", "none", ROOT),
            ("forwarder", f"sqlite:///{folder}/state.db", ROOT),
        ]
        if base is not None:
            forwarders.append(("base", f"sqlite:///{folder}/base.db", base))
        targets = [
            stack.enter_context(
                run_server("relay", relay, folder, make_relay_environment(upstream.port))
            ),
            *(
                stack.enter_context(
                    run_server(
                        name,
                        forwarder,
                        folder,
                        make_forwarder_environment(upstream.port, database),
                        checkout,
                    )
                )
                for name, database, checkout in forwarders
            ),
        ]
        yield targets, stack.enter_context(start_load())


def make_relay_environment(port: int) -> dict[str, str]:
    return {"RELAY_PORT": str(port)}


def make_forwarder_environment(port: int, database: str) -> dict[str, str]:
    """Return the environment of a forwarder with this database and all upstreams on one port."""
    url = f"http://127.0.0.1:{port}/v1"
    names = ("CHAT", "RESPONSES")
    settings = {f"{name}_BASE_URL": url for name in names}
    settings |= {f"{name}_API_KEY": "sk-bench" for name in names}
    return settings | {"FORWARDER_DOTENV": "", "FORWARDER_DATABASE_URL": database}


@contextmanager
def start_load() -> Iterator[JobRunner]:
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.load"],
        cwd=ROOT,
        env=make_environment({}),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )

    stdin, stdout = process.stdin, process.stdout
    assert stdin is not None
    assert stdout is not None

    def run_job(job: Job) -> Outcome:
        stdin.write(json.dumps(asdict(job)).encode() + b"\n")
        stdin.flush()
        answer = stdout.readline()
        if not answer:
            raise MeasurementFailed("the load has ended")
        return Outcome(**json.loads(answer))

    try:
        yield run_job
    finally:
        stop_process(process)


def measure_workload(
    workload: Workload, targets: Sequence[ServerProcess], run_job: JobRunner, rounds: int
) -> dict[Key, Figures]:
    """Measure one workload for each client and target."""
    compared = [target for target in targets if target.name in (workload.beside, "forwarder")]
    turns = [(client, target) for client in workload.clients for target in compared]
    if not workload.shape.pause:  # paced workloads need no warm-up, and it would take long
        for client, target in turns:
            warm_up_target(workload, client, target, run_job)
    figures = {(client, target.name): Figures() for client, target in turns}
    for _ in range(rounds):
        for client, target in turns:
            measure_round(workload, client, target, run_job, figures[client, target.name])
    return figures


def warm_up_target(
    workload: Workload, client: str, target: ServerProcess, run_job: JobRunner
) -> None:
    outcome = run_job(Job(target.port, client, workload.name, workload.connections))
    if not outcome.completed:
        raise MeasurementFailed(
            f"{target.name} does not answer '{workload.name}' from a {client} client: "
            f"{'; '.join(outcome.faults)}\n{target.read_log_end()}"
        )


def measure_round(
    workload: Workload, client: str, target: ServerProcess, run_job: JobRunner, figures: Figures
) -> None:
    before = target.read_cpu_time()
    outcome = run_job(Job(target.port, client, workload.name, workload.requests))
    cpu_seconds = target.read_cpu_time() - before
    figures.faults += outcome.faults
    if outcome.completed:
        figures.costs.append(cpu_seconds / outcome.completed)
