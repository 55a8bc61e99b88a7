"""The tables, as the code uses them; how they come to be is told in ``migrations/``.

Times are Unix seconds.  ``owner`` is derived from a client's key (`client_identity.py`), and the
first half of every key: nothing of a client's is looked for without it.  ``size`` counts the bytes
that a row takes, more or less.
"""

from __future__ import annotations

import sqlalchemy as sa

metadata = sa.MetaData()

BIG_INTEGER = sa.BigInteger().with_variant(sa.Integer, "sqlite")
"""What SQLite counts up by itself is its INTEGER alone."""


def make_key_column(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.Text, primary_key=True)


def make_partial_index(name: str, *columns: str) -> sa.Index:
    """An index of the rows that have anything in the last of these columns; most have not."""
    there = sa.text(f"{columns[-1]} IS NOT NULL")
    return sa.Index(name, *columns, sqlite_where=there, postgresql_where=there)


responses = sa.Table(
    "responses",
    metadata,
    make_key_column("owner"),
    make_key_column("id"),
    sa.Column("created", sa.Double, nullable=False),
    sa.Column("used", sa.Double, nullable=False),
    sa.Column("size", BIG_INTEGER, nullable=False),
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
    sa.Index("responses_by_use", "used", "size"),
    make_partial_index("responses_by_previous", "owner", "previous"),
    make_partial_index("responses_by_lease", "lease"),
)
"""``hidden`` ones are deleted, but a later response stands on them.  ``before`` is the last item
of the conversation that the request stood on.  ``worker`` and ``lease`` are those of background
work: who does it, and until when it is believed to be alive.  ``log`` is the event log of a
response that was stored when it was over, where it is one piece; older workers do not see it.
``request`` is what background work needs to be begun anew, sealed, as long as it may be, and
``attempt`` counts how often it was begun."""


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
"""Pieces of the responses' event logs, where there are several or will be, with the sequence
numbers of their first and last event."""

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
"""In which response's output an item is, or, with an id of the client's, in which input."""

conversations = sa.Table(
    "conversations",
    metadata,
    make_key_column("owner"),
    make_key_column("id"),
    sa.Column("created", sa.Double, nullable=False),
    sa.Column("used", sa.Double, nullable=False),
    sa.Column("size", BIG_INTEGER, nullable=False),
    sa.Column("metadata", sa.LargeBinary, nullable=False),
    sa.Column("holder", sa.Text),
    sa.Column("lease", sa.Double),
    sa.Index("conversations_by_use", "used", "size"),
)
"""``holder`` is the turn that goes on, and ``lease`` until when it is believed to."""

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
"""The items of conversations; ``number`` is their order, and never given twice."""

completions = sa.Table(
    "completions",
    metadata,
    sa.Column("number", BIG_INTEGER, primary_key=True),
    sa.Column("owner", sa.Text, nullable=False),
    sa.Column("id", sa.Text, nullable=False),
    sa.Column("created", sa.Double, nullable=False),
    sa.Column("used", sa.Double, nullable=False),
    sa.Column("size", BIG_INTEGER, nullable=False),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("metadata", sa.LargeBinary, nullable=False),
    sa.Column("messages", sa.LargeBinary, nullable=False),
    sa.Column("body", sa.LargeBinary, nullable=False),
    sa.UniqueConstraint("owner", "id"),
    sa.Index("completions_by_use", "used", "size"),
    sqlite_autoincrement=True,
)

reasoning = sa.Table(
    "thoughts",
    metadata,
    make_key_column("owner"),
    make_key_column("id"),
    sa.Column("used", sa.Double, nullable=False),
    sa.Column("size", BIG_INTEGER, nullable=False),
    sa.Column("data", sa.LargeBinary, nullable=False),
    sa.Index("thoughts_by_use", "used", "size"),
)
"""Reasoning of upstreams for clients that cannot carry it, sealed.  ``owner`` is the hash of
an owner, an upstream and a model, ``id`` that of where the reasoning belongs."""

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
"""Models that were registered; they have no owner.  ``version`` is another one after each change,
``told`` is what everybody may know, ``sealed`` the rest, which this database cannot open."""

generations = sa.Table(
    "generations",
    metadata,
    make_key_column("name"),
    sa.Column("number", BIG_INTEGER, nullable=False),
)
"""How often something was changed of which every worker has a copy."""

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
"""The numbers of what was deleted from lists: of a conversation, by its id, or of completions."""

owner_keys = sa.Table(
    "owner_keys",
    metadata,
    make_key_column("name"),
    sa.Column("created", sa.Double, nullable=False),
    sa.Column("sealed", sa.Text, nullable=False),
)
"""Random keys with which owners are derived from clients' keys, sealed.  There are several when a
worker could open none: each secret has its own until they are sealed under the same one."""

scheduled_jobs = sa.Table(
    "chores",
    metadata,
    make_key_column("name"),
    sa.Column("due", sa.Double, nullable=False),
)
"""What one of all workers has to do now and then, and when it is due again."""
