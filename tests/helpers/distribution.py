"""The order in which pytest-xdist's workers get the tests.

pytest-xdist cuts the list of tests into equal parts, one for each worker, and moves tests to idle
workers later. In the order of the folders, some workers would get only live tests, which wait a
lot, and others only tests that compute. The last live tests would then run one after the other
while all other workers are idle.
"""

from __future__ import annotations

import itertools

import pytest

Module = list[pytest.Item]

LIVE_SHARE = 0.5
"""The first part of each worker's modules contains its live ones, so that short tests end the run."""


def distribute_tests(items: list[pytest.Item], worker_count: int) -> list[pytest.Item]:
    """Return the tests in an order in which each worker has about as many live tests as the others.

    The tests of a module stay together, because they share servers.
    """
    live: list[Module] = []
    others: list[Module] = []
    for _, group in itertools.groupby(items, key=lambda item: item.path):
        module = list(group)
        (live if module[0].get_closest_marker("live") else others).append(module)
    parts: list[tuple[list[Module], list[Module]]] = [([], []) for _ in range(worker_count)]
    sizes = [0] * worker_count
    for kind, modules in enumerate((live, others)):
        for module in sorted(modules, key=rank_module):
            smallest = sizes.index(min(sizes))
            parts[smallest][kind].append(module)
            sizes[smallest] += len(module)
    return [item for part in parts for item in mix_modules(*part)]


def rank_module(module: Module) -> tuple[bool, int]:
    """Return a sort key that puts slow modules first, and among others the largest."""
    return module[0].get_closest_marker("slow") is None, -len(module)


def mix_modules(live: list[Module], others: list[Module]) -> list[pytest.Item]:
    positions = [
        (share * index / len(modules), module)
        for modules, share in ((live, LIVE_SHARE), (others, 1.0))
        for index, module in enumerate(modules)
    ]
    return [item for _, module in sorted(positions, key=lambda each: each[0]) for item in module]
