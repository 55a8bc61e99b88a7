"""The other half of the mends: what an answer needs so that it is as its protocol says.

A stream that needs nothing is given back as it is.
"""

from __future__ import annotations

from collections.abc import Callable

from forwarder.core.ids import ID_SOURCE
from forwarder.core.types import Event, EventStream, Json
from forwarder.providers.names import make_name_restorer, map_long_names
from forwarder.providers.profile import Profile
from forwarder.providers.responses_repair import repair_stream


def adapt_response(
    stream: EventStream,
    request: Json,
    protocol: str,
    profile: Profile,
    saw_done_marker: Callable[[], bool],
) -> EventStream:
    """The answer to ``request``, which is the body before it was mended.

    ``saw_done_marker`` tells whether ``[DONE]`` came.
    """
    if protocol == "responses":
        return (
            repair_stream(stream, saw_done_marker, ID_SOURCE)
            if profile.repair_responses
            else stream
        )
    long = map_long_names(request, profile.tool_name_limit)
    return map_events(stream, make_name_restorer(long)) if long else stream


def map_events(stream: EventStream, change: Callable[[Event], Event]) -> EventStream:
    for batch in stream:
        yield list(map(change, batch))
