"""Stores of capture records: lookup, order, limits."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from forwarder.observability.capture.stores import (
    CaptureLimits,
    CaptureStore,
    FileCaptureStore,
    MemoryCaptureStore,
    generate_name,
    parse_created_at,
)

Make = Callable[..., CaptureStore]


class Clock:
    now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


CLOCK = Clock()


@pytest.fixture(params=["memory", "files"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    def make_store(max_records: int = 3, age: float = 100.0) -> CaptureStore:
        limits = CaptureLimits(max_records, age)
        if request.param == "memory":
            return MemoryCaptureStore(limits, CLOCK)
        return FileCaptureStore(tmp_path / "a" / "b", limits, CLOCK)

    CLOCK.now = Clock.now
    return make_store


def put_record(store: CaptureStore, request_id: str) -> str:
    CLOCK.now += 1
    name = generate_name(CLOCK.now)
    summary = json.dumps({"id": name, "request_id": request_id})
    store.put(name, f'{{"exchange":{summary},\n"client":{{}}}}\n'.encode())
    return name


def list_ids(store: CaptureStore) -> list[str]:
    return [summary["request_id"] for summary in store.list_newest(100)]


def test_empty_store_has_no_records(make: Make) -> None:
    assert make().list_newest(5) == []
    assert make().find("x") is None


def test_records_are_found_by_their_names_and_by_their_requests_ids(make: Make) -> None:
    store = make()
    names = [put_record(store, each) for each in ("a", "b", "a")]

    records = [store.find(name) for name in (*names, "a")]

    assert [json.loads(record or b"")["exchange"]["id"] for record in records] == [*names, names[2]]
    assert store.find("c") is None
    assert store.find(generate_name(CLOCK.now)) is None


def test_newest_records_come_first(make: Make) -> None:
    store = make()
    for each in "abc":
        put_record(store, each)

    assert list_ids(store) == ["c", "b", "a"]
    assert [summary["request_id"] for summary in store.list_newest(2)] == ["c", "b"]


def test_store_limits_the_number_of_records(make: Make) -> None:
    store = make(max_records=2)
    names = [put_record(store, each) for each in "abcd"]

    assert list_ids(store) == ["d", "c"]
    assert [store.find(name) is None for name in names] == [True, True, False, False]


def test_expired_records_are_pruned_without_new_ones(make: Make) -> None:
    store = make(age=10)
    name = put_record(store, "a")
    CLOCK.now += 5
    put_record(store, "b")
    CLOCK.now += 5.5

    store.prune()

    assert list_ids(store) == ["b"]
    assert store.find(name) is None


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "ex_", "ex_..", ""])
def test_record_name_cannot_escape_the_directory(make: Make, name: str) -> None:
    store = make()
    put_record(store, "a")

    assert store.find(name) is None


def test_files_are_private_and_shared_by_all_workers(tmp_path: Path) -> None:
    CLOCK.now = Clock.now
    directory = tmp_path / "shared"
    one, other = (FileCaptureStore(directory, CaptureLimits(2, 100), CLOCK) for _ in range(2))
    put_record(one, "a"), put_record(other, "b"), put_record(one, "c")

    assert one.is_shared
    assert list_ids(one) == list_ids(other) == ["c", "b"]
    assert directory.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in directory.iterdir()} == {0o600}
    assert len(list(directory.iterdir())) == 2


def test_prune_removes_abandoned_partial_files_only(tmp_path: Path) -> None:
    CLOCK.now = Clock.now
    store = FileCaptureStore(tmp_path, CaptureLimits(1, 100), CLOCK)
    abandoned, writing = generate_name(CLOCK.now - 1000), generate_name(CLOCK.now)
    for name in ("notes.json", "ex_mine.json", f"{abandoned}.json.part", f"{writing}.json.part"):
        (tmp_path / name).write_text("x")
    put_record(store, "a")
    put_record(store, "b")

    file_names = set(os.listdir(tmp_path))

    assert {"notes.json", "ex_mine.json", f"{writing}.json.part"} <= file_names
    assert f"{abandoned}.json.part" not in file_names
    assert len(file_names) == 4


def test_a_broken_file_does_not_hide_the_others(tmp_path: Path) -> None:
    CLOCK.now = Clock.now
    store = FileCaptureStore(tmp_path, CaptureLimits(5, 100), CLOCK)
    put_record(store, "a")
    (tmp_path / f"{generate_name(CLOCK.now)}.json").write_text("what?")

    assert list_ids(store) == ["a"]
    assert store.find("a") is not None


def test_record_name_encodes_its_time() -> None:
    assert parse_created_at(generate_name(1_700_000_000.25)) == 1_700_000_000.25
    assert generate_name(1.0) < generate_name(1.1)
    assert parse_created_at("ex_1") is None


def test_names_and_summaries_are_read_one_by_one(make: Make) -> None:
    store = make()
    names = [put_record(store, each) for each in "abc"]

    assert store.list_names() == names[::-1]
    assert (store.read_summary(names[1]) or {})["request_id"] == "b"
    assert store.read_summary(generate_name(CLOCK.now)) is None
    assert next(iter(store.iterate_summaries()))["request_id"] == "c"


def test_new_files_of_another_worker_are_listed_at_once(tmp_path: Path) -> None:
    CLOCK.now = Clock.now
    one, other = (FileCaptureStore(tmp_path, CaptureLimits(50, 100), CLOCK) for _ in range(2))
    for number in range(20):
        put_record(one, str(number))
        assert len(other.list_names()) == number + 1


def test_expired_records_are_not_found_before_they_are_pruned(make: Make) -> None:
    store = make(age=10)
    name = put_record(store, "a")
    CLOCK.now += 11

    assert store.list_names() == []
    assert store.find(name) is None
