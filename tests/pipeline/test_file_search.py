"""The hosted tool ``file_search`` of one client."""

from __future__ import annotations

from typing import Any

import pytest

from forwarder.core.errors import InvalidRequest
from forwarder.hosted_tools.tool_context import FilePassage
from forwarder.pipeline.file_search import build_file_search
from forwarder.vector_stores.search import MAX_QUERY_LENGTH, RankingOptions, SearchResult

Json = dict[str, Any]
TOOL: Json = {"type": "file_search", "vector_store_ids": ["vs_1"]}


class Stores:
    """The vector store ``vs_1`` of the owner ``o``; records searches."""

    def __init__(self) -> None:
        self.searches: list[tuple[Any, ...]] = []

    def find_stores(self, owner: str, ids: list[str], param: str) -> list[Any]:
        if owner != "o" or set(ids) != {"vs_1"}:
            raise InvalidRequest("no such store", param=param, code="not_found")
        return []

    def search_stores(self, owner: str, *arguments: Any) -> list[SearchResult]:
        self.searches.append((owner, *arguments))
        return [SearchResult("file-1", "a.txt", 0.5, {"a": 1}, "text")]


@pytest.fixture
def stores() -> Any:
    return Stores()


def test_search_uses_the_options_of_the_tool(stores: Any) -> None:
    tool = {
        **TOOL,
        "max_num_results": 3,
        "filters": {"type": "eq", "key": "a", "value": 1},
        "ranking_options": {"ranker": "auto", "score_threshold": 0.25},
    }
    search = build_file_search(stores, lambda: "o", "payer")(tool, "tools[2]")

    assert search("x" * 9999) == [FilePassage("file-1", "a.txt", 0.5, {"a": 1}, "text")]
    [(owner, ids, queries, filters, options, count, param, payer)] = stores.searches
    assert (owner, ids, count) == ("o", ["vs_1"], 3)
    assert queries == ["x" * MAX_QUERY_LENGTH]
    assert filters is not None
    assert options == RankingOptions(0.25)
    assert (param, payer) == ("tools[2].vector_store_ids", "payer")


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"vector_store_ids": None}, "vector_store_ids"),
        ({"vector_store_ids": "vs_1"}, "vector_store_ids"),
        ({"vector_store_ids": []}, "vector_store_ids"),
        ({"vector_store_ids": ["vs_1"] * 11}, "vector_store_ids"),
        ({"vector_store_ids": [7]}, "vector_store_ids[0]"),
        ({"vector_store_ids": ["vs_2"]}, "vector_store_ids"),
        ({"max_num_results": 0}, "max_num_results"),
        ({"max_num_results": 51}, "max_num_results"),
        ({"max_num_results": "3"}, "max_num_results"),
        ({"filters": {"type": "like"}}, "filters.type"),
        ({"filters": 7}, "filters"),
        ({"ranking_options": {"ranker": "best"}}, "ranking_options.ranker"),
    ],
)
def test_invalid_tool_is_refused_by_name(stores: Any, changes: Json, param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        build_file_search(stores, lambda: "o")({**TOOL, **changes}, "tools[0]")
    assert refused.value.param == f"tools[0].{param}"


def test_stores_of_another_client_are_not_found(stores: Any) -> None:
    with pytest.raises(InvalidRequest, match="no such store"):
        build_file_search(stores, lambda: "other")(TOOL, "tools[0]")
