"""The operations of OpenAI's API for images."""

from __future__ import annotations

from forwarder.openapi.openai_operations import SSE_NOTE
from forwarder.openapi.operation import (
    EVENTS,
    FORM,
    JSON,
    UPSTREAM,
    UPSTREAM_CHOICE,
    Answer,
    Operation,
)
from forwarder.openapi.schemas import refer

IMAGES: dict[str, Operation] = {
    "POST /v1/images/generations": Operation(
        answers=(
            Answer(
                {JSON: refer("ImagesResponse"), EVENTS: refer("ImageGenStreamEvent")},
                f"The upstream's answer. {SSE_NOTE}",
            ),
        ),
        errors=UPSTREAM,
        body={JSON: refer("ImageGenerationRequest")},
        parameters=UPSTREAM_CHOICE,
        is_relayed=True,
    ),
    "POST /v1/images/edits": Operation(
        answers=(
            Answer(
                {JSON: refer("ImagesResponse"), EVENTS: refer("ImageEditStreamEvent")},
                f"The upstream's answer. {SSE_NOTE}",
            ),
        ),
        errors=UPSTREAM,
        body={JSON: refer("ImageEditRequest"), FORM: refer("ImageEditForm")},
        parameters=UPSTREAM_CHOICE,
        is_relayed=True,
    ),
}
