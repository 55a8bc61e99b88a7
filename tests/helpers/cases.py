"""The conversations under ``tests/cases``: ``<case>/<direction>/*.json``.

``request.json`` is what the client sends and ``upstream.request.json`` what its upstream must get;
``upstream.jsonl`` is what that upstream streams back, one event a line, and ``answer.json`` what
must be in the client's whole answer.  ``terms.json`` sets terms of the translation, and
``dropped.json`` names the parts that do not reach the upstream.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

Json = dict[str, Any]

ROOT = Path(__file__).parent.parent / "cases"
DIRECTIONS = ("responses_over_chat", "chat_over_responses")
"""The directions between OpenAI's APIs; those of ``messages_over_…`` have cases of their own."""


@dataclass(frozen=True)
class Case:
    """One conversation in one direction; its files are read when they are asked for."""

    name: str
    direction: str

    def read(self, file: str, default: Any = None) -> Any:
        """The parsed file, or ``default`` where the case has none."""
        text = _read_text(self.name, self.direction, file)
        if text is None:
            return default
        return json.loads(text) if file.endswith(".json") else [*map(json.loads, text.splitlines())]

    @property
    def client(self) -> str:
        return self.direction.partition("_over_")[0]

    @property
    def upstream(self) -> str:
        return self.direction.partition("_over_")[2]

    @property
    def streams(self) -> bool:
        return (ROOT / self.name / self.direction / "upstream.jsonl").exists()


@functools.cache
def _read_text(name: str, direction: str, file: str) -> str | None:
    path = ROOT / name / direction / file
    return path.read_text(encoding="utf-8") if path.exists() else None


def cases(direction: str | None = None, streams: bool = False) -> list[Any]:
    """The cases as pytest parameters; only those with a stream when ``streams``."""
    found = [
        Case(folder.name, name)
        for folder in sorted(ROOT.iterdir())
        for name in ([direction] if direction else DIRECTIONS)
        if (folder / name).is_dir()
    ]
    return [
        pytest.param(c, id=f"{c.name}-{c.direction}") for c in found if c.streams or not streams
    ]
