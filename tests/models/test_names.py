"""Names of models, with and without a tag."""

from __future__ import annotations

import pytest

from forwarder.models.names import add_tag, is_valid_name, strip_tag


@pytest.mark.parametrize(
    ("name", "whole", "plain"),
    [
        ("qwen", "qwen:latest", "qwen"),
        ("qwen:latest", "qwen:latest", "qwen"),
        ("qwen:8b", "qwen:8b", "qwen:8b"),
        ("me/qwen", "me/qwen:latest", "me/qwen"),
        ("host:1/qwen", "host:1/qwen:latest", "host:1/qwen"),
    ],
)
def test_name_gets_default_tag(name: str, whole: str, plain: str) -> None:
    assert (add_tag(name), strip_tag(add_tag(name))) == (whole, plain)


@pytest.mark.parametrize("name", ["a", "me/a", "x/me/a:1.5-b", "Qwen_3.5", "_a", "a" * 80])
def test_names_as_ollama_has_them(name: str) -> None:
    assert is_valid_name(name)


@pytest.mark.parametrize(
    "name", ["", ":x", "a:", "a b", "a\n", "é", "../a", "a//b", "-a", "a" * 81, "a/b/c/d", "a:b:c"]
)
def test_invalid_names(name: str) -> None:
    assert not is_valid_name(name)
