"""Which database, by its URL, and the secret that is kept beside it."""

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
"""What relative paths are relative to: the working directory."""

KEY_FILE_MODE = 0o600


def open_database(url: str) -> Database | None:
    """The database of a URL, with its tables; ``None`` when nothing is to be remembered.

    One that cannot be used now (full, read-only, locked, not there) is tried again beside the
    requests until it can.  The default file is an exception: where none can be created and the
    operator did not ask for one, nothing is remembered.
    """
    if url == NO_DATABASE:
        return None
    parsed = sa.make_url(url)
    path = BASE_PATH / (parsed.database or "")
    database = SqliteDatabase(path) if parsed.drivername == "sqlite" else PostgresqlDatabase(parsed)
    if url == DEFAULT_URL and not is_path_usable(path):
        log.warning("nothing is remembered: no database can be made at '%s'", path)
        return None
    try:
        database.start()
    except StoreUnavailable:
        log.warning("the store cannot be used yet; what needs it fails until it can")
    return database


def is_path_usable(path: Path) -> bool:
    """Is there a database file, or a directory in which one may be created?"""
    return path.exists() or (path.parent.is_dir() and os.access(path.parent, os.W_OK | os.X_OK))


def load_secrets(database: Database | None, new_secret: str | None = None) -> tuple[str, ...]:
    """The secret beside a SQLite file; nothing where none can be read or written.

    Where there is none yet, ``new_secret`` becomes it, or a new one.  To be used where the operator
    has set none.
    """
    if isinstance(database, SqliteDatabase):
        path = database.path.with_name(f"{database.path.name}.key")
        try:
            secret = load_secret_file(path, new_secret or secrets.token_urlsafe(32))
        except OSError as error:
            log.warning("no secret can be kept at '%s' (%s)", path, error.strerror or error)
        else:
            return (secret,)
    elif database is not None:
        log.warning(
            "FORWARDER_SECRET_KEY is not set, and a PostgreSQL database keeps no secret: "
            "what this process seals nobody else can open.  Set it where workers or machines share."
        )
    return ()


def load_secret_file(path: Path, new_secret: str) -> str:
    """The secret of a file; one that is empty, or not there, gets ``new_secret``."""
    with suppress(FileNotFoundError), path.open() as file:
        check_key_file(file.fileno(), path)
        if there := file.read().strip():
            return there
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, KEY_FILE_MODE), "r+") as file:
        check_key_file(file.fileno(), path)
        fcntl.flock(file, fcntl.LOCK_EX)  # another process may be about to write its own
        if there := file.read().strip():
            return there
        try:
            file.write(new_secret + "\n")
            file.flush()
        except OSError:
            os.ftruncate(file.fileno(), 0)  # half a secret on a full disk would be another one
            raise
    log.warning(
        "FORWARDER_SECRET_KEY is not set: a secret was made up and is kept in '%s'.  "
        "Other machines that serve the same clients must have the same.",
        path,
    )
    return new_secret


def check_key_file(file: int, path: Path) -> None:
    """Let the user of this process alone read the file; raises OSError if others may have made it.

    Whoever can write it chooses the secret.
    """
    status = os.fstat(file)
    if status.st_uid not in (os.geteuid(), 0):
        raise OSError("the file belongs to another user")
    if not status.st_mode & 0o077:
        return
    with suppress(OSError):
        os.fchmod(file, KEY_FILE_MODE)
        log.warning("other users could read the secret in '%s'; now they cannot", path)
    if os.fstat(file).st_mode & 0o022:
        raise OSError("other users can write the file")
