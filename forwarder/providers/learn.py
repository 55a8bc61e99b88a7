"""Refusals that no profile foresaw -> settings of knobs.

Rule 1: a lesson is made of knobs, so the mends are the same as for what was known beforehand.
Rule 2: a lesson changes something, or it is none; the refusal then is the client's to see.
Rule 3: what would change what the client gets is never left out because somebody refuses it.
Rule 4: what is refused for one client's value is left out for this request alone, if at all; a
value that the API itself does not know is the client's mistake, and the refusal its to see.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from forwarder.core.errors import UpstreamRefused
from forwarder.core.types import Json
from forwarder.protocols.mappings import INCLUDE_ENCRYPTED_REASONING
from forwarder.providers.error_parsing import (
    find_complaint_kinds,
    find_refused_parameters,
    is_about_value,
)
from forwarder.providers.profile import Profile, ProfileChanges
from forwarder.providers.responses_api import SUMMARY_PARAMETER
from forwarder.providers.tools import is_tool_forced

REQUEST_ERROR_STATUSES = (400, 422)
"""The statuses of a refusal that is about the request, rather than about whoever asks or when."""


class InferredQuirk(NamedTuple):
    """What to change; ``is_lasting`` is false when only this request was the matter."""

    changes: ProfileChanges
    is_lasting: bool = True


def infer_quirk(
    refusal: UpstreamRefused, protocol: str, body: Json, profile: Profile
) -> InferredQuirk | None:
    """The lesson of a refusal of ``body``, which was sent as ``profile`` has it.

    ``None`` when the complaint is not one about parameters and roles, or when the profile already
    says what would be learned.
    """
    if refusal.status not in REQUEST_ERROR_STATUSES or not profile.learn:
        return None
    case = RefusalCase(refusal.message, refusal.param, protocol, body, profile)
    for lesson in (*infer_from_phrases(case), *infer_from_names(case)):
        if any(getattr(profile, knob) != value for knob, value in lesson.changes.items()):
            return lesson
    return None


class RefusalCase(NamedTuple):
    """A complaint, and what it is about."""

    message: str
    param: str | None
    protocol: str
    body: Json
    profile: Profile


def infer_from_phrases(case: RefusalCase) -> Iterator[InferredQuirk]:
    for kind in find_complaint_kinds(case.message, case.protocol):
        changes = _RULES_BY_PHRASE[kind](case)
        yield InferredQuirk(changes, is_lasting="reasoning_items" not in changes)


def infer_from_names(case: RefusalCase) -> Iterator[InferredQuirk]:
    """The lesson for every parameter that the complaint names, then those for single values."""
    changes: dict[str, Any] = {}
    of_values: list[InferredQuirk] = []
    for path in find_refused_parameters(case.message, case.param):
        name = path[-1]
        rule = _RULES_BY_PARAMETER.get(name)
        if is_about_value(case.message, get_value_at(case.body, path)):
            of_values.append(infer_from_value(case, path))
        elif rule is not None and (len(path) > 1) == (name in _NESTED_PARAMETERS):
            made = rule(case)
            dropped = made.get("drop", frozenset()) | changes.get("drop", frozenset())
            changes |= {**made, "drop": dropped} if dropped else made
        elif len(path) > 1 and path[0] == "messages":
            changes["extra_message_fields"] = False
        elif name in case.body and name not in _ESSENTIAL_PARAMETERS:
            changes["drop"] = changes.get("drop", case.profile.drop) | {name}
            if is_reasoning_model_refusal(case, name):
                changes["reasons"] = True
    yield InferredQuirk(changes)
    yield from of_values


def is_reasoning_model_refusal(case: RefusalCase, name: str) -> bool:
    """Is this how OpenAI's API tells that the model, whatever its name, is one that reasons?"""
    return (
        case.protocol == "responses"
        and case.profile.reasons == "auto"
        and name in ("temperature", "top_p")
        and "not supported with this model" in case.message
    )


def get_value_at(body: Json, path: tuple[str, ...]) -> object:
    """What was sent under a path; nothing for what lies in a list."""
    value: object = body
    for step in path:
        value = value.get(step) if isinstance(value, dict) else None
    return value


def infer_from_value(case: RefusalCase, path: tuple[str, ...]) -> InferredQuirk:
    """What can be done about one value of a parameter."""
    name = path[-1]
    rule = _RULES_BY_VALUE.get(name)
    if rule is not None:
        return rule(case)
    known = name in case.body and name not in (*_ESSENTIAL_PARAMETERS, *_RULES_BY_PARAMETER)
    if not known or case.body[name] not in _KNOWN_VALUES.get(name, (case.body[name],)):
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
"""Without these, the client would get something else than it asked for."""


# -- what a complaint comes to ------------------------------------------------------------------


def infer_developer_role(case: RefusalCase) -> ProfileChanges:
    knob = "developer_role" if case.protocol == "chat" else "responses_developer"
    return {knob: "system"} if has_role(case, "developer") else {}


def infer_system_role(case: RefusalCase) -> ProfileChanges:
    knob = "developer_role" if case.protocol == "chat" else "responses_developer"
    return {knob: "user"} if has_role(case, "system") else {}


def has_role(case: RefusalCase, role: str) -> bool:
    listed = case.body.get("messages" if case.protocol == "chat" else "input")
    return isinstance(listed, list) and any(m.get("role") == role for m in listed)


_THINKING_SWITCHES = ("enable_thinking", "thinking", "thinking_effort", "template")


def infer_forced_tool_choice(case: RefusalCase) -> ProfileChanges:
    """Without thinking where that can be had; where it was tried in vain, given up."""
    if not is_tool_forced(case.body) or not is_tool_offered(case.body):
        return {}
    can_switch = case.profile.thinking_switch in _THINKING_SWITCHES and "thinking" in case.message
    tried = case.profile.forced_tool_choice == "disable_thinking"
    return {"forced_tool_choice": "disable_thinking" if can_switch and not tried else "auto"}


def is_tool_offered(body: Json) -> bool:
    """Is the tool on offer that the request demands?  If it is not, nobody could use it."""
    choice, tools = body.get("tool_choice"), body.get("tools")
    if not isinstance(tools, list) or not tools:
        return False
    if not isinstance(choice, dict) or choice.get("type") == "allowed_tools":
        return True
    return identify_tool(choice) in map(identify_tool, tools)


def identify_tool(holder: Any) -> tuple[Any, Any]:
    """The type and the name of a tool, or of the tool that a choice demands."""
    if not isinstance(holder, dict):
        return None, None
    kind = holder.get("type")
    inner = holder.get(kind) if isinstance(kind, str) else None
    return kind, (inner if isinstance(inner, dict) else holder).get("name")


def infer_tool_choice_value(case: RefusalCase) -> InferredQuirk:
    """This demand is not granted; what asks for no more than the usual need not be said."""
    if case.body.get("tool_choice") == "auto":
        return make_temporary_quirk(drop=case.profile.drop | {"tool_choice"})
    granted = is_tool_forced(case.body) and is_tool_offered(case.body)
    return make_temporary_quirk(forced_tool_choice="auto") if granted else InferredQuirk({})


def infer_tool_choice(case: RefusalCase) -> ProfileChanges:
    """Refused as such, not for what it asks."""
    return {"drop": case.profile.drop | {"tool_choice"}} if "tool_choice" in case.body else {}


def infer_response_format(case: RefusalCase) -> ProfileChanges:
    kind = (case.body.get("response_format") or {}).get("type")
    levels = {"json_schema": "json_object", "json_object": "none"}
    return {"response_format": levels[kind]} if kind in levels else {}


def make_token_limit_rule(name: str) -> Callable[[RefusalCase], ProfileChanges]:
    """The other name of the token limit, if this is the one that was sent."""
    other = {"max_tokens": "max_completion_tokens"}.get(name, "max_tokens")
    return lambda case: {"max_tokens": other} if name in case.body else {}


_KNOWN_EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")


def infer_effort(case: RefusalCase) -> ProfileChanges:
    """Refused, however much is asked for."""
    name = "reasoning_effort" if case.protocol == "chat" else "reasoning"
    return {"drop": case.profile.drop | {name}} if name in case.body else {}


def infer_reasoning(case: RefusalCase) -> ProfileChanges:
    """Refused as a whole: the model does not reason, whatever its name says."""
    asked = case.body.get("reasoning")
    without = {"drop": case.profile.drop | {"reasoning"}}
    if case.protocol == "chat":
        return without if asked else {}
    wants_effort = isinstance(asked, dict) and bool(asked.get("effort"))
    return {"reasons": False, **(without if wants_effort else {})} if asked else {}


def infer_no_summary(case: RefusalCase) -> ProfileChanges:
    """No model that reasons refuses to sum its reasoning up."""
    return {"reasons": False} if has_summary_request(case) else {}


def infer_no_encryption(case: RefusalCase) -> ProfileChanges:
    """Nor to seal it."""
    return (
        {"reasons": False}
        if INCLUDE_ENCRYPTED_REASONING in (case.body.get("include") or ())
        else {}
    )


def infer_withheld_summary(case: RefusalCase) -> ProfileChanges:
    """Only the summary is refused, to this organization or in this form."""
    return {"drop": case.profile.drop | {SUMMARY_PARAMETER}} if has_summary_request(case) else {}


def has_summary_request(case: RefusalCase) -> bool:
    asked = case.body.get("reasoning")
    return isinstance(asked, dict) and bool(asked.get("summary"))


_OFFERED_VALUES = re.compile(r"(?:values|one of)\b(.*)", re.DOTALL)


def infer_effort_value(case: RefusalCase) -> InferredQuirk:
    """The nearest of the efforts that the complaint offers; none offered, none is sent.

    The nearest stands for this one effort alone, so that much is kept.
    """
    asked = case.body.get("reasoning_effort") or (case.body.get("reasoning") or {}).get("effort")
    if asked not in _KNOWN_EFFORTS:
        return InferredQuirk({})
    offer = _OFFERED_VALUES.search(case.message.lower())
    words = re.findall(r"[a-z]+", offer[1]) if offer else []
    offered = [word for word in words if word in _KNOWN_EFFORTS]
    if not offered or asked in offered:
        return InferredQuirk(infer_effort(case), is_lasting=False)
    nearest = min(offered, key=lambda word: _distance(word, asked))
    return InferredQuirk({"effort_map": {**case.profile.effort_map, asked: nearest}})


def _distance(word: str, asked: str) -> int:
    return abs(_KNOWN_EFFORTS.index(word) - _KNOWN_EFFORTS.index(asked))


def infer_always_stream(case: RefusalCase) -> ProfileChanges:
    """A whole answer is refused, if one was asked for; its options are no business of a whole."""
    asked = case.body.get("stream") is False and "stream_options" not in case.body
    return {"always_stream": True} if asked else {}


def infer_schema_dialect(case: RefusalCase) -> ProfileChanges:
    said = case.message.lower()
    known = next((name for name in ("moonshot", "gemini", "mistral") if name in said), "plain")
    return {"schema_dialect": known}


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
    "sealing refused": infer_no_encryption,
    "summaries withheld": infer_withheld_summary,
    "foreign reasoning": make_constant_rule(reasoning_items="drop"),
    "schema": infer_schema_dialect,
    "format": infer_response_format,
    "text only": make_constant_rule(join_text_parts=True),
    "null content": make_constant_rule(null_content=False),
    "stream": infer_always_stream,
    "id length": make_constant_rule(call_id_limit=9, call_id_exact=True),
}
"""Kind of complaint (see `complaints.py`) -> what it comes to."""

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
"""Parameter -> what its refusal comes to."""

_RULES_BY_VALUE: dict[str, Callable[[RefusalCase], InferredQuirk]] = {
    "tool_choice": infer_tool_choice_value,
    "response_format": lambda case: InferredQuirk(infer_response_format(case)),
    "reasoning_effort": infer_effort_value,
    "effort": infer_effort_value,
    "summary": lambda case: InferredQuirk(infer_withheld_summary(case)),
    "include": lambda case: InferredQuirk(infer_no_encryption(case)),
}
"""Parameter -> what is learned when one of its values is refused."""

_KNOWN_VALUES: dict[str, tuple[str, ...]] = {
    "prompt_cache_retention": ("in_memory", "in-memory", "24h"),
    "service_tier": ("auto", "default", "flex", "priority", "scale", "ultrafast"),
    "verbosity": ("low", "medium", "high"),
}
"""Parameter -> all values that the API knows, of those that may be left out."""

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
"""Those of them that stand inside of others."""
