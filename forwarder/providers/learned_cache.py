"""Caches the quirks that were learned from an upstream's refusals."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace

from forwarder.core.types import Json
from forwarder.providers.profile import Profile, ProfileChanges

_MAX_AGE_SECONDS = 3600.0
"""The lifetime of a learned quirk: providers change, and the quirk may have been a mistake."""

_MAX_MODELS = 256
"""The number of models for which one upstream's quirks are cached."""


class LearnedQuirks:
    """The learned quirks of one upstream by model; evicts the oldest model first."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._entries: OrderedDict[str, tuple[float, ProfileChanges]] = OrderedDict()

    def apply_to(self, model: str, profile: Profile) -> Profile:
        """Return the profile with the quirks of this model; unchanged if it has no quirks."""
        if not self._entries:
            return profile
        changes = self._get_changes(model)
        return replace(profile, **changes) if changes else profile

    def remember(self, model: str, changes: ProfileChanges) -> None:
        """Add changes to those of this model and renew their lifetime."""
        known = self._get_changes(model)
        self._entries.pop(model, None)
        self._entries[model] = (self._clock() + _MAX_AGE_SECONDS, {**known, **changes})
        while len(self._entries) > _MAX_MODELS:
            self._entries.popitem(last=False)

    def describe(self) -> dict[str, Json]:
        """Return model -> its quirks as JSON, with ``seconds_left``."""
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
    """Convert changes to the JSON that an operator writes in settings."""
    return {k: sorted(v) if isinstance(v, frozenset) else v for k, v in sorted(changes.items())}
