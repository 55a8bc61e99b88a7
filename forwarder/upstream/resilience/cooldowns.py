"""Cooldowns: an endpoint that refused a request is not called until its limit has renewed.

A refusal for the rate of requests concerns one model, because providers limit models separately. A
refused key and an exhausted account concern all models.
"""

from __future__ import annotations

import math
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from forwarder.core.error_kinds import ErrorKind
from forwarder.core.errors import ForwarderError, UpstreamKeyRefused, UpstreamRefused
from forwarder.upstream.resilience.retry_policy import parse_retry_after

KEY_REFUSED_SECONDS = 600.0
"""Cooldown of a refused key, which only its owner can make valid again."""

QUOTA_SECONDS = 300.0
"""Cooldown of an exhausted account, unless the upstream names a time."""

MAX_COOLDOWN_SECONDS = 3600.0
"""The longest cooldown, even if an upstream names a longer one."""

MAX_MODELS = 256
"""Models of an endpoint that may cool down at once; other models get no cooldown."""

MAX_MESSAGE_CHARACTERS = 500

ALL_MODELS = ""

_TOO_LARGE_WORDING = re.compile(r"request too large", re.IGNORECASE)
"""The message of a 429 for a request that alone exceeds the limit; other requests may succeed."""


@dataclass(frozen=True)
class Cooldown:
    """A cooldown of one model at an endpoint, or of `ALL_MODELS`.

    ``until`` is a time of the clock of `Cooldowns`. ``status`` and ``error`` are the refusal;
    ``is_key_refused`` says that the key was refused, and ``error`` then has only a message.
    """

    model: str
    until: float
    status: int
    error: Mapping[str, Any]
    is_key_refused: bool = False

    @property
    def concerns_account(self) -> bool:
        """Whether the upstream refused the key or the account, and not one model."""
        return self.model == ALL_MODELS

    def make_error(self, seconds: float) -> ForwarderError:
        """Return the refusal again, for a cooldown that lasts ``seconds`` more."""
        if self.is_key_refused:
            return UpstreamKeyRefused(str(self.error.get("message")))
        wait = {"retry-after": str(max(1, math.ceil(seconds)))}
        return UpstreamRefused(self.status, self.error, wait)


class Cooldowns:
    """The cooldowns of one endpoint; ``default_seconds`` is for refusals that name no time."""

    def __init__(self, default_seconds: float, now: Callable[[], float] = time.monotonic) -> None:
        self._default_seconds = default_seconds
        self._now = now
        self._lock = threading.Lock()
        self._cooldowns: dict[str, Cooldown] = {}

    def start(self, error: ForwarderError, model: str) -> Cooldown | None:
        """Start the cooldown that a failure calls for; return it, ``None`` if none starts."""
        cooldown = self._make_cooldown(error, model)
        return cooldown if cooldown is not None and self.add(cooldown) else None

    def add(self, cooldown: Cooldown) -> bool:
        """Add a cooldown; a longer one of the same models remains. Return whether it was added."""
        with self._lock:
            self._cooldowns = {k: v for k, v in self._cooldowns.items() if v.until > self._now()}
            before = self._cooldowns.get(cooldown.model)
            is_full = len(self._cooldowns) >= MAX_MODELS and cooldown.model != ALL_MODELS
            if before is None and is_full:
                return False
            is_longest = before is None or before.until < cooldown.until
            if is_longest:
                self._cooldowns[cooldown.model] = cooldown
            return is_longest

    def find(self, model: str) -> Cooldown | None:
        """Return the longest current cooldown of a model; ``None`` if it may be called."""
        if not self._cooldowns:
            return None
        found = [self._cooldowns.get(name) for name in (ALL_MODELS, model)]
        now = self._now()
        return max(
            (each for each in found if each is not None and each.until > now),
            key=lambda each: each.until,
            default=None,
        )

    def end_account_cooldown(self) -> None:
        """End the cooldown of a refused key or account, because the upstream has accepted it."""
        if not self._cooldowns:
            return
        with self._lock:
            self._cooldowns.pop(ALL_MODELS, None)

    def list_current(self) -> list[Cooldown]:
        """Return the current cooldowns, of all models first."""
        now = self._now()
        return sorted(
            (each for each in self._cooldowns.values() if each.until > now),
            key=lambda each: each.model,
        )

    def _make_cooldown(self, error: ForwarderError, model: str) -> Cooldown | None:
        now = self._now()
        if isinstance(error, UpstreamKeyRefused):
            message = {"message": error.message[:MAX_MESSAGE_CHARACTERS]}
            return Cooldown(ALL_MODELS, now + KEY_REFUSED_SECONDS, error.status, message, True)
        if not isinstance(error, UpstreamRefused):
            return None
        is_exhausted = error.kind is ErrorKind.QUOTA_EXHAUSTED
        if not is_exhausted and error.status != 429:
            return None
        if _TOO_LARGE_WORDING.search(error.message[:MAX_MESSAGE_CHARACTERS]):
            return None
        seconds = parse_retry_after(error.headers)
        if seconds is None:
            seconds = QUOTA_SECONDS if is_exhausted else self._default_seconds
        return Cooldown(
            ALL_MODELS if is_exhausted else model,
            now + min(seconds, MAX_COOLDOWN_SECONDS),
            error.status,
            {**error.make_error_object(), "message": error.message[:MAX_MESSAGE_CHARACTERS]},
        )
