"""The registry of models in a database, shared by several workers."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from forwarder.config.settings import UpstreamSettings
from forwarder.core.encryption import TokenCipher
from forwarder.core.errors import NotFound, StoreUnavailable, Unsupported
from forwarder.core.storage_breaker import MAX_WAIT_SECONDS
from forwarder.models.registered_model import RegisteredModel
from forwarder.models.registry import DatabaseModelRegistry, NullModelRegistry
from forwarder.storage.db.database import SqliteDatabase

MODEL = RegisteredModel(
    "mine:latest", "m", "https://a/v1", key="sk-secret-key", headers={"X": "org-secret"}
)


class Worker:
    """The registry of one worker process."""

    def __init__(self, path: Path, *secrets: str) -> None:
        self.database = SqliteDatabase(path / "state.db")
        self.database.prepare()
        self.dropped: list[UpstreamSettings] = []
        self.registry = DatabaseModelRegistry(self.database, secrets, self.dropped.append)

    def names(self) -> list[str]:
        return [remote.name for remote in self.registry.list_models()]


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[tuple[Worker, Worker]]:
    workers = Worker(tmp_path, "s"), Worker(tmp_path, "s")
    yield workers
    for worker in workers:
        worker.database.close()


def test_changes_are_visible_in_all_workers(workers: tuple[Worker, Worker]) -> None:
    first_worker, second_worker = workers
    assert second_worker.names() == []

    first_worker.registry.put(MODEL)
    model = second_worker.registry.find("mine")
    assert model is not None
    assert (model.key, dict(model.headers)) == ("sk-secret-key", {"X": "org-secret"})
    assert second_worker.registry.find("mine:latest") is model
    assert second_worker.registry.find("other") is None

    second_worker.registry.remove("mine")
    assert first_worker.registry.find("mine") is None
    assert first_worker.names() == second_worker.names() == []


def test_unchanged_models_are_reused_on_reload(workers: tuple[Worker, Worker]) -> None:
    first_worker, second_worker = workers
    first_worker.registry.put(MODEL)
    first_worker.registry.put(replace(MODEL, name="other:8b"))
    unchanged, changed = (
        second_worker.registry.find("mine"),
        second_worker.registry.find("other:8b"),
    )
    assert unchanged
    assert changed

    first_worker.registry.put(replace(MODEL, name="other:8b", host="https://b/v1"))

    assert second_worker.registry.find("mine") is unchanged
    assert second_worker.registry.find("other:8b") is not changed
    assert second_worker.dropped == [changed.upstream]
    first_worker.registry.remove("mine:latest")
    second_worker.names()
    assert second_worker.dropped[1:] == [unchanged.upstream]


def test_updating_a_model_keeps_its_creation_time(workers: tuple[Worker, Worker]) -> None:
    first = workers[0].registry.put(MODEL)
    second = workers[1].registry.put(MODEL)

    assert first.created == second.created
    assert second.modified > first.modified > 0


def test_removing_an_unknown_model_is_not_found(workers: tuple[Worker, Worker]) -> None:
    with pytest.raises(NotFound, match="model 'gone' not found"):
        workers[0].registry.remove("gone")


def test_lookup_does_not_query_the_database(
    workers: tuple[Worker, Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    first_worker, _ = workers
    first_worker.registry.put(MODEL)
    reads: list[object] = []
    monkeypatch.setattr(first_worker.database, "read", reads.append)

    for name in ("mine", "mine:latest", "unknown"):
        first_worker.registry.find(name)
    assert reads == []


def test_no_secret_is_in_the_files(workers: tuple[Worker, Worker], tmp_path: Path) -> None:
    workers[0].registry.put(MODEL)

    file_contents = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"https://a/v1" in file_contents
    assert b"sk-secret-key" not in file_contents
    assert b"org-secret" not in file_contents


def test_database_file_contains_no_key(workers: tuple[Worker, Worker], tmp_path: Path) -> None:
    workers[0].registry.put(MODEL)
    other_worker = Worker(tmp_path, "guessed")

    model = other_worker.registry.find("mine")

    assert model is not None
    assert (model.locked, model.key, dict(model.headers)) == (True, None, {})
    other_worker.database.close()


def test_old_secret_decrypts_nothing_after_rotation(tmp_path: Path) -> None:
    old_worker = Worker(tmp_path, "old")
    old_worker.registry.put(MODEL)
    worker_with_both = Worker(tmp_path, "new", "old")

    report = worker_with_both.registry.rotate_secrets(TokenCipher(["new", "old"]))

    assert (report.models, report.lost_models) == (1, [])
    for secret, key in (("new", "sk-secret-key"), ("old", None)):
        worker = Worker(tmp_path, secret)
        model = worker.registry.find("mine")
        assert model
        assert model.key == key
        worker.database.close()
    old_worker.database.close()
    worker_with_both.database.close()


def test_rotation_unlocks_locked_models(tmp_path: Path) -> None:
    old_worker, new_worker, worker_with_both = (
        Worker(tmp_path, *secrets) for secrets in (["old"], ["new"], ["new", "old"])
    )
    old_worker.registry.put(MODEL)
    model = new_worker.registry.find("mine")
    assert model
    assert model.locked

    worker_with_both.registry.rotate_secrets(TokenCipher(["new", "old"]))

    model = new_worker.registry.find("mine")
    assert model
    assert model.key == "sk-secret-key"
    for worker in (old_worker, new_worker, worker_with_both):
        worker.database.close()


def test_key_is_rejected_without_a_secret(tmp_path: Path) -> None:
    worker = Worker(tmp_path)
    with pytest.raises(Unsupported, match="FORWARDER_SECRET_KEY"):
        worker.registry.put(MODEL)

    worker.registry.put(RegisteredModel("open:latest", "m", "https://a/v1"))
    assert worker.names() == ["open:latest"]
    assert worker.registry.rotate_secrets(TokenCipher(["x"])).models == 0
    worker.database.close()


def test_cached_models_are_served_while_the_store_fails(
    workers: tuple[Worker, Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    first_worker, second_worker = workers
    first_worker.registry.put(MODEL)
    assert second_worker.names() == ["mine:latest"]
    reads: list[object] = []

    def fail(work: object) -> None:
        reads.append(work)
        raise StoreUnavailable

    monkeypatch.setattr(second_worker.database, "read", fail)
    first_worker.registry.put(replace(MODEL, name="later:latest"))

    assert second_worker.names() == second_worker.names() == ["mine:latest"]
    assert len(reads) == 1, "a failed store is not read again for a while"
    monkeypatch.undo()
    second_worker.registry._retry_at = 0.0
    assert second_worker.names() == ["later:latest", "mine:latest"]


def test_null_registry_is_empty_and_rejects_models() -> None:
    registry = NullModelRegistry()

    assert (registry.find("x"), registry.list_models()) == (None, [])
    for operation in (
        lambda: registry.put(MODEL),
        lambda: registry.remove("x"),
        lambda: registry.rotate_secrets(TokenCipher(["x"])),
    ):
        with pytest.raises(Unsupported, match="FORWARDER_DATABASE_URL"):
            operation()


def test_adopted_secret_decrypts_stored_keys(tmp_path: Path) -> None:
    Worker(tmp_path, "s").registry.put(MODEL)
    worker = Worker(tmp_path)
    worker.registry.preload_models()
    model = worker.registry.find("mine")
    assert model
    assert model.locked

    worker.registry.adopt_secrets(["s"])

    model = worker.registry.find("mine")
    assert model
    assert model.key == "sk-secret-key"


def test_hanging_store_does_not_delay_requests(
    workers: tuple[Worker, Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    first_worker, second_worker = workers
    first_worker.registry.put(MODEL)
    second_worker.registry.preload_models()
    first_worker.registry.put(replace(MODEL, name="other"))
    release = threading.Event()
    read = second_worker.database.read
    monkeypatch.setattr(
        second_worker.database, "read", lambda work: (release.wait(20), read(work))[1]
    )

    started = time.monotonic()
    for _ in range(200):
        assert second_worker.registry.find("mine")
    duration = time.monotonic() - started

    release.set()
    assert duration < 200 * MAX_WAIT_SECONDS / 2, "more than one request waited for the store"
    deadline = time.monotonic() + 10
    while not second_worker.registry.find("other"):
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_each_change_changes_the_version_in_all_workers(
    workers: tuple[Worker, Worker],
) -> None:
    first_worker, second_worker = workers
    versions = [first_worker.registry.get_version()]
    for change in (
        lambda: first_worker.registry.put(MODEL),
        lambda: second_worker.registry.put(MODEL),
        lambda: first_worker.registry.put(replace(MODEL, name="other:8b")),
    ):
        change()
        versions.append(first_worker.registry.get_version())
        assert second_worker.registry.get_version() == versions[-1]

    assert len(set(versions)) == 4
    assert NullModelRegistry().get_version() == NullModelRegistry().get_version()
