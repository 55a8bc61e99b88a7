"""What one API has and the other lacks, made up for by wrappers around a call.

Each is a function ``call -> call`` that takes its parameter out of the request and does its work
on the stream.  A request that does not use it passes through at the price of a look-up, and its
stream is the very stream of the call beneath.
"""

from __future__ import annotations

from typing import Any

from forwarder.core.types import Handler
from forwarder.core.validate import STR, check_enum, check_type
from forwarder.middleware.cut_annotations import with_cut_annotations
from forwarder.middleware.json_schema import with_json_schema
from forwarder.middleware.json_schema_validation import MAX_STEPS
from forwarder.middleware.multiple_choices import with_multiple_choices
from forwarder.middleware.single_call_chat import with_single_chat_call
from forwarder.middleware.single_call_responses import with_single_responses_call
from forwarder.middleware.stop_sequences import with_stop_sequences
from forwarder.middleware.token_limit import with_token_limit
from forwarder.middleware.truncation import with_truncation

__all__ = [
    "with_chat_upstream_middleware",
    "with_responses_upstream_middleware",
    "with_single_responses_call",
]


def with_responses_upstream_middleware(
    handler: Handler, stop_drain: bool, max_choices: int
) -> Handler:
    """What a chat call served over a Responses upstream lacks: ``n``, ``stop``, low limits.

    Each choice is stopped on its own, so ``n`` is the outermost.
    """
    return with_multiple_choices(
        with_cut_annotations(with_stop_sequences(with_token_limit(handler), stop_drain)),
        max_choices,
    )


def with_chat_upstream_middleware(
    handler: Handler, formats: str, truncation: Any, max_steps: int = MAX_STEPS
) -> Handler:
    """What a Chat upstream may lack: schemas, one call at a time, truncation.

    ``formats`` is the best ``response_format`` that it knows; ``truncation`` is what a Responses
    client says of a conversation that is too long: ``auto``, ``disabled`` or nothing.
    ``max_steps`` bounds the check of an answer against its schema.
    """
    if truncation is not None:
        check_enum(check_type(truncation, STR, "truncation"), ("auto", "disabled"), "truncation")
    fitting = with_truncation(handler) if truncation == "auto" else handler
    return with_single_chat_call(with_json_schema(fitting, formats, max_steps))
