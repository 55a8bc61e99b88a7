"""The database layer. It knows neither requests nor upstreams.

- `database.py` runs functions in transactions, `open.py` opens the configured database,
  `migrate.py` and ``migrations/`` create the tables that `tables.py` declares.
- `responses.py`, `background_leases.py`, `conversations.py`, `completions.py`,
  `registered_models.py`, `owners.py` and `reasoning.py` are functions of a connection. The
  repositories (`storage.repositories`) combine them to transactions.
- `files.py`, `vector_stores.py` and `vector_chunks.py` are functions of a connection too, for
  files, vector stores and their passages; `numbered_lists.py` pages them.
- `usage.py` adds up the usage of clients.
- `statements.py` holds precompiled SQL for queries that run on every request.
- `change_notifier.py` tells other workers about changed models, and `reencryption.py` re-encrypts
  stored values.
- `tombstones.py` remembers the list positions of deleted rows.
- `retention.py` deletes old data.
"""

from forwarder.storage.db.database import Database
from forwarder.storage.db.open import load_secrets, open_database
from forwarder.storage.db.retention import Pruner

__all__ = ["Database", "Pruner", "load_secrets", "open_database"]
