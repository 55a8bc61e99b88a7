"""Tests that loop over cases: every case runs, and a failure names its case."""

from __future__ import annotations

import inspect

import pytest

from tests.helpers import check_cases
from tests.helpers.check_cases import check_each, run_checks


def test_every_combination_of_cases_runs_with_its_fixtures() -> None:
    calls: list[tuple[int, str, str]] = []

    @check_each("number", [1, 2])
    @check_each("letter", [pytest.param("a", id="first"), "b"])
    def check(number: int, letter: str, folder: str) -> None:
        calls.append((number, letter, folder))

    assert list(inspect.signature(check).parameters) == ["folder"]
    check(folder="here")
    assert sorted(calls) == [(1, "a", "here"), (1, "b", "here"), (2, "a", "here"), (2, "b", "here")]


def test_failure_names_every_failed_case_and_its_reason() -> None:
    @check_each(("value", "expected"), [(1, 1), (2, 3), (4, 5)])
    @check_each("sign", [1, -1], ids=["plus", "minus"])
    def check(value: int, expected: int, sign: int) -> None:
        assert value * sign == expected * sign

    with pytest.raises(AssertionError) as excinfo:
        check()
    text = str(excinfo.value)
    assert text.startswith("4 of 6 cases failed:")
    assert "minus-2-3: AssertionError: assert (2 * -1) == (3 * -1)" in text
    assert "plus-4-5" in text
    assert "1-1" not in text
    assert isinstance(excinfo.value.__cause__, AssertionError)


def test_missing_exception_is_a_failure() -> None:
    @check_each("text", ["1", "x"])
    def check(text: str) -> None:
        with pytest.raises(ValueError, match="invalid"):
            int(text)

    with pytest.raises(AssertionError, match="1 of 2 cases failed:\n\n1: Failed: DID NOT RAISE"):
        check()


def test_parts_cover_every_case_once() -> None:
    calls: list[int] = []

    @check_each("number", range(10), parts=3)
    def check(number: int) -> None:
        calls.append(number)

    assert list(inspect.signature(check).parameters) == ["part"]
    for part in range(3):
        check(part=part)
    assert sorted(calls) == [*range(10)]


def test_test_is_skipped_only_if_all_cases_are() -> None:
    @check_each("reason", ["no client", ""])
    def check(reason: str) -> None:
        if reason:
            pytest.skip(reason)

    check()
    with pytest.raises(pytest.skip.Exception, match="no client"):
        run_checks([("one", lambda: pytest.skip("no client"))])


def test_cases_are_selected_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    monkeypatch.setattr(check_cases, "SELECTED", "second")
    run_checks((name, lambda name=name: calls.append(name)) for name in ("first", "second-1"))
    assert calls == ["second-1"]
    with pytest.raises(pytest.skip.Exception, match="No case"):
        run_checks([("first", lambda: None)])
