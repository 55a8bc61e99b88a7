"""Token limits that the Responses API does not take: raised upstream, cut for the client here.

What a token is only the upstream knows, and it does not say.  A token here is a piece of a word,
which comes near enough: up to six letters of an alphabet with the space before them, up to three
digits, up to two signs, a run of white space, or any other character.  So a limit is met to the
piece, and however the text arrives, the same pieces are kept.
"""

from __future__ import annotations

import re
from typing import Any

from forwarder.core.errors import InvalidRequest
from forwarder.core.types import Batch, Call, Event, Json, Stream
from forwarder.middleware.chat_chunks import (
    CALLS,
    TEXTS,
    Logprobs,
    choice_of,
    has_notes,
    with_choice,
)
from forwarder.middleware.usage_estimate import capped
from forwarder.translation.chat_over_responses.request import OUTPUT_FLOOR

_PIECE = re.compile(r" ?[A-Za-zÀ-ɏ\u0370-\u06ff]{1,6}|\d{1,3}| ?[^\w\s]{1,2}|\s+|.", re.DOTALL)


def with_limit(call: Call) -> Call:
    """Wrap a chat call whose upstream writes at least 16 tokens, so that it honours fewer.

    The upstream is read to its end, which is near, so that usage is known; the client's is capped.
    Calls are never cut: one that begins within the limit is given whole.
    """

    def limited(request: Json) -> Stream:
        limit = _limit(request)
        if limit is None or limit >= OUTPUT_FLOOR:
            return call(request)
        return _capped(call(request), limit)

    return limited


def _limit(request: Json) -> int | None:
    for name in ("max_completion_tokens", "max_tokens"):
        limit = request.get(name)
        if limit is not None:
            return _positive(limit, name)
    return None


def _positive(limit: Any, name: str) -> int | None:
    if type(limit) is not int:
        return None  # the translator refuses it
    if limit < 1:
        raise InvalidRequest(
            f"Invalid '{name}': integer below minimum value. Expected a value >= 1.",
            param=name,
            code="integer_below_min_value",
        )
    return limit


def _capped(stream: Stream, limit: int) -> Stream:
    budget, logprobs = _Budget(limit), Logprobs()
    for batch in stream:
        out: Batch = []
        for chunk in batch:
            out += _within(chunk, budget, logprobs, limit)
        if out or not batch:
            yield out


class _Budget:
    """How much of texts that come in pieces, one after the other, lies within so many tokens."""

    def __init__(self, limit: int) -> None:
        self.spent = False
        self._limit = limit
        self._name = self._text = ""

    def take(self, name: str, text: str) -> str:
        """What of the next piece of the text of this name is within the limit."""
        if self.spent:
            return ""
        if name != self._name:  # no token is a part of two texts
            self._limit -= len(_PIECE.findall(self._text))
            self._name, self._text = name, ""
        before = len(self._text)
        self._text += text
        pieces = list(_PIECE.finditer(self._text))
        self.spent = len(pieces) > self._limit
        end = pieces[self._limit].start() if self.spent else len(self._text)
        return self._text[before:end]


def _within(chunk: Event, budget: _Budget, logprobs: Logprobs, limit: int) -> Batch:
    """The chunk with what of it lies within the budget."""
    choice = choice_of(chunk)
    if has_notes(chunk):
        return [chunk]
    if not choice:
        usage = chunk.get("usage")
        return [{**chunk, "usage": capped(usage, limit)} if usage else chunk]
    delta = choice.get("delta") or {}
    over = budget.spent
    kept = {name: budget.take(name, delta[name]) for name in TEXTS if delta.get(name)}
    other = {k: v for k, v in delta.items() if k not in kept}
    if over:
        other = {k: v for k, v in other.items() if k not in CALLS}
    finish = choice.get("finish_reason")
    logprobs.feed(choice.get("logprobs"))
    whole = finish and not budget.spent
    fitting = logprobs.rest() if whole else logprobs.give(kept.get("content", ""))
    if over and not (other or finish or fitting):
        return []
    choice = {**choice, "delta": {**other, **kept}, "logprobs": fitting}
    if finish and budget.spent:
        choice["finish_reason"] = "length"
    return [with_choice(chunk, choice)]
