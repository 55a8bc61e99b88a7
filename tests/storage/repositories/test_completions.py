"""Stored completions: pages, and access limited to the owner."""

from __future__ import annotations

import pytest

from forwarder.core.errors import InvalidRequest
from forwarder.storage.db.completions import StoredCompletion
from forwarder.storage.db.database import SqliteDatabase
from forwarder.storage.pagination import PageRequest
from forwarder.storage.repositories.completions import CompletionRepository


@pytest.fixture
def repository(database: SqliteDatabase) -> CompletionRepository:
    new_repository = CompletionRepository(database)
    for name, model in (("a", "m"), ("b", "n"), ("c", "m")):
        new_repository.add(
            "o", StoredCompletion(name, 1.0, model, {"name": name}, [], {"id": name})
        )
    return new_repository


def list_ids(
    repository: CompletionRepository,
    page: PageRequest,
    model: str | None = None,
    **metadata: str,
) -> list[str]:
    page_rows = repository.list_page("o", page, model, metadata, lambda data: None)
    return [completion.id for completion in page_rows]


def test_page_has_one_more_completion_if_there_is_a_next_page(
    repository: CompletionRepository,
) -> None:
    assert list_ids(repository, PageRequest(1, None, False)) == ["a", "b"]
    assert list_ids(repository, PageRequest(1, "a", False), "m") == ["c"]
    assert list_ids(repository, PageRequest(9, None, True), name="b") == ["b"]
    assert repository.remove("o", "b")
    assert list_ids(repository, PageRequest(9, "b", False)) == ["c"]


def test_page_after_an_unknown_completion_is_rejected(repository: CompletionRepository) -> None:
    with pytest.raises(InvalidRequest) as refused:
        list_ids(repository, PageRequest(1, "x", False))
    assert refused.value.param == "after"


def test_page_is_read_within_the_limit(repository: CompletionRepository) -> None:
    counted: list[bytes] = []
    repository.list_page("o", PageRequest(1, None, False), None, {}, counted.append)
    assert counted == [b'{"id":"a"}', b'{"id":"b"}']


def test_completion_belongs_to_its_owner(repository: CompletionRepository) -> None:
    assert repository.find("p", "a") is None
    assert repository.set_metadata("p", "a", {}) is None
    assert not repository.remove("p", "a")
    changed = repository.set_metadata("o", "a", {"x": "y"})
    assert changed == repository.find("o", "a")
    assert changed is not None
    assert changed.metadata == {"x": "y"}
