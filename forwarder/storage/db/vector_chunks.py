"""Rows of the passages (chunks) in vector stores, and their search by words and by vectors.

The full-text index differs between databases: SQLite has an FTS5 table, ranked by BM25;
PostgreSQL has a column of the type ``tsvector`` and ``ts_rank_cd``. Both stem English words.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import orjson
import sqlalchemy as sa

from forwarder.storage.db.compression import count_written
from forwarder.storage.db.statements import Statement
from forwarder.storage.db.tables import vector_store_chunks as chunks
from forwarder.storage.db.tables import vector_store_files as files
from forwarder.storage.db.vector_stores import (
    COMPLETED,
    PendingFile,
    match_claim,
)

INSERT_SQLITE_WORDS = Statement(
    "INSERT INTO vector_store_words (rowid, store, words) VALUES (:number, :store, :words)"
)
SET_POSTGRESQL_WORDS = Statement(
    "UPDATE vector_store_chunks SET words = to_tsvector('english', :words) WHERE number = :number"
)

SCAN_BITS = Statement(
    "SELECT number, file, bits FROM vector_store_chunks "
    "WHERE owner = :owner AND store = :store AND number > :after ORDER BY number LIMIT :limit"
)

# A chunk counts only if its file is completed, and if `files` is null or has the file.
FIND_SQLITE_WORDS = Statement(
    "SELECT c.number FROM vector_store_words w JOIN vector_store_chunks c ON c.number = w.rowid "
    "JOIN vector_store_files f ON f.owner = c.owner AND f.store = c.store AND f.file = c.file "
    "WHERE vector_store_words MATCH :question AND c.owner = :owner AND c.store = :store "
    "AND f.status = 'completed' "
    "AND (:files IS NULL OR c.file IN (SELECT value FROM json_each(:files))) "
    "ORDER BY bm25(vector_store_words, 0.0, 1.0), c.number LIMIT :limit"
)
FIND_POSTGRESQL_WORDS = Statement(
    "SELECT c.number FROM vector_store_chunks c JOIN vector_store_files f "
    "ON f.owner = c.owner AND f.store = c.store AND f.file = c.file, "
    "to_tsquery('english', :question) question "
    "WHERE c.words @@ question AND c.owner = :owner AND c.store = :store "
    "AND f.status = 'completed' "
    "AND (CAST(:files AS text) IS NULL OR c.file IN "
    "(SELECT jsonb_array_elements_text(CAST(:files AS jsonb)))) "
    "ORDER BY ts_rank_cd(c.words, question, 1) DESC, c.number LIMIT :limit"
)


class NewChunk(NamedTuple):
    """A passage of a file, its words for the full-text index, and its vector if it has one."""

    text: str
    words: Sequence[str]
    vector: bytes | None
    bits: bytes | None

    @property
    def size(self) -> int:
        """Bytes of the text and the vector."""
        return len(self.text.encode()) + len(self.vector or b"")


class ScannedChunk(NamedTuple):
    """The columns of a passage that a scan reads."""

    number: int
    file: str
    bits: bytes


class FoundChunk(NamedTuple):
    """A passage that a search has found."""

    number: int
    store: str
    file: str
    text: str


def add_chunks(
    connection: sa.Connection, claimed: PendingFile, worker: str, new_chunks: Iterable[NewChunk]
) -> bool:
    """Add passages of a claimed file. False if this worker must not process it any more."""
    own = sa.select(files.c.number).where(match_claim(claimed, worker)).with_for_update()
    if connection.execute(own).first() is None:
        return False
    for chunk in new_chunks:
        row = {
            "owner": claimed.owner,
            "store": claimed.store,
            "file": claimed.file,
            "text": chunk.text,
            "vector": chunk.vector,
            "bits": chunk.bits,
        }
        number = connection.scalar(sa.insert(chunks).values(row).returning(chunks.c.number))
        values = {"number": number, "store": claimed.store, "words": " ".join(chunk.words)}
        is_sqlite = connection.dialect.name == "sqlite"
        (INSERT_SQLITE_WORDS if is_sqlite else SET_POSTGRESQL_WORDS).run(connection, values)
        count_written(connection, chunk.size)
    return True


def find_words(
    connection: sa.Connection,
    owner: str,
    store: str,
    words: Sequence[str],
    file_ids: Sequence[str] | None,
    limit: int,
) -> list[int]:
    """Return the numbers of the passages with any of the words, best first.

    The words consist of letters and digits. ``file_ids`` restricts the search to these files.
    """
    values = {
        "owner": owner,
        "store": store,
        "files": None if file_ids is None else orjson.dumps(file_ids).decode(),
        "limit": limit,
    }
    if connection.dialect.name == "sqlite":
        any_word = " OR ".join(f'"{word}"' for word in words)
        question = f'store : "{store}" AND words : ({any_word})'
        rows = FIND_SQLITE_WORDS.fetch_rows(connection, {**values, "question": question})
    else:
        question = " | ".join(f"'{word}'" for word in words)
        rows = FIND_POSTGRESQL_WORDS.fetch_rows(connection, {**values, "question": question})
    return [row[0] for row in rows]


def scan_bits(
    connection: sa.Connection, owner: str, store: str, after: int, limit: int
) -> list[ScannedChunk]:
    """Return the next passages with a vector after a number, in order."""
    values = {"owner": owner, "store": store, "after": after, "limit": limit}
    return [ScannedChunk(*row) for row in SCAN_BITS.fetch_rows(connection, values)]


def read_vectors(
    connection: sa.Connection, owner: str, numbers: Sequence[int]
) -> list[tuple[int, bytes]]:
    """Return (number, vector) of passages."""
    query = sa.select(chunks.c.number, chunks.c.vector)
    return [
        (number, bytes(vector))
        for number, vector in connection.execute(
            query.where(chunks.c.owner == owner, chunks.c.number.in_(numbers))
        )
        if vector is not None
    ]


def read_texts(
    connection: sa.Connection, owner: str, numbers: Sequence[int]
) -> dict[int, FoundChunk]:
    """Return passages of completed files by number."""
    query = (
        sa.select(chunks.c.number, chunks.c.store, chunks.c.file, chunks.c.text)
        .join(
            files,
            (files.c.owner == chunks.c.owner)
            & (files.c.store == chunks.c.store)
            & (files.c.file == chunks.c.file),
        )
        .where(chunks.c.owner == owner, chunks.c.number.in_(numbers), files.c.status == COMPLETED)
    )
    return {row.number: FoundChunk(*row) for row in connection.execute(query)}


def list_texts(
    connection: sa.Connection, owner: str, store: str, file: str, after: int, limit: int
) -> list[tuple[int, str]]:
    """Return (number, text) of a file's next passages after a number, in order."""
    query = (
        sa.select(chunks.c.number, chunks.c.text)
        .where(
            chunks.c.owner == owner,
            chunks.c.store == store,
            chunks.c.file == file,
            chunks.c.number > after,
        )
        .order_by(chunks.c.number)
        .limit(limit)
    )
    return [(number, text) for number, text in connection.execute(query)]
