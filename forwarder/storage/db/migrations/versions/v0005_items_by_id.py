"""Index the items of conversations by id."""

from __future__ import annotations

from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Create the index."""
    op.create_index("conversation_items_by_id", "conversation_items", ["owner", "id"], unique=False)
