"""The types of JSON objects of the two OpenAI APIs, for code that builds them or takes them apart.

They name the fields that the forwarder writes. A whole event stays a `Json`, because every stage of
the pipeline passes on fields that it does not know; its typed parts are values in it.
"""

from __future__ import annotations

from typing import Literal, NotRequired, TypedDict

from forwarder.core.types import Json

MIN_OUTPUT_TOKENS = 16
"""The smallest ``max_output_tokens`` that the Responses API accepts."""

# -- usage --------------------------------------------------------------------------------------


class InputTokensDetails(TypedDict):
    cached_tokens: int
    cache_write_tokens: int


class OutputTokensDetails(TypedDict):
    reasoning_tokens: int


class ResponsesUsage(TypedDict):
    """The ``usage`` of a response; the SDK requires all fields."""

    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int


class PromptTokensDetails(TypedDict):
    cached_tokens: int
    cache_write_tokens: NotRequired[int]
    audio_tokens: NotRequired[int]


class CompletionTokensDetails(TypedDict):
    reasoning_tokens: int
    accepted_prediction_tokens: NotRequired[int]
    audio_tokens: NotRequired[int]
    rejected_prediction_tokens: NotRequired[int]


class ChatUsage(TypedDict):
    """The ``usage`` of a chat completion or of its last chunk."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: NotRequired[PromptTokensDetails]
    completion_tokens_details: NotRequired[CompletionTokensDetails]


def make_empty_usage() -> ResponsesUsage:
    """Return a usage without tokens, where the field is required and nothing was used."""
    return {
        "input_tokens": 0,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": 0,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 0,
    }


# -- chat ---------------------------------------------------------------------------------------


class ChoiceDelta(TypedDict, total=False):
    """The ``delta`` of a streamed choice, and the ``message`` of a whole one."""

    role: Literal["assistant"]
    content: str | None
    refusal: str | None
    reasoning_content: str
    tool_calls: list[Json]


FinishReason = Literal["stop", "length", "tool_calls", "content_filter", "function_call"]


class ChunkChoice(TypedDict):
    """A choice of a ``chat.completion.chunk``."""

    index: int
    delta: ChoiceDelta
    logprobs: Json | None
    finish_reason: FinishReason | None


# -- responses ----------------------------------------------------------------------------------


class OutputText(TypedDict):
    """A text part of an output message."""

    type: Literal["output_text"]
    text: str
    annotations: list[Json]
    logprobs: list[Json]


class SummaryText(TypedDict):
    """A part of the summary of a reasoning item."""

    type: Literal["summary_text"]
    text: str


def make_output_text(text: str) -> OutputText:
    """Return a text part without annotations."""
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def make_item_added(item: Json, index: int) -> Json:
    """Return the event that announces an output item."""
    return {"type": "response.output_item.added", "output_index": index, "item": item}


def make_item_done(item: Json, index: int) -> Json:
    """Return the event that ends an output item."""
    return {"type": "response.output_item.done", "output_index": index, "item": item}
