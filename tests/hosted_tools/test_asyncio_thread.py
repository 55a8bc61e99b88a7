"""Coroutines in a thread beside greenlets."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time

import pytest

from forwarder.hosted_tools import asyncio_thread
from forwarder.hosted_tools.asyncio_thread import (
    AsyncioThread,
    TaskCancelled,
    run_in_native_thread,
)
from tests.hosted_tools.mcp_server_process import serving_mcp


async def wait_and_return(seconds: float) -> float:
    await asyncio.sleep(seconds)
    return seconds


async def raise_error() -> None:
    raise ZeroDivisionError


def test_task_returns_its_result_or_raises_its_exception() -> None:
    thread = AsyncioThread()
    assert thread.start_task(lambda: wait_and_return(0.01)).unwrap() == 0.01
    with pytest.raises(ZeroDivisionError):
        thread.start_task(raise_error).unwrap()
    thread.close()


def test_wait_returns_whether_the_task_has_ended() -> None:
    thread = AsyncioThread()
    task = thread.start_task(lambda: wait_and_return(0.3))
    assert not task.wait(0.01)
    assert task.wait(5)
    assert task.is_done
    thread.close()


def test_task_ends_at_its_time_limit_and_when_cancelled() -> None:
    thread = AsyncioThread()
    with pytest.raises(TimeoutError):
        thread.start_task(lambda: wait_and_return(60), 0.05).unwrap()
    task = thread.start_task(lambda: wait_and_return(60))
    task.cancel()
    with pytest.raises(TaskCancelled):
        task.unwrap()
    thread.close()


def test_close_cancels_tasks_and_ends_the_thread() -> None:
    thread = AsyncioThread()
    task = thread.start_task(lambda: wait_and_return(60))
    started_at = time.monotonic()
    thread.close()
    thread.close()
    assert time.monotonic() - started_at < 3
    with pytest.raises(TaskCancelled):
        task.unwrap()
    with pytest.raises(TaskCancelled):
        thread.start_task(lambda: wait_and_return(0))


def test_unused_thread_is_closed_immediately() -> None:
    AsyncioThread().close()


def fail_to_start(work: object, arguments: object) -> int:
    raise RuntimeError("can't start new thread")


def test_failed_thread_start_is_retried_by_the_next_task(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    thread = AsyncioThread()
    with monkeypatch.context() as patch:
        patch.setattr(asyncio_thread, "start_native_thread", fail_to_start)
        with pytest.raises(RuntimeError):
            thread.start_task(lambda: asyncio.sleep(0, 5))
    try:
        task = thread.start_task(lambda: asyncio.sleep(0, 5))
        assert task.wait(5)
        assert task.unwrap() == 5
    finally:
        thread.close()


def test_end_of_blocking_work_is_reported_if_no_thread_can_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(asyncio_thread, "start_native_thread", fail_to_start)
    ended = threading.Event()
    with pytest.raises(RuntimeError):
        asyncio.run(run_in_native_thread(threading.get_ident, ended.set))
    assert ended.is_set()


def test_blocking_work_runs_in_a_native_thread() -> None:
    thread = AsyncioThread()
    ended = threading.Event()

    async def run() -> int:
        with pytest.raises(ZeroDivisionError):
            await run_in_native_thread(lambda: 1 // 0)
        return await run_in_native_thread(threading.get_ident, ended.set)

    assert thread.start_task(run).unwrap() != threading.get_ident()
    assert ended.wait(5)
    thread.close()


UNDER_GEVENT = """
from gevent import monkey
monkey.patch_all()
import sys, time, gevent
from forwarder.core.blocking_work import get_address_info
from forwarder.core.ssrf import AddressGuard
from forwarder.hosted_tools.mcp_client import McpClient
from forwarder.hosted_tools.mcp_server import McpServer

client = McpClient(AddressGuard(["localhost"], get_address_info))
remote = McpServer("remote", url=sys.argv[1].replace("127.0.0.1", "localhost") + "/mcp")
module = "tests.hosted_tools.mcp_server_process"
command = (sys.executable, "-m", module, "--transport", "stdio")
local = McpServer("local", command=command, is_trusted=True)
ticks = []

def tick():
    while True:
        ticks.append(time.monotonic())
        gevent.sleep(0.01)

def call(server):
    connections = client.open_connections()
    texts = [connections.call_tool(server, "echo", {"text": str(i)}).unwrap().text for i in range(3)]
    connections.close()
    return texts

def hang():
    connections = client.open_connections()
    task = connections.call_tool(remote, "hang", {"seconds": 0.5})
    assert not task.wait(0.05)
    assert task.unwrap().text == "slept"
    connections.close()

call(remote), call(local)
gevent.spawn(tick)
jobs = [gevent.spawn(call, server) for server in [remote] * 8 + [local] * 2]
hanging = gevent.spawn(hang)
gevent.joinall([*jobs, hanging], raise_error=True)
assert all(job.value == ["0", "1", "2"] for job in jobs)
stall = max(b - a for a, b in zip(ticks, ticks[1:]))
assert len(ticks) > 20 and stall < 0.5, (len(ticks), stall)
client.close()
print("fine")
"""


@pytest.mark.live
def test_under_gevent_greenlets_run_while_tools_are_called() -> None:
    with serving_mcp() as root:
        process = subprocess.run(
            [sys.executable, "-c", UNDER_GEVENT, root], capture_output=True, text=True, timeout=60
        )
    assert process.stdout == "fine\n", process.stderr
