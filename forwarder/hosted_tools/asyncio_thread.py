"""Runs asyncio code beside gevent: one event loop in a native thread.

The loop waits with the operating system's selector, so that it never enters gevent's hub and a
blocked hub never delays it. A caller gets a `PendingTask` and waits in its own greenlet; the loop
wakes the greenlet through an async watcher of its hub.

Under gevent, `threading`, `subprocess` and `loop.run_in_executor` are gevent's own versions, which
cannot be used in the loop's thread. Blocking work of the loop runs by `run_in_native_thread`.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Generic, Protocol, TypeVar

import anyio
from gevent import get_hub, monkey
from gevent.event import Event as GreenletEvent

from forwarder.core.blocking_work import TaskResult

T = TypeVar("T")

start_native_thread: Callable[[Callable[..., object], tuple[Any, ...]], int] = monkey.get_original(
    "_thread", "start_new_thread"
)

CLOSE_SECONDS = 5.0
"""Seconds that `AsyncioThread.close` waits for cancelled tasks to end."""


class TaskCancelled(Exception):
    """The task was cancelled before it ended."""


class Signal(Protocol):
    """An event that the loop's thread sets and the caller waits for."""

    def set(self) -> object:
        """Wake the waiting caller."""

    def wait(self, timeout: float | None) -> bool:
        """Return whether the signal was set within ``timeout`` seconds."""


class GreenletSignal:
    """A signal whose waiting side is a greenlet of the hub that created it.

    It must be set once. Until then its watcher keeps the hub alive.
    """

    def __init__(self) -> None:
        self._event = GreenletEvent()
        self._watcher = get_hub().loop.async_()
        self._watcher.start(self._wake_greenlet)

    def set(self) -> None:
        self._watcher.send()

    def _wake_greenlet(self) -> None:
        self._watcher.stop()
        self._watcher.close()
        self._event.set()

    def wait(self, timeout: float | None) -> bool:
        return bool(self._event.wait(timeout))


def make_signal() -> Signal:
    return GreenletSignal() if monkey.is_module_patched("threading") else threading.Event()


class PendingTask(Generic[T]):
    """A coroutine that runs in the loop's thread; only the thread that started it may wait."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._done = make_signal()
        self._outcome: TaskResult[T] | None = None
        self._scope: anyio.CancelScope | None = None
        self._is_cancelled = False

    @property
    def is_done(self) -> bool:
        return self._outcome is not None

    def wait(self, seconds: float | None = None) -> bool:
        """Wait for the end of the task; return whether it has ended."""
        return self.is_done or self._done.wait(seconds)

    def unwrap(self) -> T:
        """Wait for the end and return the result, or raise the task's exception.

        Raises TaskCancelled after `cancel`, and TimeoutError if the task exceeded its time limit.
        Call it only once.
        """
        self.wait()
        if self._outcome is None:
            raise TaskCancelled
        return self._outcome.unwrap()

    def cancel(self) -> None:
        """Cancel the task unless it has ended; this does not wait for its end."""
        self._is_cancelled = True
        if not self.is_done:
            self._loop.call_soon_threadsafe(self._cancel_scope)

    def _cancel_scope(self) -> None:
        if self._scope is not None:
            self._scope.cancel()

    async def run(self, work: Callable[[], Coroutine[Any, Any, T]], seconds: float | None) -> None:
        """Run ``work`` in the loop and store its outcome."""
        outcome: TaskResult[T]
        try:
            with anyio.move_on_after(seconds) as self._scope:
                if self._is_cancelled:
                    self._scope.cancel()
                value = await work()
            if self._scope.cancelled_caught:
                error = TaskCancelled() if self._is_cancelled else TimeoutError()
                outcome = TaskResult(make_raiser(error))
            else:
                outcome = TaskResult(lambda: value)
        except Exception as error:
            outcome = TaskResult(make_raiser(error))
        except BaseException:  # the loop is closed and cancels its tasks
            self._finish(TaskResult(make_raiser(TaskCancelled())))
            raise
        self._finish(outcome)

    def _finish(self, outcome: TaskResult[T]) -> None:
        self._outcome = outcome
        self._scope = None
        self._done.set()


def make_raiser(error: Exception) -> Callable[[], Any]:
    def raise_error() -> Any:
        raise error

    return raise_error


class AsyncioThread:
    """An event loop in a native thread, started on first use."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._ended: Signal | None = None
        self._is_closed = False

    def start_task(
        self, work: Callable[[], Coroutine[Any, Any, T]], seconds: float | None = None
    ) -> PendingTask[T]:
        """Start the coroutine that ``work`` returns; it is cancelled after ``seconds``.

        Raises TaskCancelled after `close`.
        """
        loop = self._start_loop()
        pending: PendingTask[T] = PendingTask(loop)
        loop.call_soon_threadsafe(self._add_task, pending, work, seconds)
        return pending

    def close(self) -> None:
        """Cancel all tasks, wait a few seconds for their end, and end the thread."""
        with self._lock:
            loop, ended = self._loop, self._ended
            if self._is_closed or loop is None or ended is None:
                self._is_closed = True
                return
            self._is_closed = True
        loop.call_soon_threadsafe(self._stop_loop)
        ended.wait(CLOSE_SECONDS + 1)

    def _start_loop(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._is_closed:
                raise TaskCancelled
            if self._loop is None:
                # Not gevent's selector: the loop's thread would run a hub of its own in it.
                selector = monkey.get_original("selectors", "DefaultSelector")
                loop, ended = asyncio.SelectorEventLoop(selector()), make_signal()
                try:
                    start_native_thread(self._run_loop, (loop, ended))
                except BaseException:
                    loop.close()
                    ended.set()
                    raise
                self._loop, self._ended = loop, ended
            return self._loop

    def _run_loop(self, loop: asyncio.AbstractEventLoop, ended: Signal) -> None:
        asyncio.set_event_loop(loop)
        # Tasks report their failures to their waiting callers. The default handler would log
        # exceptions of others, which may quote secrets.
        loop.set_exception_handler(lambda loop, context: None)
        try:
            loop.run_forever()
            loop.run_until_complete(loop.shutdown_asyncgens())
            # A transport that was closed just now closes its socket in the next iteration.
            loop.run_until_complete(asyncio.sleep(0))
        finally:
            asyncio.set_event_loop(None)
            loop.close()
            ended.set()

    def _add_task(
        self,
        pending: PendingTask[T],
        work: Callable[[], Coroutine[Any, Any, T]],
        seconds: float | None,
    ) -> None:
        task = asyncio.get_running_loop().create_task(pending.run(work, seconds))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _stop_loop(self) -> None:
        loop = asyncio.get_running_loop()
        self._closing = loop.create_task(self._cancel_tasks())

    async def _cancel_tasks(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=CLOSE_SECONDS)
        asyncio.get_running_loop().stop()


async def run_in_native_thread(
    work: Callable[[], T], on_end: Callable[[], object] = lambda: None
) -> T:
    """Run blocking ``work`` in a native thread of its own; return its result.

    If the waiting task is cancelled, the work still runs to its end. The loop calls ``on_end`` when
    the work has ended or cannot start, so that the caller can bound the number of threads. Under
    gevent, ``work`` must not use patched modules.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[TaskResult[T]] = loop.create_future()

    def deliver(outcome: TaskResult[T]) -> None:
        on_end()
        if not future.done():
            future.set_result(outcome)

    def run_work() -> None:
        outcome = TaskResult(work)
        with suppress(RuntimeError):  # the loop was closed meanwhile
            loop.call_soon_threadsafe(deliver, outcome)

    try:
        start_native_thread(run_work, ())
    except BaseException:
        on_end()
        raise
    return (await future).unwrap()
