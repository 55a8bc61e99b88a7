"""Maps the reasoning effort to a provider's effort names and its parameters for thinking."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from forwarder.core.translation_context import LossReport
from forwarder.core.types import Json
from forwarder.core.validate import STR, read_field
from forwarder.providers.profile import Profile
from forwarder.providers.responses_api import set_or_remove


def apply_thinking_switch(body: Json, profile: Profile, loss_report: LossReport) -> None:
    if body.get("reasoning_effort") is None:
        return
    if profile.thinking_switch == "effort" and not profile.effort_map:
        return
    effort = read_field(body, "reasoning_effort", STR, "reasoning_effort")
    del body["reasoning_effort"]
    provider_effort = profile.effort_map.get(effort, effort)
    if profile.thinking_switch in ("effort", "thinking_effort") and provider_effort is not None:
        body["reasoning_effort"] = provider_effort
    if profile.thinking_switch == "effort" and provider_effort is None:
        loss_report.drop("reasoning_effort", f"{profile.name} has no effort '{effort}'")
    for name, default in _SWITCH_FIELDS[profile.thinking_switch](effort, provider_effort).items():
        value = body.get(name, default)  # the client's own value takes precedence
        body[name] = {**default, **value} if isinstance(value, dict) else value


def make_thinking_type(effort: str, provider_effort: str | None) -> Json:
    return {"thinking": {"type": "disabled" if "none" in (effort, provider_effort) else "enabled"}}


_SWITCH_FIELDS: dict[str, Callable[[str, str | None], dict[str, Any]]] = {
    "effort": lambda effort, provider_effort: {},
    "enable_thinking": lambda effort, provider_effort: {
        "enable_thinking": "none" not in (effort, provider_effort)
    },
    "thinking": make_thinking_type,
    "thinking_effort": make_thinking_type,
    "reasoning": lambda effort, provider_effort: {
        "reasoning": {"effort": provider_effort or effort}
    },
    "template": lambda effort, provider_effort: {
        "chat_template_kwargs": {"enable_thinking": "none" not in (effort, provider_effort)}
    },
}


def rename_effort(body: Json, profile: Profile, loss_report: LossReport) -> None:
    reasoning = body.get("reasoning")
    if not profile.effort_map or not isinstance(reasoning, dict) or not reasoning.get("effort"):
        return
    effort = read_field(reasoning, "effort", STR, "reasoning.effort")
    provider_effort = profile.effort_map.get(effort, effort)
    if provider_effort is not None:
        body["reasoning"] = {**reasoning, "effort": provider_effort}
        return
    loss_report.drop("reasoning.effort", f"{profile.name} has no effort '{effort}'")
    rest = {name: value for name, value in reasoning.items() if name != "effort"}
    set_or_remove(body, "reasoning", rest)
