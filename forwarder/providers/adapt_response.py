"""The other half of the mends: what an answer needs so that it is as its protocol says.

A stream that needs nothing is given back as it is.
"""

from __future__ import annotations

from collections.abc import Callable

from forwarder.core.ids import MINT
from forwarder.core.types import Event, Json, Stream
from forwarder.providers.names import long_names, restoring
from forwarder.providers.profile import Profile
from forwarder.providers.responses_repair import repaired


def mended_answer(
    stream: Stream, request: Json, protocol: str, profile: Profile, was_done: Callable[[], bool]
) -> Stream:
    """The answer to ``request``, which is the body before it was mended.

    ``was_done`` tells whether ``[DONE]`` came.
    """
    if protocol == "responses":
        return repaired(stream, was_done, MINT) if profile.repair_responses else stream
    long = long_names(request, profile.tool_name_limit)
    return _each(stream, restoring(long)) if long else stream


def _each(stream: Stream, change: Callable[[Event], Event]) -> Stream:
    for batch in stream:
        yield list(map(change, batch))
