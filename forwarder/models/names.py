"""Names of models as Ollama has them: a tag at their end, which is ``latest`` unless it is told."""

from __future__ import annotations

import re

LATEST = ":latest"

_PART = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}"
_NAME = re.compile(rf"({_PART}/){{0,2}}{_PART}(:{_PART})?", re.ASCII)


def is_valid(name: str) -> bool:
    """May a model be registered under this name?"""
    return _NAME.fullmatch(name) is not None


def full(name: str) -> str:
    """The name with its tag."""
    return name if ":" in name.rpartition("/")[2] else name + LATEST


def short(name: str) -> str:
    """The name without the tag that goes without saying."""
    return name.removesuffix(LATEST)
