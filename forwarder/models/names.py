"""Ollama's model names: ``[host/][namespace/]model[:tag]``, where the default tag is ``latest``."""

from __future__ import annotations

import re

LATEST_TAG = ":latest"

_PART_PATTERN = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}"
_NAME_PATTERN = re.compile(
    rf"({_PART_PATTERN}/){{0,2}}{_PART_PATTERN}(:{_PART_PATTERN})?", re.ASCII
)


def is_valid_name(name: str) -> bool:
    """Check whether a model can be registered under this name."""
    return _NAME_PATTERN.fullmatch(name) is not None


def add_tag(name: str) -> str:
    """Append ``:latest`` to a name without a tag."""
    return name if ":" in name.rpartition("/")[2] else name + LATEST_TAG


def strip_tag(name: str) -> str:
    """Remove ``:latest`` from a name; other tags stay."""
    return name.removesuffix(LATEST_TAG)
