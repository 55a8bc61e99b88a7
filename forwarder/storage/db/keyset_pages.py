"""Pages of lists ordered by a column of numbers, after or before a given entry."""

from __future__ import annotations

from typing import Any, NamedTuple

import sqlalchemy as sa


class NumberedPage(NamedTuple):
    """Up to ``limit`` rows after or before these numbers, in ascending or descending order."""

    limit: int
    after: int | None
    before: int | None
    is_descending: bool


def fetch_page(
    connection: sa.Connection, query: sa.Select[Any], number: sa.Column[int], page: NumberedPage
) -> tuple[list[Any], bool]:
    """Return the rows of a page, and whether there are more in its direction.

    With ``before`` alone, the page ends at that entry; its rows still have the given order.
    """
    reads_back = page.before is not None and page.after is None
    descends = page.is_descending != reads_back
    if page.after is not None:
        query = query.where(number < page.after if page.is_descending else number > page.after)
    if page.before is not None:
        query = query.where(number > page.before if page.is_descending else number < page.before)
    ordered = query.order_by(number.desc() if descends else number.asc()).limit(page.limit + 1)
    rows = list(connection.execute(ordered).all())
    has_more = len(rows) > page.limit
    rows = rows[: page.limit]
    return (rows[::-1] if reads_back else rows), has_more
