"""Formats the results as a Markdown table with one row per workload and client."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from statistics import median

from bench.measure import Figures, Key
from bench.workloads import Workload

_HEADER = """\
| workload | client → upstream | {0} µs/chunk | forwarder µs/chunk | {0} µs/request \
| forwarder µs/request | ratio |
|---|---|--:|--:|--:|--:|--:|"""


def format_header(rounds: int, beside: str) -> str:
    """Return a description of the environment and the table header."""
    return (
        f"CPU time (user and system) on Python {platform.python_version()}, "
        f"{os.cpu_count()} cores, one worker; median of {rounds} rounds.\n\n"
        f"{_HEADER.format(beside)}"
    )


def format_rows(workload: Workload, figures: Mapping[Key, Figures]) -> str:
    """Return a workload's rows; the ratio is the forwarder's cost / the cost of ``beside``."""
    return "\n".join(format_row(workload, client, figures) for client in workload.clients)


def list_faults(workload: Workload, figures: Mapping[Key, Figures]) -> list[str]:
    """Return one line per distinct fault."""
    return [
        f"{workload.name}, {client} client, {target}: {fault}"
        for (client, target), client_figures in figures.items()
        for fault in sorted(set(client_figures.faults))
    ]


def format_row(workload: Workload, client: str, figures: Mapping[Key, Figures]) -> str:
    costs = [
        compute_median(figures[client, target].costs) for target in (workload.beside, "forwarder")
    ]
    chunks = workload.shape.chunks if workload.streamed else 0
    cells = [
        workload.name,
        f"{client} → {workload.get_upstream(client)}",
        *(f"{cost / chunks:.1f}" if cost and chunks else "–" for cost in costs),
        *(f"{cost:.0f}" if cost else "–" for cost in costs),
        format_ratio(costs[1] / costs[0]) if all(costs) else "–",
    ]
    return "| " + " | ".join(cells) + " |"


def format_ratio(value: float) -> str:
    return f"{value:.1f}" if value >= 2 else f"{value:.2f}"  # near 1, a tenth is significant


def compute_median(costs: list[float]) -> float:
    return median(costs) if costs else 0.0
