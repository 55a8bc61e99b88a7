"""A migrated SQLite file to copy, because migrations take longer than most tests."""

from __future__ import annotations

import functools
import os
import tempfile
from contextlib import suppress
from pathlib import Path

from forwarder.storage.db.database import FILE_MODE, SqliteDatabase


@functools.cache
def read_empty_database() -> bytes:
    """Return the content of a SQLite file with all tables."""
    with tempfile.TemporaryDirectory(prefix="forwarder-tests-") as directory:
        path = Path(directory) / "empty.db"
        path.touch()  # otherwise `copy_empty_database` would create it
        database = SqliteDatabase(path)
        database.prepare()
        database.close()
        return path.read_bytes()


def copy_empty_database(path: Path) -> None:
    """Create the file ``path``, unless there is one or its directory is missing."""
    if path.exists() or not path.parent.is_dir():
        return
    descriptor, copy = tempfile.mkstemp(dir=path.parent)
    with os.fdopen(descriptor, "wb") as file:
        file.write(read_empty_database())
        os.fchmod(descriptor, FILE_MODE)
    with suppress(FileExistsError):  # another thread was faster
        os.link(copy, path)
    os.unlink(copy)
