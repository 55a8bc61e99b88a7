"""How hard to think, in a provider's own words; where it can only be switched, it is switched."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from forwarder.core.translation_context import LossReport
from forwarder.core.types import Json
from forwarder.core.validate import STR, read_field
from forwarder.providers.profile import Profile


def apply_thinking_switch(body: Json, profile: Profile, ledger: LossReport) -> None:
    if body.get("reasoning_effort") is None or _takes_any_effort(profile):
        return
    effort = read_field(body, "reasoning_effort", STR, "reasoning_effort")
    del body["reasoning_effort"]
    word = profile.effort_map.get(effort, effort)
    if profile.thinking_switch in ("effort", "thinking_effort") and word is not None:
        body["reasoning_effort"] = word
    if profile.thinking_switch == "effort" and word is None:
        ledger.drop("reasoning_effort", f"{profile.name} has no word for '{effort}'")
    for name, value in _SWITCH_FIELDS[profile.thinking_switch](effort, word).items():
        given = body.get(name, value)  # the client's own word goes first
        body[name] = {**value, **given} if isinstance(given, dict) else given


def _takes_any_effort(profile: Profile) -> bool:
    return profile.thinking_switch == "effort" and not profile.effort_map


def make_thinking_type(effort: str, word: str | None) -> Json:
    return {"thinking": {"type": "disabled" if "none" in (effort, word) else "enabled"}}


_SWITCH_FIELDS: dict[str, Callable[[str, str | None], dict[str, Any]]] = {
    "effort": lambda effort, word: {},
    "enable_thinking": lambda effort, word: {"enable_thinking": "none" not in (effort, word)},
    "thinking": make_thinking_type,
    "thinking_effort": make_thinking_type,
    "reasoning": lambda effort, word: {"reasoning": {"effort": word or effort}},
    "template": lambda effort, word: {
        "chat_template_kwargs": {"enable_thinking": "none" not in (effort, word)}
    },
}


def rename_effort(body: Json, profile: Profile, ledger: LossReport) -> None:
    reasoning = body.get("reasoning")
    if not profile.effort_map or not isinstance(reasoning, dict) or not reasoning.get("effort"):
        return
    effort = read_field(reasoning, "effort", STR, "reasoning.effort")
    rest = {k: v for k, v in reasoning.items() if k != "effort"}
    word = profile.effort_map.get(effort, effort)
    body["reasoning"] = {**rest, "effort": word} if word else rest
