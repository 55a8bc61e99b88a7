"""Owners: derivation with an encrypted key, migration from older versions, key rotation."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from forwarder.context.client_identity import ANONYMOUS, hash_client_key, is_guessable
from forwarder.core.errors import StoreUnavailable
from forwarder.storage import owners as module
from forwarder.storage.db import completions, conversations
from forwarder.storage.db import owners as stored
from forwarder.storage.db.completions import StoredCompletion
from forwarder.storage.db.conversations import Conversation
from forwarder.storage.db.database import Database, PostgresqlDatabase, SqliteDatabase
from forwarder.storage.owners import OwnerResolver
from tests.live.postgres import needs_postgres, run_postgres

OLD = hash_client_key("k")


def add_completion(database: Database, owner: str, name: str = "chat_1") -> None:
    completion = StoredCompletion(name, 1.0, "m", {}, [], {})
    database.write(partial(completions.add, owner=owner, completion=completion))


def list_names(database: Database, owner: str) -> set[str]:
    listed = partial(
        completions.list_page,
        owner=owner,
        after=None,
        limit=9,
        descending=False,
        model=None,
        metadata={},
    )
    return {completion.id for completion in database.read(listed)}


def test_owner_of_a_key_is_shared_by_workers_and_differs_by_database(
    database: SqliteDatabase, tmp_path: Path
) -> None:
    other_database = SqliteDatabase(tmp_path / "other.db")
    first, second, elsewhere = (
        OwnerResolver(d, ["s"]) for d in (database, database, other_database)
    )

    assert first.find_owner("k") == second.find_owner("k") == first.derive_owner("k")
    assert len({first.find_owner("k"), first.find_owner("l"), elsewhere.find_owner("k"), OLD}) == 4
    other_database.close()


def test_owner_cannot_be_guessed_from_the_database(database: SqliteDatabase) -> None:
    owners = OwnerResolver(database, ["s"])
    add_completion(database, owners.find_owner("k"))

    [(_, sealed)] = database.read(stored.list_keys)
    files = b"".join(p.read_bytes() for p in database.path.parent.glob("state.db*"))
    assert owners.find_owner("k").encode() in files
    assert OLD.encode() not in files
    assert owners._keys[0].hex().encode() not in files
    assert OwnerResolver(database, ["guess"])._decrypt_keys([("", sealed)]) == []


@pytest.mark.parametrize("secrets", [[], ["s"]])
def test_clients_without_a_key_stay_one_owner(database: SqliteDatabase, secrets: list[str]) -> None:
    owners = OwnerResolver(database, secrets)
    add_completion(database, ANONYMOUS)

    assert (
        owners.find_owner(None) == owners.find_owner("") == owners.derive_owner(None) == ANONYMOUS
    )
    owners.rotate_keys()
    assert list_names(database, ANONYMOUS) == {"chat_1"}


def test_without_a_secret_or_a_database_owners_are_digests(database: SqliteDatabase) -> None:
    add_completion(database, OLD)

    assert (
        OwnerResolver(database, []).find_owner("k")
        == OwnerResolver(None, ["s"]).find_owner("k")
        == OLD
    )
    assert list_names(database, OLD) == {"chat_1"}
    assert OwnerResolver(database, []).migrate_owner(OLD) == OLD
    assert database.read(stored.list_keys) == []


def test_data_of_older_versions_is_moved_at_the_first_request(database: SqliteDatabase) -> None:
    add_completion(database, OLD)
    add_completion(database, hash_client_key("l"), "another's")
    owners = OwnerResolver(database, ["s"])

    owner = owners.find_owner("k")

    assert (list_names(database, owner), list_names(database, OLD)) == ({"chat_1"}, set())
    assert list_names(database, hash_client_key("l")) == {"another's"}


@pytest.mark.parametrize("secrets", [[], ["s"]])
@pytest.mark.parametrize("sent", ["k", "alice:k"])
def test_both_forms_of_a_key_have_one_owner(
    database: SqliteDatabase, secrets: list[str], sent: str
) -> None:
    names = {"k": "alice", "alice:k": "alice", "l": None}
    earlier = OwnerResolver(database, secrets)  # before names were split off
    add_completion(database, earlier.find_owner("k"), "of the key")
    add_completion(database, earlier.find_owner("alice:k"), "of the whole text")
    add_completion(database, hash_client_key("alice:k"), "of a plain digest")
    owners = OwnerResolver(database, secrets, names)

    owner = owners.find_owner(sent)

    assert owner == owners.derive_owner("k") == owners.derive_owner("alice:k")
    assert owner == earlier.derive_owner("k")
    assert list_names(database, owner) == {"of the key", "of the whole text", "of a plain digest"}
    assert owners.find_owner("alice:l") != owners.find_owner("l")


def test_earlier_owners_are_checked_periodically(
    database: SqliteDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    owners = OwnerResolver(database, ["s"])
    owner = owners.find_owner("k")
    add_completion(database, OLD)  # as a worker of an older version does

    with monkeypatch.context() as patch:
        patch.setattr(
            database, "read", lambda work: pytest.fail("the earlier owner was checked again")
        )
        assert owners.find_owner("k") == owner
    monkeypatch.setattr(module, "CHECK_SECONDS", 0.0)
    assert owners.find_owner("k") == owner
    assert list_names(database, owner) == {"chat_1"}


def test_number_of_remembered_owners_is_limited(
    database: SqliteDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_CHECKED_OWNERS", 2)
    owners = OwnerResolver(database, ["s"])
    for key in ("a", "b", "c"):
        owners.find_owner(key)

    assert [*owners._checked_at] == [hash_client_key("b"), hash_client_key("c")]


def test_locked_conversation_is_moved_after_its_turn(
    database: SqliteDatabase,
) -> None:
    database.write(lambda c: conversations.create(c, OLD, Conversation("conv_1", 1.0, {})))
    database.write(lambda c: conversations.acquire_lease(c, OLD, "conv_1", "turn"))
    owners = OwnerResolver(database, ["s"])

    assert owners.migrate_owner(OLD) == OLD
    owner = owners.find_owner("k")
    assert database.read(lambda c: conversations.find(c, owner, "conv_1")) is None
    database.write(lambda c: conversations.release_lease(c, OLD, "conv_1", "turn"))

    assert owners.find_owner("k") == owner
    assert database.read(lambda c: conversations.find(c, owner, "conv_1")) is not None


def test_unwritable_database_keeps_earlier_owners(
    database: SqliteDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_completion(database, OLD)
    owners = OwnerResolver(database, ["s"])
    with monkeypatch.context() as patch:
        patch.setattr(database, "write_without_timeout", raise_unavailable)
        assert owners.find_owner("k") == OLD

    assert owners.find_owner("k") == owners.derive_owner("k") != OLD


def raise_unavailable(*_: object) -> Any:
    raise StoreUnavailable


def test_owner_keys_are_loaded_when_the_database_is_back(
    database: SqliteDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.01)
    owner = OwnerResolver(database, ["s"]).find_owner("k")
    with monkeypatch.context() as patch:
        patch.setattr(database, "read", raise_unavailable)
        resolver = OwnerResolver(database, ["s"])
        assert resolver.find_owner("k") == resolver.derive_owner("k") == OLD

    assert resolver.find_owner("k") == owner
    with monkeypatch.context() as patch:
        patch.setattr(database, "read", raise_unavailable)
        second = OwnerResolver(database, ["s"])
    wait_until_loaded(second)
    assert second.derive_owner("k") == owner


def wait_until_loaded(owners: OwnerResolver) -> None:
    deadline = time.monotonic() + 5
    while not owners._keys:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_late_secret_is_used(database: SqliteDatabase) -> None:
    resolver = OwnerResolver(database, [])
    resolver.add_secrets(["s"])

    assert resolver.find_owner("k") == OwnerResolver(database, ["s"]).find_owner("k") != OLD


# -- other secrets --------------------------------------------------------------------------------


def test_a_change_of_the_secret_changes_no_owner(database: SqliteDatabase) -> None:
    owner = OwnerResolver(database, ["old"]).find_owner("k")
    both = OwnerResolver(database, ["new", "old"])
    assert both.find_owner("k") == owner

    both.rotate_keys()

    assert OwnerResolver(database, ["new"]).find_owner("k") == owner
    assert both.find_owner("k") == owner
    assert OwnerResolver(database, ["old"])._keys != both._keys, (
        "the old secret still decrypts a key"
    )


def test_rotation_moves_all_guessable_owners(database: SqliteDatabase) -> None:
    """This includes owners of clients that never return."""
    for key in ("k", "l"):
        add_completion(database, hash_client_key(key))
    owners = OwnerResolver(database, ["s"])

    owners.rotate_keys()

    everybody = database.read(stored.list_owners)
    assert everybody == {owners.derive_owner("k"), owners.derive_owner("l")}
    assert not any(map(is_guessable, everybody))


def test_data_under_another_secret_is_moved_when_both_are_set(
    database: SqliteDatabase,
) -> None:
    first, other = OwnerResolver(database, ["first"]), OwnerResolver(database, ["other"])
    add_completion(database, first.find_owner("k"), "chat_1")
    add_completion(database, other.find_owner("k"), "chat_2")
    assert first.find_owner("k") != other.find_owner("k")

    both = OwnerResolver(database, ["other", "first"])

    assert both.find_owner("k") == first.find_owner("k")
    assert list_names(database, both.find_owner("k")) == {"chat_1", "chat_2"}


def test_rows_are_moved_without_their_client(database: SqliteDatabase) -> None:
    add_completion(database, OLD)
    owners = OwnerResolver(database, ["s"])

    owner = owners.migrate_owner(OLD)

    assert owner == owners.migrate_owner(owner) == owners.derive_owner("k")
    assert list_names(database, owner) == {"chat_1"}


# -- several processes ----------------------------------------------------------------------------


@pytest.fixture(
    params=["sqlite", pytest.param("postgres", marks=[needs_postgres, pytest.mark.live])]
)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/shared.db"
    else:
        with run_postgres() as server_url:
            yield server_url


def open_one(url: str) -> Database:
    parsed = sa.make_url(url)
    is_file = parsed.drivername == "sqlite"
    database: Database = (
        SqliteDatabase(Path(str(parsed.database))) if is_file else PostgresqlDatabase(parsed)
    )
    database.prepare()
    return database


def find_owner(url: str, barrier: Any, results: Any) -> None:
    database = open_one(url)
    barrier.wait(60)
    owner = OwnerResolver(database, ["s"]).find_owner("k")
    results.put((owner, len(list_names(database, owner))))
    database.close()


@pytest.mark.live
@pytest.mark.slow
def test_concurrent_processes_move_data_once(url: str) -> None:
    database = open_one(url)
    for number in range(5):
        add_completion(database, OLD, f"chat_{number}")
    context = multiprocessing.get_context("spawn")
    barrier, queue = context.Barrier(3), context.Queue()
    workers = [context.Process(target=find_owner, args=(url, barrier, queue)) for _ in range(3)]
    for worker in workers:
        worker.start()
    results = {queue.get(timeout=60) for _ in workers}
    for worker in workers:
        worker.join(60)

    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert len(results) == 1
    [(owner, rows)] = results
    assert (rows, len(list_names(database, owner)), list_names(database, OLD)) == (5, 5, set())
    assert len(database.read(stored.list_keys)) == 1
    database.close()
