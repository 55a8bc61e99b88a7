"""Table declarations for queries, and which ids the tables can store.

``migrations/`` creates the tables.

Times are Unix seconds. ``owner`` is derived from a client's API key (`client_identity.py`), and
each query for a client is limited to its owner. In tables of clients it is the first part of the
primary key; if that is a ``number``, it is the first part of a unique key or of an index. ``used``
is the last use of a row, and ``size`` its approximate number of bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import sqlalchemy as sa

metadata = sa.MetaData()

BIG_INTEGER = sa.BigInteger().with_variant(sa.Integer, "sqlite")
"""SQLite only auto-increments INTEGER columns."""


def make_key_column(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.Text, primary_key=True)


def make_retention_columns(table: str) -> tuple[sa.schema.SchemaItem, ...]:
    """Return the columns by which `retention.py` chooses the rows that it deletes, and an index."""
    return (
        sa.Column("used", sa.Double, nullable=False),
        sa.Column("size", BIG_INTEGER, nullable=False),
        sa.Index(f"{table}_by_use", "used", "size"),
    )


def make_partial_index(name: str, *columns: str) -> sa.Index:
    """Return an index of the rows in which the last of these columns is not null, which are few."""
    condition = sa.text(f"{columns[-1]} IS NOT NULL")
    return sa.Index(name, *columns, sqlite_where=condition, postgresql_where=condition)


responses = sa.Table(
    "responses",
    metadata,
    make_key_column("owner"),
    make_key_column("id"),
    sa.Column("created", sa.Double, nullable=False),
    *make_retention_columns("responses"),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("hidden", sa.Boolean, nullable=False),
    sa.Column("previous", sa.Text),
    sa.Column("conversation", sa.Text),
    sa.Column("before", BIG_INTEGER),
    sa.Column("upstream", sa.Text),
    sa.Column("upstream_id", sa.Text),
    sa.Column("worker", sa.Text),
    sa.Column("lease", sa.Double),
    sa.Column("input", sa.LargeBinary, nullable=False),
    sa.Column("body", sa.LargeBinary, nullable=False),
    sa.Column("log", sa.LargeBinary),
    sa.Column("request", sa.Text),
    sa.Column("attempt", BIG_INTEGER),
    make_partial_index("responses_by_previous", "owner", "previous"),
    make_partial_index("responses_by_lease", "lease"),
)
"""``hidden`` rows are deleted, but a later response continues them. ``before`` is the last item of
the conversation that the request continued. ``worker`` owns a background response until ``lease``.
``log`` is the complete event log of a response that was stored after it ended, if it is a single
chunk; older versions ignore it. ``request`` is the encrypted request of a background response, as
long as the job may be repeated. ``attempt`` is the number of attempts.
"""


def make_response_foreign_key(name: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(
        ["owner", name], ["responses.owner", "responses.id"], ondelete="CASCADE"
    )


events = sa.Table(
    "events",
    metadata,
    make_key_column("owner"),
    make_key_column("response"),
    sa.Column("first", BIG_INTEGER, primary_key=True, autoincrement=False),
    sa.Column("last", BIG_INTEGER, nullable=False),
    sa.Column("data", sa.LargeBinary, nullable=False),
    make_response_foreign_key("response"),
)
"""Chunks of event logs, with the sequence numbers of their first and last events."""

items = sa.Table(
    "items",
    metadata,
    make_key_column("owner"),
    make_key_column("id"),
    sa.Column("response", sa.Text, nullable=False),
    sa.Index("items_by_response", "owner", "response"),
    make_response_foreign_key("response"),
    sqlite_with_rowid=False,
)
"""The response that contains an item in its output, or in its input if the client chose the id."""

conversations = sa.Table(
    "conversations",
    metadata,
    make_key_column("owner"),
    make_key_column("id"),
    sa.Column("created", sa.Double, nullable=False),
    *make_retention_columns("conversations"),
    sa.Column("metadata", sa.LargeBinary, nullable=False),
    sa.Column("holder", sa.Text),
    sa.Column("lease", sa.Double),
)
"""``holder`` is the running turn, and ``lease`` the expiry time of its lock."""

conversation_items = sa.Table(
    "conversation_items",
    metadata,
    sa.Column("number", BIG_INTEGER, primary_key=True),
    sa.Column("owner", sa.Text, nullable=False),
    sa.Column("conversation", sa.Text, nullable=False),
    sa.Column("id", sa.Text, nullable=False),
    sa.Column("data", sa.LargeBinary, nullable=False),
    sa.UniqueConstraint("owner", "conversation", "id"),
    sa.Index("conversation_items_by_id", "owner", "id"),
    sa.ForeignKeyConstraint(
        ["owner", "conversation"],
        ["conversations.owner", "conversations.id"],
        ondelete="CASCADE",
    ),
    sqlite_autoincrement=True,
)
"""Items of conversations; ``number`` is their order and is never reused."""

completions = sa.Table(
    "completions",
    metadata,
    sa.Column("number", BIG_INTEGER, primary_key=True),
    sa.Column("owner", sa.Text, nullable=False),
    sa.Column("id", sa.Text, nullable=False),
    sa.Column("created", sa.Double, nullable=False),
    *make_retention_columns("completions"),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("metadata", sa.LargeBinary, nullable=False),
    sa.Column("messages", sa.LargeBinary, nullable=False),
    sa.Column("body", sa.LargeBinary, nullable=False),
    sa.UniqueConstraint("owner", "id"),
    sqlite_autoincrement=True,
)

files = sa.Table(
    "files",
    metadata,
    sa.Column("number", BIG_INTEGER, primary_key=True),
    sa.Column("owner", sa.Text, nullable=False),
    sa.Column("id", sa.Text, nullable=False),
    sa.Column("created", sa.Double, nullable=False),
    *make_retention_columns("files"),
    sa.Column("filename", sa.Text, nullable=False),
    sa.Column("purpose", sa.Text, nullable=False),
    sa.Column("expires", sa.Double),
    sa.Column("complete", sa.Boolean, nullable=False),
    sa.UniqueConstraint("owner", "id"),
    sqlite_autoincrement=True,
)
"""Files of clients. ``complete`` is false while a file is being uploaded."""

file_parts = sa.Table(
    "file_parts",
    metadata,
    make_key_column("owner"),
    make_key_column("file"),
    sa.Column("number", BIG_INTEGER, primary_key=True, autoincrement=False),
    sa.Column("data", sa.LargeBinary, nullable=False),
    sa.ForeignKeyConstraint(["owner", "file"], ["files.owner", "files.id"], ondelete="CASCADE"),
)
"""The contents of files, in parts numbered from 0."""

vector_stores = sa.Table(
    "vector_stores",
    metadata,
    sa.Column("number", BIG_INTEGER, primary_key=True),
    sa.Column("owner", sa.Text, nullable=False),
    sa.Column("id", sa.Text, nullable=False),
    sa.Column("created", sa.Double, nullable=False),
    *make_retention_columns("vector_stores"),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("description", sa.Text),
    sa.Column("metadata", sa.LargeBinary, nullable=False),
    sa.Column("expires_days", BIG_INTEGER),
    sa.Column("embedding_model", sa.Text),
    sa.UniqueConstraint("owner", "id"),
    sqlite_autoincrement=True,
)
"""``embedding_model`` creates the vectors of a store. If it is null, the store has no vectors."""


def make_vector_store_foreign_key() -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(
        ["owner", "store"], ["vector_stores.owner", "vector_stores.id"], ondelete="CASCADE"
    )


vector_store_batches = sa.Table(
    "vector_store_batches",
    metadata,
    make_key_column("owner"),
    make_key_column("id"),
    sa.Column("store", sa.Text, nullable=False),
    sa.Column("created", sa.Double, nullable=False),
    sa.Column("cancelled", sa.Boolean, nullable=False),
    sa.Index("vector_store_batches_by_store", "owner", "store"),
    make_vector_store_foreign_key(),
)

vector_store_files = sa.Table(
    "vector_store_files",
    metadata,
    sa.Column("number", BIG_INTEGER, primary_key=True),
    sa.Column("owner", sa.Text, nullable=False),
    sa.Column("store", sa.Text, nullable=False),
    sa.Column("file", sa.Text, nullable=False),
    sa.Column("created", sa.Double, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("error_code", sa.Text),
    sa.Column("error_message", sa.Text),
    sa.Column("size", BIG_INTEGER, nullable=False),
    sa.Column("attributes", sa.LargeBinary, nullable=False),
    sa.Column("chunk_tokens", BIG_INTEGER, nullable=False),
    sa.Column("overlap_tokens", BIG_INTEGER, nullable=False),
    sa.Column("batch", sa.Text),
    sa.Column("worker", sa.Text),
    sa.Column("lease", sa.Double),
    sa.Column("attempt", BIG_INTEGER, nullable=False),
    sa.Column("payer", sa.Text),
    sa.UniqueConstraint("owner", "store", "file"),
    sa.Index("vector_store_files_by_file", "owner", "file"),
    sa.Index(
        "vector_store_files_pending",
        "owner",
        "number",
        sqlite_where=sa.text("status = 'in_progress'"),
        postgresql_where=sa.text("status = 'in_progress'"),
    ),
    sa.ForeignKeyConstraint(["owner", "file"], ["files.owner", "files.id"], ondelete="CASCADE"),
    make_vector_store_foreign_key(),
    sqlite_autoincrement=True,
)
"""Files in vector stores. ``worker`` splits and embeds a file until ``lease``; ``attempt`` is the
number of workers that have begun to. ``payer`` is the account that pays for the embedding.
"""

vector_store_chunks = sa.Table(
    "vector_store_chunks",
    metadata,
    sa.Column("number", BIG_INTEGER, primary_key=True),
    sa.Column("owner", sa.Text, nullable=False),
    sa.Column("store", sa.Text, nullable=False),
    sa.Column("file", sa.Text, nullable=False),
    sa.Column("bits", sa.LargeBinary),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("vector", sa.LargeBinary),
    sa.Index("vector_store_chunks_by_file", "owner", "store", "file", "number"),
    sa.Index("vector_store_chunks_by_store", "owner", "store", "number", "file", "bits"),
    sa.ForeignKeyConstraint(
        ["owner", "store", "file"],
        ["vector_store_files.owner", "vector_store_files.store", "vector_store_files.file"],
        ondelete="CASCADE",
    ),
    sqlite_autoincrement=True,
)
"""Passages of files. ``vector`` is the embedding as 32-bit floats, and ``bits`` the signs of its
numbers, which the index contains so that a search reads no other columns. Each database has its own
full-text index, which only `vector_chunks.py` uses: in SQLite the table ``vector_store_words``, in
PostgreSQL the column ``words``.
"""

reasoning = sa.Table(
    "thoughts",
    metadata,
    make_key_column("owner"),
    make_key_column("id"),
    *make_retention_columns("thoughts"),
    sa.Column("data", sa.LargeBinary, nullable=False),
)
"""Encrypted reasoning for clients that cannot return it. ``owner`` is a hash of the owner, the
upstream and the model; ``id`` is a hash of the position of the reasoning.
"""

models = sa.Table(
    "models",
    metadata,
    make_key_column("name"),
    sa.Column("version", sa.Text, nullable=False),
    sa.Column("created", sa.Double, nullable=False),
    sa.Column("modified", sa.Double, nullable=False),
    sa.Column("told", sa.LargeBinary, nullable=False),
    sa.Column("sealed", sa.Text),
)
"""Registered models; they have no owner. ``version`` changes with each update, ``told`` is the
public part, and ``sealed`` the encrypted credentials, whose key is not in this database.
"""

generations = sa.Table(
    "generations",
    metadata,
    make_key_column("name"),
    sa.Column("number", BIG_INTEGER, nullable=False),
)
"""Change counters of data that every worker caches."""

tombstones = sa.Table(
    "gone",
    metadata,
    make_key_column("owner"),
    make_key_column("holder"),
    make_key_column("id"),
    sa.Column("number", BIG_INTEGER, nullable=False),
    sa.Column("at", sa.Double, nullable=False),
    sa.Index("gone_by_time", "at"),
)
"""List positions of deleted rows. ``holder`` is the list: the id of a conversation or of a vector
store, or a name such as ``completions``.
"""

owner_keys = sa.Table(
    "owner_keys",
    metadata,
    make_key_column("name"),
    sa.Column("created", sa.Double, nullable=False),
    sa.Column("sealed", sa.Text, nullable=False),
)
"""Encrypted random keys from which owners are derived. Normally there is one. A worker that can
decrypt none of the keys adds its own, encrypted under its own secret.
"""

client_keys = sa.Table(
    "client_keys",
    metadata,
    make_key_column("id"),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("hint", sa.Text, nullable=False),
    sa.Column("digest", sa.Text, nullable=False),
    sa.Column("previous_digest", sa.Text),
    sa.Column("previous_until", sa.Double),
    sa.Column("created", sa.Double, nullable=False),
    sa.Column("expires", sa.Double),
    sa.Column("revoked", sa.Double),
    sa.Column("last_used", sa.Double),
    sa.Column("limits", sa.LargeBinary, nullable=False),
)
"""Client keys that were created at run time. ``digest`` is the SHA-256 of the random key.
``previous_digest`` is that of the key which it replaced; it is valid until ``previous_until``.
"""

usage_hours = sa.Table(
    "usage_hours",
    metadata,
    sa.Column("hour", BIG_INTEGER, primary_key=True, autoincrement=False),
    make_key_column("client"),
    make_key_column("model"),
    make_key_column("upstream"),
    *(
        sa.Column(name, BIG_INTEGER, nullable=False)
        for name in (
            "requests", "errors", "cancelled", "estimated", "input_tokens", "cached_tokens",
            "output_tokens", "reasoning_tokens", "first_events", "first_event_ms", "duration_ms",
        )
    ),
)  # fmt: skip
"""Usage of clients in the hour that begins at ``hour``. `usage.py` describes the counts.
``client`` is the name of the client, not its owner: rows contain no content, and administrators
read all of them.
"""

scheduled_jobs = sa.Table(
    "chores",
    metadata,
    make_key_column("name"),
    sa.Column("due", sa.Double, nullable=False),
)
"""Recurring jobs, each run by one worker at a time, and when they are due."""


# -- ids ------------------------------------------------------------------------------------------

MAX_ID_BYTES = 1024
"""PostgreSQL limits index rows to 2,700 bytes, which also contain the owner and the holder."""

MAX_IDS_PER_STATEMENT = 5000
"""Maximum number of ids in one statement. SQLite allows 32,766 parameters, PostgreSQL 65,535."""


def is_valid_id(name: str) -> bool:
    """Whether an id can be stored. PostgreSQL text cannot contain NUL."""
    return len(name) <= MAX_ID_BYTES and "\0" not in name and len(name.encode()) <= MAX_ID_BYTES


def split_batches(names: Iterable[str]) -> Iterator[list[str]]:
    """Yield the distinct names in batches of `MAX_IDS_PER_STATEMENT`."""
    ordered = list(dict.fromkeys(names))
    for start in range(0, len(ordered), MAX_IDS_PER_STATEMENT):
        yield ordered[start : start + MAX_IDS_PER_STATEMENT]
