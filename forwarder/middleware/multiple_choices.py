"""``n`` for upstreams that give one answer: as many calls at once, merged into one stream.

Threads carry the calls; under gevent they are greenlets.  One failure fails all.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any

from forwarder.core.errors import InvalidRequest
from forwarder.core.types import Batch, Call, Event, Json, Stream
from forwarder.middleware.chat_chunks import close, with_usage
from forwarder.middleware.usage_estimate import summed

AHEAD = 64
"""Batches of one choice that may wait for a slow client."""


def with_choices(call: Call, most: int) -> Call:
    """Wrap a chat call that gives one choice, so that it honours ``n`` up to ``most``.

    Several are asked for as streams: when one is refused, the others need not be waited for.
    """

    def fanned_out(request: Json) -> Stream:
        if "n" not in request:
            return call(request)
        count = _count(request["n"], most)
        inner = {k: v for k, v in request.items() if k != "n"}
        if count == 1:
            return call(inner)
        return _merged(_opened(call, {**inner, "stream": True}, count))

    return fanned_out


def _count(value: Any, most: int) -> int:
    if value is None:
        return 1
    if type(value) is not int or not 1 <= value <= most:
        raise InvalidRequest(
            f"Invalid value for 'n': expected an integer from 1 to {most}.",
            param="n",
            code="invalid_value",
        )
    return value


def _opened(call: Call, request: Json, count: int) -> list[Stream]:
    """Every stream, opened at the same time.

    Raises the first failure when none is under way any more, so that whoever closes what was
    opened for this request misses none.
    """
    with ThreadPoolExecutor(count) as pool:
        opening = [pool.submit(call, request) for _ in range(count)]
    return [opened.result() for opened in opening]


_Arrival = tuple[int, Batch | Exception | None]
_Arrivals = SimpleQueue[_Arrival]
"""A choice and what came of it: a batch, its failure, or its end (``None``)."""


def _merged(streams: list[Stream]) -> Stream:
    """The chunks of all streams as they come, each under its own index, then one usage.

    Each stream has its own room for what a slow client has not read yet, and waits when it is full.
    """
    arrivals: _Arrivals = SimpleQueue()
    over = threading.Event()
    rooms = [threading.Semaphore(AHEAD) for _ in streams]
    for (index, stream), room in zip(enumerate(streams), rooms, strict=True):
        given = (index, stream, arrivals, room, over)
        threading.Thread(target=_pump, args=given, daemon=True).start()
    try:
        yield from _arriving(arrivals, rooms)
    finally:
        over.set()
        for room in rooms:
            room.release()


def _pump(
    index: int,
    stream: Stream,
    arrivals: _Arrivals,
    room: threading.Semaphore,
    over: threading.Event,
) -> None:
    """Read one stream to its end, or until nobody wants it any more."""
    try:
        for batch in stream:
            room.acquire()
            if over.is_set():
                break
            arrivals.put((index, batch))
        arrivals.put((index, None))
    except Exception as error:  # raised again by the reader
        arrivals.put((index, error))
    finally:
        close(stream)


def _arriving(arrivals: _Arrivals, rooms: list[threading.Semaphore]) -> Stream:
    running = count = len(rooms)
    usages: list[Json] = []
    first: Event = {}
    for index, arrived in _in_order(arrivals):
        if isinstance(arrived, Exception):
            raise arrived
        if arrived is None:
            running -= 1
            if not running:
                break
            continue
        first = first or next(iter(arrived), {})
        usages += [chunk["usage"] for chunk in arrived if chunk.get("usage")]
        batch = [_under(index, chunk, first) for chunk in arrived if chunk.get("choices")]
        if batch or not arrived:
            yield batch
        rooms[index].release()
    if len(usages) == count:  # of fewer, the sum would be wrong
        yield [with_usage(first, summed(usages, prompts=False))]


def _in_order(arrivals: _Arrivals) -> Iterator[_Arrival]:
    """Arrivals as they come, but a choice begins only after those before it have begun.

    The SDK's own accumulator takes a new choice for the next one, whatever its index says.
    """
    begun = 0
    waiting: dict[int, list[_Arrival]] = {}
    while True:
        arrival = arrivals.get()
        index, arrived = arrival
        if index > begun and not isinstance(arrived, Exception) and arrived != []:
            waiting.setdefault(index, []).append(arrival)
            continue
        yield arrival
        if index == begun and arrived != []:
            begun += 1
            while begun in waiting:
                yield from waiting.pop(begun)
                begun += 1


def _under(index: int, chunk: Event, first: Event) -> Event:
    """The chunk as one of the answer that ``first`` began."""
    identity = {key: first.get(key) for key in ("id", "created", "model")}
    return {**chunk, **identity, "choices": [{**c, "index": index} for c in chunk["choices"]]}
