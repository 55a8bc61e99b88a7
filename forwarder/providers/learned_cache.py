"""What an upstream has taught, and for how long it is remembered."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace

from forwarder.core.types import Json
from forwarder.providers.profile import Profile, ProfileChanges

_MAX_AGE_SECONDS = 3600.0
"""Seconds for which a lesson holds: providers change, and a lesson may have been a mistake."""

_MAX_MODELS = 256
"""How many models an upstream's lessons are about at most."""


class LearnedQuirks:
    """What one upstream has taught, by model, each for an hour; the oldest are forgotten first."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._entries: OrderedDict[str, tuple[float, ProfileChanges]] = OrderedDict()

    def apply_to(self, model: str, profile: Profile) -> Profile:
        """The profile with what was learned about this model; the same one when nothing was."""
        if not self._entries:
            return profile
        changes = self._get_changes(model)
        return replace(profile, **changes) if changes else profile

    def remember(self, model: str, changes: ProfileChanges) -> None:
        """Remember changes beside those that are known of this model."""
        known = self._get_changes(model)
        self._entries.pop(model, None)
        self._entries[model] = (self._clock() + _MAX_AGE_SECONDS, {**known, **changes})
        while len(self._entries) > _MAX_MODELS:
            self._entries.popitem(last=False)

    def describe(self) -> dict[str, Json]:
        """Model -> what was learned, for people, and the seconds left."""
        now = self._clock()
        return {
            model: {**serialize_changes(changes), "seconds_left": round(until - now)}
            for model, (until, changes) in list(self._entries.items())
            if until > now
        }

    def _get_changes(self, model: str) -> ProfileChanges:
        until, changes = self._entries.get(model, (0.0, {}))
        return changes if until > self._clock() else {}


def serialize_changes(changes: ProfileChanges) -> Json:
    """Changes as JSON, as an operator would write them."""
    return {k: sorted(v) if isinstance(v, frozenset) else v for k, v in sorted(changes.items())}
