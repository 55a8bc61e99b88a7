"""What one API has and the other lacks, made up for by wrappers around a call.

Each is a function ``call -> call`` that takes its parameter out of the request and does its work
on the stream.  A request that does not use it passes through at the price of a look-up, and its
stream is the very stream of the call beneath.
"""

from __future__ import annotations

from typing import Any

from forwarder.core.types import Call
from forwarder.core.validate import STR, choose, expect
from forwarder.middleware.cut_annotations import with_notes
from forwarder.middleware.json_schema import with_schema
from forwarder.middleware.json_schema_validation import MAX_STEPS
from forwarder.middleware.multiple_choices import with_choices
from forwarder.middleware.single_call_chat import with_one_call
from forwarder.middleware.single_call_responses import with_one_item
from forwarder.middleware.stop_sequences import with_stop
from forwarder.middleware.token_limit import with_limit
from forwarder.middleware.truncation import with_truncation

__all__ = ["over_chat", "over_responses", "with_one_item"]


def over_responses(call: Call, stop_drain: bool, max_choices: int) -> Call:
    """What a chat call served over a Responses upstream lacks: ``n``, ``stop``, low limits.

    Each choice is stopped on its own, so ``n`` is the outermost.
    """
    return with_choices(with_notes(with_stop(with_limit(call), stop_drain)), max_choices)


def over_chat(call: Call, formats: str, truncation: Any, max_steps: int = MAX_STEPS) -> Call:
    """What a Chat upstream may lack: schemas, one call at a time, truncation.

    ``formats`` is the best ``response_format`` that it knows; ``truncation`` is what a Responses
    client says of a conversation that is too long: ``auto``, ``disabled`` or nothing.
    ``max_steps`` bounds the check of an answer against its schema.
    """
    if truncation is not None:
        choose(expect(truncation, STR, "truncation"), ("auto", "disabled"), "truncation")
    fitting = with_truncation(call) if truncation == "auto" else call
    return with_one_call(with_schema(fitting, formats, max_steps))
