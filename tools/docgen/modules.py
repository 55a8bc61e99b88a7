"""The modules of the package by folder, each with the first sentence of its docstring."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from tools.docgen.markdown import render_table

PACKAGE = Path(__file__).parents[2] / "forwarder"

_UNLISTED = "migrations"
"""A folder with one module for each version of the database's tables."""

_SENTENCE = re.compile(r".+?(?:\.(?=\s|$)|$)", re.DOTALL)


def render_modules() -> str:
    """Return a table for each folder of the package, in alphabetical order."""
    return "\n\n".join(_iterate_sections())


def _iterate_sections() -> Iterator[str]:
    for initial in sorted(PACKAGE.rglob("__init__.py")):
        folder = initial.parent
        if _UNLISTED in folder.parts:
            continue
        yield f"## `{folder.relative_to(PACKAGE.parent)}`"
        yield read_first_sentence(initial)
        modules = sorted(path for path in folder.glob("*.py") if path != initial)
        rows = ([f"`{path.name}`", read_first_sentence(path)] for path in modules)
        yield render_table(["module", "what is in it"], rows)


def read_first_sentence(path: Path) -> str:
    """Return the first sentence of a module's docstring, in one line of Markdown."""
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    sentence = _SENTENCE.match(docstring.partition("\n\n")[0])
    text = " ".join(sentence[0].split()) if sentence else ""
    return text.removesuffix(":").replace("``", "`")
