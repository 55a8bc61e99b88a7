"""Formats Markdown tables and code."""

from __future__ import annotations

from collections.abc import Iterable


def render_table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a table. Characters that would end a cell are escaped."""
    heads = list(head)
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(map(escape_cell, line))} |" for line in lines)


def format_code(names: Iterable[str]) -> str:
    """Return the names as code, separated by commas."""
    return ", ".join(f"`{name}`" for name in names)


def escape_cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
