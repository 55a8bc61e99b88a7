"""Tests that loop over many cases, which is faster than one test per case."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import pytest

MAX_MESSAGE_LINES = 25

SELECTED = os.environ.get("CASE", "")
"""Only cases whose name contains this text are checked."""


class NamedCase(NamedTuple):
    """The arguments of one call of a test."""

    name: str
    arguments: dict[str, Any]


def check_each(
    names: str | Sequence[str],
    values: Iterable[Any],
    ids: Iterable[str] | Callable[[Any], object] | None = None,
    parts: int = 1,
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorator like ``parametrize`` that runs all cases within one test.

    All cases share the test's fixtures. The test fails if a case fails, and its message names every
    failed case. It is skipped if all cases are skipped. Several decorators form the product of
    their cases, as with ``parametrize``. ``parts`` divides the cases among that many tests, so that
    several workers can run them.
    """
    arguments = names.replace(" ", "").split(",") if isinstance(names, str) else list(names)
    if ids is not None and not callable(ids):
        ids = list(ids)
    own = [_read_case(arguments, value, ids, i) for i, value in enumerate(values)]

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        check = getattr(test, "check", test)
        cases = [
            NamedCase("-".join(filter(None, (inner.name, outer.name))),
                      {**inner.arguments, **outer.arguments})
            for inner in getattr(test, "cases", [NamedCase("", {})])
            for outer in own
        ]  # fmt: skip
        count = max(parts, getattr(test, "parts", 1))

        @functools.wraps(test, updated=())  # Hypothesis must not take the loop for its test
        def run_cases(*args: Any, **fixtures: Any) -> None:
            part = fixtures.pop("part", 0)
            run_checks(
                (case.name, functools.partial(check, *args, **fixtures, **case.arguments))
                for case in cases[part::count]
            )

        vars(run_cases)["pytestmark"] = getattr(test, "pytestmark", [])
        signature = inspect.signature(test)
        fixtures = [p for name, p in signature.parameters.items() if name not in arguments]
        if count > 1 and "part" not in signature.parameters:
            fixtures.append(inspect.Parameter("part", inspect.Parameter.KEYWORD_ONLY))
            pytest.mark.parametrize("part", range(count))(run_cases)
        vars(run_cases).update(
            check=check,
            cases=cases,
            parts=count,
            __signature__=signature.replace(parameters=fixtures),
        )
        return run_cases

    return decorate


def run_checks(checks: Iterable[tuple[str, Callable[[], object]]]) -> None:
    """Run all named checks, then raise AssertionError with the names and errors of failed ones."""
    failures: dict[str, BaseException] = {}
    skipped: BaseException | None = None
    count = 0
    for name, check in checks:
        if SELECTED not in name:
            continue
        count += 1
        try:
            check()
        except pytest.skip.Exception as error:
            skipped = error
            count -= 1
        except (Exception, pytest.fail.Exception) as error:
            failures[name] = error
    if failures:
        failure_texts = "\n\n".join(
            f"{name}: {_describe(error)}" for name, error in failures.items()
        )
        first = next(iter(failures.values()))
        raise AssertionError(
            f"{len(failures)} of {count} cases failed:\n\n{failure_texts}"
        ) from first
    if not count:
        raise skipped or pytest.skip.Exception("No case was selected.")


def _read_case(
    arguments: list[str], value: Any, ids: list[str] | Callable[[Any], object] | None, i: int
) -> NamedCase:
    name = ids[i] if isinstance(ids, list) else None
    if hasattr(value, "marks"):  # pytest.param
        assert not value.marks, "A case cannot have marks of its own."
        name, values = value.id or name, value.values
    else:
        values = (value,) if len(arguments) == 1 else tuple(value)
    assert len(values) == len(arguments), f"{values} are not {arguments}"
    if name is None:
        parts = [ids(v) if callable(ids) else None for v in values]
        parts = [
            _name(v) if part is None else str(part) for v, part in zip(values, parts, strict=True)
        ]
        name = "-".join(parts)
    return NamedCase(name, dict(zip(arguments, values, strict=True)))


def _name(value: Any) -> str:
    name = getattr(value, "__name__", None)
    if not isinstance(name, str):
        name = value if isinstance(value, str) else repr(value)
    return name if len(name) <= 80 else name[:80] + "…"


def _describe(error: BaseException) -> str:
    text = f"{type(error).__name__}: {error}"
    lines = text.splitlines()
    more = ["…"] if len(lines) > MAX_MESSAGE_LINES else []
    return "\n    ".join(lines[:MAX_MESSAGE_LINES] + more)
