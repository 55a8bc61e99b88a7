"""The service of routes and the tool: owners, limits, expiry, errors that name a parameter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from forwarder.core.errors import InvalidRequest, NotFound
from forwarder.storage.db.keyset_pages import NumberedPage
from forwarder.storage.db.vector_stores import NewStoreFile
from forwarder.vector_stores import service
from forwarder.vector_stores.search import RankingOptions
from tests.vector_stores.conftest import OWNER, Client

PAGE = NumberedPage(10, None, None, False)
STRANGER = "stranger"


def make_new_file(name: str) -> NewStoreFile:
    return NewStoreFile(name, {}, 800, 400)


def search_stores(client: Client, owner: str, *stores: str) -> list[Any]:
    return client.stores.search_stores(
        owner, stores, ["hello"], None, RankingOptions(), 10, "tools[2].vector_store_ids"
    )


def test_tool_names_the_parameter_of_an_unknown_store(client: Client) -> None:
    store = client.create_store(**{client.upload("hello"): {}})
    assert len(search_stores(client, OWNER, store)) == 1

    for owner, stores in ((OWNER, (store, "vs_none")), (STRANGER, (store,)), (OWNER, ("\0",))):
        with pytest.raises(InvalidRequest) as caught:
            search_stores(client, owner, *stores)
        assert (caught.value.status, caught.value.param) == (400, "tools[2].vector_store_ids")


def test_expired_store_is_not_searched(client: Client) -> None:
    file = client.upload("hello")
    store = client.create_store(**{file: {}})
    client.stores.update_store(OWNER, store, {"expires_days": 1})
    assert search_stores(client, OWNER, store)
    client.database.write(
        lambda c: c.exec_driver_sql("UPDATE vector_stores SET used = used - 90000")
    )

    retrieved = client.stores.get_store(OWNER, store)
    assert retrieved["status"] == "expired"
    assert retrieved["expires_at"] == retrieved["last_active_at"] + 86400
    with pytest.raises(InvalidRequest, match="expired"):
        search_stores(client, OWNER, store)
    with pytest.raises(InvalidRequest, match="expired"):
        client.stores.search_store(OWNER, store, ["x"], None, RankingOptions(), 10)
    with pytest.raises(InvalidRequest, match="expired"):
        client.stores.add_file(OWNER, store, make_new_file(file))


def test_store_has_a_maximum_of_files(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "MAX_STORE_FILES", 2)
    files = [client.upload("hello") for _ in range(3)]
    store = client.create_store(**{files[0]: {}})

    with pytest.raises(InvalidRequest) as caught:
        client.stores.create_batch(OWNER, store, list(map(make_new_file, files[1:])), "file_ids")
    assert (caught.value.code, caught.value.param) == ("vector_store_full", "file_ids")


OPERATIONS: dict[str, Callable[[Client, str, str, str, str], object]] = {
    "get_store": lambda c, o, s, f, b: c.stores.get_store(o, s),
    "update_store": lambda c, o, s, f, b: c.stores.update_store(o, s, {"name": "x"}),
    "remove_store": lambda c, o, s, f, b: c.stores.remove_store(o, s),
    "add_file": lambda c, o, s, f, b: c.stores.add_file(o, s, make_new_file(f)),
    "get_file": lambda c, o, s, f, b: c.stores.get_file(o, s, f),
    "list_files": lambda c, o, s, f, b: c.stores.list_files(o, s, PAGE, None),
    "update_file": lambda c, o, s, f, b: c.stores.update_file(o, s, f, {}),
    "remove_file": lambda c, o, s, f, b: c.stores.remove_file(o, s, f),
    "iterate_texts": lambda c, o, s, f, b: list(c.stores.iterate_texts(o, s, f)),
    "create_batch": lambda c, o, s, f, b: c.stores.create_batch(o, s, [make_new_file(f)], "files"),
    "get_batch": lambda c, o, s, f, b: c.stores.get_batch(o, s, b),
    "cancel_batch": lambda c, o, s, f, b: c.stores.cancel_batch(o, s, b),
    "list_batch_files": lambda c, o, s, f, b: c.stores.list_batch_files(o, s, b, PAGE, None),
    "search": lambda c, o, s, f, b: c.stores.search_store(
        o, s, ["hello"], None, RankingOptions(), 10
    ),
}


def test_other_owners_find_no_stores(client: Client) -> None:
    file = client.upload("hello")
    store = client.create_store()
    batch = client.stores.create_batch(OWNER, store, [make_new_file(file)], "file_ids")["id"]
    client.wait(store)

    for operate in OPERATIONS.values():
        with pytest.raises(NotFound):
            operate(client, STRANGER, store, file, batch)
        with pytest.raises(NotFound):
            operate(client, OWNER, "vs_none", file, batch)
    assert client.stores.list_stores(STRANGER, PAGE) == ([], False)
    assert client.stores.find_store_position(STRANGER, store) is None
    with pytest.raises(NotFound):
        client.stores.find_file_position(STRANGER, store, file)
    for name in ("get_file", "update_file", "remove_file", "iterate_texts", "add_file"):
        with pytest.raises(NotFound):
            OPERATIONS[name](client, OWNER, store, "file-none", batch)
    for name in ("get_batch", "cancel_batch", "list_batch_files"):
        with pytest.raises(NotFound):
            OPERATIONS[name](client, OWNER, store, file, "vsfb_none")
    for name in ("get_file", "update_file", "get_batch", "search", "cancel_batch", "remove_store"):
        OPERATIONS[name](client, OWNER, store, file, batch)


def test_files_of_others_cannot_be_added(client: Client) -> None:
    file = client.upload("hello")

    with pytest.raises(NotFound) as caught:
        client.stores.create_store(STRANGER, "s", None, {}, None, [make_new_file(file)])
    assert caught.value.param == "file_ids"


def test_batch_counts_its_files(client: Client) -> None:
    store = client.create_store(**{client.upload("hello"): {}})
    files = [client.upload("hello"), client.upload(b"\x89PNG\0", "a.png")]

    batch = client.stores.create_batch(OWNER, store, list(map(make_new_file, files)), "file_ids")
    assert (batch["status"], batch["file_counts"]["total"]) == ("in_progress", 2)
    client.wait(store)

    done = client.stores.get_batch(OWNER, store, batch["id"])
    assert done["status"] == "completed"
    assert done["file_counts"] == {
        "in_progress": 0,
        "completed": 1,
        "failed": 1,
        "cancelled": 0,
        "total": 2,
    }
    failed_files, _ = client.stores.list_batch_files(OWNER, store, batch["id"], PAGE, "failed")
    assert [file["id"] for file in failed_files] == files[1:]
    # A finished file cannot be cancelled.
    assert client.stores.cancel_batch(OWNER, store, batch["id"])["status"] == "completed"
