"""Cooldowns and open breakers that all workers and machines share through Redis.

A background task of each worker writes the changes of its own process and reads those of the others
a few times a second, in one round trip. Requests never wait for it: they use the states of their
own process. While Redis does not answer, each worker uses only its own states.

All entries are fields of one hash. Times are those of Redis, so the clocks of machines may differ.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from secrets import token_hex
from typing import Any, NamedTuple, Protocol

import orjson

from forwarder.config.upstream_endpoints import digest_endpoint
from forwarder.core.periodic_task import PeriodicTask
from forwarder.upstream.resilience.cooldowns import MAX_COOLDOWN_SECONDS, Cooldown
from forwarder.upstream.resilience.upstream_state import UpstreamState

log = logging.getLogger("forwarder.resilience")

EXCHANGE_SECONDS = 0.25
"""Pause between two exchanges with Redis."""

RETRY_SECONDS = 2.0
"""Pause between two exchanges while Redis does not answer."""

REDIS_TIMEOUT_SECONDS = 1.0

HASH_NAME = "forwarder:endpoints"
HASH_SECONDS = 7200
"""Seconds after the last entry until Redis forgets the hash; no cooldown lasts longer."""

MAX_MODEL_CHARACTERS = 200
"""Cooldowns of models with longer names are not shared."""


_REMOVE_UNCHANGED = """
for index = 1, #ARGV, 2 do
    if redis.call("HGET", KEYS[1], ARGV[index]) == ARGV[index + 1] then
        redis.call("HDEL", KEYS[1], ARGV[index])
    end
end
"""
"""Removes fields that still have these values: another process may just have renewed them."""


class Snapshot(NamedTuple):
    """All entries, by field, and the time of the storage in seconds."""

    entries: Mapping[str, bytes]
    time: float


class StateStorage(Protocol):
    """Where entries are shared."""

    def exchange(self, entries: Mapping[str, bytes], expired: Mapping[str, bytes]) -> Snapshot:
        """Write entries, remove expired ones that are unchanged, and read all.

        Raises Exception if it is down.
        """


class RedisStorage:
    """The hash in Redis; ``url`` as in FORWARDER_RATE_LIMIT_STORAGE."""

    def __init__(self, url: str) -> None:
        from redis import Redis

        self._redis = Redis.from_url(
            url.replace("redis+unix", "unix"),
            socket_timeout=REDIS_TIMEOUT_SECONDS,
            socket_connect_timeout=REDIS_TIMEOUT_SECONDS,
        )

    def exchange(self, entries: Mapping[str, bytes], expired: Mapping[str, bytes]) -> Snapshot:
        """Write, remove and read in one round trip. Raises RedisError or OSError."""
        pipeline = self._redis.pipeline(transaction=False)
        if entries:
            fields: Any = dict(entries)
            pipeline.hset(HASH_NAME, mapping=fields)
            pipeline.expire(HASH_NAME, HASH_SECONDS)
        if expired:
            words = [word for pair in expired.items() for word in pair]
            pipeline.eval(_REMOVE_UNCHANGED, 1, HASH_NAME, *words)
        pipeline.hgetall(HASH_NAME)
        pipeline.time()
        *_, found, (seconds, microseconds) = pipeline.execute()
        return Snapshot(
            {field.decode(errors="replace"): value for field, value in found.items()},
            seconds + microseconds / 1e6,
        )


class SharedState:
    """Shares the cooldowns of endpoints and the breakers of hosts with other processes.

    `connect` adds a state; `start` begins the exchange and `stop` ends it.
    """

    def __init__(self, storage: StateStorage, now: Callable[[], float] = time.monotonic) -> None:
        self._storage = storage
        self._now = now
        self._lock = threading.Lock()
        self._process = token_hex(8)
        self._cooling_states: dict[str, UpstreamState] = {}
        self._breaking_states: dict[str, UpstreamState] = {}
        self._changes: dict[str, tuple[float, dict[str, Any]]] = {}
        self._known: dict[str, float] = {}
        self._expired: dict[str, bytes] = {}
        self._offset: float | None = None
        self._is_down = False
        self._task = PeriodicTask(self.exchange, self._get_pause, runs_at_once=True)

    def start(self) -> None:
        """Start the exchange unless it is running."""
        self._process = token_hex(8)  # workers may be forks of one process
        self._task.start()

    def stop(self) -> None:
        """End the exchange."""
        self._task.stop()

    def connect(self, state: UpstreamState) -> None:
        """Share a state's open breaker; its cooldowns too if others can take its requests."""
        settings = state.settings
        if settings.registered:
            return
        state.on_break = self._queue_break
        self._breaking_states.setdefault(name_breaker(state), state)
        if settings.endpoint is not None or state.is_grouped:
            state.on_cooldown = self._queue_cooldown
            self._cooling_states[name_cooldowns(state)] = state

    def exchange(self) -> None:
        """Write this worker's changes, and apply those of others; log when Redis goes away."""
        try:
            self._drop_expired()
            if self._offset is None:
                self._set_offset(self._storage.exchange({}, {}).time)
            changes = self._take_changes()
            try:
                snapshot = self._storage.exchange(self._encode_changes(changes), self._expired)
            except Exception:
                with self._lock:
                    self._changes = {**changes, **self._changes}
                raise
            self._set_offset(snapshot.time)
            self._apply(snapshot)
        except Exception as error:  # Redis or the network failed, or an entry is invalid
            if not self._is_down:
                event = {"event": "shared_state_down"}
                name = type(error).__name__  # its text may contain the address with a password
                log.warning("cooldowns and breakers are not shared now (%s)", name, extra=event)
            self._is_down = True
            return
        if self._is_down:
            event = {"event": "shared_state_up"}
            log.warning("cooldowns and breakers are shared again", extra=event)
        self._is_down = False

    def _get_pause(self) -> float:
        return RETRY_SECONDS if self._is_down else EXCHANGE_SECONDS

    # -- writing --------------------------------------------------------------------------------

    def _queue_cooldown(self, state: UpstreamState, cooldown: Cooldown) -> None:
        if len(cooldown.model) > MAX_MODEL_CHARACTERS:
            return
        content = {
            "status": cooldown.status,
            "error": cooldown.error,
            "refused": cooldown.is_key_refused,
        }
        self._queue_entry(f"{name_cooldowns(state)} {cooldown.model}", cooldown.until, content)

    def _queue_break(self, state: UpstreamState) -> None:
        self._queue_entry(name_breaker(state), self._now() + state.breaker.remaining_cooldown, {})

    def _queue_entry(self, field: str, until: float, content: dict[str, Any]) -> None:
        with self._lock:
            if until > self._known.get(field, 0.0) + 0.05:  # else it came from another process
                self._known[field] = until
                self._changes[field] = until, content

    def _drop_expired(self) -> None:
        """Forget entries whose time is over, also while the storage is down."""
        now = self._now()
        with self._lock:
            self._changes = {k: v for k, v in self._changes.items() if v[0] > now}
            self._known = {k: v for k, v in self._known.items() if v > now}

    def _take_changes(self) -> dict[str, tuple[float, dict[str, Any]]]:
        with self._lock:
            changes, self._changes = self._changes, {}
        return changes

    def _encode_changes(
        self, changes: Mapping[str, tuple[float, dict[str, Any]]]
    ) -> dict[str, bytes]:
        offset = self._offset or 0.0
        return {
            field: orjson.dumps({**content, "until": until + offset, "by": self._process})
            for field, (until, content) in changes.items()
        }

    def _set_offset(self, storage_time: float) -> None:
        self._offset = storage_time - self._now()

    # -- reading --------------------------------------------------------------------------------

    def _apply(self, snapshot: Snapshot) -> None:
        """Apply the entries of other processes, and note those that have expired."""
        expired, now = {}, self._now()
        offset = snapshot.time - now
        for field, value in snapshot.entries.items():
            try:
                entry = orjson.loads(value)
                until = float(entry["until"]) - offset
                if until <= now:
                    expired[field] = value
                elif entry["by"] != self._process and self._remember(field, until):
                    # Redis may have changed its clock since the entry was written.
                    self._apply_entry(field, min(until, now + MAX_COOLDOWN_SECONDS), entry)
            except (ValueError, TypeError, KeyError):  # written by another version
                expired[field] = value
        self._expired = expired

    def _remember(self, field: str, until: float) -> bool:
        """Remember an entry, so that it is handled only once; return whether it is new."""
        with self._lock:
            if until <= self._known.get(field, 0.0) + 0.05:
                return False
            self._known[field] = until
            return True

    def _apply_entry(self, field: str, until: float, entry: Mapping[str, Any]) -> None:
        if field in self._breaking_states:
            self._breaking_states[field].breaker.open_for(until - self._now())
            return
        name, _, model = field.partition(" ")
        state = self._cooling_states.get(name)
        if state is not None:
            status, error = int(entry["status"]), dict(entry["error"])
            state.cooldowns.add(Cooldown(model, until, status, error, bool(entry["refused"])))


def name_cooldowns(state: UpstreamState) -> str:
    """Return the name of an endpoint in shared entries; it does not reveal the key."""
    settings = state.settings
    return f"cooldown:{settings.name}~{digest_endpoint(settings.base_url, settings.api_key)}"


def name_breaker(state: UpstreamState) -> str:
    """Return the name of a host in shared entries."""
    return f"open:{state.settings.name}~{digest_endpoint(state.settings.base_url, None)}"
