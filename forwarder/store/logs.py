"""Event logs as the store keeps them: runs of deltas that differ in nothing else are one record.

A record is an event, or ``[event, deltas]``: the first of a run without its delta, and all deltas.
The terminal event is kept without its response, which the store has anyway.
"""

from __future__ import annotations

from collections.abc import Iterator
from operator import itemgetter
from typing import Any, NamedTuple

from forwarder.store.packing import packed, unpacked
from forwarder.translate.call import Batch, Event, Json
from forwarder.translate.vocabulary import TERMINALS


class Piece(NamedTuple):
    """Some events that follow each other, and the numbers of the first and the last."""

    first: int
    last: int
    data: bytes


def pack(events: Batch) -> Piece:
    """Numbered events, in their order; at least one."""
    first, last = events[0]["sequence_number"], events[-1]["sequence_number"]
    return Piece(first, last, packed(list(_records(events))))


def unpack(data: bytes, response: Json) -> Iterator[Event]:
    """The events again; ``response`` is that of the terminal one."""
    for record in unpacked(data):
        if type(record) is list:
            yield from _run(*record)
        elif record["type"] in TERMINALS:
            yield {**record, "response": response}
        else:
            yield record


def _records(events: Batch) -> Iterator[Any]:
    run = _Run({})
    for event in events:
        if "delta" not in event:
            run = _Run({})
            yield {**event, "response": None} if event["type"] in TERMINALS else event
        elif not run.takes(event):
            run = _Run(event)
            yield run.record  # which is still to grow


_OWN = frozenset({"delta", "sequence_number"})
"""What each event of a run has of its own."""


class _Run:
    """Deltas that follow each other and differ in nothing else."""

    def __init__(self, first: Event) -> None:
        self._keys = frozenset(first)
        shared = sorted(self._keys - _OWN)
        # Most events of most logs pass here: one look at the keys, one at all the values.
        self._shared = itemgetter(*shared) if shared else len
        self._values = self._shared(first)
        self._follows = first.get("sequence_number", -1) + 1
        self._deltas: list[Any] = [first.get("delta")]
        self.record = [{k: v for k, v in first.items() if k != "delta"}, self._deltas]

    def takes(self, event: Event) -> bool:
        """Is an event with a delta the next of this run?  Then it is noted."""
        if (
            event["sequence_number"] != self._follows
            or event.keys() != self._keys
            or self._shared(event) != self._values
        ):
            return False
        self._follows += 1
        self._deltas.append(event["delta"])
        return True


def _run(first: Event, deltas: list[str]) -> Iterator[Event]:
    number = first["sequence_number"]
    for i, delta in enumerate(deltas):
        yield {**first, "delta": delta, "sequence_number": number + i}
