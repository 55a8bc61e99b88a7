"""The request for a summary, and the summary in its answer."""

from __future__ import annotations

from typing import Any

from forwarder.core.errors import UpstreamProtocolError
from forwarder.core.types import Json

STATE_PARAMETERS = ("previous_response_id", "conversation")
"""What stands for more of the conversation than the input, where anybody knows of it."""

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
"""What a summary's request has of the client's: nothing that shapes the answer, and no tools."""

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
    """The request that asks for a summary of ``items``; it is always streamed."""
    along = {name: request[name] for name in _SUMMARY_PARAMETERS if request.get(name) is not None}
    told = [item for item in items if not _offers_tools(item)]
    asked = {"type": "message", "role": "user", "content": SUMMARY_PROMPT}
    return {**along, "input": [*told, asked], "store": False, "stream": True}


def _offers_tools(item: Any) -> bool:
    return isinstance(item, dict) and item.get("type") == "additional_tools"


def read_summary(response: Json) -> str:
    """What the model wrote; raises UpstreamBroken when it wrote nothing."""
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
