"""Derive owners from client API keys. An owner identifies all stored data of a client.

Owners are derived with a random key, the owner key, which the database stores encrypted under
FORWARDER_SECRET_KEY. Rotating the secret re-encrypts the owner key and changes no owner. Workers
with different secrets create different owner keys. A worker that can decrypt several uses the
oldest. When a client connects, it moves data stored under the other keys, or under the plain
digests of older versions, to that owner.

Without a secret shared by all workers, owners are the digests of API keys.

A key with a name is accepted with the name too (``alice:KEY``) and has the owner of the key alone.
Data that an older version stored under the whole text moves there as well.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from functools import partial
from secrets import token_bytes
from types import MappingProxyType

from forwarder.context.client_identity import (
    derive_owner,
    hash_client_key,
    is_guessable,
    strip_client_name,
)
from forwarder.core.blocking_work import spawn
from forwarder.core.encryption import TokenCipher
from forwarder.core.errors import StoreUnavailable
from forwarder.storage.db import Database
from forwarder.storage.repositories.owners import OwnerRepository

KEY_PURPOSE = "owner"

CHECK_SECONDS = 10.0
"""Seconds until a client's earlier owners are checked for data again.

During a deploy, workers of an older version may still store data there.
"""

MAX_CHECKED_OWNERS = 10_000
RETRY_SECONDS = 1.0


class OwnerResolver:
    """Owners of a database; without a database, digests of API keys.

    ``secrets`` are shared by all workers; the first one encrypts. ``client_names`` are the names of
    keys, as in the settings.
    """

    def __init__(
        self,
        database: Database | None,
        secrets: Sequence[str],
        client_names: Mapping[str, str | None] = MappingProxyType({}),
    ) -> None:
        self._database = database
        self._client_names = client_names
        self._repository = OwnerRepository(database) if database is not None else None
        self._keys: list[bytes] = []
        self._checked_at: OrderedDict[str, float] = OrderedDict()
        self._move_lock = threading.Lock()
        self._has_secret = False
        self.add_secrets(secrets)

    def add_secrets(self, secrets: Sequence[str]) -> None:
        """Use these secrets, which were not available at construction."""
        if self._database is None or self._repository is None or not secrets:
            return
        self._cipher, self._has_secret = TokenCipher(secrets, KEY_PURPOSE), True
        try:
            self._load_keys(self._repository)
        except StoreUnavailable:
            spawn(partial(self._load_keys_later, self._repository, self._database.close_event))

    def derive_owner(self, client_key: str | None) -> str:
        """Return the owner without a database query."""
        digest = hash_client_key(strip_client_name(client_key or "", self._client_names))
        return derive_owner(self._keys[0], digest) if client_key and self._keys else digest

    def find_owner(self, client_key: str | None) -> str:
        """Return the owner, after moving all data of earlier owners to it.

        While the database is not writable, the result may be an earlier owner.
        """
        if client_key and self._repository is not None:
            try:
                if self._has_secret and not self._keys:
                    self._load_keys(self._repository)
                return self._migrate_earlier_owners(self._repository, client_key)
            except StoreUnavailable:
                pass  # the database logged it; operations that need the owner fail
        return self.derive_owner(client_key)

    def migrate_owner(self, owner: str) -> str:
        """Move the rows of an owner that is a plain digest, and return the new owner.

        Rows stay while a turn is running in one of their conversations. Raises StoreUnavailable.
        """
        if self._repository is None or not self._keys or not is_guessable(owner):
            return owner
        new_owner = derive_owner(self._keys[0], owner)
        return new_owner if self._repository.move_idle_owner(owner, new_owner) else owner

    def rotate_keys(self) -> None:
        """Re-encrypt the owner keys under the first secret, and replace guessable owners.

        Raises StoreUnavailable.
        """
        if self._repository is None or not self._has_secret:
            return
        for name, sealed in self._repository.list_keys():
            renewed = self._cipher.reencrypt(sealed)
            if renewed is not None:
                self._repository.replace_key(name, renewed)
        for owner in self._repository.list_owners():
            self.migrate_owner(owner)

    def _migrate_earlier_owners(self, repository: OwnerRepository, client_key: str) -> str:
        client_key = strip_client_name(client_key, self._client_names)
        digest = hash_client_key(client_key)
        owner = derive_owner(self._keys[0], digest) if self._keys else digest
        earlier = self._list_earlier_owners(client_key, digest)
        if not earlier:
            return owner
        if time.monotonic() - self._checked_at.get(digest, float("-inf")) < CHECK_SECONDS:
            return owner
        is_done = True
        for old_owner in earlier:
            if repository.has_rows(old_owner):
                try:
                    with self._move_lock:  # the client's concurrent requests wait for the move
                        is_done &= repository.move_owner(old_owner, owner)
                except StoreUnavailable:
                    return old_owner
        if is_done:
            self._checked_at.pop(digest, None)
            self._checked_at[digest] = time.monotonic()
            while len(self._checked_at) > MAX_CHECKED_OWNERS:
                self._checked_at.popitem(last=False)
        return owner

    def _list_earlier_owners(self, client_key: str, digest: str) -> list[str]:
        earlier = [derive_owner(key, digest) for key in self._keys[1:]]
        if self._keys:
            earlier.insert(0, digest)
        name = self._client_names.get(client_key)
        whole_key = f"{name}:{client_key}"
        if name and self._client_names.get(whole_key) == name:
            digest = hash_client_key(whole_key)
            earlier += [digest, *(derive_owner(key, digest) for key in self._keys)]
        return earlier

    # -- the keys -------------------------------------------------------------------------------

    def _load_keys(self, repository: OwnerRepository) -> None:
        """Decrypt the owner keys, or create the first one."""
        keys = self._decrypt_keys(repository.list_keys())
        if not keys:
            new_key = self._cipher.encrypt(token_bytes(32).hex())
            # Another worker may be faster; then its key is used.
            keys = self._decrypt_keys(repository.add_key_unless(self._decrypt_keys, new_key))
        self._keys = keys

    def _load_keys_later(self, repository: OwnerRepository, closed: threading.Event) -> None:
        while not self._keys and not closed.wait(RETRY_SECONDS):
            try:
                self._load_keys(repository)
            except StoreUnavailable:
                continue  # the database logged it

    def _decrypt_keys(self, rows: list[tuple[str, str]]) -> list[bytes]:
        keys = [self._cipher.decrypt(sealed) for _, sealed in rows]
        return [bytes.fromhex(key) for key in keys if key]
