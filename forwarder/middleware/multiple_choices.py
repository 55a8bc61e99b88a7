"""Emulates ``n`` for upstreams that give one answer: parallel requests, merged into one stream.

Each request runs in a thread, which is a greenlet under gevent. One failure fails all.
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
"""How many batches of one choice may be buffered for a slow client."""


def with_multiple_choices(handler: Handler, max_choices: int) -> Handler:
    """Wrap a chat handler that gives one choice, so that it honours ``n`` up to ``max_choices``.

    Several choices are requested as streams, so that one refusal can end the others early.
    """

    def handle_request(request: Json) -> EventStream:
        if "n" not in request:
            return handler(request)
        count = read_choice_count(request["n"], max_choices)
        inner = {k: v for k, v in request.items() if k != "n"}
        if count == 1:
            return handler(inner)
        options = {**(inner.get("stream_options") or {}), "include_usage": True}
        streamed = {**inner, "stream": True, "stream_options": options}
        return merge_streams(open_streams(handler, streamed, count))

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
    """Open all streams at the same time.

    Raises the first failure after all requests have been opened or refused, so that the request's
    cleanup finds every upstream response.
    """
    with ThreadPoolExecutor(count) as pool:
        futures = [pool.submit(handler, request) for _ in range(count)]
    return [future.result() for future in futures]


Arrival = tuple[int, Batch | Exception | None]
ArrivalQueue = SimpleQueue[Arrival]
"""The index of a choice, and a batch, an exception, or ``None`` for the end of its stream."""


def merge_streams(streams: list[EventStream]) -> EventStream:
    """Yield the chunks of all streams as they arrive, each with its own index, then one usage.

    Each stream has its own buffer for a slow client. A stream with a full buffer waits.
    """
    arrivals: ArrivalQueue = SimpleQueue()
    stopped = threading.Event()
    slots = [threading.Semaphore(MAX_PENDING_BATCHES) for _ in streams]
    for (index, stream), slot in zip(enumerate(streams), slots, strict=True):
        arguments = (index, stream, arrivals, slot, stopped)
        threading.Thread(target=pump_stream, args=arguments, daemon=True).start()
    try:
        yield from merge_arrivals(arrivals, slots)
    finally:
        stopped.set()
        for slot in slots:
            slot.release()


def pump_stream(
    index: int,
    stream: EventStream,
    arrivals: ArrivalQueue,
    slots: threading.Semaphore,
    stopped: threading.Event,
) -> None:
    """Read one stream into the queue until it ends or the reader stops; then close it."""
    try:
        for batch in stream:
            slots.acquire()
            if stopped.is_set():
                break
            arrivals.put((index, batch))
        arrivals.put((index, None))
    except Exception as error:  # raised again by the reader
        arrivals.put((index, error))
    finally:
        close_stream(stream)


def merge_arrivals(arrivals: ArrivalQueue, slots: list[threading.Semaphore]) -> EventStream:
    running = count = len(slots)
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
        batch = [
            replace_choice_index(index, chunk, first) for chunk in arrived if chunk.get("choices")
        ]
        if batch or not arrived:
            yield batch
        slots[index].release()
    if len(usages) == count:  # the sum of fewer usages would be wrong
        yield [make_usage_chunk(first, sum_usages(usages, prompts=False))]


def order_arrivals(arrivals: ArrivalQueue) -> Iterator[Arrival]:
    """Yield arrivals in order, but start a choice only after all lower indexes have started.

    The SDK's accumulator appends each new choice to its list regardless of the index.
    """
    started = 0
    waiting: dict[int, list[Arrival]] = {}
    while True:
        arrival = arrivals.get()
        index, arrived = arrival
        if index > started and not isinstance(arrived, Exception) and arrived != []:
            waiting.setdefault(index, []).append(arrival)
            continue
        yield arrival
        if index == started and arrived != []:
            started += 1
            while started in waiting:
                yield from waiting.pop(started)
                started += 1


def replace_choice_index(index: int, chunk: Event, first: Event) -> Event:
    """Return the chunk with this index and the id, time and model of the ``first`` chunk."""
    identity = {key: first.get(key) for key in ("id", "created", "model")}
    return {**chunk, **identity, "choices": [{**c, "index": index} for c in chunk["choices"]]}
