"""The generated parts of the documentation, and the file of each.

A block is between two marker lines of its file. A test fails if a file differs from the generated
text.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tools.docgen import metrics, modules, parameters, providers, settings

COMMAND = "python -m tools.docgen --write"
ROOT = Path(__file__).parents[2]


class Block(NamedTuple):
    """A part of a page: its name in the markers, its file below the root, and its text."""

    name: str
    file: str
    render: Callable[[], str]


BLOCKS = (
    Block("settings", "docs/reference/settings.md", settings.render_settings),
    Block("summary", "docs/reference/parameters.md", parameters.render_summary),
    Block("parameters", "docs/reference/parameters.md", parameters.render_tables),
    Block("ollama", "docs/clients/ollama.md", parameters.render_ollama_summary),
    Block("messages", "docs/messages.md", parameters.render_messages_summary),
    Block("providers", "docs/reference/providers.md", providers.render_providers),
    Block("quirks", "docs/reference/providers.md", providers.render_quirks),
    Block("modules", "docs/reference/modules.md", modules.render_modules),
    Block("metrics", "docs/reference/metrics.md", metrics.render_metrics),
)


def replace_block(document: str, block: Block) -> str:
    """Return the document with the newly generated block.

    Raises ValueError unless the document has the block's markers exactly once.
    """
    head, tail = f"<!-- {block.name}: written by `{COMMAND}` -->", f"<!-- end of {block.name} -->"
    between = re.compile(f"{re.escape(head)}\n.*?{re.escape(tail)}\n", re.DOTALL)
    text = f"{head}\n\n{block.render()}\n\n{tail}\n"
    replaced, count = between.subn(lambda _: text, document)
    if count != 1:
        raise ValueError(f"{block.file} has {count} places for '{block.name}'")
    return replaced


def write_blocks(root: Path = ROOT) -> None:
    """Update every block in its file below ``root``."""
    for block in BLOCKS:
        path = root / block.file
        path.write_text(replace_block(path.read_text(encoding="utf-8"), block), encoding="utf-8")
