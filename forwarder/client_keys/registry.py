"""All client keys created at run time. Each worker caches them and reloads them after a change.

`ClientKeyRegistry` is the interface and the registry without a database, which has no keys.
`DatabaseClientKeyRegistry` stores them. A request reads the change version
(`storage.db.change_notifier`) and looks up a dict by the digest of its key. While the database is
unavailable, workers accept the keys that they have cached.
"""

from __future__ import annotations

import hmac
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

from forwarder.client_keys.key import (
    CHANGEABLE_FIELDS,
    CREATION_FIELDS,
    HINT_LENGTH,
    KEY_PREFIX,
    ClientKey,
    check_fields,
    generate_secret,
    hash_secret,
    invalid_value,
    read_expiry,
    read_grace,
    read_limits,
    read_name,
    restore_key,
    serialize_limits,
)
from forwarder.config.settings import Settings
from forwarder.context.client_identity import ClientGrants, make_account_id
from forwarder.core.errors import (
    InvalidRequest,
    NotFound,
    StoreUnavailable,
    Unauthorized,
    Unsupported,
    shorten_value,
)
from forwarder.core.ids import generate_id
from forwarder.core.periodic_task import PeriodicTask
from forwarder.core.storage_breaker import SharedTask
from forwarder.core.types import Json
from forwarder.storage.db.change_notifier import make_change_notifier
from forwarder.storage.db.client_keys import ClientKeyRow, KeyNameTaken, TooManyKeys
from forwarder.storage.db.database import Database
from forwarder.storage.repositories.client_keys import ClientKeyRepository

log = logging.getLogger("forwarder.client_keys")

RETRY_SECONDS = 1.0
"""Delay before the next read after a failed one."""

MAX_WAIT_SECONDS = 1.0
"""Seconds that a request waits for a slow database, so that no worker uses outdated keys.

If the database does not answer at all, only the first requests wait; see `SharedTask`.
"""

USE_SECONDS = 60.0
"""Precision of the time of the last use, and the interval at which a worker stores it."""


class CreatedKey(NamedTuple):
    """A key and its secret, which is known only now."""

    key: ClientKey
    secret: str


class KeyEntry(NamedTuple):
    """A key by one of its digests; a previous one is valid until ``until``."""

    key: ClientKey
    digest: str
    until: float | None


class ClientKeyRegistry:
    """The interface, and the registry of a process without a database, which has no keys.

    ``is_replay`` requires no keys but those of FORWARDER_API_KEYS.
    """

    def __init__(self, settings: Settings, is_replay: bool = False) -> None:
        self._settings = settings
        self._always_required = bool(settings.api_keys) or (
            settings.client_keys == "required" and not is_replay
        )

    def are_required(self) -> bool:
        """Return whether every client needs a key, of FORWARDER_API_KEYS or created at run time."""
        return self._always_required

    def check_loaded(self) -> None:
        """Raise StoreUnavailable if the keys could not be read yet: no client can be accepted."""

    def authenticate(self, secret: str) -> ClientKey | None:
        """Return the key that a client sent, None for an unknown one.

        Raises Unauthorized for a key that was revoked, replaced or has expired, StoreUnavailable
        for an unknown key while the database is unavailable.
        """
        return None

    def find_by_identity(self, identity: str | None) -> ClientKey | None:
        """Return the key with this identity, even if it is no longer valid, or None."""
        return None

    def find_by_account(self, account_id: str) -> ClientKey | None:
        """Return the key that pays from this account, or None."""
        return None

    def find_name(self, account_id: str) -> str | None:
        """Return the name of the client with this account, or None."""
        key = self.find_by_account(account_id)
        return None if key is None else key.name

    def count_keys(self) -> int:
        """Return the number of keys, including revoked and expired ones: their data remains."""
        return 0

    def list_keys(self) -> list[ClientKey]:
        """Return all keys by name with their last use. Raises Unsupported or StoreUnavailable."""
        raise make_disabled_error()

    def get_key(self, name: str) -> ClientKey:
        """Return the key of this id, or the newest one of this name, active ones first.

        Raises NotFound, Unsupported or StoreUnavailable.
        """
        raise make_disabled_error()

    def create(self, body: Json) -> CreatedKey:
        """Create a key. ``body`` has the fields `CREATION_FIELDS`.

        Raises InvalidRequest, Unsupported or StoreUnavailable.
        """
        raise make_disabled_error()

    def change(self, name: str, body: Json) -> ClientKey:
        """Set the fields in ``body`` (`CHANGEABLE_FIELDS`) of a key; null removes a limit.

        Raises InvalidRequest, NotFound, Unsupported or StoreUnavailable.
        """
        raise make_disabled_error()

    def revoke(self, name: str) -> ClientKey:
        """Revoke a key permanently. Raises NotFound, Unsupported or StoreUnavailable."""
        raise make_disabled_error()

    def rotate(self, name: str, grace: Any = None) -> CreatedKey:
        """Give a key a new secret; the previous one stays valid for ``grace``, such as ``24h``.

        Raises InvalidRequest, NotFound, Unsupported or StoreUnavailable.
        """
        raise make_disabled_error()

    def start(self) -> None:
        """Start storing when keys were last used."""

    def close(self) -> None:
        """Stop, and store the last uses."""


class DatabaseClientKeyRegistry(ClientKeyRegistry):
    """The keys in a database."""

    def __init__(
        self, settings: Settings, database: Database, now: Callable[[], float] = time.time
    ) -> None:
        super().__init__(settings)
        self._database = database
        self._now = now
        self._repository = ClientKeyRepository(database)
        self._changes = make_change_notifier(
            database, "client_keys", self._repository.read_generation, MAX_WAIT_SECONDS
        )
        self._reload_task = SharedTask(self._reload_keys)
        self._seen_version: object = self  # equals no version, so the first lookup loads
        self._retry_at = float("-inf")
        self._by_digest: dict[str, KeyEntry] = {}
        self._by_id: dict[str, ClientKey] = {}
        self._by_account: dict[str, ClientKey] = {}
        self._used_at: dict[str, float] = {}
        self._unsaved_uses: dict[str, float] = {}
        self._save_task = PeriodicTask(self._save_uses, lambda: USE_SECONDS)

    # -- requests -------------------------------------------------------------------------------

    def are_required(self) -> bool:
        """Return whether every client needs a key, of FORWARDER_API_KEYS or created at run time.

        With the setting ``auto`` this is true while the keys are unknown, and as soon as a key is
        stored. Revoked keys count too: revoking the last key must not admit clients without a key.
        """
        if self._always_required or self._settings.client_keys == "optional":
            return self._always_required
        if self._by_id:  # revoked keys stay, so the database cannot change the result
            return True
        if self._changes.read_version() == self._seen_version:
            return bool(self._by_id)  # another greenlet may have loaded keys meanwhile
        self._refresh()
        return bool(self._by_id) or not self._is_loaded() or self._is_outdated()

    def check_loaded(self) -> None:
        if not self._is_loaded() or (not self._by_id and self._is_outdated()):
            raise StoreUnavailable

    def authenticate(self, secret: str) -> ClientKey | None:
        if not secret.startswith(KEY_PREFIX):
            return None
        is_current = self._refresh()
        now, digest = self._now(), hash_secret(secret)
        entry = self._by_digest.get(digest)
        if entry is None or not hmac.compare_digest(entry.digest, digest):
            if not is_current or self._database.get_error() is not None:
                raise StoreUnavailable
            return None
        key = entry.key
        if key.revoked is not None:
            raise Unauthorized("This API key has been revoked.")
        if entry.until is not None and entry.until <= now:
            raise Unauthorized("This API key has been replaced by a new one.")
        if key.expires is not None and key.expires <= now:
            raise Unauthorized("This API key has expired.")
        if now - self._used_at.get(key.id, 0.0) >= USE_SECONDS:
            self._used_at[key.id] = self._unsaved_uses[key.id] = now
        return key

    def find_by_identity(self, identity: str | None) -> ClientKey | None:
        self._refresh()
        key = self._by_id.get((identity or "")[1:])
        # Any client may send the id of a key after a character of its choice.
        return key if key is not None and key.identity == identity else None

    def find_by_account(self, account_id: str) -> ClientKey | None:
        return self._by_account.get(account_id)

    def count_keys(self) -> int:
        self._refresh()
        return len(self._by_id)

    # -- administration -------------------------------------------------------------------------

    def list_keys(self) -> list[ClientKey]:
        keys = []
        for key in map(restore_key, self._repository.list_keys()):
            used = self._used_at.get(key.id)
            if used is not None:
                key = replace(key, last_used=max(used, key.last_used or 0.0))
            keys.append(key)
        return keys

    def get_key(self, name: str) -> ClientKey:
        found = [key for key in self.list_keys() if name in (key.id, key.name)]
        if not found:
            raise NotFound(
                f"There is no client key '{shorten_value(name)}'.", param="name", code="not_found"
            )
        return next((key for key in found if key.revoked is None), found[0])

    def create(self, body: Json) -> CreatedKey:
        check_fields(body, CREATION_FIELDS)
        name, now = read_name(body), self._now()
        if name in self._settings.client_names.values():
            raise invalid_value("name", "a name that is not in FORWARDER_API_KEYS")
        grants = read_limits(body, ClientGrants(name))
        expires = read_expiry(body.get("expires"), now)
        secret = generate_secret()
        row = ClientKeyRow(
            id=generate_id("key"),
            name=name,
            hint=secret[-HINT_LENGTH:],
            digest=hash_secret(secret),
            previous_digest=None,
            previous_until=None,
            created=now,
            expires=expires,
            revoked=None,
            last_used=None,
            limits=serialize_limits(grants),
        )
        try:
            self._repository.add(row)
        except KeyNameTaken:
            raise InvalidRequest(
                f"There is a client key '{name}' already: rotate or revoke it.",
                param="name",
                code="name_taken",
            ) from None
        except TooManyKeys:
            raise InvalidRequest(
                "There are too many client keys: revoke some.", code="too_many_keys"
            ) from None
        self._publish("client_key_created", row.id, name)
        return CreatedKey(restore_key(row), secret)

    def change(self, name: str, body: Json) -> ClientKey:
        check_fields(body, CHANGEABLE_FIELDS)
        key = self._get_unrevoked(name)
        values: Json = {"limits": serialize_limits(read_limits(body, key.grants))}
        if "expires" in body:
            values["expires"] = read_expiry(body["expires"], self._now())
        return self._change(key, values, "client_key_changed")

    def revoke(self, name: str) -> ClientKey:
        key = self._get_unrevoked(name)
        values = {"revoked": self._now(), "previous_digest": None, "previous_until": None}
        return self._change(key, values, "client_key_revoked")

    def rotate(self, name: str, grace: Any = None) -> CreatedKey:
        seconds = read_grace(grace)
        key = self._get_unrevoked(name)
        secret = generate_secret()
        row = next(row for row in self._repository.list_keys() if row.id == key.id)
        values: Json = {
            "digest": hash_secret(secret),
            "hint": secret[-HINT_LENGTH:],
            "previous_digest": row.digest if seconds else None,
            "previous_until": self._now() + seconds if seconds else None,
        }
        return CreatedKey(self._change(key, values, "client_key_rotated"), secret)

    def _get_unrevoked(self, name: str) -> ClientKey:
        key = self.get_key(name)
        if key.revoked is not None:
            self._changes.publish_change()  # the worker that revoked it may have failed to do this
            raise make_revoked_error(key)
        return key

    def _change(self, key: ClientKey, values: Json, event: str) -> ClientKey:
        if not self._repository.change(key.id, values):
            raise make_revoked_error(key)  # it was revoked since it was read
        self._publish(event, key.id, key.name)
        return self.get_key(key.id)

    def _publish(self, event: str, key_id: str, name: str) -> None:
        """Announce a change to all workers, and log it."""
        self._changes.publish_change()
        log.info({"event": event, "key": key_id, "client": name})

    # -- the cache ------------------------------------------------------------------------------

    def preload_keys(self) -> None:
        """Load all keys now, because requests wait for them only briefly."""
        self._reload_keys()

    def _refresh(self) -> bool:
        """Reload the keys if they have changed; return whether they are current.

        While the database is unavailable, requests do not wait for the reload.
        """
        # The task may already run for an earlier request and miss a later change: then repeat it.
        for _ in range(2):
            if self._changes.read_version() == self._seen_version:
                return self._changes.is_current()
            timeout = MAX_WAIT_SECONDS if time.monotonic() >= self._retry_at else 0.0
            if not self._reload_task.run(timeout):
                return False
        return self._changes.read_version() == self._seen_version

    def _is_outdated(self) -> bool:
        """Return whether there was a change that could not be loaded yet."""
        return self._seen_version is not self and (
            self._changes.read_version() != self._seen_version
        )

    def _is_loaded(self) -> bool:
        """Whether the keys are known: read from the database, or known to be absent without it."""
        return self._seen_version is not self or not self._changes.may_have_changes()

    def _reload_keys(self) -> None:
        version = self._changes.read_version()
        if version == self._seen_version or time.monotonic() < self._retry_at:
            return
        try:
            rows = self._repository.list_keys()
        except StoreUnavailable:
            self._retry_at = time.monotonic() + RETRY_SECONDS
            return
        by_digest: dict[str, KeyEntry] = {}
        keys = [restore_key(row) for row in rows]
        for row, key in zip(rows, keys, strict=True):
            by_digest[row.digest] = KeyEntry(key, row.digest, None)
            if row.previous_digest is not None:
                by_digest[row.previous_digest] = KeyEntry(
                    key, row.previous_digest, row.previous_until
                )
        self._by_digest = by_digest
        self._by_id = {key.id: key for key in keys}
        self._by_account = {
            make_account_id(key.identity, None, self._settings): key for key in keys
        }
        self._seen_version = version
        if (
            rows and not self._changes.may_have_changes()
        ):  # for example, after a backup was restored
            self._changes.publish_change()

    # -- last use -------------------------------------------------------------------------------

    def start(self) -> None:
        self._save_task.start()

    def close(self) -> None:
        self._save_task.stop()
        self._save_uses()

    def _save_uses(self) -> None:
        uses, self._unsaved_uses = self._unsaved_uses, {}
        if not uses:
            return
        try:
            self._repository.record_use(uses)
        except StoreUnavailable:
            self._unsaved_uses = {**uses, **self._unsaved_uses}
        except Exception:
            log.exception(
                "could not store when keys were used", extra={"event": "client_key_use_lost"}
            )


def build_client_keys(
    settings: Settings, database: Database | None, is_replay: bool
) -> ClientKeyRegistry:
    """Return the registry of a process, with its keys loaded if the database answers."""
    if database is None or is_replay:
        return ClientKeyRegistry(settings, is_replay)
    registry = DatabaseClientKeyRegistry(settings, database)
    registry.preload_keys()
    return registry


def make_revoked_error(key: ClientKey) -> InvalidRequest:
    return InvalidRequest(
        f"The client key '{key.name}' has been revoked: create a new one.",
        param="name",
        code="key_revoked",
    )


def make_disabled_error() -> Unsupported:
    return Unsupported(
        "Client keys cannot be made at run time, because the forwarder has no database "
        "(FORWARDER_DATABASE_URL).",
        code="store_disabled",
    )
