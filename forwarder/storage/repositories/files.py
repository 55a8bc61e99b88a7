"""Stored files: their rows and the parts of their contents."""

from __future__ import annotations

from forwarder.storage.db import Database, files
from forwarder.storage.db.files import StoredFile
from forwarder.storage.db.numbered_lists import NumberedPage


class FileRepository:
    """The files of a database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @property
    def is_writable(self) -> bool:
        """Whether the database accepts writes (its write breaker is closed)."""
        return not self._database.write_breaker.is_open

    def reserve(self, owner: str, file: StoredFile, max_bytes: int) -> bool:
        """Add a file without content. False if the owner would have more than ``max_bytes``."""
        return self._database.write(lambda c: files.reserve(c, owner, file, max_bytes))

    def measure_owner(self, owner: str) -> int:
        """Return the bytes of an owner's files and vector stores."""
        return self._database.read(lambda c: files.measure_owner(c, owner))

    def add_part(self, owner: str, name: str, number: int, data: bytes) -> None:
        """Store a part of a file's content."""
        self._database.write(lambda c: files.add_part(c, owner, name, number, data))

    def mark_complete(self, owner: str, name: str) -> bool:
        """Make a file visible. False if it was deleted meanwhile."""
        return self._database.write(lambda c: files.mark_complete(c, owner, name))

    def mark_used(self, owner: str, name: str) -> None:
        """Keep a file from being deleted as the least recently used one."""
        self._database.write(lambda c: files.mark_used(c, owner, name))

    def find(self, owner: str, name: str) -> StoredFile | None:
        """Return a file that is complete and has not expired."""
        return self._database.read(lambda c: files.find(c, owner, name))

    def find_existing(self, owner: str, names: list[str]) -> set[str]:
        """Return those of the ids that name a file."""
        return self._database.read(lambda c: files.find_existing(c, owner, names))

    def find_position(self, owner: str, name: str) -> int | None:
        """Return the list position of a file, existing or recently deleted, or None."""
        return self._database.read(lambda c: files.find_position(c, owner, name))

    def list_page(
        self, owner: str, page: NumberedPage, purpose: str | None
    ) -> tuple[list[StoredFile], bool]:
        """Return a page of the owner's files, and whether there are more."""
        return self._database.read(lambda c: files.list_page(c, owner, page, purpose))

    def read_part(self, owner: str, name: str, number: int) -> bytes | None:
        """Return a part of a file's content; None after the last one."""
        return self._database.read(lambda c: files.read_part(c, owner, name, number))

    def remove(self, owner: str, name: str) -> bool:
        """Delete a file, also from vector stores. Returns whether it existed."""
        return self._database.write(lambda c: files.remove(c, owner, name))
