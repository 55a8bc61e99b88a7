"""Names of models as Ollama has them: a tag at their end, which is ``latest`` unless it is told."""

from __future__ import annotations

import re

LATEST_TAG = ":latest"

_PART_PATTERN = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}"
_NAME_PATTERN = re.compile(
    rf"({_PART_PATTERN}/){{0,2}}{_PART_PATTERN}(:{_PART_PATTERN})?", re.ASCII
)


def is_valid_name(name: str) -> bool:
    """May a model be registered under this name?"""
    return _NAME_PATTERN.fullmatch(name) is not None


def add_tag(name: str) -> str:
    """The name with its tag."""
    return name if ":" in name.rpartition("/")[2] else name + LATEST_TAG


def strip_tag(name: str) -> str:
    """The name without the tag that goes without saying."""
    return name.removesuffix(LATEST_TAG)
