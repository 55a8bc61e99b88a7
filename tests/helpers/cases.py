"""The conversations under ``tests/cases``: ``<case>/<direction>/*.json``.

``request.json`` is the client's request and ``upstream.request.json`` the expected upstream request.
``upstream.jsonl`` is the upstream's stream, one event per line, and ``answer.json`` is contained in
the client's whole answer. ``terms.json`` has options of the translation, and ``dropped.json`` names
the parts that do not reach the upstream.
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
"""The directions between OpenAI's APIs. The Messages API has its own cases."""


@dataclass(frozen=True)
class Case:
    """One conversation in one direction; its files are read on demand."""

    name: str
    direction: str

    def read(self, file: str, default: Any = None) -> Any:
        """Return the parsed file, or ``default`` if the case does not have it."""
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


def list_cases(direction: str | None = None, streams: bool = False) -> list[Any]:
    """Return the cases as pytest parameters; with ``streams``, only those with a stream."""
    cases = [
        Case(folder.name, name)
        for folder in sorted(ROOT.iterdir())
        for name in ([direction] if direction else DIRECTIONS)
        if (folder / name).is_dir()
    ]
    return [
        pytest.param(c, id=f"{c.name}-{c.direction}") for c in cases if c.streams or not streams
    ]
