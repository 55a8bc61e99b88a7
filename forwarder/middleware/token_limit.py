"""Emulates token limits below the Responses API's minimum by cutting the answer.

Only the upstream knows its tokenizer, so this module approximates a token by a piece of text: up to
six letters of an alphabet with the preceding space, up to three digits, up to two punctuation
characters, a run of white space, or any other single character. The cut does not depend on how the
text is split into chunks.
"""

from __future__ import annotations

import re

from forwarder.core.errors import InvalidRequest
from forwarder.core.types import Batch, Event, EventStream, Handler, Json
from forwarder.middleware.chat_chunks import (
    CALL_DELTA_FIELDS,
    TEXT_FIELDS,
    LogprobBuffer,
    has_side_data,
    read_first_choice,
    replace_choice,
)
from forwarder.middleware.usage_estimate import cap_usage
from forwarder.protocols.types import MIN_OUTPUT_TOKENS

_TOKEN_PIECE = re.compile(
    r" ?[A-Za-zÀ-ɏ\u0370-\u06ff]{1,6}|\d{1,3}| ?[^\w\s]{1,2}|\s+|.", re.DOTALL
)


def with_token_limit(handler: Handler) -> Handler:
    """Wrap a chat handler so that limits below the upstream's minimum of 16 tokens are honoured.

    The upstream's short answer is read to its end, so that its usage is known; the client gets a
    capped usage. Tool calls are never cut: a call that starts within the limit is sent whole.
    """

    def handle_request(request: Json) -> EventStream:
        limit = read_token_limit(request)
        if limit is None or limit >= MIN_OUTPUT_TOKENS:
            return handler(request)
        return cap_stream(handler(request), limit)

    return handle_request


def read_token_limit(request: Json) -> int | None:
    for name in ("max_completion_tokens", "max_tokens"):
        limit = request.get(name)
        if limit is None:
            continue
        if type(limit) is not int:
            return None  # the translator rejects the wrong type
        if limit < 1:
            raise InvalidRequest(
                f"Invalid '{name}': integer below minimum value. Expected a value >= 1.",
                param=name,
                code="integer_below_min_value",
            )
        return limit
    return None


def cap_stream(stream: EventStream, limit: int) -> EventStream:
    budget, logprobs = TokenBudget(limit), LogprobBuffer()
    for batch in stream:
        out: Batch = []
        for chunk in batch:
            out += cap_chunk(chunk, budget, logprobs, limit)
        if out or not batch:
            yield out


class TokenBudget:
    """Cuts texts that arrive in pieces to a limit of tokens, which they share."""

    def __init__(self, limit: int) -> None:
        self.is_spent = False
        self._limit = limit
        self._name = self._text = ""

    def take_text(self, name: str, text: str) -> str:
        """Return the part of the next piece of the field ``name`` that is within the limit."""
        if self.is_spent:
            return ""
        if name != self._name:  # a token never spans two fields
            self._limit -= len(_TOKEN_PIECE.findall(self._text))
            self._name, self._text = name, ""
        before = len(self._text)
        self._text += text
        pieces = list(_TOKEN_PIECE.finditer(self._text))
        self.is_spent = len(pieces) > self._limit
        end = pieces[self._limit].start() if self.is_spent else len(self._text)
        return self._text[before:end]


def cap_chunk(chunk: Event, budget: TokenBudget, logprobs: LogprobBuffer, limit: int) -> Batch:
    """Return the chunk with its texts cut to the budget; no chunk if nothing remains."""
    choice = read_first_choice(chunk)
    if has_side_data(chunk):
        return [chunk]
    if not choice:
        usage = chunk.get("usage")
        return [{**chunk, "usage": cap_usage(usage, limit)} if usage else chunk]
    delta = choice.get("delta") or {}
    was_spent = budget.is_spent
    texts = {name: budget.take_text(name, delta[name]) for name in TEXT_FIELDS if delta.get(name)}
    other = {k: v for k, v in delta.items() if k not in texts}
    if was_spent:
        other = {k: v for k, v in other.items() if k not in CALL_DELTA_FIELDS}
    finish = choice.get("finish_reason")
    logprobs.feed(choice.get("logprobs"))
    is_whole = finish and not budget.is_spent
    entries = logprobs.pop_rest() if is_whole else logprobs.pop_for_text(texts.get("content", ""))
    if was_spent and not (other or finish or entries):
        return []
    choice = {**choice, "delta": {**other, **texts}, "logprobs": entries}
    if finish and budget.is_spent:
        choice["finish_reason"] = "length"
    return [replace_choice(chunk, choice)]
