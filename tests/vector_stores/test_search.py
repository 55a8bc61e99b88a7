"""Search: both methods and their fusion, filters, limits and ranking options."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from forwarder.core.errors import InvalidRequest
from forwarder.storage.db.vector_stores import NewStoreFile
from forwarder.vector_stores import search
from forwarder.vector_stores.attributes import read_filter
from forwarder.vector_stores.search import RankingOptions, fuse_ranks, read_ranking_options
from tests.helpers.check_cases import check_each
from tests.vector_stores.conftest import OWNER, Client, Open

TEXTS = {
    "refunds": "Refunds are paid within thirty days of the purchase.",
    "hours": "The shop opens at nine in the morning and closes at six.",
    "cats": "Cats sleep sixteen hours a day.",
}

DEFAULT_OPTIONS = RankingOptions()


def create_filled_store(client: Client) -> str:
    files: dict[str, dict[str, object]] = {}
    for number, (name, text) in enumerate(TEXTS.items()):
        files[client.upload(text, f"{name}.txt")] = {"number": number}
    return client.create_store(**files)


def find_files(client: Client, store: str, *queries: str, **more: Any) -> list[str]:
    """Return the names of the files that are found."""
    return [result.filename for result in run_search(client, store, *queries, **more)]


def run_search(
    client: Client,
    store: str,
    *queries: str,
    matches: Any = None,
    options: RankingOptions = DEFAULT_OPTIONS,
    max_results: int = 10,
) -> list[search.SearchResult]:
    accept = read_filter(matches, "filters")
    return client.stores.search_store(OWNER, store, queries, accept, options, max_results)


@pytest.mark.parametrize("model", ["up/m", None])
def test_best_passage_comes_first(open_client: Open, model: str | None) -> None:
    client = open_client(model)
    store = create_filled_store(client)

    [first, *other_results] = run_search(client, store, "When is a refund paid?")

    assert (first.filename, first.text, first.attributes) == (
        "refunds.txt",
        TEXTS["refunds"],
        {"number": 0},
    )
    assert 0.5 < first.score <= 1
    assert all(0 <= result.score <= first.score for result in other_results)
    assert len({first.file_id, *(result.file_id for result in other_results)}) == 1 + len(
        other_results
    )


def test_only_words_without_a_model(open_client: Open) -> None:
    client = open_client(None)
    store = create_filled_store(client)

    assert find_files(client, store, "sleeping cats") == ["cats.txt"]
    assert find_files(client, store, "elephants") == []
    assert find_files(client, store, "???") == []


def test_weights_choose_the_method(open_client: Open) -> None:
    client = open_client()

    def embed_by_topic(model: str, texts: Sequence[str], payer: str) -> list[list[float]]:
        """A query about cats gets the vector of the text about hours."""
        return [[1.0, 0.1] if "shop" in t or t == "cats" else [-1.0, 0.1] for t in texts]

    client.use_embeddings(embed_by_topic)
    store = create_filled_store(client)

    word_results = find_files(client, store, "cats", options=RankingOptions(0.0, 0.0, 1.0))
    vector_results = find_files(client, store, "cats", options=RankingOptions(0.0, 1.0, 0.0))

    assert (word_results, vector_results) == (["cats.txt"], ["hours.txt"])
    assert set(find_files(client, store, "cats")) == {"cats.txt", "hours.txt"}


def test_filter_limits_both_methods(client: Client) -> None:
    store = create_filled_store(client)
    matches = {"type": "gte", "key": "number", "value": 1}

    filenames = find_files(client, store, "refunds are paid when the shop opens", matches=matches)

    assert "hours.txt" in filenames
    assert "refunds.txt" not in filenames
    no_match = {"type": "eq", "key": "number", "value": 9}
    assert find_files(client, store, "refunds", matches=no_match) == []


def test_number_and_score_of_results_are_limited(client: Client) -> None:
    store = create_filled_store(client)
    all_results = run_search(client, store, "the hours of a day")
    assert len(all_results) > 1

    assert run_search(client, store, "the hours of a day", max_results=1) == all_results[:1]
    threshold = RankingOptions(all_results[0].score)
    best = run_search(client, store, "the hours of a day", options=threshold)
    assert [result.score for result in best] == [all_results[0].score] * len(best)


def test_several_queries_are_searched(open_client: Open) -> None:
    client = open_client(None)
    store = create_filled_store(client)

    assert set(find_files(client, store, "refunds", "cats")) == {"refunds.txt", "cats.txt"}


def test_text_without_spaces_is_found(open_client: Open) -> None:
    client = open_client(None)
    name = client.upload("我们的退款政策是三十天。", "policy.txt")
    store = client.create_store(**{name: {}})

    assert find_files(client, store, "退款") == ["policy.txt"]
    assert find_files(client, store, "猫咪") == []


def test_scan_continues_over_pages(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "ROWS_PER_SCAN", 2)
    store = create_filled_store(client)

    filenames = find_files(client, store, "cats sleep", options=RankingOptions(0.0, 1.0, 0.0))

    assert filenames[0] == "cats.txt"


def test_nearest_bits_are_compared_exactly(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "MAX_CANDIDATES", 1)
    monkeypatch.setattr(search, "MAX_MULTIPLICATIONS", 16)
    store = create_filled_store(client)

    filenames = find_files(client, store, TEXTS["cats"], options=RankingOptions(0.0, 1.0, 0.0))

    assert filenames == ["cats.txt"]


def test_vectors_of_other_dimensions_are_ignored(open_client: Open) -> None:
    client = open_client()
    store = create_filled_store(client)
    client.use_embeddings(lambda model, texts, payer: [[1.0, 2.0] for _ in texts])

    assert find_files(client, store, "cats", options=RankingOptions(0.0, 1.0, 0.0)) == []
    assert find_files(client, store, "cats") == ["cats.txt"]


def test_search_of_several_stores_gives_each_passage_once(client: Client) -> None:
    first, second = create_filled_store(client), create_filled_store(client)
    shared_file = client.upload("A unique text about submarines.", "shared.txt")
    for store in (first, second):
        client.stores.add_file(OWNER, store, NewStoreFile(shared_file, {}, 800, 400))
        client.wait(store)

    results = client.stores.search_stores(
        OWNER, [first, second, first], ["submarines"], None, RankingOptions(), 10, "tools[0].x"
    )

    assert [r.filename for r in results].count("shared.txt") == 1
    assert results[0].filename == "shared.txt"


def test_fusion_of_ranks() -> None:
    assert fuse_ranks([]) == {}
    assert fuse_ranks([(1.0, [7, 8])]) == {7: 1.0, 8: pytest.approx(61 / 62)}
    fused = fuse_ranks([(1.0, [1, 2]), (3.0, [2, 3])])
    assert fused[2] == pytest.approx((61 / 62 + 3) / 4)
    assert fused[1] == pytest.approx(1 / 4)
    assert fused[3] == pytest.approx(3 * 61 / 62 / 4)


@check_each(
    ("value", "options"),
    [
        (None, RankingOptions()),
        ({}, RankingOptions()),
        ({"ranker": "none", "score_threshold": 0.5}, RankingOptions(0.5)),
        ({"ranker": "auto", "hybrid_search": {"embedding_weight": 2, "text_weight": 0}},
         RankingOptions(0.0, 2, 0)),
    ],
)  # fmt: skip
def test_ranking_options(value: Any, options: RankingOptions) -> None:
    assert read_ranking_options(value, "ranking_options") == options


@check_each(
    ("value", "param"),
    [
        ({"ranker": "best"}, "r.ranker"),
        ({"score_threshold": 1.1}, "r.score_threshold"),
        ({"score_threshold": "1"}, "r.score_threshold"),
        ({"hybrid_search": {}}, "r.hybrid_search.embedding_weight"),
        ({"hybrid_search": {"embedding_weight": 1}}, "r.hybrid_search.text_weight"),
        ({"hybrid_search": {"embedding_weight": -1, "text_weight": 1}},
         "r.hybrid_search.embedding_weight"),
        ({"hybrid_search": {"embedding_weight": 0, "text_weight": 0}}, "r.hybrid_search"),
    ],
)  # fmt: skip
def test_invalid_ranking_options_are_refused(value: Any, param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_ranking_options(value, "r")
    assert caught.value.param == param
