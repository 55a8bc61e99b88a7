"""Repairs a provider's answer and restores tool names that `adapt_request` shortened.

A stream that needs neither is returned unchanged.
"""

from __future__ import annotations

from collections.abc import Callable

from forwarder.core.ids import ID_SOURCE
from forwarder.core.types import EventStream, Json
from forwarder.providers.names import map_long_names, restore_names
from forwarder.providers.profile import Profile
from forwarder.providers.responses_repair import repair_stream


def adapt_response(
    stream: EventStream,
    request: Json,
    protocol: str,
    profile: Profile,
    saw_done_marker: Callable[[], bool],
) -> EventStream:
    """Wrap the answer to ``request``, the body before `adapt_request`.

    ``saw_done_marker`` returns whether ``[DONE]`` arrived.
    """
    return _RESPONSE_ADAPTERS[protocol](stream, request, profile, saw_done_marker)


def adapt_chat_stream(
    stream: EventStream, request: Json, profile: Profile, saw_done_marker: Callable[[], bool]
) -> EventStream:
    long_names = map_long_names(request, profile.tool_name_limit)
    if not long_names:
        return stream
    return ([restore_names(event, long_names) for event in batch] for batch in stream)


def adapt_responses_stream(
    stream: EventStream, request: Json, profile: Profile, saw_done_marker: Callable[[], bool]
) -> EventStream:
    if not profile.repair_responses:
        return stream
    return repair_stream(stream, saw_done_marker, ID_SOURCE)


_RESPONSE_ADAPTERS = {"chat": adapt_chat_stream, "responses": adapt_responses_stream}
"""The upstream's protocol -> the function that adapts its streams."""
