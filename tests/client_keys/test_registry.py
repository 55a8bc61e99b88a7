"""The registry of client keys: two workers over one database."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from forwarder.client_keys.key import ClientKey
from forwarder.client_keys.registry import (
    ClientKeyRegistry,
    DatabaseClientKeyRegistry,
    build_client_keys,
)
from forwarder.config.settings import Settings
from forwarder.context.client_identity import make_account_id
from forwarder.core.errors import (
    ForwarderError,
    InvalidRequest,
    NotFound,
    StoreUnavailable,
    Unauthorized,
    Unsupported,
)
from forwarder.storage.db.change_notifier import FileChangeNotifier, PollingChangeNotifier
from forwarder.storage.db.database import SqliteDatabase
from tests.helpers.check_cases import check_each
from tests.helpers.waiting import wait_until

START = 1_700_000_000.0


class Clock:
    now = START

    def __call__(self) -> float:
        return self.now


class Workers:
    """Two registries over one database file, with one clock."""

    def __init__(self, path: Path, **environment: str) -> None:
        self.settings = Settings.from_env(environment)
        self.clock = Clock()
        self.databases = [SqliteDatabase(path / "state.db") for _ in range(2)]
        self.databases[0].prepare()
        self.first, self.second = (
            DatabaseClientKeyRegistry(self.settings, database, self.clock)
            for database in self.databases
        )

    def close(self) -> None:
        for database in self.databases:
            database.close()


@pytest.fixture
def workers(tmp_path: Path) -> Any:
    new_workers = Workers(tmp_path)
    yield new_workers
    new_workers.close()


def get_refusal(registry: ClientKeyRegistry, secret: str) -> str:
    with pytest.raises(Unauthorized) as refused:
        registry.authenticate(secret)
    return refused.value.message


def authenticate(registry: ClientKeyRegistry, secret: str) -> ClientKey:
    key = registry.authenticate(secret)
    assert key is not None
    return key


def test_key_works_on_every_worker_at_once_until_it_is_revoked(workers: Workers) -> None:
    assert not workers.second.are_required()
    created = workers.first.create({"name": "alice", "models": ["gpt-*"], "budget": "5 usd/month"})

    assert workers.second.are_required()
    found = authenticate(workers.second, created.secret)
    assert found.identity == created.key.identity
    assert found.grants.models == ("gpt-*",)
    assert workers.second.authenticate("sk-fwd-unknown") is None
    assert workers.second.authenticate("sk-other") is None
    assert workers.second.authenticate("") is None

    workers.second.revoke("alice")
    assert get_refusal(workers.first, created.secret) == "This API key has been revoked."
    assert workers.first.are_required(), "without valid keys all clients are refused"
    assert workers.first.count_keys() == 1


def test_revocation_that_could_not_be_announced_is_repaired_by_a_retry(
    workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    created = workers.first.create({"name": "alice"})
    authenticate(workers.second, created.secret)

    def fail(*_: object) -> None:
        raise OSError("no space")

    with monkeypatch.context() as patch:
        patch.setattr(FileChangeNotifier, "publish_change", fail)
        with pytest.raises(OSError, match="no space"):
            workers.first.revoke("alice")
    with pytest.raises(InvalidRequest):
        workers.first.revoke("alice")

    assert get_refusal(workers.second, created.secret) == "This API key has been revoked."


def test_clients_without_a_key_are_refused_while_a_change_is_not_loaded(
    workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not workers.second.are_required()
    workers.first.create({"name": "alice"})

    def fail(*_: object) -> None:
        raise StoreUnavailable

    monkeypatch.setattr(workers.second._repository, "list_keys", fail)

    assert workers.second.are_required()
    with pytest.raises(StoreUnavailable):
        workers.second.check_loaded()


def test_key_requirement_is_known_without_a_database_query(
    workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    workers.first.create({"name": "alice"})
    assert workers.second.are_required()

    def fail() -> object:
        raise AssertionError

    monkeypatch.setattr(workers.second._changes, "read_version", fail)

    assert workers.second.are_required()


def test_changed_limits_reach_every_worker(workers: Workers) -> None:
    created = workers.first.create({"name": "alice", "requests_per_minute": 5, "expires": "1d"})
    changed = workers.second.change("alice", {"tokens_per_minute": 100, "expires": None})
    assert changed.expires is None
    grants = authenticate(workers.first, created.secret).grants
    assert (grants.requests_per_minute, grants.tokens_per_minute) == (5, 100)


def test_rotated_key_stays_the_same_client(workers: Workers) -> None:
    created = workers.first.create({"name": "alice"})
    second = workers.first.rotate("alice", "10m")
    third_before = authenticate(workers.second, created.secret)
    assert third_before.identity == authenticate(workers.second, second.secret).identity
    assert second.key.to_json(workers.clock())["previous_valid_until"]

    workers.clock.now += 600
    assert "replaced" in get_refusal(workers.second, created.secret)
    third = workers.second.rotate(created.key.id)
    assert workers.first.authenticate(second.secret) is None
    assert authenticate(workers.first, third.secret).identity == created.key.identity


def test_key_expires(workers: Workers) -> None:
    created = workers.first.create({"name": "alice", "expires": "1h"})
    assert authenticate(workers.second, created.secret)
    workers.clock.now += 3600
    assert get_refusal(workers.second, created.secret) == "This API key has expired."
    assert workers.first.get_key("alice").get_state(workers.clock()) == "expired"
    workers.first.change("alice", {"expires": "1h"})
    assert authenticate(workers.second, created.secret)


def test_client_is_found_by_identity_and_account(workers: Workers) -> None:
    created = workers.first.create({"name": "alice"})
    account = make_account_id(created.key.identity, "192.0.2.1", workers.settings)
    assert account != make_account_id(None, "192.0.2.1", workers.settings)
    assert workers.second.find_by_identity(created.key.identity)
    assert workers.second.find_name(account) == "alice"
    workers.second.revoke("alice")
    assert workers.second.find_by_identity(created.key.identity), "background work continues"
    assert workers.second.find_by_identity(None) is None
    assert workers.second.find_by_identity(f"x{created.key.id}") is None, "any client may send this"
    assert workers.second.find_name("else") is None


@check_each(
    ("action", "error"),
    [
        (lambda keys: keys.create({"name": "alice"}), InvalidRequest),
        (lambda keys: keys.create({"name": "configured"}), InvalidRequest),
        (lambda keys: keys.create({"name": "bob", "rpm": 5}), InvalidRequest),
        (lambda keys: keys.create({}), InvalidRequest),
        (lambda keys: keys.change("alice", {"name": "bob"}), InvalidRequest),
        (lambda keys: keys.change("bob", {}), NotFound),
        (lambda keys: keys.revoke("bob"), NotFound),
        (lambda keys: keys.rotate("bob"), NotFound),
        (lambda keys: keys.rotate("alice", "soon"), InvalidRequest),
        (lambda keys: keys.revoke("carol"), InvalidRequest),
        (lambda keys: keys.change("carol", {}), InvalidRequest),
    ],
)
def test_invalid_changes_of_keys_are_refused(
    action: Any, error: type[ForwarderError], tmp_path_factory: pytest.TempPathFactory
) -> None:
    workers = Workers(tmp_path_factory.mktemp("keys"), FORWARDER_API_KEYS="configured:sk-1")
    workers.first.create({"name": "alice"})
    workers.first.create({"name": "carol"})
    workers.first.revoke("carol")
    with pytest.raises(error):
        action(workers.second)
    workers.close()


def test_last_use_is_stored_at_most_once_a_minute(workers: Workers) -> None:
    created = workers.first.create({"name": "alice"})
    written: list[dict[str, float]] = []
    workers.second._repository.record_use = written.append  # type: ignore[method-assign,assignment]
    for seconds in (0, 30, 59, 60, 70):
        workers.clock.now = START + seconds
        authenticate(workers.second, created.secret)
        workers.second._save_uses()
    assert written == [{created.key.id: START}, {created.key.id: START + 60}]
    assert workers.second.get_key("alice").last_used == START + 60


def test_last_use_is_stored_when_the_process_ends(workers: Workers) -> None:
    created = workers.first.create({"name": "alice"})
    workers.second.start()
    authenticate(workers.second, created.secret)
    workers.second.close()
    assert workers.first.get_key("alice").last_used == START


def test_known_keys_work_while_the_database_is_away(
    workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    created = workers.first.create({"name": "alice"})
    assert authenticate(workers.second, created.secret)
    monkeypatch.setattr(workers.databases[1], "get_error", lambda: "no answer")
    assert authenticate(workers.second, created.secret)
    assert workers.second.are_required()
    with pytest.raises(StoreUnavailable):
        workers.second.authenticate("sk-fwd-unknown")
    assert workers.second.authenticate("sk-never-made-here") is None


def test_new_key_is_not_refused_as_unknown_while_the_database_is_slow(workers: Workers) -> None:
    known_secret = workers.first.create({"name": "alice"}).secret
    registry, answers = workers.second, threading.Event()
    answers.set()

    def read_slowly() -> int:
        answers.wait(10)
        return registry._repository.read_generation()

    registry._changes = PollingChangeNotifier(read_slowly, lease=0.01, max_wait=0.05)
    assert authenticate(registry, known_secret)
    assert registry.authenticate("sk-fwd-unknown") is None

    answers.clear()
    new = workers.first.create({"name": "bob"}).secret
    time.sleep(0.01)
    with pytest.raises(StoreUnavailable):
        registry.authenticate(new)
    assert authenticate(registry, known_secret)

    answers.set()
    wait_until(lambda: registry._changes.read_version() == 2)
    assert authenticate(registry, new)


def test_all_clients_are_refused_before_the_keys_were_read(
    workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise StoreUnavailable

    monkeypatch.setattr(workers.second._repository, "list_keys", fail)
    assert not workers.second.are_required(), "no key was ever created in this database"
    workers.first.create({"name": "alice"})
    assert workers.second.are_required()
    with pytest.raises(StoreUnavailable):
        workers.second.check_loaded()
    with pytest.raises(StoreUnavailable):
        workers.second.authenticate("sk-fwd-unknown")


def test_companion_file_of_a_restored_database_is_recreated(workers: Workers) -> None:
    created = workers.first.create({"name": "alice"})
    companion = workers.databases[0].path.with_name("state.db.client_keys")
    companion.unlink()
    assert authenticate(workers.second, created.secret)
    assert companion.exists()


@check_each(
    ("setting", "has_keys", "required"),
    [
        ("auto", False, False),
        ("auto", True, True),
        ("required", False, True),
        ("optional", True, False),
    ],
)
def test_setting_decides_which_clients_need_a_key(
    setting: str, has_keys: bool, required: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    workers = Workers(tmp_path_factory.mktemp("keys"), FORWARDER_CLIENT_KEYS=setting)
    if has_keys:
        workers.first.create({"name": "alice"})
    assert workers.second.are_required() is required
    workers.close()


def test_without_a_database_there_are_no_keys() -> None:
    settings = Settings.from_env({"FORWARDER_CLIENT_KEYS": "required"})
    registry = build_client_keys(settings, None, is_replay=False)
    assert registry.are_required()
    assert not build_client_keys(settings, None, is_replay=True).are_required()
    registry.check_loaded()
    registry.start()
    registry.close()
    assert registry.authenticate("sk-fwd-x") is None
    assert registry.find_by_identity("§key_1") is None
    assert registry.find_name("") is None
    assert registry.count_keys() == 0
    for action in (
        registry.list_keys,
        lambda: registry.create({}),
        lambda: registry.get_key("a"),
        lambda: registry.change("a", {}),
        lambda: registry.revoke("a"),
        lambda: registry.rotate("a"),
    ):
        with pytest.raises(Unsupported):
            action()


def test_keys_loaded_while_a_request_waits_for_the_version_are_required(
    workers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = workers.first
    assert not registry.are_required()
    read_version = registry._changes.read_version

    def load_keys_before_the_answer() -> object:
        monkeypatch.setattr(registry._changes, "read_version", read_version)
        workers.second.create({"name": "alice"})
        registry.preload_keys()
        return read_version()

    monkeypatch.setattr(registry._changes, "read_version", load_keys_before_the_answer)
    assert registry.are_required()
