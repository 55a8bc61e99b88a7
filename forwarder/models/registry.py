"""All registered models: a copy in each worker's memory, renewed as soon as somebody changes them.

A request costs one look at a mark (`store.changes`) and one in a dict.  While the store does not
answer, what was known goes on being served.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from forwarder.config.settings import UpstreamSettings
from forwarder.core.backend_breaker import MAX_WAIT_SECONDS, SharedTask
from forwarder.core.encryption import TokenCipher
from forwarder.core.errors import NotFound, StoreUnavailable, Unsupported, shorten_value
from forwarder.core.ids import generate_id
from forwarder.models.names import add_tag, strip_tag
from forwarder.models.registered_model import RegisteredModel, restore_model
from forwarder.storage.db import key_rotation, models
from forwarder.storage.db.change_notifier import make_change_notifier
from forwarder.storage.db.database import Database
from forwarder.storage.db.models import ModelRow

log = logging.getLogger("forwarder.registry")

ENCRYPTION_PURPOSE = "remote"
"""What the secrets of models are sealed for: a client that brings one back opens nothing by it."""

_RETRY_SECONDS = 1.0
"""Seconds after which a store that failed is asked again."""


class NullModelRegistry:
    """Where nothing is remembered no model can be registered."""

    def get_version(self) -> str:
        """Another string after each change of what is registered, the same for every worker."""
        return ""

    def find(self, name: str) -> RegisteredModel | None:
        """None."""
        return None

    def list_models(self) -> list[RegisteredModel]:
        """None."""
        return []

    def put(self, remote: RegisteredModel) -> RegisteredModel:
        """Refuses."""
        raise make_disabled_error()

    def remove(self, name: str) -> RegisteredModel:
        """Refuses."""
        raise make_disabled_error()

    def rotate_secrets(self, of_clients: TokenCipher) -> key_rotation.RotationReport:
        """Refuses."""
        raise make_disabled_error()

    def adopt_secrets(self, secrets: Collection[str]) -> None:
        """Does nothing: nothing is sealed."""


class DatabaseModelRegistry(NullModelRegistry):
    """The models of a database.

    ``secrets`` seal what is secret of them, the first one, and open it, any; without one nothing
    can be sealed that another process could open.  ``dropped`` is told the settings of upstreams
    that are none any more.
    """

    def __init__(
        self,
        database: Database,
        secrets: Collection[str],
        dropped: Callable[[UpstreamSettings], object],
    ) -> None:
        self._database = database
        self._changes = make_change_notifier(database, models.read_generation)
        self._cipher = TokenCipher(tuple(secrets), ENCRYPTION_PURPOSE) if secrets else None
        self._on_dropped = dropped
        self._reload_task = SharedTask(self._reload_models)
        self._seen_mark: object = self  # no mark that there is
        self._by_name: Mapping[str, RegisteredModel] = {}
        self._version = ""
        self._retry_at = float("-inf")

    def find(self, name: str) -> RegisteredModel | None:
        """The model of a name, with its tag or without."""
        # The first run may have begun, for another request, before the change that is looked for.
        for _ in range(2):
            if self._changes.read_version() == self._seen_mark or not self._reload_task.run(
                self._wait()
            ):
                break
        return self._by_name.get(name)

    def preload_models(self) -> None:
        """Read all models; requests would wait for that only a moment."""
        self._reload_models()

    def adopt_secrets(self, secrets: Collection[str]) -> None:
        """Seal with these secrets from now on, and open with them what is stored."""
        self._cipher = TokenCipher(tuple(secrets), ENCRYPTION_PURPOSE)
        self._seen_mark = self

    def list_models(self) -> list[RegisteredModel]:
        """All of them, by name."""
        self.find("")
        return list({remote.name: remote for remote in self._by_name.values()}.values())

    def get_version(self) -> str:
        """A digest of the versions of all models."""
        self.find("")
        return self._version

    def put(self, remote: RegisteredModel) -> RegisteredModel:
        """Register a model, in place of one of its name; gives it as it is stored.

        Raises Unsupported when its key could not be opened again, StoreUnavailable.
        """
        now = time.time()
        secrets, sealed = remote.get_secret_fields(), None
        if secrets is not None:
            if self._cipher is None:
                raise Unsupported(
                    "FORWARDER_SECRET_KEY is not set, so no key can be kept in the database.",
                    code="no_secret_key",
                )
            sealed = self._cipher.encrypt(secrets)
        stored = replace(remote, version=generate_id("v"), created=now, modified=now)
        row = ModelRow(stored.name, stored.version, now, now, stored.get_public_fields(), sealed)
        self._database.write(partial(models.put, row=row))
        self._changes.publish_change()
        return self.find(stored.name) or stored

    def remove(self, name: str) -> RegisteredModel:
        """Remove a model; raises NotFound when there is none, StoreUnavailable."""
        found = self.find(name)
        if not self._database.write(partial(models.remove, name=add_tag(name))):
            raise make_not_found(name)
        self._changes.publish_change()
        return found or RegisteredModel(add_tag(name), "")

    def rotate_secrets(self, of_clients: TokenCipher) -> key_rotation.RotationReport:
        """Seal everything in the store anew, with the first secret."""
        of_models = self._cipher.reencrypt if self._cipher else lambda sealed: None
        done = key_rotation.rotate_keys(self._database, of_models, of_clients.reencrypt)
        self._changes.publish_change()  # some may have keys again
        return done

    # -- the copy -------------------------------------------------------------------------------

    def _wait(self) -> float:
        """Seconds that a request waits for the models; none while the store is down."""
        return MAX_WAIT_SECONDS if time.monotonic() >= self._retry_at else 0.0

    def _reload_models(self) -> None:
        mark = self._changes.read_version()
        if mark == self._seen_mark or time.monotonic() < self._retry_at:
            return
        try:
            rows = self._database.read(models.list_models)
        except StoreUnavailable:
            self._retry_at = time.monotonic() + _RETRY_SECONDS
            return
        before, self._by_name = self._by_name, self._index_rows(rows)
        self._version = digest_versions(rows)
        self._seen_mark = mark
        there = {id(remote) for remote in self._by_name.values()}
        for remote in {id(each): each for each in before.values()}.values():
            if id(remote) not in there and remote.host:
                self._on_dropped(remote.upstream)

    def _index_rows(self, rows: list[ModelRow]) -> dict[str, RegisteredModel]:
        """Every name, with the tag ``latest`` and without -> the model; unchanged ones stay."""
        found: dict[str, RegisteredModel] = {}
        for row in rows:
            known = self._by_name.get(row.name)
            if known is None or known.version != row.version or known.locked:
                known = self._read_row(row)
            found[row.name] = found[strip_tag(row.name)] = known
        return found

    def _read_row(self, row: ModelRow) -> RegisteredModel:
        secrets: Any = {}
        if row.sealed is not None:
            secrets = self._cipher.decrypt(row.sealed) if self._cipher else None
        if secrets is None:
            log.error(
                "the key of the model '%s' was sealed with a secret that is not in "
                "FORWARDER_SECRET_KEY; the model cannot be used",
                row.name,
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


def digest_versions(rows: list[ModelRow]) -> str:
    versions = sorted(row.version for row in rows)
    return hashlib.sha256(" ".join(versions).encode()).hexdigest() if rows else ""


def make_not_found(name: str) -> NotFound:
    """The error for a model that there is not, in Ollama's words."""
    return NotFound(
        f"model '{shorten_value(name)}' not found", param="model", code="model_not_found"
    )


def make_disabled_error() -> Unsupported:
    return Unsupported(
        "Models cannot be registered here: nothing is stored (FORWARDER_DATABASE_URL).",
        code="store_disabled",
    )
