"""Event logs as the store keeps them: runs of deltas that differ in nothing else are one record.

A record is an event, or ``[event, deltas]``: the first of a run without its delta, and all deltas.
The terminal event is kept without its response, which the store has anyway.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
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


class NotNumbered(ValueError):
    """An event has no sequence number."""


def pack(events: Batch) -> Piece:
    """Events, in their order; at least one.  Raises NotNumbered."""
    data = packed(list(_records(events)))
    return Piece(events[0]["sequence_number"], events[-1]["sequence_number"], data)


def unpack(data: bytes, response: Json) -> Iterator[Event]:
    """The events again; ``response`` is that of the terminal one."""
    for record in unpacked(data):
        if type(record) is list:
            yield from _run(*record)
        elif record["type"] in TERMINALS:
            yield {**record, "response": response}
        else:
            yield record


_OWN = frozenset({"delta", "sequence_number"})
"""What each event of a run has of its own."""


def _records(events: Batch) -> Iterator[Any]:
    width, follows, values = 0, -1, None  # those of the run that goes on
    shared: Callable[[Event], Any] = _nothing
    deltas: list[Any] = []
    for event in events:
        # Nearly all events of a log pass here: those with as many keys, among them those of the
        # run, and with its values.  Its record is told already, and grows.
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
        width = 0
        if type(event.get("sequence_number")) is not int:
            raise NotNumbered
        if "delta" in event:
            deltas = [event["delta"]]
            width, follows = len(event), event["sequence_number"] + 1
            shared = _getter(event)
            values = shared(event)
            yield [{k: v for k, v in event.items() if k != "delta"}, deltas]
        else:
            yield {**event, "response": None} if event["type"] in TERMINALS else event


def _getter(event: Event) -> Callable[[Event], Any]:
    """What the events of a run have in common."""
    keys = sorted(event.keys() - _OWN)
    return itemgetter(*keys) if keys else _nothing


def _nothing(event: Event) -> None:
    return None


def _run(first: Event, deltas: list[str]) -> Iterator[Event]:
    number = first["sequence_number"]
    for i, delta in enumerate(deltas):
        yield {**first, "delta": delta, "sequence_number": number + i}
