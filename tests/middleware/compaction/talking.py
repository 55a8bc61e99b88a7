"""A scripted Responses upstream, and a translation context."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from forwarder.core.encryption import TokenCipher
from forwarder.core.errors import ForwarderError
from forwarder.core.ids import IdSource
from forwarder.core.translation_context import LossReport, TranslationContext
from forwarder.core.types import EventStream, Json
from forwarder.protocols import unfold

USAGE: Json = {
    "input_tokens": 10,
    "input_tokens_details": {"cached_tokens": 1, "cache_write_tokens": 0},
    "output_tokens": 5,
    "output_tokens_details": {"reasoning_tokens": 2},
    "total_tokens": 15,
}


def make_translation_context(strict: bool = False, secret: str = "s") -> TranslationContext:
    numbers = itertools.count()
    sealer = TokenCipher([secret])
    return TranslationContext(
        id_source=IdSource(new_id=lambda prefix: f"{prefix}_{next(numbers)}", now=lambda: 7),
        loss_report=LossReport(strict=strict),
        encrypt=sealer.encrypt,
        decrypt=sealer.decrypt,
    )


def make_text_response(text: str, **more: Any) -> Json:
    """A response with one text message."""
    part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    message = {
        "id": "msg_u",
        "type": "message",
        "role": "assistant",
        "status": "completed",
        "content": [part],
    }
    return {
        "id": "resp_u",
        "object": "response",
        "created_at": 3,
        "status": "completed",
        "model": "m",
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "output": [message],
        "usage": USAGE,
        **more,
    }


class Model:
    """A handler that gives these answers, one batch per event, and records its requests."""

    def __init__(self, *answers: Json | ForwarderError) -> None:
        self._answers = iter(answers)
        self.requests: list[Json] = []

    def __call__(self, request: Json) -> EventStream:
        self.requests.append(request)
        answer = next(self._answers)
        if isinstance(answer, ForwarderError):
            raise answer
        return self._stream(answer)

    def _stream(self, answer: Json) -> Iterator[list[Json]]:
        for event in unfold.unfold_answer("responses", answer, streamed=True):
            yield [event]


def make_user_message(text: str) -> Json:
    return {"type": "message", "role": "user", "content": text}


def make_assistant_message(text: str) -> Json:
    return {"type": "message", "role": "assistant", "content": text}


def events_of(stream: EventStream) -> list[Json]:
    return [event for batch in stream for event in batch]
