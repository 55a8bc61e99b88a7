"""Waits for the first batch of an answer; before it, a retry and an error status are possible."""

from __future__ import annotations

import itertools

from forwarder.core.types import EventStream


def await_first_event(stream: EventStream) -> EventStream:
    """Return the stream after its first batch was read; that batch can be empty (a heartbeat).

    Raises errors that occur before the first batch.
    """
    first = next(stream, None)
    return stream if first is None else itertools.chain([first], stream)
