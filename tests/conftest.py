"""Fixtures and hooks for the whole test run."""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import sys
from collections.abc import Generator
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from tests.helpers.distribution import distribute_tests
from tests.helpers.serial import SerialTests

LIVE = Path(__file__).parent / "live"

MEMORY = Path("/dev/shm")
MIN_FREE_MEMORY = 2**30
"""Bytes that must be free in `MEMORY` if the quick lane puts its files there."""

GC_THRESHOLD = 20_000
"""New objects between two collections; with the default, they take a tenth of the run."""

# Without bytecode, every worker of every run would compile all tests, and rewrite their assertions.
sys.dont_write_bytecode = False


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Two workers per processor, since live tests wait a lot; none if only test files are given."""
    if len(_list_named_files(config)) == len(config.args):
        return 0
    return (1 if _skips_live(config) else 2) * (os.cpu_count() or 1)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Spare the quick lane the import of the live tests, and of their clients."""
    return True if collection_path == LIVE and _skips_live(config) else None


@pytest.hookimpl(trylast=True)  # when all tests have their markers
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out exhaustive tests, unless the options name their marker or file."""
    if "exhaustive" not in config.option.markexpr:
        named_files = _list_named_files(config)
        left_out = {
            item
            for item in items
            if item.get_closest_marker("exhaustive") and item.path not in named_files
        }
        if left_out:
            config.hook.pytest_deselected(items=[*left_out])
            items[:] = [item for item in items if item not in left_out]
    if hasattr(config, "workerinput"):
        items[:] = distribute_tests(items, config.workerinput["workercount"])


def _list_named_files(config: pytest.Config) -> list[Path]:
    paths = (Path(argument.partition("::")[0]) for argument in config.args)
    return [path.absolute() for path in paths if path.is_file()]


def _skips_live(config: pytest.Config) -> bool:
    return "not live" in config.option.markexpr


def pytest_configure(config: pytest.Config) -> None:
    """Load the fixtures of applications where tests run, which is not xdist's main process.

    The quick lane has its files in memory: databases on a disk take a third of its time.
    """
    if _skips_live(config) and _can_use_memory():
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))
    if hasattr(config, "workerinput") or config.option.dist == "no":
        config.pluginmanager.import_plugin("tests.helpers.applications")
    if run := os.environ.get("PYTEST_XDIST_TESTRUNUID"):
        config.pluginmanager.register(SerialTests(run))


def _can_use_memory() -> bool:
    return os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > MIN_FREE_MEMORY


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Refuse processes to tests without the marker ``live``, which keeps the quick lane quick."""
    if item.get_closest_marker("live") is not None:
        return (yield)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess.Popen, "__init__", _refuse_process)
        patch.setattr(BaseProcess, "start", _refuse_process)
        return (yield)


def _refuse_process(*_: object, **__: object) -> None:
    # An OSError, because libraries that ask `uname` about the machine go on without it.
    raise PermissionError("A test that starts a process needs the marker 'live'.")


def pytest_collection() -> None:
    gc.disable()


def pytest_collection_finish() -> None:
    gc.freeze()  # modules and tests stay
    gc.set_threshold(GC_THRESHOLD)
    gc.enable()
