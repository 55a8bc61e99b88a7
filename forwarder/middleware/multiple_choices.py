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
from forwarder.core.types import Batch, Event, EventStream, Handler, Json
from forwarder.middleware.chat_chunks import close_stream, make_usage_chunk
from forwarder.middleware.usage_estimate import sum_usages

MAX_PENDING_BATCHES = 64
"""Batches of one choice that may wait for a slow client."""


def with_multiple_choices(handler: Handler, max_choices: int) -> Handler:
    """Wrap a chat call that gives one choice, so that it honours ``n`` up to ``max_choices``.

    Several are asked for as streams: when one is refused, the others need not be waited for.
    """

    def handle_request(request: Json) -> EventStream:
        if "n" not in request:
            return handler(request)
        count = read_choice_count(request["n"], max_choices)
        inner = {k: v for k, v in request.items() if k != "n"}
        if count == 1:
            return handler(inner)
        return merge_streams(open_streams(handler, {**inner, "stream": True}, count))

    return handle_request


def read_choice_count(value: Any, max_choices: int) -> int:
    if value is None:
        return 1
    if type(value) is not int or not 1 <= value <= max_choices:
        raise InvalidRequest(
            f"Invalid value for 'n': expected an integer from 1 to {max_choices}.",
            param="n",
            code="invalid_value",
        )
    return value


def open_streams(handler: Handler, request: Json, count: int) -> list[EventStream]:
    """Every stream, opened at the same time.

    Raises the first failure when none is under way any more, so that whoever closes what was
    opened for this request misses none.
    """
    with ThreadPoolExecutor(count) as pool:
        opening = [pool.submit(handler, request) for _ in range(count)]
    return [opened.result() for opened in opening]


Arrival = tuple[int, Batch | Exception | None]
ArrivalQueue = SimpleQueue[Arrival]
"""A choice and what came of it: a batch, its failure, or its end (``None``)."""


def merge_streams(streams: list[EventStream]) -> EventStream:
    """The chunks of all streams as they come, each under its own index, then one usage.

    Each stream has its own room for what a slow client has not read yet, and waits when it is full.
    """
    arrivals: ArrivalQueue = SimpleQueue()
    over = threading.Event()
    rooms = [threading.Semaphore(MAX_PENDING_BATCHES) for _ in streams]
    for (index, stream), room in zip(enumerate(streams), rooms, strict=True):
        given = (index, stream, arrivals, room, over)
        threading.Thread(target=pump_stream, args=given, daemon=True).start()
    try:
        yield from merge_arrivals(arrivals, rooms)
    finally:
        over.set()
        for room in rooms:
            room.release()


def pump_stream(
    index: int,
    stream: EventStream,
    arrivals: ArrivalQueue,
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
        close_stream(stream)


def merge_arrivals(arrivals: ArrivalQueue, rooms: list[threading.Semaphore]) -> EventStream:
    running = count = len(rooms)
    usages: list[Json] = []
    first: Event = {}
    for index, arrived in order_arrivals(arrivals):
        if isinstance(arrived, Exception):
            raise arrived
        if arrived is None:
            running -= 1
            if not running:
                break
            continue
        first = first or next(iter(arrived), {})
        usages += [chunk["usage"] for chunk in arrived if chunk.get("usage")]
        batch = [set_choice_index(index, chunk, first) for chunk in arrived if chunk.get("choices")]
        if batch or not arrived:
            yield batch
        rooms[index].release()
    if len(usages) == count:  # of fewer, the sum would be wrong
        yield [make_usage_chunk(first, sum_usages(usages, prompts=False))]


def order_arrivals(arrivals: ArrivalQueue) -> Iterator[Arrival]:
    """Arrivals as they come, but a choice begins only after those before it have begun.

    The SDK's own accumulator takes a new choice for the next one, whatever its index says.
    """
    begun = 0
    waiting: dict[int, list[Arrival]] = {}
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


def set_choice_index(index: int, chunk: Event, first: Event) -> Event:
    """The chunk as one of the answer that ``first`` began."""
    identity = {key: first.get(key) for key in ("id", "created", "model")}
    return {**chunk, **identity, "choices": [{**c, "index": index} for c in chunk["choices"]]}
