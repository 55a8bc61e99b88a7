"""Pages of numbered lists in both directions."""

from __future__ import annotations

import sqlalchemy as sa

from forwarder.storage.db.keyset_pages import NumberedPage, fetch_page
from tests.helpers.check_cases import check_each

TABLE = sa.Table("numbers", sa.MetaData(), sa.Column("number", sa.Integer, primary_key=True))


@check_each(
    ("page", "expected", "has_more"),
    [
        (NumberedPage(2, None, None, False), [1, 2], True),
        (NumberedPage(2, None, None, True), [5, 4], True),
        (NumberedPage(2, 3, None, False), [4, 5], False),
        (NumberedPage(2, 3, None, True), [2, 1], False),
        (NumberedPage(5, 2, None, True), [1], False),
        (NumberedPage(2, None, 4, False), [2, 3], True),
        (NumberedPage(3, None, 4, False), [1, 2, 3], False),
        (NumberedPage(2, None, 2, True), [4, 3], True),
        (NumberedPage(9, 1, 4, False), [2, 3], False),
    ],
)
def test_page(page: NumberedPage, expected: list[int], has_more: bool) -> None:
    engine = sa.create_engine("sqlite://")
    with engine.begin() as connection:
        TABLE.create(connection)
        connection.execute(sa.insert(TABLE), [{"number": n} for n in range(1, 6)])
        rows, more = fetch_page(connection, sa.select(TABLE.c.number), TABLE.c.number, page)
    engine.dispose()

    assert ([row.number for row in rows], more) == (expected, has_more)
