"""Validation of profile fields."""

from __future__ import annotations

from typing import Any

import pytest

from forwarder.providers import Profile, validate_quirks
from tests.helpers.check_cases import check_each


@check_each(
    ("quirks", "message"),
    [
        ({"strict_tool": True}, "only the names add, allowed_tools"),
        ({"name": "x"}, "only the names"),
        ({"strict_tools": 1}, "'strict_tools' is true or false"),
        ({"max_tokens": "limit"}, "'max_tokens' is one of max_tokens, max_completion_tokens"),
        ({"reasoning_field": "x"}, "one of reasoning_content, reasoning, null"),
        ({"drop": "seed"}, "'drop' is an array of names"),
        ({"drop": [1]}, "'drop' is an array of names"),
        ({"tool_name_limit": -1}, "'tool_name_limit' is a whole number"),
        ({"tool_name_limit": True}, "'tool_name_limit' is a whole number"),
        ({"chat_path": None}, "'chat_path' is a text"),
        ({"effort_map": {"low": 1}}, "'effort_map' is an object of texts or null"),
        ({"models": {"x": 1}}, "'models' is an object of such objects"),
        ({"models": {"x": {"drop": 1}}}, "'drop' is an array"),
        ({"models": {"x": {"models": {}}}}, "contain no 'models'"),
    ],
)
def test_validate_quirks_describes_valid_values(quirks: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        validate_quirks(quirks)


def test_validate_quirks_returns_valid_quirks() -> None:
    quirks = {
        "strict_tools": False,
        "reasoning_field": None,
        "drop": ["seed"],
        "effort_map": {"max": "high", "none": None},
        "models": {"x*": {"tool_name_limit": 0}},
    }
    assert validate_quirks(quirks) == quirks


def test_retired_quirk_is_removed_with_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    quirks = {"error_status": False, "models": {"x": {"error_status": True, "drop": ["seed"]}}}

    assert validate_quirks(quirks) == {"models": {"x": {"drop": ["seed"]}}}
    assert "error_status" in caplog.text


def test_profile_is_hashable() -> None:
    assert hash(Profile("a", effort_map={"a": "b"})) is not None
