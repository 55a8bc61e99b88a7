"""A native Responses request as a provider takes it: its input items, and what it includes."""

from __future__ import annotations

from typing import Any

from forwarder.core.translation_context import Ledger
from forwarder.core.types import Json
from forwarder.protocols.chat_reasoning import is_own
from forwarder.protocols.mappings import LOGPROBS, SEALED
from forwarder.providers.profile import Profile

SUMMARY = "reasoning.summary"
"""What a profile's ``drop`` calls the wish for summaries, which may be refused by itself."""

_SUMMARIES = ("summary", "generate_summary")


def include(body: Json, profile: Profile, ledger: Ledger) -> None:
    """Log probabilities have two names here: a parameter's, and one among what to include."""
    given = body.get("include")
    if "logprobs" in profile.drop and isinstance(given, list) and LOGPROBS in given:
        ledger.drop("logprobs", f"{profile.name} does not take it")
        body["include"] = [name for name in given if name != LOGPROBS]


def reasoning(body: Json, profile: Profile, ledger: Ledger) -> None:
    """Ask a model that does not reason for no summary and no sealed reasoning."""
    given, included = body.get("reasoning"), body.get("include")
    if profile.reasons is not False and SUMMARY not in profile.drop:
        return
    if isinstance(given, dict) and any(given.get(name) for name in _SUMMARIES):
        ledger.drop(SUMMARY, f"{profile.name} does not take it")
        _set(body, "reasoning", {k: v for k, v in given.items() if k not in _SUMMARIES})
    if profile.reasons is False and isinstance(included, list) and SEALED in included:
        ledger.drop(f"include.{SEALED}", "the model is known not to reason")
        _set(body, "include", [name for name in included if name != SEALED])


def _set(body: Json, name: str, value: Any) -> None:
    """Set a parameter, or take it out where nothing is left of it."""
    if value:
        body[name] = value
    else:
        del body[name]


def client_metadata(body: Json, profile: Profile, ledger: Ledger) -> None:
    """Codex describes its session there, for OpenAI alone; other servers may refuse the name."""
    if not profile.codex_models:
        body.pop("client_metadata", None)


def items(body: Json, profile: Profile, ledger: Ledger) -> None:
    """A Responses upstream cannot open what this forwarder sealed for another one."""
    given = body.get("input")
    if isinstance(given, list) and any(_is_mended(item, profile) for item in given):
        _note_lost(given, profile, ledger)
        body["input"] = [_item(item, profile) for item in given if not _falls_away(item, profile)]


def _note_lost(items: list[Any], profile: Profile, ledger: Ledger) -> None:
    """Nobody has asked for earlier reasoning to be read, but it is not."""
    for item in items:
        if _falls_away(item, profile):
            ledger.note("input.reasoning", "only another upstream could read it")
        elif _loses_text(item, profile):
            ledger.note("input.reasoning.content", f"{profile.name} does not take it")


def _is_mended(item: Any, profile: Profile) -> bool:
    return isinstance(item, dict) and (
        item.get("role") in ("developer", "system")
        or item.get("type") == "reasoning"
        or _is_sealed(item)
    )


def _falls_away(item: Any, profile: Profile) -> bool:
    if not isinstance(item, dict):
        return False
    return _is_sealed(item) or (
        item.get("type") == "reasoning" and profile.reasoning_items == "drop"
    )


def _loses_text(item: Any, profile: Profile) -> bool:
    return (
        not profile.keep_reasoning_text
        and isinstance(item, dict)
        and item.get("type") == "reasoning"
        and bool(item.get("content"))
    )


def _is_sealed(item: Json) -> bool:
    return is_own(item.get("encrypted_content"))


def _item(item: Any, profile: Profile) -> Any:
    if not isinstance(item, dict):
        return item
    if item.get("role") == "developer":
        return {**item, "role": profile.responses_developer}
    if item.get("role") == "system":
        return {**item, "role": profile.responses_system}
    if _loses_text(item, profile):
        return {k: v for k, v in item.items() if k != "content"}
    return item
