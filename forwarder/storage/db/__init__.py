"""What is remembered, in a database; nothing in here knows of requests or of upstreams.

- `database.py` runs work in transactions, `opening.py` finds the database, `migrate.py` and
  ``migrations/`` make its tables, which `tables.py` describes;
- `responses.py`, `work.py`, `conversations.py`, `completions.py` and `thoughts.py` are functions of
  a connection: whoever calls several in one `Database.write` does them all or none;
- `statements.py` are those of them that every answer needs;
- `models.py` are functions of a connection too, for what is registered; `changes.py` tells the
  other workers of it, and `rotating.py` seals anew what is sealed;
- `owners.py` gives what one owner has to another;
- `gone.py` knows where in its list something stood that was deleted since;
- `pruning.py` forgets.
"""

from forwarder.storage.db.database import Database
from forwarder.storage.db.open import load_secrets, open_database
from forwarder.storage.db.retention import Pruner

__all__ = ["Database", "Pruner", "load_secrets", "open_database"]
