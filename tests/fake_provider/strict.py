"""Finds the violations for which a strict provider refuses a request body with 400.

The parameters, messages, items and tools are compared with the request types of the installed SDK.
``strict_chat``, ``strict_responses`` and ``strict_tools`` have the rules that types cannot express.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from . import strict_chat, strict_responses
from .answers import Json
from .history import Turn
from .shape import Violation

__all__ = ["Violation", "check_chat", "check_responses"]


def check_chat(body: Json, extra: Collection[str] = ()) -> list[Violation]:
    """Return the violations of a Chat Completions request; ``extra`` are further accepted names."""
    violations = strict_chat.check_shape(body, extra)
    return violations or [violation for rule in strict_chat.RULES for violation in rule(body)]


def check_responses(
    body: Json, extra: Collection[str] = (), turns: Mapping[str, Turn] | None = None
) -> list[Violation]:
    """Return the violations of a Responses request; ``turns`` are the stored responses by id."""
    violations = strict_responses.check_shape(body, extra)
    stored_turns = turns or {}
    return violations or [v for rule in strict_responses.RULES for v in rule(body, stored_turns)]
