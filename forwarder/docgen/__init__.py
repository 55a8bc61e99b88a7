"""The parts of the documents that tell what tables of the code say, written from those tables.

Each stands in its file between two marker lines.  `flask --app wsgi fidelity --write` renews
them, and a test fails as long as one is not what the code says.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from forwarder.docgen import fidelity, providers

COMMAND = "flask --app wsgi fidelity --write"
ROOT = Path(__file__).parents[2]


class GeneratedBlock(NamedTuple):
    """A part of a document: its name in the markers, its file below the root, and its text."""

    name: str
    file: str
    render: Callable[[], str]


BLOCKS = (
    GeneratedBlock("parameters", "README.md", fidelity.render_parameters),
    GeneratedBlock("ollama", "README.md", fidelity.render_ollama),
    GeneratedBlock("providers", "README.md", providers.render_providers),
    GeneratedBlock("fidelity", "docs/fidelity.md", fidelity.render_fidelity),
)


def renew_block(document: str, block: GeneratedBlock) -> str:
    """The document with a block as the code has it; raises ValueError where it has no place."""
    head, tail = f"<!-- {block.name}: written by `{COMMAND}` -->", f"<!-- end of {block.name} -->"
    between = re.compile(f"{re.escape(head)}\n.*?{re.escape(tail)}\n", re.DOTALL)
    text = f"{head}\n\n{block.render()}\n\n{tail}\n"
    made, found = between.subn(lambda _: text, document)
    if found != 1:
        raise ValueError(f"{block.file} has {found} places for '{block.name}'")
    return made


def write_blocks(root: Path = ROOT) -> None:
    """Renew every block in its file."""
    for block in BLOCKS:
        path = root / block.file
        path.write_text(renew_block(path.read_text(encoding="utf-8"), block), encoding="utf-8")
