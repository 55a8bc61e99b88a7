"""Builds the request for a summary and reads the summary from the answer."""

from __future__ import annotations

from typing import Any

from forwarder.core.errors import UpstreamProtocolError
from forwarder.core.types import Json
from forwarder.protocols.input_items import make_user_message

STATE_PARAMETERS = ("previous_response_id", "conversation")
"""Parameters that refer to conversation state outside the request's input."""

_SUMMARY_PARAMETERS = (
    *STATE_PARAMETERS,
    "model",
    "instructions",
    "reasoning",
    "truncation",
    "service_tier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "safety_identifier",
    "user",
)
"""Parameters copied from the client's request: none that shapes the answer, and no tools."""

SUMMARY_PROMPT = """\
The conversation is getting too long and will be cut here. Write a summary of it from which you \
can go on without having the rest: your next turn will begin with it. Say

- what the user wants, with every condition and preference that still holds;
- what has been done and found out, with exact names, paths, commands, values and quotes \
wherever they will be needed again;
- what was tried and did not work, and why;
- what is being worked on right now, and the next steps.

Call no tools. Do not answer the user and do not go on with the work: write the summary alone."""


def make_summary_request(request: Json, items: list[Any]) -> Json:
    """Return the streamed request for a summary of ``items``, without tools."""
    copied = {name: request[name] for name in _SUMMARY_PARAMETERS if request.get(name) is not None}
    history = [
        item
        for item in items
        if not isinstance(item, dict) or item.get("type") != "additional_tools"
    ]
    prompt = make_user_message(SUMMARY_PROMPT)
    return {**copied, "input": [*history, prompt], "store": False, "stream": True}


def read_summary(response: Json) -> str:
    """Return the text that the model wrote; raises UpstreamProtocolError if it is empty."""
    text = "".join(
        str(part.get("text") or "")
        for item in response.get("output") or ()
        if item.get("type") == "message"
        for part in item.get("content") or ()
        if part.get("type") == "output_text"
    ).strip()
    if not text:
        raise UpstreamProtocolError("The upstream wrote no summary.", code="empty_answer")
    return text
