"""Lists in pages, and metadata."""

from __future__ import annotations

from typing import Any

import pytest

from forwarder.core.errors import InvalidRequest
from forwarder.core.validate import expect
from forwarder.storage.pagination import Page, as_list, listed, mark_of, metadata_of, page_of

ALL = [{"id": name} for name in "abcde"]


def names(page: Page) -> tuple[str, bool]:
    found = listed(ALL, page)
    return "".join(entry["id"] for entry in found["data"]), found["has_more"]


def test_a_page_is_a_part_in_some_order() -> None:
    assert names(Page(20, None, False)) == ("abcde", False)
    assert names(Page(2, None, True)) == ("ed", True)
    assert names(Page(2, "b", False)) == ("cd", True)
    assert names(Page(2, "b", True)) == ("a", False)
    assert (as_list([], 5)["first_id"], as_list(ALL, 2)["last_id"]) == (None, "b")
    with pytest.raises(InvalidRequest, match="no 'x' in this list"):
        listed(ALL, Page(2, "x", False))


def test_a_mark_is_a_place_that_is_known() -> None:
    places = {"a": 7, "first": 0}
    marks = [mark_of(Page(2, after, False), places.get) for after in (None, "a", "first")]
    assert marks == [None, 7, 0]
    with pytest.raises(InvalidRequest) as refused:
        mark_of(Page(2, "x", False), places.get)
    assert refused.value.param == "after"


def test_what_a_query_asks_for() -> None:
    assert page_of({}, "desc") == Page(20, None, True)
    assert page_of({"limit": "3", "after": "x", "order": "asc"}, "desc") == Page(3, "x", False)


@pytest.mark.parametrize(
    ("query", "param"),
    [({"limit": "0"}, "limit"), ({"limit": "101"}, "limit"), ({"limit": "x"}, "limit"),
     ({"order": "up"}, "order")],
)  # fmt: skip
def test_what_is_no_page_is_refused(query: dict[str, str], param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        page_of(query, "asc")
    assert refused.value.param == param


@pytest.mark.parametrize(
    ("metadata", "param"),
    [(5, "metadata"), ({"a": 1}, "metadata.a"), ({"a" * 65: "x"}, f"metadata.{'a' * 64}"),
     ({"a": "x" * 513}, "metadata.a"), ({str(i): "" for i in range(17)}, "metadata"),
     (None, "metadata")],
)  # fmt: skip
def test_metadata_is_some_texts(metadata: Any, param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        metadata_of({"metadata": metadata}, expect, required=True)
    assert refused.value.param == param
    assert metadata_of({}, expect) == {}
    assert metadata_of({"metadata": {"a": "b"}}, expect) == {"a": "b"}
