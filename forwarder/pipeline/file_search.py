"""The search of vector stores, as the hosted tool ``file_search`` of one client uses it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from forwarder.core.errors import shorten_value
from forwarder.core.types import Json
from forwarder.core.validate import DICT, INT, LIST, STR, check_type, read_field, require_field
from forwarder.hosted_tools.mcp_tools import invalid_value
from forwarder.hosted_tools.tool_context import FilePassage, PrepareFileSearch, SearchFiles
from forwarder.vector_stores.attributes import Filter, read_filter
from forwarder.vector_stores.search import (
    DEFAULT_RESULTS,
    MAX_QUERY_LENGTH,
    MAX_RESULTS,
    RankingOptions,
    read_ranking_options,
)
from forwarder.vector_stores.service import VectorStoreService

MAX_STORES = 10
"""Maximum number of vector stores of one tool."""


def build_file_search(
    stores: VectorStoreService, get_owner: Callable[[], str], payer: str = ""
) -> PrepareFileSearch:
    """Return the check of a client's ``file_search`` tools.

    ``get_owner`` returns the owner of the client's stored data. ``payer`` pays for embeddings.
    """

    def prepare(tool: Json, path: str) -> SearchFiles:
        owner, param = get_owner(), f"{path}.vector_store_ids"
        ids = require_field(tool, "vector_store_ids", LIST, param)
        if not 1 <= len(ids) <= MAX_STORES:
            raise invalid_value(param, f"expected 1 to {MAX_STORES} ids, but got {len(ids)}")
        for index, name in enumerate(ids):
            check_type(name, STR, f"{param}[{index}]")
        matches = read_filter(tool.get("filters"), f"{path}.filters")
        ranking = read_field(tool, "ranking_options", DICT, f"{path}.ranking_options")
        options = read_ranking_options(ranking, f"{path}.ranking_options")
        count = read_field(tool, "max_num_results", INT, f"{path}.max_num_results")
        if count is not None and not 1 <= count <= MAX_RESULTS:
            given = f"expected 1 to {MAX_RESULTS}, but got {shorten_value(count)}"
            raise invalid_value(f"{path}.max_num_results", given)
        stores.find_stores(owner, ids, param)
        return partial(
            search_passages, stores, owner, ids, matches, options, count or DEFAULT_RESULTS, param,
            payer,
        )  # fmt: skip

    return prepare


def search_passages(
    stores: VectorStoreService,
    owner: str,
    ids: list[str],
    matches: Filter | None,
    options: RankingOptions,
    max_results: int,
    param: str,
    payer: str,
    query: str,
) -> list[FilePassage]:
    """Return the passages that fit the model's query best."""
    found = stores.search_stores(
        owner, ids, [query[:MAX_QUERY_LENGTH]], matches, options, max_results, param, payer
    )
    return [FilePassage(*result) for result in found]
