"""The shape of an answer and its generated content.

The model name encodes the shape and the fault of an answer, so that both pass unchanged through
the target between load and upstream.
"""

from __future__ import annotations

import re
from dataclasses import astuple, dataclass

_NAME = re.compile(r"bench-(\d+)-(\d+)-(\d+)-(\d+)\Z")
_FAULTY = re.compile(r"(cut|fail)-bench-")

FAULTS = ("cut", "fail")
"""Faults of the upstream: close the connection in mid-answer, or answer 500."""


@dataclass(frozen=True)
class Shape:
    """The number of chunks of each kind, in this order, and the pause before each in ms."""

    reasoning: int = 0
    text: int = 0
    arguments: int = 0
    pause: int = 0

    @property
    def model(self) -> str:
        """The model name that encodes this shape."""
        return "bench-" + "-".join(map(str, astuple(self)))

    @property
    def chunks(self) -> int:
        """The number of chunks with content."""
        return self.reasoning + self.text + self.arguments

    @classmethod
    def parse(cls, model: str) -> Shape:
        """Parse the shape from a model name with any prefix; raises ValueError."""
        match = _NAME.search(model)
        if match is None:
            raise ValueError(f"no shape in the model name {model!r}")
        return cls(*map(int, match.groups()))


def add_fault(model: str, fault: str) -> str:
    """Return the model name for the same shape with one of `FAULTS`."""
    return model.replace("bench-", f"{fault}-bench-")


def read_fault(model: str) -> str | None:
    """Return the fault in a model name, or ``None``."""
    match = _FAULTY.search(model)
    return match[1] if match else None


def make_words(count: int) -> list[str]:
    """Return ``count`` pieces of text or reasoning."""
    return [f"w{i:04d} " for i in range(count)]


def make_argument_pieces(count: int) -> list[str]:
    """Return ``count`` pieces of tool arguments that form a JSON object."""
    if count < 2:
        return ["{}"] * count
    return ['{"key":"', *(f"a{i:04d}" for i in range(count - 2)), '"}']
