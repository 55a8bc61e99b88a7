"""Open the database of a URL, and load the secret stored next to it."""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
from contextlib import suppress
from pathlib import Path

import sqlalchemy as sa

from forwarder.core.errors import StoreUnavailable
from forwarder.storage.db.database import Database, PostgresqlDatabase, SqliteDatabase

log = logging.getLogger("forwarder.store")

NO_DATABASE = "none"
DEFAULT_URL = "sqlite:///forwarder.db"

BASE_PATH = Path()
"""Base of relative paths: the working directory."""

KEY_FILE_MODE = 0o600


def open_database(url: str) -> Database | None:
    """Open the database of a URL; ``None`` if storage is disabled.

    A database that is not usable yet (full, read-only, locked, missing) is retried in the
    background. The default file is an exception: if it cannot be created, storage is disabled.
    """
    if url == NO_DATABASE:
        return None
    parsed = sa.make_url(url)
    path = BASE_PATH / (parsed.database or "")
    database = SqliteDatabase(path) if parsed.drivername == "sqlite" else PostgresqlDatabase(parsed)
    if url == DEFAULT_URL and not is_path_usable(path):
        log.warning(
            "storage is disabled: cannot create a database at '%s'",
            path,
            extra={"event": "storage_disabled"},
        )
        return None
    try:
        database.start()
    except StoreUnavailable:
        log.warning(
            "the database is not usable yet; requests that need it fail until it is",
            extra={"event": "database_unavailable"},
        )
    return database


def is_path_usable(path: Path) -> bool:
    """Whether the database file exists, or can be created in its directory."""
    return path.exists() or (path.parent.is_dir() and os.access(path.parent, os.W_OK | os.X_OK))


def load_secrets(database: Database | None, new_secret: str | None = None) -> tuple[str, ...]:
    """Return the secret stored next to an SQLite file, for operators that have configured none.

    Stores ``new_secret`` or a random one if the file is missing. Returns an empty tuple without an
    SQLite file, or if the secret can be neither read nor written.
    """
    if isinstance(database, SqliteDatabase):
        path = database.path.with_name(f"{database.path.name}.key")
        try:
            secret = load_secret_file(path, new_secret or secrets.token_urlsafe(32))
        except OSError as error:
            log.warning(
                "cannot store a secret at '%s': %s",
                path,
                error.strerror or error,
                extra={"event": "secret_not_stored"},
            )
        else:
            return (secret,)
    elif database is not None:
        log.warning(
            "FORWARDER_SECRET_KEY is not set, and no secret is stored with a PostgreSQL database: "
            "other workers and machines cannot decrypt values of this process. Set it for all.",
            extra={"event": "secret_missing"},
        )
    return ()


def load_secret_file(path: Path, new_secret: str) -> str:
    """Return the secret of a file; write ``new_secret`` if the file is empty or missing."""
    with suppress(FileNotFoundError), path.open() as file:
        check_key_file(file.fileno(), path)
        if secret := file.read().strip():
            return secret
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, KEY_FILE_MODE), "r+") as file:
        check_key_file(file.fileno(), path)
        fcntl.flock(file, fcntl.LOCK_EX)  # another process may be writing its own secret
        if secret := file.read().strip():
            return secret
        try:
            file.write(new_secret + "\n")
            file.flush()
        except OSError:
            # On a full disk only a part may have been written, which would be another secret.
            os.ftruncate(file.fileno(), 0)
            raise
    log.warning(
        "FORWARDER_SECRET_KEY is not set: a random secret was stored in '%s'. "
        "Other machines that serve the same clients need the same secret.",
        path,
        extra={"event": "secret_created"},
    )
    return new_secret


def check_key_file(file: int, path: Path) -> None:
    """Make the file readable only by this user.

    Raises OSError if other users may have written it, because write access controls the secret.
    """
    status = os.fstat(file)
    if status.st_uid not in (os.geteuid(), 0):
        raise OSError("the file belongs to another user")
    if not status.st_mode & 0o077:
        return
    with suppress(OSError):
        os.fchmod(file, KEY_FILE_MODE)
        log.warning(
            "the secret in '%s' was readable by other users; this was corrected",
            path,
            extra={"event": "secret_file_mode_fixed"},
        )
    if os.fstat(file).st_mode & 0o022:
        raise OSError("other users can write the file")
