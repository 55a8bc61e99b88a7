"""Infers quirks of a provider from its refusals, by these rules:

1. A learned quirk consists of profile fields, so `adapt_request` needs no extra code for it.
2. A quirk is learned only if it changes the profile.  Otherwise the client gets the refusal.
3. Parameters that determine the answer are never dropped, even if a provider refuses them.
4. If a provider refuses one value of a parameter, the parameter is dropped for this request only.
   If OpenAI's API does not have that value either, the client gets the refusal.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from forwarder.core.error_classification import MAX_SEARCHED_CHARACTERS
from forwarder.core.errors import UpstreamRefused
from forwarder.core.types import Json
from forwarder.protocols.chat_responses_mappings import INCLUDE_ENCRYPTED_REASONING
from forwarder.protocols.registry import UPSTREAM_PROTOCOLS
from forwarder.providers.error_parsing import (
    find_complaint_kinds,
    find_refused_parameters,
    is_about_value,
)
from forwarder.providers.profile import API_FIELDS, Profile, ProfileChanges
from forwarder.providers.responses_api import SUMMARY_PARAMETER
from forwarder.providers.tools import is_tool_forced

REQUEST_ERROR_STATUSES = (400, 422)
"""Statuses of refusals that concern the request, not the caller or the time."""


class InferredQuirk(NamedTuple):
    """Profile changes; ``is_lasting`` is false if they apply to this request only."""

    changes: ProfileChanges
    is_lasting: bool = True


def infer_quirk(
    refusal: UpstreamRefused, protocol: str, body: Json, profile: Profile
) -> InferredQuirk | None:
    """Infer a quirk from the refusal of ``body``, which was adapted with ``profile``.

    Returns None if the message has no known cause or the quirk would not change the profile.
    """
    if refusal.status not in REQUEST_ERROR_STATUSES or not profile.learn:
        return None
    message = refusal.message[:MAX_SEARCHED_CHARACTERS]
    case = RefusalCase(message, refusal.param, protocol, body, profile)
    for quirk in (*infer_from_phrases(case), *infer_from_names(case)):
        if any(getattr(profile, name) != value for name, value in quirk.changes.items()):
            return quirk
    return None


class RefusalCase(NamedTuple):
    """The head of a provider's message, and the request that it refuses."""

    message: str
    param: str | None
    protocol: str
    body: Json
    profile: Profile


def infer_from_phrases(case: RefusalCase) -> Iterator[InferredQuirk]:
    for kind in find_complaint_kinds(case.message, case.protocol):
        changes = _RULES_BY_PHRASE[kind](case)
        # Only this conversation has reasoning items that this provider cannot read.
        yield InferredQuirk(changes, is_lasting="reasoning_items" not in changes)


def infer_from_names(case: RefusalCase) -> Iterator[InferredQuirk]:
    """Yield one quirk for all parameters that the message names, then those for single values."""
    changes: dict[str, Any] = {}
    value_quirks: list[InferredQuirk] = []
    for path in find_refused_parameters(case.message, case.param):
        name = path[-1]
        rule = _RULES_BY_PARAMETER.get(name)
        if is_about_value(case.message, get_value_at(case.body, path)):
            value_quirks.append(infer_from_value(case, path))
        elif rule is not None and (len(path) > 1) == (name in _NESTED_PARAMETERS):
            more = rule(case)
            drops = more.get("drop", frozenset()) | changes.get("drop", frozenset())
            changes |= {**more, "drop": drops} if drops else more
        elif len(path) > 1 and path[0] == "messages":
            changes["extra_message_fields"] = False
        elif name in case.body and name not in _ESSENTIAL_PARAMETERS:
            changes["drop"] = changes.get("drop", case.profile.drop) | {name}
            if is_reasoning_model_refusal(case, name):
                changes["reasons"] = True
    yield InferredQuirk(changes)
    yield from value_quirks


def is_reasoning_model_refusal(case: RefusalCase, name: str) -> bool:
    """Return True if OpenAI's API refuses sampling, and so reveals that the model reasons."""
    return (
        API_FIELDS[case.protocol].shows_reasoning_models
        and case.profile.reasons == "auto"
        and name in ("temperature", "top_p")
        and "not supported with this model" in case.message
    )


def get_value_at(body: Json, path: tuple[str, ...]) -> object:
    """Return the value at a path in the body; None if the path leads through a list."""
    value: object = body
    for step in path:
        value = value.get(step) if isinstance(value, dict) else None
    return value


def infer_from_value(case: RefusalCase, path: tuple[str, ...]) -> InferredQuirk:
    """Infer a quirk from the refusal of one value of a parameter."""
    name = path[-1]
    rule = _RULES_BY_VALUE.get(name)
    if rule is not None:
        return rule(case)
    can_drop = name in case.body and name not in (*_ESSENTIAL_PARAMETERS, *_RULES_BY_PARAMETER)
    if not can_drop or case.body[name] not in _KNOWN_VALUES.get(name, (case.body[name],)):
        return InferredQuirk({})
    return make_temporary_quirk(drop=case.profile.drop | {name})


def make_temporary_quirk(**changes: Any) -> InferredQuirk:
    return InferredQuirk(changes, is_lasting=False)


_ESSENTIAL_PARAMETERS = frozenset(
    {
        "model", "messages", "input", "instructions", "stream", "tools", "functions", "n", "stop",
        "text", "response_format", "previous_response_id", "conversation", "prompt", "modalities",
        "audio", "background", "truncation",
    }
)  # fmt: skip
"""Parameters that are never dropped: the client would get another answer than it requested."""


# -- rules --------------------------------------------------------------------------------------


def infer_developer_role(case: RefusalCase) -> ProfileChanges:
    name = API_FIELDS[case.protocol].developer_role
    return {name: "system"} if has_role(case, "developer") else {}


def infer_system_role(case: RefusalCase) -> ProfileChanges:
    name = API_FIELDS[case.protocol].developer_role
    return {name: "user"} if has_role(case, "system") else {}


def has_role(case: RefusalCase, role: str) -> bool:
    messages = case.body.get(UPSTREAM_PROTOCOLS[case.protocol].conversation.parameter)
    return isinstance(messages, list) and any(m.get("role") == role for m in messages)


_THINKING_SWITCHES = ("enable_thinking", "thinking", "thinking_effort", "template")


def infer_forced_tool_choice(case: RefusalCase) -> ProfileChanges:
    """Force the tool with thinking disabled; if that was refused too, do not force it."""
    if not is_tool_forced(case.body) or not is_tool_offered(case.body):
        return {}
    can_switch = case.profile.thinking_switch in _THINKING_SWITCHES and "thinking" in case.message
    tried = case.profile.forced_tool_choice == "disable_thinking"
    return {"forced_tool_choice": "disable_thinking" if can_switch and not tried else "auto"}


def is_tool_offered(body: Json) -> bool:
    """Return True if the request offers the tool that it demands."""
    choice, tools = body.get("tool_choice"), body.get("tools")
    if not isinstance(tools, list) or not tools:
        return False
    if not isinstance(choice, dict) or choice.get("type") == "allowed_tools":
        return True
    return identify_tool(choice) in map(identify_tool, tools)


def identify_tool(holder: Any) -> tuple[Any, Any]:
    """Return the type and name of a tool, or of the tool that a choice demands."""
    if not isinstance(holder, dict):
        return None, None
    kind = holder.get("type")
    inner = holder.get(kind) if isinstance(kind, str) else None
    return kind, (inner if isinstance(inner, dict) else holder).get("name")


def infer_tool_choice_value(case: RefusalCase) -> InferredQuirk:
    """Replace a refused tool choice by ``auto``; drop ``auto``, which is the default."""
    if case.body.get("tool_choice") == "auto":
        return make_temporary_quirk(drop=case.profile.drop | {"tool_choice"})
    is_valid = is_tool_forced(case.body) and is_tool_offered(case.body)
    return make_temporary_quirk(forced_tool_choice="auto") if is_valid else InferredQuirk({})


def infer_tool_choice(case: RefusalCase) -> ProfileChanges:
    """Drop the parameter if the provider refuses it with any value."""
    return {"drop": case.profile.drop | {"tool_choice"}} if "tool_choice" in case.body else {}


def infer_response_format(case: RefusalCase) -> ProfileChanges:
    kind = (case.body.get("response_format") or {}).get("type")
    levels = {"json_schema": "json_object", "json_object": "none"}
    return {"response_format": levels[kind]} if kind in levels else {}


def make_token_limit_rule(name: str) -> Callable[[RefusalCase], ProfileChanges]:
    """Make a rule that switches to the other name of the token limit if ``name`` was sent."""
    other = {"max_tokens": "max_completion_tokens"}.get(name, "max_tokens")
    return lambda case: {"max_tokens": other} if name in case.body else {}


_KNOWN_EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")


def infer_effort(case: RefusalCase) -> ProfileChanges:
    """Drop the effort if the provider refuses it with any value."""
    name = API_FIELDS[case.protocol].effort_parameter
    return {"drop": case.profile.drop | {name}} if name in case.body else {}


def infer_reasoning(case: RefusalCase) -> ProfileChanges:
    """Conclude that the model does not reason if the provider refuses ``reasoning`` entirely."""
    reasoning = case.body.get("reasoning")
    if not reasoning:
        return {}
    without = {"drop": case.profile.drop | {"reasoning"}}
    if not API_FIELDS[case.protocol].shows_reasoning_models:
        return without
    has_effort = isinstance(reasoning, dict) and bool(reasoning.get("effort"))
    return {"reasons": False, **without} if has_effort else {"reasons": False}


def infer_no_summary(case: RefusalCase) -> ProfileChanges:
    """Conclude that the model does not reason: all models that reason accept ``summary``."""
    return {"reasons": False} if has_summary_request(case) else {}


def infer_no_encryption(case: RefusalCase) -> ProfileChanges:
    """Conclude that the model does not reason: all that reason can return encrypted reasoning."""
    includes = case.body.get("include") or ()
    return {"reasons": False} if INCLUDE_ENCRYPTED_REASONING in includes else {}


def infer_withheld_summary(case: RefusalCase) -> ProfileChanges:
    """Drop the summary: the provider refuses it to this organization, or refuses this value."""
    return {"drop": case.profile.drop | {SUMMARY_PARAMETER}} if has_summary_request(case) else {}


def has_summary_request(case: RefusalCase) -> bool:
    reasoning = case.body.get("reasoning")
    return isinstance(reasoning, dict) and bool(reasoning.get("summary"))


_OFFERED_VALUES = re.compile(r"(?:values|one of)\b(.*)", re.DOTALL)


def infer_effort_value(case: RefusalCase) -> InferredQuirk:
    """Map the refused effort to the nearest one that the message offers.

    The mapping is lasting, since it concerns only this effort.  If the message offers no other
    effort, the parameter is dropped for this request.
    """
    effort = case.body.get("reasoning_effort") or (case.body.get("reasoning") or {}).get("effort")
    if effort not in _KNOWN_EFFORTS:
        return InferredQuirk({})
    match = _OFFERED_VALUES.search(case.message.lower())
    words = re.findall(r"[a-z]+", match[1]) if match else []
    offered = [word for word in words if word in _KNOWN_EFFORTS]
    if not offered or effort in offered:
        return InferredQuirk(infer_effort(case), is_lasting=False)
    rank = _KNOWN_EFFORTS.index
    nearest = min(offered, key=lambda word: abs(rank(word) - rank(effort)))
    return InferredQuirk({"effort_map": {**case.profile.effort_map, effort: nearest}})


def infer_always_stream(case: RefusalCase) -> ProfileChanges:
    """Always stream if the provider refused a request without streaming.

    With ``stream_options`` in the body, the message may be about these.
    """
    is_refused = case.body.get("stream") is False and "stream_options" not in case.body
    return {"always_stream": True} if is_refused else {}


def infer_schema_dialect(case: RefusalCase) -> ProfileChanges:
    message = case.message.lower()
    dialect = next((name for name in ("moonshot", "gemini", "mistral") if name in message), "plain")
    return {"schema_dialect": dialect}


def make_constant_rule(**changes: Any) -> Callable[[RefusalCase], ProfileChanges]:
    return lambda case: changes


_REASONING_CONTENT_REPLAY = {"reasoning_field": "reasoning_content", "reasoning_placeholder": " "}

_RULES_BY_PHRASE: dict[str, Callable[[RefusalCase], ProfileChanges]] = {
    "developer": infer_developer_role,
    "system unknown": infer_system_role,
    "system first": make_constant_rule(system_at_head=True),
    "alternation": make_constant_rule(merge_neighbours=True),
    "forced tool": infer_forced_tool_choice,
    "reasoning missing": make_constant_rule(
        reasoning_replay="tool_turns", **_REASONING_CONTENT_REPLAY
    ),
    "reasoning text missing": make_constant_rule(keep_reasoning_text=True),
    "reasoning text refused": make_constant_rule(keep_reasoning_text=False),
    "encryption refused": infer_no_encryption,
    "summary refused": infer_withheld_summary,
    "foreign reasoning": make_constant_rule(reasoning_items="drop"),
    "schema": infer_schema_dialect,
    "format": infer_response_format,
    "text only": make_constant_rule(join_text_parts=True),
    "null content": make_constant_rule(null_content=False),
    "stream": infer_always_stream,
    "id length": make_constant_rule(call_id_limit=9, call_id_exact=True),
}
"""Kind of complaint (see `error_parsing.py`) -> the rule for it."""

_RULES_BY_PARAMETER: dict[str, Callable[[RefusalCase], ProfileChanges]] = {
    "max_tokens": make_token_limit_rule("max_tokens"),
    "max_completion_tokens": make_token_limit_rule("max_completion_tokens"),
    "stream_options": make_constant_rule(stream_options=False),
    "parallel_tool_calls": make_constant_rule(parallel_tool_calls=False),
    "tool_choice": infer_tool_choice,
    "response_format": infer_response_format,
    "reasoning_effort": infer_effort,
    "effort": infer_effort,
    "reasoning": infer_reasoning,
    "summary": infer_no_summary,
    "include": infer_no_encryption,
    "strict": make_constant_rule(strict_tools=False),
    "additionalProperties": make_constant_rule(schema_dialect="mistral"),
    "reasoning_content": make_constant_rule(reasoning_replay="none"),
    "reasoning_details": make_constant_rule(reasoning_replay="none"),
}
"""Refused parameter -> the rule for it."""

_RULES_BY_VALUE: dict[str, Callable[[RefusalCase], InferredQuirk]] = {
    "tool_choice": infer_tool_choice_value,
    "response_format": lambda case: InferredQuirk(infer_response_format(case)),
    "reasoning_effort": infer_effort_value,
    "effort": infer_effort_value,
    "summary": lambda case: InferredQuirk(infer_withheld_summary(case)),
    "include": lambda case: InferredQuirk(infer_no_encryption(case)),
}
"""Parameter of which one value is refused -> the rule for it."""

_KNOWN_VALUES: dict[str, tuple[str, ...]] = {
    "prompt_cache_retention": ("in_memory", "in-memory", "24h"),
    "service_tier": ("auto", "default", "flex", "priority", "scale", "ultrafast"),
    "verbosity": ("low", "medium", "high"),
}
"""Parameter that may be dropped -> all values that the API has."""

_NESTED_PARAMETERS = frozenset(
    {
        "effort",
        "summary",
        "strict",
        "additionalProperties",
        "reasoning_content",
        "reasoning_details",
    }
)  # fmt: skip
"""Parameters in `_RULES_BY_PARAMETER` that are nested in others."""
