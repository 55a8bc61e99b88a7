"""Search in vector stores by words and by embeddings, with a fusion of both results.

Reciprocal rank fusion computes a score from the ranks of a passage in the lists of both methods. A
score of 1 means that a passage is the first one in all lists.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from forwarder.core.errors import InvalidRequest
from forwarder.core.paced_iteration import give_way
from forwarder.core.types import Json
from forwarder.core.validate import DICT, NUMBER, check_enum, read_field, require_field
from forwarder.storage.db.vector_chunks import FoundChunk
from forwarder.storage.db.vector_stores import VectorStore
from forwarder.storage.repositories.vector_stores import VectorStoreRepository
from forwarder.vector_stores.attributes import Filter
from forwarder.vector_stores.full_text_words import split_query
from forwarder.vector_stores.ingest import Embed
from forwarder.vector_stores.vectors import (
    compute_similarity,
    normalize,
    pack_bits,
    unpack_vector,
)

MAX_QUERIES = 10
MAX_QUERY_LENGTH = 4096
"""Characters of one query."""

MAX_RESULTS = 50
DEFAULT_RESULTS = 10

MAX_CANDIDATES = 100
"""Maximum number of passages of each list that are fused."""

RANK_CONSTANT = 60
"""The common constant of reciprocal rank fusion. The larger it is, the less first ranks differ."""

MAX_MULTIPLICATIONS = 400_000
"""Maximum number of multiplications per store and query, about 20 ms. All passages are compared by
their bits. This number limits how many of them are then compared exactly."""

ROWS_PER_SCAN = 2000
"""Passages that are read and compared by their bits at once: a few milliseconds of work."""

RANKERS = ("auto", "default-2024-11-15", "none")


class RankingOptions(NamedTuple):
    """The lowest score of a result, and the weights of both methods."""

    score_threshold: float = 0.0
    embedding_weight: float = 1.0
    text_weight: float = 1.0


class SearchResult(NamedTuple):
    """A passage, the file that contains it, and its score from 0 to 1."""

    file_id: str
    filename: str
    score: float
    attributes: Json
    text: str


class StoreFileInfo(NamedTuple):
    """The fields of a result that describe its file."""

    filename: str
    attributes: Json


def read_ranking_options(value: Json | None, param: str) -> RankingOptions:
    """Return the ranking options of a request; the default ones for null. Raises InvalidRequest."""
    if value is None:
        return RankingOptions()
    ranker = value.get("ranker")
    if ranker is not None:
        check_enum(ranker, RANKERS, f"{param}.ranker")
    threshold = read_field(value, "score_threshold", NUMBER, f"{param}.score_threshold") or 0.0
    check_range(threshold, 1.0, f"{param}.score_threshold")
    hybrid = read_field(value, "hybrid_search", DICT, f"{param}.hybrid_search")
    if hybrid is None:
        return RankingOptions(threshold)
    weights = []
    for name in ("embedding_weight", "text_weight"):
        path = f"{param}.hybrid_search.{name}"
        weights.append(require_field(hybrid, name, NUMBER, path))
        check_range(weights[-1], 1e6, path)
    if not any(weights):
        raise InvalidRequest(
            f"Invalid value for '{param}.hybrid_search': one weight must be more than 0.",
            param=f"{param}.hybrid_search",
            code="invalid_value",
        )
    return RankingOptions(threshold, *weights)


def check_range(value: float, maximum: float, param: str) -> None:
    if not 0 <= value <= maximum:
        raise InvalidRequest(
            f"Invalid value for '{param}': expected a number from 0 to {maximum:g}.",
            param=param,
            code="invalid_value",
        )


class Searcher:
    """Searches the vector stores of a database."""

    def __init__(self, repository: VectorStoreRepository, embed: Embed) -> None:
        self._repository, self._embed = repository, embed

    def search(
        self,
        owner: str,
        stores: Sequence[VectorStore],
        queries: Sequence[str],
        matches: Filter | None,
        options: RankingOptions,
        max_results: int,
        payer: str,
    ) -> list[SearchResult]:
        """Return the best passages of the stores, best first.

        A passage that several queries find has the best of its scores. ``payer`` is the account
        that pays for the embedding of the queries. Raises the errors of the upstream that embeds
        them, and StoreUnavailable.
        """
        names = [store.id for store in stores]
        infos = self._read_files(owner, names, matches)
        if not infos:
            return []
        scores: dict[int, float] = {}
        vectors = self._embed_queries(stores, queries, options, payer)
        for store in stores:
            allowed = (
                None if matches is None else [file for name, file in infos if name == store.id]
            )
            if allowed is not None and not allowed:
                continue
            for i, query in enumerate(queries):
                lists = []
                if options.text_weight > 0:
                    found = self._find_by_words(owner, store.id, query, allowed)
                    lists.append((options.text_weight, found))
                vector = vectors.get((store.embedding_model, i))
                if vector is not None:
                    wanted = frozenset(file for name, file in infos if name == store.id)
                    found = self._find_by_vector(owner, store.id, vector, wanted)
                    lists.append((options.embedding_weight, found))
                for number, score in fuse_ranks(lists).items():
                    scores[number] = max(score, scores.get(number, 0.0))
        self._repository.mark_used(owner, names)
        return self._read_results(owner, scores, infos, options.score_threshold, max_results)

    def _embed_queries(
        self,
        stores: Sequence[VectorStore],
        queries: Sequence[str],
        options: RankingOptions,
        payer: str,
    ) -> dict[tuple[str | None, int], Sequence[float]]:
        """Return (model, number of the query) -> vector."""
        if options.embedding_weight <= 0:
            return {}
        models = {store.embedding_model for store in stores if store.embedding_model is not None}
        return {
            (model, i): vector
            for model in sorted(models)
            for i, vector in enumerate(self._embed(model, queries, payer))
        }

    def _read_files(
        self, owner: str, names: list[str], matches: Filter | None
    ) -> dict[tuple[str, str], StoreFileInfo]:
        """Return (store, file) -> information about the files that the filter matches."""
        rows = self._repository.list_attributes(owner, names)
        return {
            (store, file): StoreFileInfo(filename, attributes)
            for store, file, filename, attributes in rows
            if matches is None or matches(attributes)
        }

    def _find_by_words(
        self, owner: str, store: str, query: str, files: list[str] | None
    ) -> list[int]:
        words = split_query(query)
        if not words:
            return []
        return self._repository.find_words(owner, store, words, files, MAX_CANDIDATES)

    def _find_by_vector(
        self, owner: str, store: str, vector: Sequence[float], files: frozenset[str]
    ) -> list[int]:
        """Return the numbers of the most similar passages, best first."""
        unit = normalize(vector)
        bits, count = pack_bits(unit), max(MAX_CANDIDATES, MAX_MULTIPLICATIONS // len(unit))
        nearest = self._scan_bits(owner, store, bits, files, count)
        similar: list[tuple[float, int]] = []
        size = max(1, MAX_MULTIPLICATIONS // 10 // len(unit))  # a few milliseconds of work
        for start in range(0, len(nearest), size):
            part = nearest[start : start + size]
            similar += [
                (compute_similarity(unpack_vector(data), unit), number)
                for number, data in self._repository.read_vectors(owner, part)
            ]
            give_way()
        best = heapq.nlargest(MAX_CANDIDATES, similar)
        return [number for similarity, number in best if similarity > 0]

    def _scan_bits(
        self, owner: str, store: str, bits: bytes, files: frozenset[str], count: int
    ) -> list[int]:
        """Return the numbers of the ``count`` passages with the fewest differing bits."""
        nearest: list[tuple[int, int]] = []
        after, wanted = 0, int.from_bytes(bits, "big")
        while True:
            rows = self._repository.scan_bits(owner, store, after, ROWS_PER_SCAN)
            found = [
                ((int.from_bytes(row.bits, "big") ^ wanted).bit_count(), row.number)
                for row in rows
                if row.file in files and row.bits is not None and len(row.bits) == len(bits)
            ]
            nearest = heapq.nsmallest(count, [*nearest, *found])
            if len(rows) < ROWS_PER_SCAN:
                return [number for _, number in nearest]
            after = rows[-1].number
            give_way()

    def _read_results(
        self,
        owner: str,
        scores: dict[int, float],
        infos: dict[tuple[str, str], StoreFileInfo],
        threshold: float,
        max_results: int,
    ) -> list[SearchResult]:
        ordered = sorted(scores, key=lambda number: (-scores[number], number))
        results: list[SearchResult] = []
        seen: set[tuple[str, str]] = set()
        for start in range(0, len(ordered), max_results):
            part = [n for n in ordered[start : start + max_results] if scores[n] >= threshold]
            if not part:
                break
            chunks = self._repository.read_texts(owner, part)
            for number in part:
                chunk: FoundChunk | None = chunks.get(number)
                info = infos.get((chunk.store, chunk.file)) if chunk else None
                # A file may be in several of the stores.
                if chunk is None or info is None or (chunk.file, chunk.text) in seen:
                    continue
                seen.add((chunk.file, chunk.text))
                results.append(
                    SearchResult(
                        chunk.file, info.filename, scores[number], info.attributes, chunk.text
                    )
                )
                if len(results) == max_results:
                    return results
        return results


def fuse_ranks(lists: Iterable[tuple[float, Sequence[int]]]) -> dict[int, float]:
    """Return number -> score from 0 to 1 of weighted lists, each best first.

    The score is the weighted sum of ``1 / (RANK_CONSTANT + rank)`` over its largest possible value.
    """
    ranked = list(lists)
    maximum = sum(weight for weight, _ in ranked) / (RANK_CONSTANT + 1)
    sums: dict[int, float] = {}
    for weight, numbers in ranked:
        for rank, number in enumerate(numbers, 1):
            sums[number] = sums.get(number, 0.0) + weight / (RANK_CONSTANT + rank)
    return {number: min(1.0, total / maximum) for number, total in sums.items()} if maximum else {}
