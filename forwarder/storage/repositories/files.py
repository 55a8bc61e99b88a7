"""Stored files: their rows and the parts of their contents."""

from __future__ import annotations

from forwarder.storage.db import Database, files
from forwarder.storage.db.files import StoredFile
from forwarder.storage.db.keyset_pages import NumberedPage


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

    def add_part(self, owner: str, file_id: str, number: int, data: bytes) -> None:
        """Store a part of a file's content."""
        self._database.write(lambda c: files.add_part(c, owner, file_id, number, data))

    def mark_complete(self, owner: str, file_id: str) -> bool:
        """Make a file visible. False if it was deleted meanwhile."""
        return self._database.write(lambda c: files.mark_complete(c, owner, file_id))

    def mark_used(self, owner: str, file_id: str) -> None:
        """Update the last use of a file, which protects it from pruning, if that is possible."""
        self._database.write_if_possible(lambda c: files.mark_used(c, owner, file_id))

    def find(self, owner: str, file_id: str) -> StoredFile | None:
        """Return a file that is complete and has not expired."""
        return self._database.read(lambda c: files.find(c, owner, file_id))

    def find_existing(self, owner: str, names: list[str]) -> set[str]:
        """Return the ids of those files that are complete and have not expired."""
        return self._database.read(lambda c: files.find_existing(c, owner, names))

    def find_position(self, owner: str, file_id: str) -> int | None:
        """Return the list position of a file, existing or recently deleted, or None."""
        return self._database.read(lambda c: files.find_position(c, owner, file_id))

    def list_page(
        self, owner: str, page: NumberedPage, purpose: str | None
    ) -> tuple[list[StoredFile], bool]:
        """Return a page of the owner's files, and whether there are more."""
        return self._database.read(lambda c: files.list_page(c, owner, page, purpose))

    def read_part(self, owner: str, file_id: str, number: int) -> bytes | None:
        """Return a part of a file's content; None after the last one."""
        return self._database.read(lambda c: files.read_part(c, owner, file_id, number))

    def remove(self, owner: str, file_id: str) -> bool:
        """Delete a file, also from vector stores. Returns whether it existed."""
        return self._database.write(lambda c: files.remove(c, owner, file_id))
