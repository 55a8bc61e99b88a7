"""Event logs as the store keeps them: runs of deltas that differ in nothing else are one record.

A record is an event, or ``[event, deltas]``: the first of a run without its delta, and all deltas.
The terminal event is kept without its response, which the store has anyway.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from operator import itemgetter
from typing import Any, NamedTuple

from forwarder.core.types import Batch, Event, Json
from forwarder.protocols.mappings import TERMINALS
from forwarder.storage.db.compression import packed, unpacked


class Piece(NamedTuple):
    """Some events that follow each other, and the numbers of the first and the last."""

    first: int
    last: int
    data: bytes


_MOST = 2**53
"""A number up to which all who read JSON can count."""


class NotNumbered(ValueError):
    """An event has no sequence number, or none that is greater than those before it."""


def pack(events: Batch) -> Piece:
    """Events, in their order; at least one.  Raises NotNumbered."""
    packer = Packer()
    packer.add(events)
    return packer.piece()


def unpack(data: bytes, response: Json) -> Iterator[Event]:
    """The events again; ``response`` is that of the terminal one."""
    for record in unpacked(data):
        if type(record) is list:
            yield from _unrolled(*record)
        elif record.get("type") in TERMINALS:
            yield {**record, "response": response}
        else:
            yield record


_OWN = frozenset({"delta", "sequence_number"})
"""What each event of a run has of its own."""


class _Run(NamedTuple):
    """The run that goes on: how many keys its events have, the number of the next, what they have
    in common and how to get it, and the deltas.  Of none there is the least number of the next.
    """

    width: int
    follows: int
    shared: Callable[[Event], Any]
    values: Any
    deltas: list[Any]


class Packer:
    """Packs events as they come: to keep hundreds of them costs more than to look at each.

    ``count`` is how many no piece has yet.
    """

    def __init__(self) -> None:
        self.count = 0
        self._first = self._last = -1
        self._records: list[Any] = []
        self._run = _no_run(0)

    def add(self, events: Batch) -> None:
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
            width, follows, shared, values, deltas = self._begun(event, follows)
        self._run = _Run(width, follows, shared, values, deltas)
        if not self.count:
            self._first = events[0]["sequence_number"]
        self._last = events[-1]["sequence_number"]
        self.count += len(events)

    def _begun(self, event: Event, least: int) -> _Run:
        """Begin a record, and the run that may follow."""
        number = event.get("sequence_number")
        if type(number) is not int or not least <= number <= _MOST:
            raise NotNumbered
        if "delta" not in event:
            ends = event.get("type") in TERMINALS
            self._records.append({**event, "response": None} if ends else event)
            return _no_run(number + 1)
        deltas = [event["delta"]]
        self._records.append([{k: v for k, v in event.items() if k != "delta"}, deltas])
        shared = _getter(event)
        return _Run(len(event), number + 1, shared, shared(event), deltas)

    def piece(self) -> Piece:
        """Those that no piece has yet; at least one."""
        made = Piece(self._first, self._last, packed(self._records))
        self.count, self._records, self._run = 0, [], _no_run(self._run.follows)
        return made


def _getter(event: Event) -> Callable[[Event], Any]:
    """What the events of a run have in common."""
    keys = sorted(event.keys() - _OWN)
    return itemgetter(*keys) if keys else _nothing


def _nothing(event: Event) -> None:
    return None


def _no_run(follows: int) -> _Run:
    return _Run(0, follows, _nothing, None, [])


def _unrolled(first: Event, deltas: list[str]) -> Iterator[Event]:
    number = first["sequence_number"]
    for i, delta in enumerate(deltas):
        yield {**first, "delta": delta, "sequence_number": number + i}
