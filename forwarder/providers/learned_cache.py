"""Caches the quirks that were learned from an upstream's refusals."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace

from cachetools import TTLCache

from forwarder.core.types import Json
from forwarder.providers.profile import Profile, ProfileChanges

MAX_AGE_SECONDS = 3600.0
"""The lifetime of a learned quirk: providers change, and the quirk may have been a mistake."""

_MAX_MODELS = 256
"""The number of models for which one upstream's quirks are cached."""


class LearnedQuirks:
    """The learned quirks of one upstream by model; evicts the least recently used model."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._entries: TTLCache[str, tuple[float, ProfileChanges]] = TTLCache(
            _MAX_MODELS, MAX_AGE_SECONDS, timer=clock
        )
        self._has_learned = False  # most upstreams never have a quirk to learn

    def apply_to(self, model: str, profile: Profile) -> Profile:
        """Return the profile with the quirks of this model; unchanged if it has no quirks."""
        if not self._has_learned:
            return profile
        with self._lock:
            _, changes = self._entries.get(model, (0.0, {}))
        return replace(profile, **changes) if changes else profile

    def remember(self, model: str, changes: ProfileChanges) -> None:
        """Add changes to those of this model and renew their lifetime."""
        with self._lock:
            _, known = self._entries.get(model, (0.0, {}))
            until = self._clock() + MAX_AGE_SECONDS
            self._entries[model] = until, {**known, **changes}
            self._has_learned = True

    def describe(self) -> dict[str, Json]:
        """Return model -> its quirks as JSON, with ``seconds_left``."""
        now = self._clock()
        with self._lock:
            entries = list(self._entries.items())
        return {
            model: {**serialize_changes(changes), "seconds_left": round(until - now)}
            for model, (until, changes) in entries
        }


def serialize_changes(changes: ProfileChanges) -> Json:
    """Convert changes to the JSON that an operator writes in settings."""
    return {k: sorted(v) if isinstance(v, frozenset) else v for k, v in sorted(changes.items())}
