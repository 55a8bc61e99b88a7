"""Mappings between Chat Completions and Responses, in both directions.

Finish reasons, errors, usage, service tiers, moderation results, structured output and annotations.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from forwarder.core.error_classification import classify, read_error
from forwarder.core.errors import UpstreamError, UpstreamProtocolError, UpstreamRefused
from forwarder.core.types import Json
from forwarder.protocols.types import ChatUsage, PromptTokensDetails, ResponsesUsage

# -- finish reasons -----------------------------------------------------------------------------

INCOMPLETE_REASONS = {
    "length": "max_output_tokens",
    "max_tokens": "max_output_tokens",
    "model_length": "max_output_tokens",
    "content_filter": "content_filter",
}
"""Chat finish reason -> reason of an incomplete response.  All other reasons mean completed."""

FAILED_FINISH_REASONS = frozenset({"error", "abort", "insufficient_system_resource"})
"""Chat finish reasons that vendors send for a failed answer."""

FINISH_REASONS = {
    "max_output_tokens": "length",
    "max_messages": "length",
    "content_filter": "content_filter",
    "steered": "stop",
}
"""Reason of an incomplete response -> chat finish reason."""

TERMINAL_EVENTS = frozenset({"response.completed", "response.incomplete", "response.failed"})
"""The events that end a Responses stream; each stream has exactly one."""

RESPONSE_ERROR_CODES = frozenset(
    {
        # codes of the API's schema
        "server_error", "rate_limit_exceeded", "invalid_prompt", "data_residency_mismatch",
        "bio_policy", "misalignment_policy_violation", "vector_store_timeout", "invalid_image",
        "invalid_image_format", "invalid_base64_image", "invalid_image_url", "image_too_large",
        "image_too_small", "image_parse_error", "image_content_policy_violation",
        "invalid_image_mode", "image_file_too_large", "unsupported_image_media_type",
        "empty_image_file", "failed_to_download_image", "image_file_not_found",
        # codes that OpenAI also sends, and that client programs act on
        "context_length_exceeded", "cyber_policy", "insufficient_quota", "invalid_value",
        "model_not_found", "server_is_overloaded", "slow_down", "usage_limit_reached",
        "usage_not_included",
    }
)  # fmt: skip
"""The codes that the error of a failed response may have; others are replaced."""

_RESPONSE_ERROR_BY_STATUS = {
    429: "rate_limit_exceeded",
    **dict.fromkeys((400, 404, 413, 422), "invalid_prompt"),
}

_RESPONSE_ERROR_EXTRAS = ("param", "plan_type", "resets_at", "resets_in_seconds")
"""Further fields that client programs read from the error of a failed response."""


def to_upstream_error(error: Any) -> UpstreamError:
    """Return the exception for an error inside an answer (an event or a body with status 200)."""
    refusal = UpstreamRefused(None, read_error(error))
    if refusal.kind is None and not isinstance(error, dict):
        return UpstreamProtocolError(f"The upstream reported an error: {error}")
    return refusal


_SUCCESS_CODES = (None, 0, 200, "", "0", "200", "ok", "OK", "success", "Success")
"""Codes that some vendors send for success."""


def find_error(event: Json) -> Any:
    """Return the error in a chat chunk or a complete answer, or None.

    Some servers (vLLM, Mistral, DashScope) send the bare error object instead of a chunk.
    """
    if event.get("error"):
        return event["error"]
    if event.get("choices"):
        return None
    is_error = event.get("object") == "error" or event.get("code") not in _SUCCESS_CODES
    if is_error and isinstance(event.get("message"), str):
        return event
    return find_minimax_error(event)


def make_non_text_error() -> UpstreamProtocolError:
    """Return the exception for a value of another type in a text field of an answer."""
    return UpstreamProtocolError("The upstream sent a value that is not text in a text field.")


_MINIMAX_STATUSES = {1000: 500, 1001: 504, 1002: 429, 1004: 401, 1008: 402, 1039: 429, 2013: 400,
                  2049: 401}  # fmt: skip
"""MiniMax's error code -> the HTTP status that it corresponds to."""


def find_minimax_error(answer: Json) -> Json | None:
    """Return the error that MiniMax puts into ``base_resp`` of a successful answer, or None."""
    base = answer.get("base_resp")
    code = base.get("status_code") if isinstance(base, dict) else None
    if not base or not code:
        return None
    message = base.get("status_msg") or f"The upstream reported the error {code}."
    return {"message": message, "code": _MINIMAX_STATUSES.get(code, 502), "type": "upstream_error"}


def to_response_error(error: Json, status: int) -> Json:
    """Convert an error object to ``response.error``, with a code from `RESPONSE_ERROR_CODES`."""
    code = error.get("code")
    if code not in RESPONSE_ERROR_CODES:
        kind = classify(status, error).kind
        code = kind.value if kind else None
    if code not in RESPONSE_ERROR_CODES:
        code = _RESPONSE_ERROR_BY_STATUS.get(status, "server_error")
    extras = {k: error[k] for k in _RESPONSE_ERROR_EXTRAS if error.get(k) is not None}
    return {"code": code, "message": error.get("message") or "The upstream failed.", **extras}


# -- usage --------------------------------------------------------------------------------------


def map_usage_to_responses(usage: Json | None) -> ResponsesUsage | None:
    """Chat usage -> Responses usage with all fields that the SDK requires."""
    if not usage:
        return None
    prompt = read_count(usage, "prompt_tokens")
    completion = read_count(usage, "completion_tokens")
    prompt_details = usage.get("prompt_tokens_details") or {}
    completion_details = usage.get("completion_tokens_details") or {}
    return {
        "input_tokens": prompt,
        "input_tokens_details": {
            "cached_tokens": read_count(prompt_details, "cached_tokens")
            or read_count(usage, "prompt_cache_hit_tokens"),
            "cache_write_tokens": read_count(prompt_details, "cache_write_tokens"),
        },
        "output_tokens": completion,
        "output_tokens_details": {
            "reasoning_tokens": read_count(completion_details, "reasoning_tokens")
        },
        "total_tokens": read_count(usage, "total_tokens") or prompt + completion,
    }


def map_usage_to_chat(usage: Json | None) -> ChatUsage | None:
    """Responses usage -> Chat usage."""
    if not usage:
        return None
    details = usage.get("input_tokens_details") or {}
    prompt, completion = read_count(usage, "input_tokens"), read_count(usage, "output_tokens")
    prompt_details: PromptTokensDetails = {"cached_tokens": read_count(details, "cached_tokens")}
    if details.get("cache_write_tokens") is not None:
        prompt_details["cache_write_tokens"] = read_count(details, "cache_write_tokens")
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": read_count(usage, "total_tokens") or prompt + completion,
        "prompt_tokens_details": prompt_details,
        "completion_tokens_details": {
            "reasoning_tokens": read_count(
                usage.get("output_tokens_details") or {}, "reasoning_tokens"
            )
        },
    }


def read_count(usage: Json, key: str) -> int:
    value = usage.get(key)
    return value if type(value) is int else 0


def read_usage(chunk: Json) -> Json | None:
    """Return a chunk's usage: at the top, in Groq's ``x_groq`` or in a choice (Moonshot)."""
    usage: Json | None = chunk.get("usage") or (chunk.get("x_groq") or {}).get("usage")
    for choice in () if usage else chunk.get("choices") or ():
        usage = usage or choice.get("usage")
    return usage or None


# -- service tiers ------------------------------------------------------------------------------

_CHAT_TIERS = frozenset({"auto", "default", "flex", "scale", "priority", "fast"})
_RESPONSES_TIERS = _CHAT_TIERS | {"ultrafast"}


def map_tier_to_responses(tier: str) -> str:
    """Map a chat upstream's ``service_tier``; unknown tiers become ``default``."""
    return tier if tier in _RESPONSES_TIERS else "default"


def map_tier_to_chat(tier: str) -> str:
    """Map a Responses upstream's ``service_tier``; the fastest tier in chat is ``priority``."""
    if tier == "ultrafast":
        return "priority"
    return tier if tier in _CHAT_TIERS else "default"


# -- moderation ---------------------------------------------------------------------------------


def map_moderation_to_responses(moderation: Any) -> Json | None:
    """Map chat's ``moderation``, with lists of results, to a response's, with single results."""
    return map_moderation_sides(moderation, take_first_result)


def map_moderation_to_chat(moderation: Any) -> Json | None:
    """Map a response's ``moderation`` to chat's, with lists of results."""
    return map_moderation_sides(moderation, list_result)


def map_moderation_sides(moderation: Any, convert: Callable[[Json], Json | None]) -> Json | None:
    given = moderation if isinstance(moderation, dict) else {}
    sides = {k: convert(given[k]) for k in ("input", "output") if isinstance(given.get(k), dict)}
    mapped = {k: v for k, v in sides.items() if v}
    return mapped or None


def take_first_result(side: Json) -> Json | None:
    if side.get("type") != "moderation_results":
        return side
    results = side.get("results")
    first = results[0] if isinstance(results, list) and results else None
    return first if isinstance(first, dict) else None


def list_result(side: Json) -> Json:
    if side.get("type") != "moderation_result":
        return side
    return {"type": "moderation_results", "model": side.get("model") or "", "results": [side]}


# -- values of include --------------------------------------------------------------------------

INCLUDE_ENCRYPTED_REASONING = "reasoning.encrypted_content"
"""Requests encrypted reasoning, which the client can send back."""

INCLUDE_LOGPROBS = "message.output_text.logprobs"
"""Requests log probabilities (chat: ``logprobs``)."""


# -- structured output --------------------------------------------------------------------------


RESPONSE_FORMATS = ("text", "json_object", "json_schema")
"""The format types that both protocols have."""

SCHEMA_FORMAT_FIELDS = ("name", "description", "schema", "strict")
"""The fields of ``response_format.json_schema``, and of ``text.format`` beside its type."""


def map_format_to_responses(response_format: Json) -> Json:
    """``response_format`` -> ``text.format``: unwraps the schema."""
    if response_format.get("type") != "json_schema":
        return response_format
    wrapped = response_format.get("json_schema") or {}
    return {"type": "json_schema", **wrapped, "schema": wrapped.get("schema") or {"type": "object"}}


def map_format_to_chat(text_format: Json) -> Json:
    """``text.format`` -> ``response_format``: wraps the schema."""
    if text_format.get("type") != "json_schema":
        return text_format
    inner = {k: v for k, v in text_format.items() if k != "type" and v is not None}
    return {"type": "json_schema", "json_schema": inner}


# -- annotations --------------------------------------------------------------------------------

Insertions = list[tuple[int, int]]
"""``(position, length)`` of each insertion into a text, in characters.  Positions refer to the text
before all insertions."""


def nest_annotation(annotation: Json) -> Json:
    """Convert a flat annotation to Chat's form, ``{"type": t, t: {…}}``."""
    kind = annotation.get("type")
    if not isinstance(kind, str) or kind in annotation:
        return annotation
    return {"type": kind, kind: {k: v for k, v in annotation.items() if k != "type"}}


def shift_annotation(annotation: Any, insertions: Insertions) -> Any:
    """Move the positions of an annotation, nested or flat, to the text after the insertions."""
    if not isinstance(annotation, dict):
        return annotation
    kind = annotation.get("type")
    if isinstance(kind, str) and isinstance(annotation.get(kind), dict):
        return {**annotation, kind: shift_annotation(annotation[kind], insertions)}
    positions: Json = {}
    start, end = annotation.get("start_index"), annotation.get("end_index")
    if isinstance(start, int):
        positions["start_index"] = start + sum(length for at, length in insertions if at <= start)
    if isinstance(end, int):  # an insertion directly after the last character is not part of it
        new_end = end + sum(length for at, length in insertions if at < end)
        positions["end_index"] = max(new_end, positions.get("start_index", 0))
    return {**annotation, **positions}
