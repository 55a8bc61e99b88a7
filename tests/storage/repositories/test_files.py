"""Files of a repository: upload, reading and deletion."""

from __future__ import annotations

from forwarder.storage.db.database import SqliteDatabase
from forwarder.storage.db.files import StoredFile
from forwarder.storage.db.keyset_pages import NumberedPage
from forwarder.storage.repositories.files import FileRepository

FILE = StoredFile("file-1", 1.0, 2, "a.txt", "assistants", None)


def test_file_is_uploaded_read_and_deleted(database: SqliteDatabase) -> None:
    repository = FileRepository(database)
    assert repository.is_writable
    assert repository.reserve("o", FILE, 2)
    assert not repository.reserve("o", FILE._replace(id="file-2"), 3)
    repository.add_part("o", "file-1", 0, b"hi")
    assert repository.find("o", "file-1") is None
    assert repository.mark_complete("o", "file-1")

    assert repository.find("o", "file-1") == FILE
    assert repository.find_existing("o", ["file-1", "file-2"]) == {"file-1"}
    assert repository.list_page("o", NumberedPage(5, None, None, False), None) == ([FILE], False)
    assert [repository.read_part("o", "file-1", number) for number in (0, 1)] == [b"hi", None]
    assert repository.measure_owner("o") == 2
    repository.mark_used("o", "file-1")
    position = repository.find_position("o", "file-1")
    assert position is not None
    assert repository.remove("o", "file-1")
    assert not repository.remove("o", "file-1")
    assert repository.find_position("o", "file-1") == position
