"""A SQLite file with all tables, which tests copy: migrations take longer than most tests."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

from forwarder.storage.db.database import FILE_MODE, SqliteDatabase


@functools.cache
def make_empty_database() -> Path:
    """Return the file, which the migrations have made."""
    path = Path(tempfile.mkdtemp(prefix="forwarder-tests-")) / "empty.db"
    atexit.register(shutil.rmtree, path.parent)
    path.touch()  # `copy_empty_database` would otherwise copy the file to itself
    database = SqliteDatabase(path)
    database.prepare()
    database.close()
    return path


def copy_empty_database(path: Path) -> None:
    """Copy the file to ``path``, unless there is a file or it cannot be created."""
    if path.exists() or not path.parent.is_dir():
        return
    descriptor, copy = tempfile.mkstemp(dir=path.parent)
    with os.fdopen(descriptor, "wb") as file:
        file.write(make_empty_database().read_bytes())
        os.fchmod(descriptor, FILE_MODE)
    with suppress(FileExistsError):  # another thread was faster
        os.link(copy, path)
    os.unlink(copy)
