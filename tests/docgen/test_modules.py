"""The page of modules."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from tests.helpers.check_cases import check_each
from tools.docgen.modules import PACKAGE, read_first_sentence, render_modules


@check_each(
    ("docstring", "sentence"),
    [
        ("Parses events. It knows no API.", "Parses events."),
        (
            "Parses ``text/event-stream``\nof version 1.0.\n",
            "Parses `text/event-stream` of version 1.0.",
        ),
        ("Kinds of events:\n\n- one\n", "Kinds of events"),
        ("Without a full stop\n\nMore.", "Without a full stop"),
    ],
)
def test_first_sentence_is_in_one_line(docstring: str, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text(f'"""{docstring}"""\n')

    assert read_first_sentence(path) == sentence


def test_every_module_is_listed_with_a_sentence() -> None:
    rows = render_modules().splitlines()

    for path in PACKAGE.rglob("*.py"):
        if path.name != "__init__.py" and "migrations" not in path.parts:
            sentence = read_first_sentence(path)
            assert sentence, path
            assert any(row.startswith(f"| `{path.name}` |") for row in rows), path


def test_package_docstrings_name_only_existing_modules() -> None:
    root = PACKAGE.parent
    names = {path.name for folder in (PACKAGE, root / "tests") for path in folder.rglob("*.py")}

    for guide in PACKAGE.rglob("__init__.py"):
        docstring = ast.get_docstring(ast.parse(guide.read_text(encoding="utf-8"))) or ""
        for name in re.findall(r"`([\w/]+\.py)`", docstring):
            candidates = (guide.parent / name, PACKAGE / name, root / name)
            assert any(candidate.exists() for candidate in candidates) or name in names, (
                guide,
                name,
            )
