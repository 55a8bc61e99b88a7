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
from forwarder.core.backend_breaker import MAX_WAIT, SharedTask
from forwarder.core.encryption import Sealer
from forwarder.core.errors import NotFound, StoreUnavailable, Unsupported, shorten
from forwarder.core.ids import random_id
from forwarder.models.names import full, short
from forwarder.models.registered_model import Remote, restored
from forwarder.storage.db import key_rotation, models
from forwarder.storage.db.change_notifier import changes_of
from forwarder.storage.db.database import Database
from forwarder.storage.db.models import Row

log = logging.getLogger("forwarder.registry")

PURPOSE = "remote"
"""What the secrets of models are sealed for: a client that brings one back opens nothing by it."""

_REST = 1.0
"""Seconds after which a store that failed is asked again."""


class NoRegistry:
    """Where nothing is remembered no model can be registered."""

    def edition(self) -> str:
        """Another string after each change of what is registered, the same for every worker."""
        return ""

    def find(self, name: str) -> Remote | None:
        """None."""
        return None

    def listed(self) -> list[Remote]:
        """None."""
        return []

    def put(self, remote: Remote) -> Remote:
        """Refuses."""
        raise _off()

    def remove(self, name: str) -> Remote:
        """Refuses."""
        raise _off()

    def rotate(self, of_clients: Sealer) -> key_rotation.Renewed:
        """Refuses."""
        raise _off()

    def adopt(self, secrets: Collection[str]) -> None:
        """Does nothing: nothing is sealed."""


class Registry(NoRegistry):
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
        self._changes = changes_of(database, models.generation)
        self._sealer = Sealer(tuple(secrets), PURPOSE) if secrets else None
        self._dropped = dropped
        self._renewal = SharedTask(self._renew)
        self._mark: object = self  # no mark that there is
        self._by_name: Mapping[str, Remote] = {}
        self._edition = ""
        self._rests_until = float("-inf")

    def find(self, name: str) -> Remote | None:
        """The model of a name, with its tag or without."""
        # The first run may have begun, for another request, before the change that is looked for.
        for _ in range(2):
            if self._changes.mark() == self._mark or not self._renewal.run(self._wait()):
                break
        return self._by_name.get(name)

    def preload(self) -> None:
        """Read all models; requests would wait for that only a moment."""
        self._renew()

    def adopt(self, secrets: Collection[str]) -> None:
        """Seal with these secrets from now on, and open with them what is stored."""
        self._sealer = Sealer(tuple(secrets), PURPOSE)
        self._mark = self

    def listed(self) -> list[Remote]:
        """All of them, by name."""
        self.find("")
        return list({remote.name: remote for remote in self._by_name.values()}.values())

    def edition(self) -> str:
        """A digest of the versions of all models."""
        self.find("")
        return self._edition

    def put(self, remote: Remote) -> Remote:
        """Register a model, in place of one of its name; gives it as it is stored.

        Raises Unsupported when its key could not be opened again, StoreUnavailable.
        """
        now = time.time()
        secrets, sealed = remote.secrets(), None
        if secrets is not None:
            if self._sealer is None:
                raise Unsupported(
                    "FORWARDER_SECRET_KEY is not set, so no key can be kept in the database.",
                    code="no_secret_key",
                )
            sealed = self._sealer.seal(secrets)
        stored = replace(remote, version=random_id("v"), created=now, modified=now)
        row = Row(stored.name, stored.version, now, now, stored.told(), sealed)
        self._database.write(partial(models.put, row=row))
        self._changes.tell()
        return self.find(stored.name) or stored

    def remove(self, name: str) -> Remote:
        """Remove a model; raises NotFound when there is none, StoreUnavailable."""
        found = self.find(name)
        if not self._database.write(partial(models.remove, name=full(name))):
            raise not_found(name)
        self._changes.tell()
        return found or Remote(full(name), "")

    def rotate(self, of_clients: Sealer) -> key_rotation.Renewed:
        """Seal everything in the store anew, with the first secret."""
        of_models = self._sealer.renewed if self._sealer else lambda sealed: None
        done = key_rotation.renew(self._database, of_models, of_clients.renewed)
        self._changes.tell()  # some may have keys again
        return done

    # -- the copy -------------------------------------------------------------------------------

    def _wait(self) -> float:
        """Seconds that a request waits for the models; none while the store is down."""
        return MAX_WAIT if time.monotonic() >= self._rests_until else 0.0

    def _renew(self) -> None:
        mark = self._changes.mark()
        if mark == self._mark or time.monotonic() < self._rests_until:
            return
        try:
            rows = self._database.read(models.listed)
        except StoreUnavailable:
            self._rests_until = time.monotonic() + _REST
            return
        before, self._by_name = self._by_name, self._named(rows)
        self._edition = _digest_versions(rows)
        self._mark = mark
        there = {id(remote) for remote in self._by_name.values()}
        for remote in {id(each): each for each in before.values()}.values():
            if id(remote) not in there and remote.host:
                self._dropped(remote.upstream)

    def _named(self, rows: list[Row]) -> dict[str, Remote]:
        """Every name, with the tag ``latest`` and without -> the model; unchanged ones stay."""
        found: dict[str, Remote] = {}
        for row in rows:
            known = self._by_name.get(row.name)
            if known is None or known.version != row.version or known.locked:
                known = self._read(row)
            found[row.name] = found[short(row.name)] = known
        return found

    def _read(self, row: Row) -> Remote:
        secrets: Any = {}
        if row.sealed is not None:
            secrets = self._sealer.unseal(row.sealed) if self._sealer else None
        if secrets is None:
            log.error(
                "the key of the model '%s' was sealed with a secret that is not in "
                "FORWARDER_SECRET_KEY; the model cannot be used",
                row.name,
            )
        return restored(
            row.told,
            secrets or {},
            name=row.name,
            version=row.version,
            created=row.created,
            modified=row.modified,
            locked=secrets is None,
        )


def _digest_versions(rows: list[Row]) -> str:
    versions = sorted(row.version for row in rows)
    return hashlib.sha256(" ".join(versions).encode()).hexdigest() if rows else ""


def not_found(name: str) -> NotFound:
    """The error for a model that there is not, in Ollama's words."""
    return NotFound(f"model '{shorten(name)}' not found", param="model", code="model_not_found")


def _off() -> Unsupported:
    return Unsupported(
        "Models cannot be registered here: nothing is stored (FORWARDER_DATABASE_URL).",
        code="store_disabled",
    )
