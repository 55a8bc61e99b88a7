"""All registered models: each worker caches them and reloads the cache after a change.

`ModelRegistry` is the interface, `DatabaseModelRegistry` stores models in a database, and
`NullModelRegistry` replaces it if no database is configured.

A request reads the change version (`storage.db.change_notifier`) and looks up a dict. While the
database is unavailable, workers serve the cached models.
"""

from __future__ import annotations

import hashlib
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any

from forwarder.config.settings import UpstreamSettings
from forwarder.core.encryption import TokenCipher
from forwarder.core.errors import NotFound, StoreUnavailable, Unsupported, shorten_value
from forwarder.core.ids import generate_id
from forwarder.core.storage_breaker import MAX_WAIT_SECONDS, SharedTask
from forwarder.models.registered_model import RegisteredModel, add_tag, restore_model, strip_tag
from forwarder.storage.db import reencryption
from forwarder.storage.db.change_notifier import make_change_notifier
from forwarder.storage.db.database import Database
from forwarder.storage.db.registered_models import ModelRow
from forwarder.storage.repositories.registered_models import ModelRepository

log = logging.getLogger("forwarder.registry")

ENCRYPTION_PURPOSE = "remote"
"""Encryption purpose of model secrets. Ciphertexts of other purposes cannot be decrypted as one."""

_RETRY_SECONDS = 1.0
"""Delay before the next read after a failed one."""


class ModelRegistry(ABC):
    """The registered models. A name is valid with and without the tag ``:latest``."""

    @abstractmethod
    def get_version(self) -> str:
        """Return a string that changes with the registered models and is equal in all workers."""

    @abstractmethod
    def find(self, name: str) -> RegisteredModel | None:
        """Return the model of this name, or ``None``."""

    @abstractmethod
    def list_models(self) -> list[RegisteredModel]:
        """Return all registered models, ordered by name."""

    @abstractmethod
    def put(self, remote: RegisteredModel) -> RegisteredModel:
        """Store a model, replacing one of the same name, and return it as stored.

        Raises Unsupported if models or their keys cannot be stored, or StoreUnavailable.
        """

    @abstractmethod
    def remove(self, name: str) -> RegisteredModel:
        """Remove and return a model; raises NotFound, Unsupported or StoreUnavailable."""

    @abstractmethod
    def rotate_secrets(self, client_cipher: TokenCipher) -> reencryption.ReencryptionReport:
        """Re-encrypt all stored model secrets and client tokens with the first secret.

        Raises Unsupported or StoreUnavailable.
        """

    @abstractmethod
    def adopt_secrets(self, secrets: Collection[str]) -> None:
        """Use these secrets from now on."""


class NullModelRegistry(ModelRegistry):
    """The registry without a database: it is empty and rejects registrations."""

    def get_version(self) -> str:
        """Return an empty string."""
        return ""

    def find(self, name: str) -> RegisteredModel | None:
        """Return ``None``."""
        return None

    def list_models(self) -> list[RegisteredModel]:
        """Return no models."""
        return []

    def put(self, remote: RegisteredModel) -> RegisteredModel:
        """Raise Unsupported."""
        raise make_disabled_error()

    def remove(self, name: str) -> RegisteredModel:
        """Raise Unsupported."""
        raise make_disabled_error()

    def rotate_secrets(self, client_cipher: TokenCipher) -> reencryption.ReencryptionReport:
        """Raise Unsupported."""
        raise make_disabled_error()

    def adopt_secrets(self, secrets: Collection[str]) -> None:
        """Do nothing: this registry has no secrets."""


class DatabaseModelRegistry(ModelRegistry):
    """The registered models in a database.

    The first of ``secrets`` encrypts model secrets, and any of them decrypts. Without ``secrets``,
    models with keys cannot be registered. ``on_drop`` is called with the upstream settings of each
    model that was removed or replaced.
    """

    def __init__(
        self,
        database: Database,
        secrets: Collection[str],
        on_drop: Callable[[UpstreamSettings], object],
    ) -> None:
        self._database = database
        self._models = ModelRepository(database)
        self._changes = make_change_notifier(database, "models", self._models.read_generation)
        self._cipher = TokenCipher(tuple(secrets), ENCRYPTION_PURPOSE) if secrets else None
        self._on_drop = on_drop
        self._reload_task = SharedTask(self._reload_models)
        self._seen_version: object = self  # equals no version, so the first lookup loads
        self._by_name: Mapping[str, RegisteredModel] = {}
        self._version = ""
        self._retry_at = float("-inf")

    def find(self, name: str) -> RegisteredModel | None:
        """Return the model of this name, with or without the tag ``:latest``, or ``None``.

        Reloads the cache first if the models have changed. While the database is unavailable,
        requests do not wait for the reload.
        """
        # The first run may have started for another request, before the latest change.
        for _ in range(2):
            if self._changes.read_version() == self._seen_version:
                break
            timeout = MAX_WAIT_SECONDS if time.monotonic() >= self._retry_at else 0.0
            if not self._reload_task.run(timeout):
                break
        return self._by_name.get(name)

    def preload_models(self) -> None:
        """Load all models now; a request would wait only briefly for the load."""
        self._reload_models()

    def adopt_secrets(self, secrets: Collection[str]) -> None:
        """Use these secrets from now on, and reload the models with them."""
        self._cipher = TokenCipher(tuple(secrets), ENCRYPTION_PURPOSE)
        self._seen_version = self

    def list_models(self) -> list[RegisteredModel]:
        """Return all registered models, ordered by name."""
        self.find("")
        return list({remote.name: remote for remote in self._by_name.values()}.values())

    def get_version(self) -> str:
        """Return a digest of the versions of all models."""
        self.find("")
        return self._version

    def put(self, remote: RegisteredModel) -> RegisteredModel:
        """Store a model, replacing one of the same name, and return it as stored.

        Raises Unsupported if it has secrets but FORWARDER_SECRET_KEY is not set, or
        StoreUnavailable.
        """
        now = time.time()
        secrets, sealed = remote.get_secret_fields(), None
        if secrets is not None:
            if self._cipher is None:
                raise Unsupported(
                    "FORWARDER_SECRET_KEY is not set, so the database cannot store API keys.",
                    code="no_secret_key",
                )
            sealed = self._cipher.encrypt(secrets)
        stored = replace(remote, version=generate_id("v"), created=now, modified=now)
        row = ModelRow(stored.name, stored.version, now, now, stored.get_public_fields(), sealed)
        self._models.put(row)
        self._changes.publish_change()
        return self.find(stored.name) or stored

    def remove(self, name: str) -> RegisteredModel:
        """Remove and return a model; raises NotFound or StoreUnavailable."""
        model = self.find(name)
        if not self._models.remove(add_tag(name)):
            raise make_not_found(name)
        self._changes.publish_change()
        return model or RegisteredModel(add_tag(name), "")

    def rotate_secrets(self, client_cipher: TokenCipher) -> reencryption.ReencryptionReport:
        """Re-encrypt all stored model secrets and client tokens with the first secret."""
        reencrypt_models = self._cipher.reencrypt if self._cipher else lambda sealed: None
        report = reencryption.reencrypt_all(
            self._database, reencrypt_models, client_cipher.reencrypt
        )
        self._changes.publish_change()  # locked models may be usable again
        return report

    # -- the cache ------------------------------------------------------------------------------

    def _reload_models(self) -> None:
        version = self._changes.read_version()
        if version == self._seen_version or time.monotonic() < self._retry_at:
            return
        try:
            rows = self._models.list_models()
        except StoreUnavailable:
            self._retry_at = time.monotonic() + _RETRY_SECONDS
            return
        before, self._by_name = self._by_name, self._index_rows(rows)
        versions = " ".join(sorted(row.version for row in rows))
        self._version = hashlib.sha256(versions.encode()).hexdigest() if rows else ""
        self._seen_version = version
        current = {id(remote) for remote in self._by_name.values()}
        distinct = {id(each): each for each in before.values()}  # most models have two names
        for remote in distinct.values():
            if id(remote) not in current and remote.host:
                self._on_drop(remote.upstream)

    def _index_rows(self, rows: list[ModelRow]) -> dict[str, RegisteredModel]:
        """Map each name, with and without ``:latest``, to its model; reuse unchanged models."""
        by_name: dict[str, RegisteredModel] = {}
        for row in rows:
            model = self._by_name.get(row.name)
            if model is None or model.version != row.version or model.locked:
                model = self._read_row(row)
            by_name[row.name] = by_name[strip_tag(row.name)] = model
        return by_name

    def _read_row(self, row: ModelRow) -> RegisteredModel:
        secrets: Any = {}
        if row.sealed is not None:
            secrets = self._cipher.decrypt(row.sealed) if self._cipher else None
        if secrets is None:
            log.error(
                "cannot decrypt the key of the model '%s': its secret is not in "
                "FORWARDER_SECRET_KEY; the model is unusable",
                row.name,
                extra={"event": "model_key_locked"},
            )
        return restore_model(
            row.told,
            secrets or {},
            name=row.name,
            version=row.version,
            created=row.created,
            modified=row.modified,
            locked=secrets is None,
        )


def make_not_found(name: str) -> NotFound:
    """Make the error for an unknown model, with the message that Ollama uses."""
    return NotFound(
        f"model '{shorten_value(name)}' not found", param="model", code="model_not_found"
    )


def make_disabled_error() -> Unsupported:
    return Unsupported(
        "Models cannot be registered, because the forwarder has no database "
        "(FORWARDER_DATABASE_URL).",
        code="store_disabled",
    )
