"""The database layer: connections, tables, and statements. It is independent of HTTP and upstreams.

All SQL, the schema and nearly all differences between SQLite and PostgreSQL are here. The
transactions that combine statements are in `storage.repositories`; the meaning of stored items and
histories is in `storage`. `retention.py` and `reencryption.py` run transactions of their own,
because they go through whole tables in portions.

**Start**: `open.py` makes a `SqliteDatabase` or a `PostgresqlDatabase` (`database.py`) from the
URL. `Database.start` creates or migrates the tables (`migrate.py`, ``migrations/``) and makes a
trial write. If this fails, the worker starts anyway, and the trial is repeated in the background.

**A query**: a repository passes a function of the connection to `Database.read` or
`Database.write`.

- While the breaker for reads or for writes is open, `database.py` raises StoreUnavailable at once.
- SQLite, under gevent: a read runs in one of ``READER_THREADS`` native threads. Writes wait in
  `write_batching.py`; one native thread runs up to ``MAX_BATCH_SIZE`` of them in one transaction.
  PostgreSQL: the function runs in the caller's greenlet on a pooled connection, and all its
  statements share a deadline (`postgres_connection.py`).
- The function calls the modules for one kind of data (`responses.py`, `conversations.py`,
  `files.py` …). They get the connection and, for data of clients, the owner, and return named
  tuples such as `StoredResponse`. They build statements of the tables in `tables.py`; for queries
  of every request, `statements.py` has SQL that needs no compilation. Where the databases need
  different SQL, they check ``connection.dialect.name``. In SQL three tables have other names:
  ``thoughts`` (reasoning), ``gone`` (tombstones) and ``chores`` (scheduled jobs).
- JSON columns are encoded by `compression.py`, events of responses by `event_log_encoding.py`:
  deltas that differ in nothing else share one record. The size of large values goes to
  ``count_written``.
- Lists that the database pages are ordered by a column ``number``, which is also the position of
  their cursors. `tombstones.py` keeps the position of a deleted row for ``TOMBSTONE_SECONDS``, so
  that it remains a cursor.

**Leases**: a turn locks its conversation, and a worker owns a background response or a file that it
processes, for ``LEASE_SECONDS`` at a time. The clock of the database grants and evaluates leases
(`clock.py`), because machines have different clocks. An expired lease of a background response
counts only after the database has accepted writes for ``MIN_STABLE_SECONDS`` (`lease_expiry.py`):
after an outage the leases of running workers have expired, too.

**Retention** (`retention.py`): once in ``PRUNE_SECONDS`` one worker deletes rows that were not used
for long, expired files and old usage. Above FORWARDER_STORE_MAX_SIZE it deletes from the owners
with the most data, so that no owner loses data because of another one. A worker that has written
many bytes does the latter at once.

**Cached data**: each worker caches the registered models and the client keys. A change increments a
counter in the table ``generations``, in the same transaction. Then the registry announces it with
`change_notifier.py`: SQLite has a file beside the database for this, in PostgreSQL the workers poll
the counter. Marks of the reasoning cache use such a file without a counter.

Rules:

- The function may run twice. If a write of a batch fails, the batch is rolled back, and each of its
  writes runs again in a transaction of its own. So it must have no effect outside the database.
- In a native thread it must not use locks, sleeps or sockets that gevent has patched.
- Every database error becomes StoreUnavailable; only an outage (`is_outage`) opens a breaker. Other
  exceptions of the function roll its transaction back and reach the caller.
- A write is durable on return. With SQLite, a power failure may lose the latest ones.
- Rows that other workers write at the same time are written in a sorted order, to prevent deadlocks
  (`usage.py`, `reasoning.py`, `client_keys.py`). SQLite has one writer and needs no row locks.
- A key or an index of each table of clients begins with the owner, and queries for a client are
  limited to its owner.
- Callers check ids of clients and upstreams with `is_valid_id`: PostgreSQL stores no NUL, and index
  rows have a maximum size.
- During a deploy, older workers use the migrated tables. So new columns are nullable, and
  `migrate.py` does not change a database of a newer version. It raises UnknownSchemaVersion for a
  database of an unreleased version whose migration was joined with others.
- Logs must contain no statement and no values (`describe_error`). The reason that ``GET /ready``
  shows must contain no path, address or user name either (`make_public_reason`).

To add a table or a column:

1. Write a migration, and set `LATEST_VERSION` in `migrate.py`. The release joins the migrations
   since the last version into one (`CONTRIBUTING.md`).
2. Declare it in `tables.py`. `tests/storage/db/test_migrate.py` fails if the declaration and the
   migrations differ, `test_tables.py` if a table has no owner and is not one of the operator's.
3. Write the statements in a module here, and test them on both databases with ``any_database``.
4. For a table of clients, extend in `owners.py` the groups of tables that `move_owner` moves, and
   for a table without a parent also `list_owners` and `FIND_ANY_ROW`; with retention columns
   `PRUNED_TABLES` in `retention.py`; for encrypted values `ENCRYPTED_COLUMNS` in `reencryption.py`.
   Tests fail for a table or a binary column that is missing there. They do not find a text column.
"""

from forwarder.storage.db.database import Database
from forwarder.storage.db.open import load_secrets, open_database
from forwarder.storage.db.retention import Pruner

__all__ = ["Database", "Pruner", "load_secrets", "open_database"]
