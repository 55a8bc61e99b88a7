"""About how many tokens a JSON value has; nobody but the model's own tokenizer knows exactly."""

from __future__ import annotations

from typing import Any

from forwarder.core.types import Json
from forwarder.middleware.usage_estimate import estimated_tokens

_COUNTED = ("instructions", "input", "tools")


def tokens_in(request: Json) -> int:
    """Tokens that a Responses request puts before the model."""
    return estimated_tokens([request.get(name) for name in _COUNTED])


def tokens_of(item: Any) -> int:
    """Tokens of one item."""
    return estimated_tokens(item)
