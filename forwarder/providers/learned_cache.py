"""What an upstream has taught, and for how long it is remembered."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace

from forwarder.core.types import Json
from forwarder.providers.profile import Changes, Profile

_LASTING = 3600.0
"""Seconds for which a lesson holds: providers change, and a lesson may have been a mistake."""

_MOST = 256
"""How many models an upstream's lessons are about at most."""


class Lessons:
    """What one upstream has taught, by model, each for an hour; the oldest are forgotten first."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._kept: OrderedDict[str, tuple[float, Changes]] = OrderedDict()

    def applied(self, model: str, profile: Profile) -> Profile:
        """The profile with what was learned about this model; the same one when nothing was."""
        if not self._kept:
            return profile
        changes = self._changes(model)
        return replace(profile, **changes) if changes else profile

    def keep(self, model: str, changes: Changes) -> None:
        """Remember changes beside those that are known of this model."""
        known = self._changes(model)
        self._kept.pop(model, None)
        self._kept[model] = (self._clock() + _LASTING, {**known, **changes})
        while len(self._kept) > _MOST:
            self._kept.popitem(last=False)

    def shown(self) -> dict[str, Json]:
        """Model -> what was learned, for people, and the seconds left."""
        now = self._clock()
        return {
            model: {**shown(changes), "seconds_left": round(until - now)}
            for model, (until, changes) in list(self._kept.items())
            if until > now
        }

    def _changes(self, model: str) -> Changes:
        until, changes = self._kept.get(model, (0.0, {}))
        return changes if until > self._clock() else {}


def shown(changes: Changes) -> Json:
    """Changes as JSON, as an operator would write them."""
    return {k: sorted(v) if isinstance(v, frozenset) else v for k, v in sorted(changes.items())}
