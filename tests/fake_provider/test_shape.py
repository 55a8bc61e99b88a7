"""JSON against types, and OpenAI's wording of violations."""

from __future__ import annotations

from typing import Any, Literal, Required

from typing_extensions import TypedDict

from tests.fake_provider.shape import check, drop_accepted
from tests.helpers.check_cases import check_each


class Cat(TypedDict, total=False):
    type: Required[Literal["cat"]]
    lives: Required[int]
    names: list[str]


class Dog(TypedDict, total=False):
    type: Literal["dog"]
    tricks: dict[str, float]


@check_each(
    ("value", "kind"),
    [
        ("a", str),
        (1, float),
        (None, str | None),
        ("b", Literal["a", "b"]),
        (["a"], str | list[str]),
        ({"type": "cat", "lives": 9}, Cat | Dog),
        ({"tricks": {"sit": 1}}, Cat | Dog),
        ({"anything": [1]}, dict[str, object]),
        ("any", str | Literal["a"]),
    ],
)
def test_matching_value_has_no_violation(value: Any, kind: Any) -> None:
    assert check(value, kind, "x") == []


@check_each(
    ("value", "kind", "message", "param"),
    [
        (1, str, "Invalid type for 'x': expected a string, but got an integer instead.", "x"),
        (True, int, "Invalid type for 'x': expected an integer, but got a boolean instead.", "x"),
        (None, str, "Invalid type for 'x': expected a string, but got null instead.", "x"),
        (
            {},
            str | list[str],
            "Invalid type for 'x': expected a string or an array, but got an object instead.",
            "x",
        ),
        ("c", Literal["a", "b"], "Invalid value: 'c'. Supported values are: 'a', 'b'.", "x"),
        ("c", Literal["a"] | None, "Invalid value: 'c'. Supported values are: 'a'.", "x"),
        ({"type": "cat"}, Cat, "Missing required parameter: 'x.lives'.", "x.lives"),
        (
            {"type": "cat", "lives": 9, "age": 1},
            Cat | Dog,
            "Unknown parameter: 'x.age'.",
            "x.age",
        ),
        (
            {"type": "cow"},
            Cat | Dog,
            "Invalid value: 'cow'. Supported values are: 'cat', 'dog'.",
            "x.type",
        ),
        (
            {"type": "cat", "lives": 9, "names": ["a", 1]},
            Cat | Dog,
            "Invalid type for 'x.names[1]': expected a string, but got an integer instead.",
            "x.names[1]",
        ),
        (
            {"tricks": {"sit": "a"}},
            Dog,
            "Invalid type for 'x.tricks.sit': expected a decimal, but got a string instead.",
            "x.tricks.sit",
        ),
    ],
)
def test_mismatching_value_is_a_violation_with_its_path(
    value: Any, kind: Any, message: str, param: str
) -> None:
    violations = check(value, kind, "x")

    assert [(str(violation), violation.param) for violation in violations] == [(message, param)]


def test_names_can_be_accepted_in_places() -> None:
    violations = check({"type": "cat", "age": 1}, Cat, "x")

    assert len(violations) == 2
    assert [v.param for v in drop_accepted(violations, {"age", "lives"})] == ["x.lives"]
    assert drop_accepted(violations, {"age"}, under="y") == violations
