"""What an answer holds, and the words it is made of.

The shape of an answer is written in the model's name, so that it travels through whatever stands
between the one who asks and the one who answers.  So is what shall go wrong with it.
"""

from __future__ import annotations

import re
from dataclasses import astuple, dataclass

_NAME = re.compile(r"bench-(\d+)-(\d+)-(\d+)-(\d+)\Z")
_FAULTY = re.compile(r"(cut|fail)-bench-")

FAULTS = ("cut", "fail")
"""What an upstream may do wrong: break off in the middle, or answer 500."""


@dataclass(frozen=True)
class Shape:
    """How many chunks of each kind, in this order, and the pause before each in milliseconds."""

    reasoning: int = 0
    text: int = 0
    arguments: int = 0
    pause: int = 0

    @property
    def model(self) -> str:
        """The model name that stands for this shape."""
        return "bench-" + "-".join(map(str, astuple(self)))

    @property
    def chunks(self) -> int:
        """All chunks that carry a part of the answer."""
        return self.reasoning + self.text + self.arguments

    @classmethod
    def of(cls, model: str) -> Shape:
        """The shape that a model name stands for, whatever prefix it has; else ValueError."""
        found = _NAME.search(model)
        if found is None:
            raise ValueError(f"no shape in the model name {model!r}")
        return cls(*map(int, found.groups()))


def faulty(model: str, fault: str) -> str:
    """The model name that asks for the same shape, and for one of FAULTS."""
    return model.replace("bench-", f"{fault}-bench-")


def fault_of(model: str) -> str | None:
    """What a model name asks to go wrong."""
    found = _FAULTY.search(model)
    return found[1] if found else None


def words(count: int) -> list[str]:
    """The pieces of a text or of reasoning."""
    return [f"w{i:04d} " for i in range(count)]


def pieces(count: int) -> list[str]:
    """The pieces of a tool's arguments, which together are a JSON object."""
    if count < 2:
        return ["{}"] * count
    return ['{"key":"', *(f"a{i:04d}" for i in range(count - 2)), '"}']
