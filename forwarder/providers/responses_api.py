"""A native Responses request as a provider takes it: its input items, and what it includes."""

from __future__ import annotations

from typing import Any

from forwarder.core.translation_context import LossReport
from forwarder.core.types import Json
from forwarder.protocols.chat_reasoning import is_own_token
from forwarder.protocols.mappings import INCLUDE_ENCRYPTED_REASONING, INCLUDE_LOGPROBS
from forwarder.providers.profile import Profile

SUMMARY_PARAMETER = "reasoning.summary"
"""What a profile's ``drop`` calls the wish for summaries, which may be refused by itself."""

_SUMMARY_FIELDS = ("summary", "generate_summary")


def adapt_include(body: Json, profile: Profile, ledger: LossReport) -> None:
    """Log probabilities have two names here: a parameter's, and one among what to include."""
    given = body.get("include")
    if "logprobs" in profile.drop and isinstance(given, list) and INCLUDE_LOGPROBS in given:
        ledger.drop("logprobs", f"{profile.name} does not take it")
        body["include"] = [name for name in given if name != INCLUDE_LOGPROBS]


def adapt_reasoning(body: Json, profile: Profile, ledger: LossReport) -> None:
    """Ask a model that does not reason for no summary and no sealed reasoning."""
    given, included = body.get("reasoning"), body.get("include")
    if profile.reasons is not False and SUMMARY_PARAMETER not in profile.drop:
        return
    if isinstance(given, dict) and any(given.get(name) for name in _SUMMARY_FIELDS):
        ledger.drop(SUMMARY_PARAMETER, f"{profile.name} does not take it")
        set_or_remove(
            body, "reasoning", {k: v for k, v in given.items() if k not in _SUMMARY_FIELDS}
        )
    if (
        profile.reasons is False
        and isinstance(included, list)
        and INCLUDE_ENCRYPTED_REASONING in included
    ):
        ledger.drop(f"include.{INCLUDE_ENCRYPTED_REASONING}", "the model is known not to reason")
        set_or_remove(
            body, "include", [name for name in included if name != INCLUDE_ENCRYPTED_REASONING]
        )


def set_or_remove(body: Json, name: str, value: Any) -> None:
    """Set a parameter, or take it out where nothing is left of it."""
    if value:
        body[name] = value
    else:
        del body[name]


def drop_client_metadata(body: Json, profile: Profile, ledger: LossReport) -> None:
    """Codex describes its session there, for OpenAI alone; other servers may refuse the name."""
    if not profile.codex_models:
        body.pop("client_metadata", None)


def adapt_items(body: Json, profile: Profile, ledger: LossReport) -> None:
    """A Responses upstream cannot open what this forwarder sealed for another one."""
    given = body.get("input")
    if isinstance(given, list) and any(needs_adaptation(item, profile) for item in given):
        report_lost_items(given, profile, ledger)
        body["input"] = [
            adapt_item(item, profile) for item in given if not is_dropped(item, profile)
        ]


def report_lost_items(items: list[Any], profile: Profile, ledger: LossReport) -> None:
    """Nobody has asked for earlier reasoning to be read, but it is not."""
    for item in items:
        if is_dropped(item, profile):
            ledger.note("input.reasoning", "only another upstream could read it")
        elif has_unaccepted_text(item, profile):
            ledger.note("input.reasoning.content", f"{profile.name} does not take it")


def needs_adaptation(item: Any, profile: Profile) -> bool:
    return isinstance(item, dict) and (
        item.get("role") in ("developer", "system")
        or item.get("type") == "reasoning"
        or is_forwarder_encrypted(item)
    )


def is_dropped(item: Any, profile: Profile) -> bool:
    if not isinstance(item, dict):
        return False
    return is_forwarder_encrypted(item) or (
        item.get("type") == "reasoning" and profile.reasoning_items == "drop"
    )


def has_unaccepted_text(item: Any, profile: Profile) -> bool:
    return (
        not profile.keep_reasoning_text
        and isinstance(item, dict)
        and item.get("type") == "reasoning"
        and bool(item.get("content"))
    )


def is_forwarder_encrypted(item: Json) -> bool:
    return is_own_token(item.get("encrypted_content"))


def adapt_item(item: Any, profile: Profile) -> Any:
    if not isinstance(item, dict):
        return item
    if item.get("role") == "developer":
        return {**item, "role": profile.responses_developer}
    if item.get("role") == "system":
        return {**item, "role": profile.responses_system}
    if has_unaccepted_text(item, profile):
        return {k: v for k, v in item.items() if k != "content"}
    return item
