"""The other half of the mends: what an answer needs so that it is as its protocol says.

A stream that needs nothing is given back as it is.
"""

from __future__ import annotations

from collections.abc import Callable

from forwarder.mint import MINT
from forwarder.profiles.knobs import Profile
from forwarder.profiles.names import long_names, restoring
from forwarder.profiles.repair import repaired
from forwarder.translate.call import Event, Json, Stream
from forwarder.translate.vocabulary import hidden_error


def mended_answer(
    stream: Stream, request: Json, protocol: str, profile: Profile, was_done: Callable[[], bool]
) -> Stream:
    """The answer to ``request``, which is the body before it was mended.

    ``was_done`` tells whether ``[DONE]`` came.
    """
    if protocol == "responses":
        return repaired(stream, was_done, MINT) if profile.repair_responses else stream
    if not profile.error_status:
        stream = _each(stream, _unhidden)
    long = long_names(request, profile.tool_name_limit)
    return _each(stream, restoring(long)) if long else stream


def _each(stream: Stream, change: Callable[[Event], Event]) -> Stream:
    for batch in stream:
        yield list(map(change, batch))


def _unhidden(event: Event) -> Event:
    """An error that stands in ``base_resp``, where others have it."""
    error = hidden_error(event)
    return {"error": error} if error else event
