"""Files of clients in the database: uploads within the limits, contents in parts."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import IO

from forwarder.core.errors import InvalidRequest, NotFound, TooLarge
from forwarder.core.ids import generate_id
from forwarder.core.types import Json
from forwarder.storage.db.files import StoredFile
from forwarder.storage.db.keyset_pages import NumberedPage
from forwarder.storage.db.tables import is_valid_id
from forwarder.storage.repositories.files import FileRepository

PART_BYTES = 2**20


class FileStore:
    """Files in a database: at most ``max_file`` bytes each, ``max_owner`` bytes of one owner."""

    def __init__(self, repository: FileRepository, max_file: int, max_owner: int) -> None:
        self._repository = repository
        self.max_file, self.max_owner = max_file, max_owner

    def upload(
        self,
        owner: str,
        stream: IO[bytes],
        size: int,
        filename: str,
        purpose: str,
        lifetime: int | None = None,
    ) -> StoredFile:
        """Store a file of ``size`` bytes, which expires after ``lifetime`` seconds.

        Raises TooLarge, or InvalidRequest if the owner has no room for it.
        """
        if size > self.max_file:
            raise TooLarge(
                f"The file has {size} bytes. This server stores files of at most {self.max_file}.",
                param="file",
            )
        now = time.time()
        name = generate_id("file").replace("_", "-")
        expires = None if lifetime is None else now + lifetime
        file = StoredFile(name, now, size, filename, purpose, expires)
        if not self._repository.reserve(owner, file, self.max_owner):
            raise storage_full(self.max_owner)
        try:
            number = 0
            while data := stream.read(PART_BYTES):
                self._repository.add_part(owner, name, number, data)
                number += 1
            if not self._repository.mark_complete(owner, name):
                raise file_not_found(name)
        except BaseException:
            # Without the database, the abandoned upload is deleted later.
            if self._repository.is_writable:
                self._repository.remove(owner, name)
            raise
        return file

    def find(self, owner: str, file_id: str) -> StoredFile:
        """Return a file. Raises NotFound."""
        file = self._repository.find(owner, file_id) if is_valid_id(file_id) else None
        if file is None:
            raise file_not_found(file_id)
        return file

    def find_missing(self, owner: str, file_ids: list[str]) -> str | None:
        """Return the first id without a file of the owner; None if all files exist."""
        valid = [name for name in file_ids if is_valid_id(name)]
        existing = self._repository.find_existing(owner, valid)
        return next((name for name in file_ids if name not in existing), None)

    def find_position(self, owner: str, file_id: str) -> int | None:
        """Return the list position of a file, or None if it is unknown."""
        return self._repository.find_position(owner, file_id)

    def measure_owner(self, owner: str) -> int:
        """Return the bytes of an owner's files and vector stores."""
        return self._repository.measure_owner(owner)

    def list_page(
        self, owner: str, page: NumberedPage, purpose: str | None
    ) -> tuple[list[StoredFile], bool]:
        """Return a page of the owner's files, and whether there are more."""
        return self._repository.list_page(owner, page, purpose)

    def iterate_content(self, owner: str, file_id: str) -> Iterator[bytes]:
        """Yield the content of a file in parts, and mark the file as used."""
        self._repository.mark_used(owner, file_id)
        number = 0
        while True:
            data = self._repository.read_part(owner, file_id, number)
            if data is None:
                return
            yield data
            number += 1

    def remove(self, owner: str, file_id: str) -> None:
        """Delete a file, also from vector stores. Raises NotFound."""
        if not is_valid_id(file_id) or not self._repository.remove(owner, file_id):
            raise file_not_found(file_id)


def render_file(file: StoredFile) -> Json:
    """Return the API object of a file."""
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.size,
        "created_at": int(file.created),
        "expires_at": None if file.expires is None else int(file.expires),
        "filename": file.filename,
        "purpose": file.purpose,
        "status": "processed",
        "status_details": None,
    }


def file_not_found(file_id: str) -> NotFound:
    """Create the error for an unknown file."""
    return NotFound(f"No such File object: {file_id[:64]}", param="file_id")


def storage_full(max_bytes: int) -> InvalidRequest:
    """Create the error for an owner at the limit of stored bytes."""
    return InvalidRequest(
        f"Your files and vector stores would have more than {max_bytes} bytes. Delete some.",
        param="file",
        code="storage_limit_exceeded",
    )
