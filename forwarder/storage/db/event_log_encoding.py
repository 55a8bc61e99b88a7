"""Encoding of event logs: consecutive deltas that differ in nothing else share one record.

A record is an event, or ``[event, deltas]``: the first event of a run without its delta, and all
deltas. The response of the terminal event is left out, because the response row contains it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from operator import itemgetter
from typing import Any, NamedTuple

from forwarder.core.types import Batch, Event, Json
from forwarder.protocols.chat_responses_mappings import TERMINAL_EVENTS
from forwarder.storage.db.compression import pack_json, unpack_json


class EventLogChunk(NamedTuple):
    """Encoded consecutive events, and the sequence numbers of the first and the last."""

    first: int
    last: int
    data: bytes


MAX_SEQUENCE_NUMBER = 2**53
"""The largest integer that all JSON parsers represent exactly."""


class InvalidSequenceNumber(ValueError):
    """An event's sequence number is missing, or not greater than that of the event before."""


def pack_events(events: Batch) -> EventLogChunk:
    """Encode one or more events, in order. Raises InvalidSequenceNumber."""
    packer = EventLogPacker()
    packer.add_events(events)
    return packer.pop_chunk()


def unpack_events(data: bytes, response: Json) -> Iterator[Event]:
    """Decode events; ``response`` is inserted into the terminal event."""
    for record in unpack_json(data):
        if type(record) is list:
            yield from expand_run(*record)
        elif record.get("type") in TERMINAL_EVENTS:
            yield {**record, "response": response}
        else:
            yield record


VARYING_FIELDS = frozenset({"delta", "sequence_number"})
"""Fields that differ between the events of a run."""


class DeltaRun(NamedTuple):
    """The current run of deltas; without a run, ``width`` is 0.

    ``width`` is the number of keys of its events, ``next_number`` the next sequence number (without
    a run: the smallest one allowed). ``read_shared`` returns the shared values of an event.
    """

    width: int
    next_number: int
    read_shared: Callable[[Event], Any]
    shared_values: Any
    deltas: list[Any]


class EventLogPacker:
    """Encodes events incrementally, because buffering hundreds of events would take longer.

    ``pending_count`` is the number of events that are not in a chunk yet.
    """

    def __init__(self) -> None:
        self.pending_count = 0
        self._first = self._last = -1
        self._records: list[Any] = []
        self._run = make_empty_run(0)

    def add_events(self, events: Batch) -> None:
        """Add one or more events. The packer is unusable after InvalidSequenceNumber."""
        width, next_number, shared, values, deltas = self._run
        for event in events:
            # Fast path for nearly all events: same keys and shared values as the current run, so
            # only the delta is appended to its record.
            try:
                if (
                    len(event) == width
                    and event["sequence_number"] == next_number
                    and shared(event) == values
                ):
                    deltas.append(event["delta"])
                    next_number += 1
                    continue
            except KeyError:
                pass
            width, next_number, shared, values, deltas = self._start_run(event, next_number)
        self._run = DeltaRun(width, next_number, shared, values, deltas)
        if not self.pending_count:
            self._first = events[0]["sequence_number"]
        self._last = events[-1]["sequence_number"]
        self.pending_count += len(events)

    def _start_run(self, event: Event, min_number: int) -> DeltaRun:
        """Append a record for an event, and return the run that it starts."""
        number = event.get("sequence_number")
        if type(number) is not int or not min_number <= number <= MAX_SEQUENCE_NUMBER:
            raise InvalidSequenceNumber
        if "delta" not in event:
            ends = event.get("type") in TERMINAL_EVENTS
            self._records.append({**event, "response": None} if ends else event)
            return make_empty_run(number + 1)
        deltas = [event["delta"]]
        self._records.append([{k: v for k, v in event.items() if k != "delta"}, deltas])
        shared = make_shared_reader(event)
        return DeltaRun(len(event), number + 1, shared, shared(event), deltas)

    def pop_chunk(self) -> EventLogChunk:
        """Return the pending events as a chunk; there must be at least one."""
        chunk = EventLogChunk(self._first, self._last, pack_json(self._records))
        self.pending_count, self._records, self._run = 0, [], make_empty_run(self._run.next_number)
        return chunk


def make_shared_reader(event: Event) -> Callable[[Event], Any]:
    """Return a function that reads the fields that are equal in all events of a run."""
    keys = sorted(event.keys() - VARYING_FIELDS)
    return itemgetter(*keys) if keys else read_nothing


def read_nothing(event: Event) -> None:
    return None


def make_empty_run(next_number: int) -> DeltaRun:
    return DeltaRun(0, next_number, read_nothing, None, [])


def expand_run(first: Event, deltas: list[str]) -> Iterator[Event]:
    number = first["sequence_number"]
    for i, delta in enumerate(deltas):
        yield {**first, "delta": delta, "sequence_number": number + i}
