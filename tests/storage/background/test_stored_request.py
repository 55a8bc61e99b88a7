"""Stored requests of background responses."""

from __future__ import annotations

from typing import Any

from forwarder.storage.background.stored_request import (
    StoredRequest,
    is_readable,
    is_repeatable,
    read_stored_request,
)
from tests.helpers.check_cases import check_each

ITEMS = [{"type": "message", "role": "user", "content": "hi"}]


@check_each("request_input", ["hi", ITEMS])
def test_stored_request_is_restored_with_its_input(request_input: Any) -> None:
    request = {"model": "m", "input": request_input, "tools": []}
    stored = StoredRequest(
        request, "summary", "key", "payer", "http://here", True, "::1", {"X-Title": "x"}
    )

    values = stored.to_json()
    assert ("input" in values["request"]) == isinstance(request_input, str)
    assert read_stored_request(values, ITEMS) == stored


def test_a_request_of_another_version_is_not_readable() -> None:
    values = StoredRequest({}, None, None, None, "", False, None, {}).to_json()

    assert is_readable(values)
    assert not is_readable(None)
    assert not is_readable({**values, "of_a_later_version": 1})
    assert not is_readable({k: v for k, v in values.items() if k != "style"})


@check_each(
    ("tool", "repeats"),
    [
        ({"type": "function", "name": "f"}, True),
        ({"type": "web_search"}, True),
        ({"type": "image_generation"}, True),
        ({"type": "local_shell"}, True),
        ({"type": "shell"}, True),
        ({"type": "shell", "environment": {"type": "local"}}, True),
        ({"type": "shell", "environment": {"type": "container_auto"}}, False),
        ({"type": "mcp", "server_label": "x"}, False),
        ({"type": "code_interpreter", "container": {"type": "auto"}}, False),
    ],
)
def test_request_with_acting_tools_is_not_repeatable(tool: Any, repeats: bool) -> None:
    assert is_repeatable({"tools": [{"type": "web_search"}, tool]}) is repeats


@check_each(
    ("request_", "repeats"),
    [
        ({"input": [{"type": "additional_tools", "tools": [{"type": "mcp"}]}]}, False),
        ({"input": [{"type": "additional_tools", "tools": [{"type": "web_search"}, 5]}, 5]}, True),
        ({"input": [{"type": "additional_tools", "tools": 5}], "tools": 5}, True),
        ({"input": "hi", "tools": [{"type": []}]}, True),
    ],
)
def test_tools_of_items_count(request_: Any, repeats: bool) -> None:
    assert is_repeatable(request_) is repeats


@check_each(
    ("choice", "tool", "repeats"),
    [
        ("auto", {"type": "mcp", "server_label": "x"}, False),
        ("none", {"type": "mcp", "server_label": "x"}, True),
        ("auto", {"type": "web_search"}, True),
    ],
)
def test_tools_that_every_request_gets_count(choice: str, tool: Any, repeats: bool) -> None:
    assert is_repeatable({"input": "hi", "tool_choice": choice}, [tool]) is repeats


def test_a_request_without_tools_can_be_repeated() -> None:
    assert is_repeatable({"model": "m"})
