"""Pagination and metadata validation."""

from __future__ import annotations

from typing import Any

import pytest

from forwarder.core.errors import InvalidRequest
from forwarder.storage.db.keyset_pages import NumberedPage
from forwarder.storage.pagination import (
    PageRequest,
    find_numbered_page,
    find_page_start,
    make_list,
    make_page,
    read_metadata,
    read_page,
)
from tests.helpers.check_cases import check_each

ALL = [{"id": name} for name in "abcde"]


def list_page_names(page: PageRequest) -> tuple[str, bool]:
    body = make_page(ALL, page)
    return "".join(entry["id"] for entry in body["data"]), body["has_more"]


def test_page_respects_limit_cursor_and_order() -> None:
    assert list_page_names(PageRequest(20, None, False)) == ("abcde", False)
    assert list_page_names(PageRequest(2, None, True)) == ("ed", True)
    assert list_page_names(PageRequest(2, "b", False)) == ("cd", True)
    assert list_page_names(PageRequest(2, "b", True)) == ("a", False)
    assert (make_list([], 5)["first_id"], make_list(ALL, 2)["last_id"]) == (None, "b")
    with pytest.raises(InvalidRequest, match="'x' is not in this list"):
        make_page(ALL, PageRequest(2, "x", False))


def test_unknown_cursor_is_rejected() -> None:
    positions = {"a": 7, "first": 0}
    starts = [
        find_page_start(PageRequest(2, after, False), positions.get)
        for after in (None, "a", "first")
    ]
    assert starts == [None, 7, 0]
    with pytest.raises(InvalidRequest) as refused:
        find_page_start(PageRequest(2, "x", False), positions.get)
    assert refused.value.param == "after"


def test_numbered_page_has_both_cursors() -> None:
    positions = {"a": 7, "b": 9}

    page = find_numbered_page(PageRequest(2, "a", True), "b", positions.get)

    assert page == NumberedPage(2, 7, 9, True)
    assert find_numbered_page(PageRequest(2, None, False), "", positions.get) == NumberedPage(
        2, None, None, False
    )
    with pytest.raises(InvalidRequest) as refused:
        find_numbered_page(PageRequest(2, None, False), "x", positions.get)
    assert refused.value.param == "before"


def test_page_parameters_are_parsed() -> None:
    assert read_page({}, "desc", 500, 1000) == PageRequest(500, None, True)
    assert read_page({"limit": "1000"}, "desc", 500, 1000).limit == 1000
    assert read_page({}, "desc") == PageRequest(20, None, True)
    assert read_page({"limit": "3", "after": "x", "order": "asc"}, "desc") == PageRequest(
        3, "x", False
    )


@check_each(
    ("query", "param"),
    [({"limit": "0"}, "limit"), ({"limit": "101"}, "limit"), ({"limit": "x"}, "limit"),
     ({"order": "up"}, "order")],
)  # fmt: skip
def test_invalid_page_parameters_are_rejected(query: dict[str, str], param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        read_page(query, "asc")
    assert refused.value.param == param


@check_each(
    ("metadata", "param"),
    [(5, "metadata"), ({"a": 1}, "metadata.a"), ({"a" * 65: "x"}, f"metadata.{'a' * 64}"),
     ({"a": "x" * 513}, "metadata.a"), ({str(i): "" for i in range(17)}, "metadata"),
     (None, "metadata")],
)  # fmt: skip
def test_metadata_is_validated(metadata: Any, param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        read_metadata({"metadata": metadata}, required=True)
    assert refused.value.param == param
    assert read_metadata({}) == {}
    assert read_metadata({"metadata": {"a": "b"}}) == {"a": "b"}
