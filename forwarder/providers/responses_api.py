"""Adapts native Responses requests: input items, ``include`` and ``reasoning``."""

from __future__ import annotations

from typing import Any

from forwarder.core.translation_context import LossReport
from forwarder.core.types import Json
from forwarder.protocols.chat_reasoning import is_seal
from forwarder.protocols.chat_responses_mappings import (
    INCLUDE_ENCRYPTED_REASONING,
    INCLUDE_LOGPROBS,
)
from forwarder.providers.profile import Profile

SUMMARY_PARAMETER = "reasoning.summary"
"""The name in a profile's ``drop`` for summaries, which a provider may refuse separately."""

_SUMMARY_FIELDS = ("summary", "generate_summary")


def adapt_include(body: Json, profile: Profile, loss_report: LossReport) -> None:
    """Drop ``include`` for log probabilities if the profile drops ``logprobs``."""
    include = body.get("include")
    if "logprobs" in profile.drop and isinstance(include, list) and INCLUDE_LOGPROBS in include:
        loss_report.drop("logprobs", f"{profile.name} does not take it")
        body["include"] = [name for name in include if name != INCLUDE_LOGPROBS]


def adapt_reasoning(body: Json, profile: Profile, loss_report: LossReport) -> None:
    """Drop the request for a summary, and for encrypted reasoning, if the model has none."""
    reasoning, include = body.get("reasoning"), body.get("include")
    if profile.reasons is not False and SUMMARY_PARAMETER not in profile.drop:
        return
    if isinstance(reasoning, dict) and any(reasoning.get(name) for name in _SUMMARY_FIELDS):
        loss_report.drop(SUMMARY_PARAMETER, f"{profile.name} does not take it")
        others = {k: v for k, v in reasoning.items() if k not in _SUMMARY_FIELDS}
        set_or_remove(body, "reasoning", others)
    if (
        profile.reasons is False
        and isinstance(include, list)
        and INCLUDE_ENCRYPTED_REASONING in include
    ):
        loss_report.drop(f"include.{INCLUDE_ENCRYPTED_REASONING}", "the model does not reason")
        others_included = [name for name in include if name != INCLUDE_ENCRYPTED_REASONING]
        set_or_remove(body, "include", others_included)


def set_or_remove(body: Json, name: str, value: Any) -> None:
    """Set a parameter, or remove it if the value is empty."""
    if value:
        body[name] = value
    else:
        del body[name]


def drop_client_metadata(body: Json, profile: Profile, loss_report: LossReport) -> None:
    """Drop the metadata that Codex sends OpenAI about its session: other servers may refuse it."""
    if not profile.codex_models:
        body.pop("client_metadata", None)


def adapt_items(body: Json, profile: Profile, loss_report: LossReport) -> None:
    """Rename roles in input items, and drop reasoning that the provider does not take.

    A Responses upstream cannot decrypt items that this forwarder encrypted for another upstream.
    """
    items = body.get("input")
    if not isinstance(items, list):
        return
    adapted: list[Any] = []
    for item in items:
        result = adapt_item(item, profile, loss_report) if isinstance(item, dict) else item
        if result is not None:
            adapted.append(result)
    body["input"] = adapted


def adapt_item(item: Json, profile: Profile, loss_report: LossReport) -> Json | None:
    """Return an item as the provider takes it; ``None`` if it does not take the item."""
    role = item.get("role")
    if role == "developer":
        return {**item, "role": profile.responses_developer}
    if role == "system":
        return {**item, "role": profile.responses_system}
    is_reasoning = item.get("type") == "reasoning"
    if is_seal(item.get("encrypted_content")) or (
        is_reasoning and profile.reasoning_items == "drop"
    ):
        loss_report.note("input.reasoning", "only another upstream can read it")
        return None
    if is_reasoning and item.get("content") and not profile.keep_reasoning_text:
        loss_report.note("input.reasoning.content", f"{profile.name} does not take it")
        return {k: v for k, v in item.items() if k != "content"}
    return item
