"""Event logs as the store keeps them: runs of deltas that differ in nothing else are one record.

A record is an event, or ``[event, deltas]``: the first of a run without its delta, and all deltas.
The terminal event is kept without its response, which the store has anyway.
"""

from __future__ import annotations

from collections.abc import Iterator
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
    like: Json = {}
    deltas: list[str] = []
    follows = -1
    for event in events:
        number = event["sequence_number"]
        if "delta" in event:
            rest = {k: v for k, v in event.items() if k not in ("delta", "sequence_number")}
            if rest == like and number == follows:
                deltas.append(event["delta"])
            else:
                like, deltas = rest, [event["delta"]]
                yield [{**rest, "sequence_number": number}, deltas]  # which is still to grow
            follows = number + 1
        else:
            like = {}
            yield {**event, "response": None} if event["type"] in TERMINALS else event


def _run(first: Event, deltas: list[str]) -> Iterator[Event]:
    number = first["sequence_number"]
    for i, delta in enumerate(deltas):
        yield {**first, "delta": delta, "sequence_number": number + i}
