"""Which database, by its URL, and the secret that is kept beside it."""

from __future__ import annotations

import logging
import os
import secrets
import time
from contextlib import suppress
from pathlib import Path

import sqlalchemy as sa

from forwarder.errors import StoreUnavailable
from forwarder.store.database import Database, Postgres, Sqlite

log = logging.getLogger("forwarder.store")

NONE = "none"
DEFAULT = "sqlite:///forwarder.db"

BASE = Path()
"""What relative paths are relative to: the working directory."""

_KEY_MODE = 0o600
_WRITTEN_WITHIN = 2.0
"""Seconds in which another process has written the key that it has begun to write."""


def open_database(url: str) -> Database | None:
    """The database of a URL, with its tables; ``None`` when nothing is to be remembered.

    One that cannot be used now is tried again when it is needed, but for the default file: where
    no file can be written and nobody asked for one, nothing is remembered.
    """
    if url == NONE:
        return None
    parsed = sa.make_url(url)
    path = BASE / (parsed.database or "")
    database = Sqlite(path) if parsed.drivername == "sqlite" else Postgres(parsed)
    try:
        database.prepare()
    except StoreUnavailable:
        if url == DEFAULT:
            log.warning("nothing is remembered: no database can be made at '%s'", path)
            return None
        log.warning("the store cannot be used yet; what needs it fails until it can")
    return database


def secret_for(database: Database | None) -> tuple[str, ...]:
    """The secret beside a SQLite file, made when there is none; nothing where there is no place.

    To be used where the operator has set none.
    """
    if isinstance(database, Sqlite):
        path = database.path.with_name(f"{database.path.name}.key")
        try:
            secret = _secret(path)
        except OSError as error:
            log.warning("no secret can be kept at '%s' (%s)", path, error.strerror)
        else:
            return (secret,)
    elif database is not None:
        log.warning(
            "FORWARDER_SECRET_KEY is not set, and a PostgreSQL database keeps no secret: "
            "what this process seals nobody else can open.  Set it where workers or machines share."
        )
    return ()


def _secret(path: Path) -> str:
    with suppress(FileExistsError):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _KEY_MODE)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_urlsafe(32) + "\n")
        log.warning(
            "FORWARDER_SECRET_KEY is not set: a secret was made up and is kept in '%s'.  "
            "Other machines that serve the same clients must have the same.",
            path,
        )
    deadline = time.monotonic() + _WRITTEN_WITHIN
    while not (secret := path.read_text().strip()):
        if time.monotonic() > deadline:
            raise OSError(0, "it is empty", str(path))
        time.sleep(0.01)  # another process is about to write it
    return secret
