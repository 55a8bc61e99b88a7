"""Anthropic's Messages API: ``/v1/messages`` and ``/v1/messages/count_tokens``.

Clients of this API list models at OpenAI's paths and get them in this API's format.
"""

from __future__ import annotations

from flask import Blueprint, Response

from forwarder.middleware.usage_estimate import estimate_message_input
from forwarder.server import request_hooks
from forwarder.server.serving import json_answer, read_json_body, serve

blueprint = Blueprint("messages", __name__)


@blueprint.post("/messages")
def messages() -> Response:
    """Create a message."""
    return serve("messages")


@blueprint.post("/messages/count_tokens")
def count_tokens() -> Response:
    """Estimate the input tokens of a message. A response header marks the estimate."""
    context = request_hooks.current_context()
    request_hooks.authenticate(context)
    tokens = estimate_message_input(read_json_body(context), context.loss_report)
    answer = json_answer({"input_tokens": tokens})
    answer.headers["X-Forwarder-Estimated"] = "input_tokens"
    return answer
