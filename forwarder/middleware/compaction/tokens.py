"""About how many tokens a JSON value has; nobody but the model's own tokenizer knows exactly."""

from __future__ import annotations

from typing import Any

from forwarder.core.types import Json
from forwarder.middleware.usage_estimate import estimate_tokens

_COUNTED_PARAMETERS = ("instructions", "input", "tools")


def estimate_request_tokens(request: Json) -> int:
    """Tokens that a Responses request puts before the model."""
    return estimate_tokens([request.get(name) for name in _COUNTED_PARAMETERS])


def estimate_item_tokens(item: Any) -> int:
    """Tokens of one item."""
    return estimate_tokens(item)
