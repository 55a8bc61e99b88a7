"""Event logs as the store keeps them: runs of deltas that differ in nothing else are one record.

A record is an event, or ``[event, deltas]``: the first of a run without its delta, and all deltas.
The terminal event is kept without its response, which the store has anyway.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from operator import itemgetter
from typing import Any, NamedTuple

from forwarder.core.types import Batch, Event, Json
from forwarder.protocols.mappings import TERMINAL_EVENTS
from forwarder.storage.db.compression import pack_json, unpack_json


class EventLogChunk(NamedTuple):
    """Some events that follow each other, and the numbers of the first and the last."""

    first: int
    last: int
    data: bytes


MAX_SEQUENCE_NUMBER = 2**53
"""A number up to which all who read JSON can count."""


class InvalidSequenceNumber(ValueError):
    """An event has no sequence number, or none that is greater than those before it."""


def pack_events(events: Batch) -> EventLogChunk:
    """Events, in their order; at least one.  Raises NotNumbered."""
    packer = EventLogPacker()
    packer.add_events(events)
    return packer.pop_chunk()


def unpack_events(data: bytes, response: Json) -> Iterator[Event]:
    """The events again; ``response`` is that of the terminal one."""
    for record in unpack_json(data):
        if type(record) is list:
            yield from expand_run(*record)
        elif record.get("type") in TERMINAL_EVENTS:
            yield {**record, "response": response}
        else:
            yield record


VARYING_FIELDS = frozenset({"delta", "sequence_number"})
"""What each event of a run has of its own."""


class DeltaRun(NamedTuple):
    """The run that goes on: how many keys its events have, the number of the next, what they have
    in common and how to get it, and the deltas.  Of none there is the least number of the next.
    """

    width: int
    next_number: int
    read_shared: Callable[[Event], Any]
    shared_values: Any
    deltas: list[Any]


class EventLogPacker:
    """Packs events as they come: to keep hundreds of them costs more than to look at each.

    ``pending_count`` is how many no piece has yet.
    """

    def __init__(self) -> None:
        self.pending_count = 0
        self._first = self._last = -1
        self._records: list[Any] = []
        self._run = make_empty_run(0)

    def add_events(self, events: Batch) -> None:
        """The events that follow; at least one.  Raises NotNumbered, and is of no use then."""
        width, follows, shared, values, deltas = self._run
        for event in events:
            # Nearly all events of a log pass here: those with as many keys, among them those of
            # the run, and with its values.  Its record is there already, and grows.
            try:
                if (
                    len(event) == width
                    and event["sequence_number"] == follows
                    and shared(event) == values
                ):
                    deltas.append(event["delta"])
                    follows += 1
                    continue
            except KeyError:
                pass
            width, follows, shared, values, deltas = self._start_run(event, follows)
        self._run = DeltaRun(width, follows, shared, values, deltas)
        if not self.pending_count:
            self._first = events[0]["sequence_number"]
        self._last = events[-1]["sequence_number"]
        self.pending_count += len(events)

    def _start_run(self, event: Event, least: int) -> DeltaRun:
        """Begin a record, and the run that may follow."""
        number = event.get("sequence_number")
        if type(number) is not int or not least <= number <= MAX_SEQUENCE_NUMBER:
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
        """Those that no piece has yet; at least one."""
        made = EventLogChunk(self._first, self._last, pack_json(self._records))
        self.pending_count, self._records, self._run = 0, [], make_empty_run(self._run.next_number)
        return made


def make_shared_reader(event: Event) -> Callable[[Event], Any]:
    """What the events of a run have in common."""
    keys = sorted(event.keys() - VARYING_FIELDS)
    return itemgetter(*keys) if keys else read_nothing


def read_nothing(event: Event) -> None:
    return None


def make_empty_run(follows: int) -> DeltaRun:
    return DeltaRun(0, follows, read_nothing, None, [])


def expand_run(first: Event, deltas: list[str]) -> Iterator[Event]:
    number = first["sequence_number"]
    for i, delta in enumerate(deltas):
        yield {**first, "delta": delta, "sequence_number": number + i}
