"""The beginning of an answer: until its first batch there is time for another try, and a status."""

from __future__ import annotations

import itertools

from forwarder.core.types import EventStream


def await_first_event(stream: EventStream) -> EventStream:
    """The stream with its first batch read, which may be a silence of some seconds.

    Raises what breaks before that.
    """
    first = next(stream, None)
    return stream if first is None else itertools.chain([first], stream)
