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
    made = Worker(tmp_path, "s"), Worker(tmp_path, "s")
    yield made
    for worker in made:
        worker.database.close()


def test_changes_are_visible_in_all_workers(workers: tuple[Worker, Worker]) -> None:
    here, there = workers
    assert there.names() == []

    here.registry.put(MODEL)
    found = there.registry.find("mine")
    assert found is not None
    assert (found.key, dict(found.headers)) == ("sk-secret-key", {"X": "org-secret"})
    assert there.registry.find("mine:latest") is found
    assert there.registry.find("other") is None

    there.registry.remove("mine")
    assert here.registry.find("mine") is None
    assert here.names() == there.names() == []


def test_unchanged_models_are_reused_on_reload(workers: tuple[Worker, Worker]) -> None:
    here, there = workers
    here.registry.put(MODEL)
    here.registry.put(replace(MODEL, name="other:8b"))
    kept, changed = there.registry.find("mine"), there.registry.find("other:8b")
    assert kept
    assert changed

    here.registry.put(replace(MODEL, name="other:8b", host="https://b/v1"))

    assert there.registry.find("mine") is kept
    assert there.registry.find("other:8b") is not changed
    assert there.dropped == [changed.upstream]
    here.registry.remove("mine:latest")
    there.names()
    assert there.dropped[1:] == [kept.upstream]


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
    here, _ = workers
    here.registry.put(MODEL)
    asked: list[object] = []
    monkeypatch.setattr(here.database, "read", asked.append)

    for name in ("mine", "mine:latest", "unknown"):
        here.registry.find(name)
    assert asked == []


def test_no_secret_is_in_the_files(workers: tuple[Worker, Worker], tmp_path: Path) -> None:
    workers[0].registry.put(MODEL)

    left = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"https://a/v1" in left
    assert b"sk-secret-key" not in left
    assert b"org-secret" not in left


def test_database_file_contains_no_key(workers: tuple[Worker, Worker], tmp_path: Path) -> None:
    workers[0].registry.put(MODEL)
    thief = Worker(tmp_path, "guessed")

    found = thief.registry.find("mine")

    assert found is not None
    assert (found.locked, found.key, dict(found.headers)) == (True, None, {})
    thief.database.close()


def test_old_secret_decrypts_nothing_after_rotation(tmp_path: Path) -> None:
    old = Worker(tmp_path, "old")
    old.registry.put(MODEL)
    both = Worker(tmp_path, "new", "old")

    done = both.registry.rotate_secrets(TokenCipher(["new", "old"]))

    assert (done.models, done.lost_models) == (1, [])
    for secret, key in (("new", "sk-secret-key"), ("old", None)):
        worker = Worker(tmp_path, secret)
        found = worker.registry.find("mine")
        assert found
        assert found.key == key
        worker.database.close()
    old.database.close()
    both.database.close()


def test_rotation_unlocks_locked_models(tmp_path: Path) -> None:
    old, new, both = (Worker(tmp_path, *secrets) for secrets in (["old"], ["new"], ["new", "old"]))
    old.registry.put(MODEL)
    found = new.registry.find("mine")
    assert found
    assert found.locked

    both.registry.rotate_secrets(TokenCipher(["new", "old"]))

    found = new.registry.find("mine")
    assert found
    assert found.key == "sk-secret-key"
    for worker in (old, new, both):
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
    here, there = workers
    here.registry.put(MODEL)
    assert there.names() == ["mine:latest"]
    asked: list[object] = []

    def fail(work: object) -> None:
        asked.append(work)
        raise StoreUnavailable

    monkeypatch.setattr(there.database, "read", fail)
    here.registry.put(replace(MODEL, name="later:latest"))

    assert there.names() == there.names() == ["mine:latest"]
    assert len(asked) == 1, "a store that failed is left alone for a while"
    monkeypatch.undo()
    there.registry._retry_at = 0.0
    assert there.names() == ["later:latest", "mine:latest"]


def test_null_registry_is_empty_and_rejects_models() -> None:
    none = NullModelRegistry()

    assert (none.find("x"), none.list_models()) == (None, [])
    for refused in (
        lambda: none.put(MODEL),
        lambda: none.remove("x"),
        lambda: none.rotate_secrets(TokenCipher(["x"])),
    ):
        with pytest.raises(Unsupported, match="FORWARDER_DATABASE_URL"):
            refused()


def test_adopted_secret_decrypts_stored_keys(tmp_path: Path) -> None:
    Worker(tmp_path, "s").registry.put(MODEL)
    late = Worker(tmp_path)
    late.registry.preload_models()
    found = late.registry.find("mine")
    assert found
    assert found.locked

    late.registry.adopt_secrets(["s"])

    found = late.registry.find("mine")
    assert found
    assert found.key == "sk-secret-key"


def test_hanging_store_does_not_delay_requests(
    workers: tuple[Worker, Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = workers
    here.registry.put(MODEL)
    there.registry.preload_models()
    here.registry.put(replace(MODEL, name="other"))
    free = threading.Event()
    read = there.database.read
    monkeypatch.setattr(there.database, "read", lambda work: (free.wait(20), read(work))[1])

    started = time.monotonic()
    for _ in range(200):
        assert there.registry.find("mine")
    took = time.monotonic() - started

    free.set()
    assert took < 200 * MAX_WAIT_SECONDS / 2, "more than one has waited"
    deadline = time.monotonic() + 10
    while not there.registry.find("other"):
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_each_change_changes_the_version_in_all_workers(
    workers: tuple[Worker, Worker],
) -> None:
    here, there = workers
    seen = [here.registry.get_version()]
    for change in (
        lambda: here.registry.put(MODEL),
        lambda: there.registry.put(MODEL),
        lambda: here.registry.put(replace(MODEL, name="other:8b")),
    ):
        change()
        seen.append(here.registry.get_version())
        assert there.registry.get_version() == seen[-1]

    assert len(set(seen)) == 4
    assert NullModelRegistry().get_version() == NullModelRegistry().get_version()
