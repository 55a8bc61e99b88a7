"""The 400s of a strict provider: every violation of a request body, most basic first.

The parameters, messages, items and tools are held against the request types of the installed SDK;
the rules that types cannot tell stand in ``strict_chat``, ``strict_responses``, ``strict_tools``.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from . import strict_chat, strict_responses
from .answers import Json
from .history import Turn
from .shape import Violation

__all__ = ["Violation", "check_chat", "check_responses"]


def check_chat(body: Json, extra: Collection[str] = ()) -> list[Violation]:
    """The violations of a Chat Completions request; ``extra`` are further names it accepts."""
    found = strict_chat.shape_violations(body, extra)
    return found or [violation for rule in strict_chat.RULES for violation in rule(body)]


def check_responses(
    body: Json, extra: Collection[str] = (), turns: Mapping[str, Turn] | None = None
) -> list[Violation]:
    """The violations of a Responses request; ``turns`` are the stored responses, by id."""
    found = strict_responses.shape_violations(body, extra)
    known = turns or {}
    return found or [v for rule in strict_responses.RULES for v in rule(body, known)]
