"""Emulates ``truncation: "auto"`` for Chat upstreams by shortening long conversations.

The forwarder does not count tokens. If the provider refuses a conversation as too long, the
middleware drops the older half of the removable messages and retries. System messages and the last
user message always stay, and tool calls stay together with their results.
"""

from __future__ import annotations

import itertools
from typing import Any

from forwarder.core.error_kinds import ErrorKind
from forwarder.core.errors import UpstreamRefused
from forwarder.core.types import EventStream, Handler, Json
from forwarder.protocols.chat_responses_mappings import to_upstream_error

MAX_TRUNCATIONS = 5
"""How often a conversation is halved before the provider's refusal is passed on."""


def with_truncation(handler: Handler) -> Handler:
    """Wrap a chat handler so that a conversation too long for the upstream is shortened to fit.

    The handler raises the provider's last refusal if no more messages can be removed.
    """

    def handle_request(request: Json) -> EventStream:
        for _ in range(MAX_TRUNCATIONS):
            try:
                return read_first_batch(handler(request))
            except UpstreamRefused as error:
                shorter = (
                    drop_older_half(request["messages"]) if is_context_too_long(error) else None
                )
                if shorter is None:
                    raise
                request = {**request, "messages": shorter}
        return handler(request)

    return handle_request


def is_context_too_long(error: UpstreamRefused) -> bool:
    """Return whether the upstream refused because the conversation exceeds the model's context."""
    return error.kind is ErrorKind.CONTEXT_TOO_LONG


def read_first_batch(stream: EventStream) -> EventStream:
    """Read the first batch, because some providers report an error with status 200.

    Returns the complete stream. Raises the error as an UpstreamRefused.
    """
    first = next(stream, None)
    if first and first[0].get("error"):
        raise to_upstream_error(first[0]["error"])
    return itertools.chain([] if first is None else [first], stream)


# -- removable messages -------------------------------------------------------------------------


def drop_older_half(messages: list[Json]) -> list[Json] | None:
    """Return the messages without the older half of the removable ones; ``None`` if none is."""
    blocks = group_messages(messages)
    question = max(
        (i for i, block in enumerate(blocks) if read_role(block) == "user"), default=None
    )
    removable = [
        i for i, b in enumerate(blocks[:-1]) if i != question and read_role(b) not in _SYSTEM_ROLES
    ]
    if not removable:
        return None
    dropped = select_older_half(blocks, removable)
    for i in removable[len(dropped) :]:  # drop an answer together with its question
        if read_role(blocks[i]) == "user" or (question is not None and i > question):
            break
        dropped.append(i)
    indexes = frozenset(dropped)
    return [message for i, block in enumerate(blocks) if i not in indexes for message in block]


_SYSTEM_ROLES = ("system", "developer")


def group_messages(messages: list[Json]) -> list[list[Json]]:
    """Group each message with the tool messages that follow it."""
    blocks: list[list[Json]] = []
    for message in messages:
        if blocks and message.get("role") in ("tool", "function"):
            blocks[-1].append(message)
        else:
            blocks.append([message])
    return blocks


def read_role(block: list[Json]) -> Any:
    return block[0].get("role")


def select_older_half(blocks: list[list[Json]], removable: list[int]) -> list[int]:
    """Return the oldest removable blocks that make up at least half of the removable size."""
    sizes = [len(str(blocks[i])) for i in removable]
    totals = list(itertools.accumulate(sizes))
    return removable[: 1 + sum(total < totals[-1] / 2 for total in totals)]
