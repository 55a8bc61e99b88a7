"""Records are found again, and there are never too many, nor any that is too old."""

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
    def made(most: int = 3, age: float = 100.0) -> CaptureStore:
        limits = CaptureLimits(most, age)
        if request.param == "memory":
            return MemoryCaptureStore(limits, CLOCK)
        return FileCaptureStore(tmp_path / "a" / "b", limits, CLOCK)

    CLOCK.now = Clock.now
    return made


def put(shelf: CaptureStore, request_id: str) -> str:
    CLOCK.now += 1
    name = generate_name(CLOCK.now)
    summary = json.dumps({"id": name, "request_id": request_id})
    shelf.put(name, f'{{"exchange":{summary},\n"client":{{}}}}\n'.encode())
    return name


def ids(shelf: CaptureStore) -> list[str]:
    return [summary["request_id"] for summary in shelf.list_newest(100)]


def test_an_empty_shelf_has_nothing(make: Make) -> None:
    assert make().list_newest(5) == []
    assert make().find("x") is None


def test_records_are_found_by_their_names_and_by_their_requests_ids(make: Make) -> None:
    shelf = make()
    names = [put(shelf, each) for each in ("a", "b", "a")]

    found = [shelf.find(name) for name in (*names, "a")]

    assert [json.loads(said or b"")["exchange"]["id"] for said in found] == [*names, names[2]]
    assert shelf.find("c") is None
    assert shelf.find(generate_name(CLOCK.now)) is None


def test_the_newest_are_the_first(make: Make) -> None:
    shelf = make()
    for each in "abc":
        put(shelf, each)

    assert ids(shelf) == ["c", "b", "a"]
    assert [summary["request_id"] for summary in shelf.list_newest(2)] == ["c", "b"]


def test_there_are_never_too_many(make: Make) -> None:
    shelf = make(most=2)
    names = [put(shelf, each) for each in "abcd"]

    assert ids(shelf) == ["d", "c"]
    assert [shelf.find(name) is None for name in names] == [True, True, False, False]


def test_what_is_too_old_goes_without_a_new_one(make: Make) -> None:
    shelf = make(age=10)
    name = put(shelf, "a")
    CLOCK.now += 5
    put(shelf, "b")
    CLOCK.now += 5.5

    shelf.prune()

    assert ids(shelf) == ["b"]
    assert shelf.find(name) is None


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "ex_", "ex_..", ""])
def test_no_name_leads_out_of_it(make: Make, name: str) -> None:
    shelf = make()
    put(shelf, "a")

    assert shelf.find(name) is None


def test_files_are_their_owners_alone_and_shared_by_all_workers(tmp_path: Path) -> None:
    CLOCK.now = Clock.now
    directory = tmp_path / "shared"
    one, other = (FileCaptureStore(directory, CaptureLimits(2, 100), CLOCK) for _ in range(2))
    put(one, "a"), put(other, "b"), put(one, "c")

    assert one.is_shared
    assert ids(one) == ids(other) == ["c", "b"]
    assert directory.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in directory.iterdir()} == {0o600}
    assert len(list(directory.iterdir())) == 2


def test_others_files_are_left_alone_and_half_ones_of_the_dead_go(tmp_path: Path) -> None:
    CLOCK.now = Clock.now
    shelf = FileCaptureStore(tmp_path, CaptureLimits(1, 100), CLOCK)
    dead, writing = generate_name(CLOCK.now - 1000), generate_name(CLOCK.now)
    for name in ("notes.json", "ex_mine.json", f"{dead}.json.part", f"{writing}.json.part"):
        (tmp_path / name).write_text("x")
    put(shelf, "a")
    put(shelf, "b")

    left = set(os.listdir(tmp_path))

    assert {"notes.json", "ex_mine.json", f"{writing}.json.part"} <= left
    assert f"{dead}.json.part" not in left
    assert len(left) == 4


def test_a_broken_file_does_not_hide_the_others(tmp_path: Path) -> None:
    CLOCK.now = Clock.now
    shelf = FileCaptureStore(tmp_path, CaptureLimits(5, 100), CLOCK)
    put(shelf, "a")
    (tmp_path / f"{generate_name(CLOCK.now)}.json").write_text("what?")

    assert ids(shelf) == ["a"]
    assert shelf.find("a") is not None


def test_a_name_says_when_it_was_given() -> None:
    assert parse_created_at(generate_name(1_700_000_000.25)) == 1_700_000_000.25
    assert generate_name(1.0) < generate_name(1.1)
    assert parse_created_at("ex_1") is None
