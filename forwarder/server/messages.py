"""Anthropic's Messages API: ``/v1/messages`` and ``/v1/messages/count_tokens``.

The lists of models are at OpenAI's paths, and have this API's form for its clients.
"""

from __future__ import annotations

from flask import Blueprint, Response

from forwarder.core.ids import ID_SOURCE
from forwarder.core.translation_context import TranslationContext
from forwarder.protocols.token_estimate import estimate_request_tokens
from forwarder.server import openai, request_context
from forwarder.server.openai import json_answer, read_json_body
from forwarder.translation import messages_over_chat

blueprint = Blueprint("messages", __name__)


@blueprint.post("/messages")
def messages() -> Response:
    """Create a message."""
    return openai.serve("messages")


@blueprint.post("/messages/count_tokens")
def count_tokens() -> Response:
    """Estimate the input tokens of a message. A response header marks the estimate."""
    context = request_context.current_context()
    request_context.authenticate(context)
    # The answer would need a limit; its input does not.
    body = {"max_tokens": 1, **read_json_body(context)}
    translation_context = TranslationContext(
        ID_SOURCE, context.loss_report, encrypt=str, decrypt=lambda sealed: None, web_search=True
    )
    translated = messages_over_chat.translate_request(body, translation_context)
    answer = json_answer({"input_tokens": estimate_request_tokens(translated.upstream_request)})
    answer.headers["X-Forwarder-Estimated"] = "input_tokens"
    return answer
