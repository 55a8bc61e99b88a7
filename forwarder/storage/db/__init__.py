"""The database layer: connections, tables, and statements. It is independent of HTTP and upstreams.

- `database.py` runs functions in transactions, `open.py` opens the configured database,
  `migrate.py` and ``migrations/`` create the tables that `tables.py` declares.
- `responses.py`, `background_leases.py`, `conversations.py`, `completions.py`,
  `registered_models.py`, `client_keys.py`, `owners.py`, `reasoning.py`, `files.py`,
  `vector_stores.py`, `vector_chunks.py` and `usage.py` read and write the rows of one kind of data.
  Their functions take a connection; the repositories (`storage.repositories`) combine them into
  transactions.
- `keyset_pages.py` pages lists, and `tombstones.py` keeps the list positions of deleted rows.
- `compression.py` and `event_log_encoding.py` encode columns, and `clock.py` is the time in SQL.
- `write_batching.py` combines concurrent writes, and `lease_expiry.py` decides when expired
  leases may be evaluated.
- `statements.py` holds precompiled SQL for queries that run on every request.
- `change_notifier.py` tells other workers about changed models, and `reencryption.py` re-encrypts
  stored values.
- `retention.py` deletes old data.
"""

from forwarder.storage.db.database import Database
from forwarder.storage.db.open import load_secrets, open_database
from forwarder.storage.db.retention import Pruner

__all__ = ["Database", "Pruner", "load_secrets", "open_database"]
