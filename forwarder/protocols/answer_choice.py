"""Selects the one choice of a chat stream that protocols without choices show as the answer."""

from __future__ import annotations

from typing import Any

from forwarder.core.types import Json
from forwarder.protocols.unfold import to_delta

_UNKNOWN = object()


class ChoiceSelector:
    """Finds the answer in the first chunk: choice 0, or the first choice if 0 is not in it.

    Other choices are never mixed into the answer.
    """

    def __init__(self) -> None:
        self._index: Any = _UNKNOWN

    def find(self, choices: list[Json]) -> Json | None:
        """Return the choice of a chunk that belongs to the answer, or None."""
        first = choices[0]
        if first.get("index") == self._index:
            return first
        if self._index is _UNKNOWN:
            answer = next((c for c in choices if c.get("index") == 0), first)
            self._index = answer.get("index")
        same = (c for c in choices if (c.get("index") or 0) == (self._index or 0))
        return next(same, None)


def read_delta(choice: Json) -> Json:
    """Return the delta of a choice, or the message of a complete answer as a delta.

    If a choice has both, the delta counts: Perplexity repeats the message so far beside each delta.
    """
    delta: Json | None = choice.get("delta")
    if delta is not None:
        return delta
    return {} if "delta" in choice else to_delta(choice.get("message") or {})
