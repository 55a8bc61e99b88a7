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


def fill(client: Client) -> str:
    files: dict[str, dict[str, object]] = {}
    for number, (name, text) in enumerate(TEXTS.items()):
        files[client.upload(text, f"{name}.txt")] = {"number": number}
    return client.create_store(**files)


def find(client: Client, store: str, *queries: str, **more: Any) -> list[str]:
    """Return the names of the files that are found."""
    return [result.filename for result in run(client, store, *queries, **more)]


def run(
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
    store = fill(client)

    [best, *others] = run(client, store, "When is a refund paid?")

    assert (best.filename, best.text, best.attributes) == (
        "refunds.txt",
        TEXTS["refunds"],
        {"number": 0},
    )
    assert 0.5 < best.score <= 1
    assert all(0 <= other.score <= best.score for other in others)
    assert len({best.file_id, *(other.file_id for other in others)}) == 1 + len(others)


def test_only_words_without_a_model(open_client: Open) -> None:
    client = open_client(None)
    store = fill(client)

    assert find(client, store, "sleeping cats") == ["cats.txt"]
    assert find(client, store, "elephants") == []
    assert find(client, store, "???") == []


def test_weights_choose_the_method(open_client: Open) -> None:
    client = open_client()

    def point(model: str, texts: Sequence[str], payer: str) -> list[list[float]]:
        """The vector of a query about cats is that of the text about hours."""
        return [[1.0, 0.1] if "shop" in t or t == "cats" else [-1.0, 0.1] for t in texts]

    client.use_embeddings(point)
    store = fill(client)

    by_words = find(client, store, "cats", options=RankingOptions(0.0, 0.0, 1.0))
    by_vector = find(client, store, "cats", options=RankingOptions(0.0, 1.0, 0.0))

    assert (by_words, by_vector) == (["cats.txt"], ["hours.txt"])
    assert set(find(client, store, "cats")) == {"cats.txt", "hours.txt"}


def test_filter_limits_both_methods(client: Client) -> None:
    store = fill(client)
    matches = {"type": "gte", "key": "number", "value": 1}

    found = find(client, store, "refunds are paid when the shop opens", matches=matches)

    assert "hours.txt" in found
    assert "refunds.txt" not in found
    nothing = {"type": "eq", "key": "number", "value": 9}
    assert find(client, store, "refunds", matches=nothing) == []


def test_number_and_score_of_results_are_limited(client: Client) -> None:
    store = fill(client)
    everything = run(client, store, "the hours of a day")
    assert len(everything) > 1

    assert run(client, store, "the hours of a day", max_results=1) == everything[:1]
    threshold = RankingOptions(everything[0].score)
    best = run(client, store, "the hours of a day", options=threshold)
    assert [result.score for result in best] == [everything[0].score] * len(best)


def test_several_queries_are_searched(open_client: Open) -> None:
    client = open_client(None)
    store = fill(client)

    assert set(find(client, store, "refunds", "cats")) == {"refunds.txt", "cats.txt"}


def test_scripts_without_spaces_are_found(open_client: Open) -> None:
    client = open_client(None)
    name = client.upload("我们的退款政策是三十天。", "policy.txt")
    store = client.create_store(**{name: {}})

    assert find(client, store, "退款") == ["policy.txt"]
    assert find(client, store, "猫咪") == []


def test_scan_continues_over_pages(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "ROWS_PER_SCAN", 2)
    store = fill(client)

    found = find(client, store, "cats sleep", options=RankingOptions(0.0, 1.0, 0.0))

    assert found[0] == "cats.txt"


def test_nearest_bits_are_compared_exactly(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "MAX_CANDIDATES", 1)
    monkeypatch.setattr(search, "MAX_MULTIPLICATIONS", 16)
    store = fill(client)

    found = find(client, store, TEXTS["cats"], options=RankingOptions(0.0, 1.0, 0.0))

    assert found == ["cats.txt"]


def test_vectors_of_other_dimensions_are_left_out(open_client: Open) -> None:
    client = open_client()
    store = fill(client)
    client.use_embeddings(lambda model, texts, payer: [[1.0, 2.0] for _ in texts])

    assert find(client, store, "cats", options=RankingOptions(0.0, 1.0, 0.0)) == []
    assert find(client, store, "cats") == ["cats.txt"]


def test_search_of_several_stores_gives_each_passage_once(client: Client) -> None:
    first, second = fill(client), fill(client)
    shared = client.upload("A unique text about submarines.", "shared.txt")
    for store in (first, second):
        client.stores.add_file(OWNER, store, NewStoreFile(shared, {}, 800, 400))
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
    with pytest.raises(InvalidRequest) as raised:
        read_ranking_options(value, "r")
    assert raised.value.param == param
