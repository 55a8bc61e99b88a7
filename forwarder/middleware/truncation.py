"""``truncation: "auto"`` for Chat upstreams: a conversation that is too long is shortened.

The provider is the judge of what is too long; nothing is counted here.  When it refuses, the
older half of what may go is left out and it is asked again.  System messages stay, and so does
the last user message; calls are never parted from their results.
"""

from __future__ import annotations

import itertools
from typing import Any

from forwarder.core.error_kinds import ErrorKind
from forwarder.core.errors import UpstreamRefused
from forwarder.core.types import EventStream, Handler, Json
from forwarder.protocols.mappings import to_upstream_error

MAX_TRUNCATIONS = 5
"""How often a conversation is halved before the provider's refusal is the answer."""


def with_truncation(handler: Handler) -> Handler:
    """Wrap a chat call so that a conversation too long for the upstream is shortened to fit.

    Raises the provider's last refusal when nothing more may go, or halving did not help.
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
    """Does this refusal say that the conversation exceeds the model's context?"""
    return error.kind is ErrorKind.CONTEXT_TOO_LONG


def read_first_batch(stream: EventStream) -> EventStream:
    """The stream with its first batch read: some providers refuse inside a 200."""
    first = next(stream, None)
    if first and first[0].get("error"):
        raise to_upstream_error(first[0]["error"])
    return itertools.chain([] if first is None else [first], stream)


# -- what may go --------------------------------------------------------------------------------


def drop_older_half(messages: list[Json]) -> list[Json] | None:
    """The messages without the older half of those that may go; ``None`` when none may."""
    blocks = group_messages(messages)
    question = max(
        (i for i, block in enumerate(blocks) if read_role(block) == "user"), default=None
    )
    free = [
        i for i, b in enumerate(blocks[:-1]) if i != question and read_role(b) not in _SYSTEM_ROLES
    ]
    if not free:
        return None
    gone = select_older_half(blocks, free)
    for i in free[len(gone) :]:  # an answer goes with its question
        if read_role(blocks[i]) == "user" or (question is not None and i > question):
            break
        gone.append(i)
    left_out = frozenset(gone)
    return [message for i, block in enumerate(blocks) if i not in left_out for message in block]


_SYSTEM_ROLES = ("system", "developer")


def group_messages(messages: list[Json]) -> list[list[Json]]:
    """What belongs together: a message, and the tool messages that answer it."""
    blocks: list[list[Json]] = []
    for message in messages:
        if blocks and message.get("role") in ("tool", "function"):
            blocks[-1].append(message)
        else:
            blocks.append([message])
    return blocks


def read_role(block: list[Json]) -> Any:
    return block[0].get("role")


def select_older_half(blocks: list[list[Json]], free: list[int]) -> list[int]:
    """The oldest of the free blocks that make up half of their size."""
    sizes = [len(str(blocks[i])) for i in free]
    passed = list(itertools.accumulate(sizes))
    return free[: 1 + sum(size < passed[-1] / 2 for size in passed)]
