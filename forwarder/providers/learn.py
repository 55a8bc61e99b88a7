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
from forwarder.protocols.mappings import SEALED
from forwarder.providers.error_parsing import is_about_value, named, phrases
from forwarder.providers.profile import Changes, Profile
from forwarder.providers.responses_api import SUMMARY
from forwarder.providers.tools import is_forced

COMPLAINTS = (400, 422)
"""The statuses of a refusal that is about the request, rather than about whoever asks or when."""


class Lesson(NamedTuple):
    """What to change; ``lasting`` is false when only this request was the matter."""

    changes: Changes
    lasting: bool = True


def lesson_of(
    refusal: UpstreamRefused, protocol: str, body: Json, profile: Profile
) -> Lesson | None:
    """The lesson of a refusal of ``body``, which was sent as ``profile`` has it.

    ``None`` when the complaint is not one about parameters and roles, or when the profile already
    says what would be learned.
    """
    if refusal.status not in COMPLAINTS or not profile.learn:
        return None
    case = Case(refusal.message, refusal.param, protocol, body, profile)
    for lesson in (*_told_by_phrase(case), *_told_by_name(case)):
        if any(getattr(profile, knob) != value for knob, value in lesson.changes.items()):
            return lesson
    return None


class Case(NamedTuple):
    """A complaint, and what it is about."""

    message: str
    param: str | None
    protocol: str
    body: Json
    profile: Profile


def _told_by_phrase(case: Case) -> Iterator[Lesson]:
    for kind in phrases(case.message, case.protocol):
        changes = _BY_PHRASE[kind](case)
        yield Lesson(changes, lasting="reasoning_items" not in changes)


def _told_by_name(case: Case) -> Iterator[Lesson]:
    """The lesson for every parameter that the complaint names, then those for single values."""
    changes: dict[str, Any] = {}
    of_values: list[Lesson] = []
    for path in named(case.message, case.param):
        name = path[-1]
        rule = _BY_NAME.get(name)
        if is_about_value(case.message, _value_at(case.body, path)):
            of_values.append(_of_value(case, path))
        elif rule is not None and (len(path) > 1) == (name in _INNER):
            made = rule(case)
            dropped = made.get("drop", frozenset()) | changes.get("drop", frozenset())
            changes |= {**made, "drop": dropped} if dropped else made
        elif len(path) > 1 and path[0] == "messages":
            changes["extra_message_fields"] = False
        elif name in case.body and name not in _ESSENTIAL:
            changes["drop"] = changes.get("drop", case.profile.drop) | {name}
            if _shows_reasoning(case, name):
                changes["reasons"] = True
    yield Lesson(changes)
    yield from of_values


def _shows_reasoning(case: Case, name: str) -> bool:
    """Is this how OpenAI's API tells that the model, whatever its name, is one that reasons?"""
    return (
        case.protocol == "responses"
        and case.profile.reasons == "auto"
        and name in ("temperature", "top_p")
        and "not supported with this model" in case.message
    )


def _value_at(body: Json, path: tuple[str, ...]) -> object:
    """What was sent under a path; nothing for what lies in a list."""
    value: object = body
    for step in path:
        value = value.get(step) if isinstance(value, dict) else None
    return value


def _of_value(case: Case, path: tuple[str, ...]) -> Lesson:
    """What can be done about one value of a parameter."""
    name = path[-1]
    rule = _BY_VALUE.get(name)
    if rule is not None:
        return rule(case)
    known = name in case.body and name not in (*_ESSENTIAL, *_BY_NAME)
    if not known or case.body[name] not in _VALUES.get(name, (case.body[name],)):
        return Lesson({})
    return _once(drop=case.profile.drop | {name})


def _once(**changes: Any) -> Lesson:
    return Lesson(changes, lasting=False)


_ESSENTIAL = frozenset(
    {
        "model", "messages", "input", "instructions", "stream", "tools", "functions", "n", "stop",
        "text", "response_format", "previous_response_id", "conversation", "prompt", "modalities",
        "audio", "background", "truncation",
    }
)  # fmt: skip
"""Without these, the client would get something else than it asked for."""


# -- what a complaint comes to ------------------------------------------------------------------


def _developer(case: Case) -> Changes:
    knob = "developer_role" if case.protocol == "chat" else "responses_developer"
    return {knob: "system"} if _has_role(case, "developer") else {}


def _system(case: Case) -> Changes:
    knob = "developer_role" if case.protocol == "chat" else "responses_developer"
    return {knob: "user"} if _has_role(case, "system") else {}


def _has_role(case: Case, role: str) -> bool:
    listed = case.body.get("messages" if case.protocol == "chat" else "input")
    return isinstance(listed, list) and any(m.get("role") == role for m in listed)


_SWITCHABLE = ("enable_thinking", "thinking", "thinking_effort", "template")


def _forced(case: Case) -> Changes:
    """Without thinking where that can be had; where it was tried in vain, given up."""
    if not is_forced(case.body) or not _can_be_granted(case.body):
        return {}
    can_switch = case.profile.thinking_switch in _SWITCHABLE and "thinking" in case.message
    tried = case.profile.forced_tool_choice == "disable_thinking"
    return {"forced_tool_choice": "disable_thinking" if can_switch and not tried else "auto"}


def _can_be_granted(body: Json) -> bool:
    """Is the tool on offer that the request demands?  If it is not, nobody could use it."""
    choice, tools = body.get("tool_choice"), body.get("tools")
    if not isinstance(tools, list) or not tools:
        return False
    if not isinstance(choice, dict) or choice.get("type") == "allowed_tools":
        return True
    return _tool_of(choice) in map(_tool_of, tools)


def _tool_of(holder: Any) -> tuple[Any, Any]:
    """The type and the name of a tool, or of the tool that a choice demands."""
    if not isinstance(holder, dict):
        return None, None
    kind = holder.get("type")
    inner = holder.get(kind) if isinstance(kind, str) else None
    return kind, (inner if isinstance(inner, dict) else holder).get("name")


def _choice_of_tool(case: Case) -> Lesson:
    """This demand is not granted; what asks for no more than the usual need not be said."""
    if case.body.get("tool_choice") == "auto":
        return _once(drop=case.profile.drop | {"tool_choice"})
    granted = is_forced(case.body) and _can_be_granted(case.body)
    return _once(forced_tool_choice="auto") if granted else Lesson({})


def _tool_choice(case: Case) -> Changes:
    """Refused as such, not for what it asks."""
    return {"drop": case.profile.drop | {"tool_choice"}} if "tool_choice" in case.body else {}


def _format(case: Case) -> Changes:
    kind = (case.body.get("response_format") or {}).get("type")
    levels = {"json_schema": "json_object", "json_object": "none"}
    return {"response_format": levels[kind]} if kind in levels else {}


def _limit(name: str) -> Callable[[Case], Changes]:
    """The other name of the token limit, if this is the one that was sent."""
    other = {"max_tokens": "max_completion_tokens"}.get(name, "max_tokens")
    return lambda case: {"max_tokens": other} if name in case.body else {}


_EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")


def _effort(case: Case) -> Changes:
    """Refused, however much is asked for."""
    name = "reasoning_effort" if case.protocol == "chat" else "reasoning"
    return {"drop": case.profile.drop | {name}} if name in case.body else {}


def _reasoning(case: Case) -> Changes:
    """Refused as a whole: the model does not reason, whatever its name says."""
    asked = case.body.get("reasoning")
    without = {"drop": case.profile.drop | {"reasoning"}}
    if case.protocol == "chat":
        return without if asked else {}
    wants_effort = isinstance(asked, dict) and bool(asked.get("effort"))
    return {"reasons": False, **(without if wants_effort else {})} if asked else {}


def _no_summary(case: Case) -> Changes:
    """No model that reasons refuses to sum its reasoning up."""
    return {"reasons": False} if _asks_for_summary(case) else {}


def _no_sealing(case: Case) -> Changes:
    """Nor to seal it."""
    return {"reasons": False} if SEALED in (case.body.get("include") or ()) else {}


def _withheld_summary(case: Case) -> Changes:
    """Only the summary is refused, to this organization or in this form."""
    return {"drop": case.profile.drop | {SUMMARY}} if _asks_for_summary(case) else {}


def _asks_for_summary(case: Case) -> bool:
    asked = case.body.get("reasoning")
    return isinstance(asked, dict) and bool(asked.get("summary"))


_OFFER = re.compile(r"(?:values|one of)\b(.*)", re.DOTALL)


def _one_effort(case: Case) -> Lesson:
    """The nearest of the efforts that the complaint offers; none offered, none is sent.

    The nearest stands for this one effort alone, so that much is kept.
    """
    asked = case.body.get("reasoning_effort") or (case.body.get("reasoning") or {}).get("effort")
    if asked not in _EFFORTS:
        return Lesson({})
    offer = _OFFER.search(case.message.lower())
    words = re.findall(r"[a-z]+", offer[1]) if offer else []
    offered = [word for word in words if word in _EFFORTS]
    if not offered or asked in offered:
        return Lesson(_effort(case), lasting=False)
    nearest = min(offered, key=lambda word: _distance(word, asked))
    return Lesson({"effort_map": {**case.profile.effort_map, asked: nearest}})


def _distance(word: str, asked: str) -> int:
    return abs(_EFFORTS.index(word) - _EFFORTS.index(asked))


def _streamed(case: Case) -> Changes:
    """A whole answer is refused, if one was asked for; its options are no business of a whole."""
    asked = case.body.get("stream") is False and "stream_options" not in case.body
    return {"always_stream": True} if asked else {}


def _dialect(case: Case) -> Changes:
    said = case.message.lower()
    known = next((name for name in ("moonshot", "gemini", "mistral") if name in said), "plain")
    return {"schema_dialect": known}


def _setting(**changes: Any) -> Callable[[Case], Changes]:
    return lambda case: changes


_BACK = {"reasoning_field": "reasoning_content", "reasoning_placeholder": " "}

_BY_PHRASE: dict[str, Callable[[Case], Changes]] = {
    "developer": _developer,
    "system unknown": _system,
    "system first": _setting(system_at_head=True),
    "alternation": _setting(merge_neighbours=True),
    "forced tool": _forced,
    "reasoning missing": _setting(reasoning_replay="tool_turns", **_BACK),
    "reasoning text missing": _setting(keep_reasoning_text=True),
    "reasoning text refused": _setting(keep_reasoning_text=False),
    "sealing refused": _no_sealing,
    "summaries withheld": _withheld_summary,
    "foreign reasoning": _setting(reasoning_items="drop"),
    "schema": _dialect,
    "format": _format,
    "text only": _setting(join_text_parts=True),
    "null content": _setting(null_content=False),
    "stream": _streamed,
    "id length": _setting(call_id_limit=9, call_id_exact=True),
}
"""Kind of complaint (see `complaints.py`) -> what it comes to."""

_BY_NAME: dict[str, Callable[[Case], Changes]] = {
    "max_tokens": _limit("max_tokens"),
    "max_completion_tokens": _limit("max_completion_tokens"),
    "stream_options": _setting(stream_options=False),
    "parallel_tool_calls": _setting(parallel_tool_calls=False),
    "tool_choice": _tool_choice,
    "response_format": _format,
    "reasoning_effort": _effort,
    "effort": _effort,
    "reasoning": _reasoning,
    "summary": _no_summary,
    "include": _no_sealing,
    "strict": _setting(strict_tools=False),
    "additionalProperties": _setting(schema_dialect="mistral"),
    "reasoning_content": _setting(reasoning_replay="none"),
    "reasoning_details": _setting(reasoning_replay="none"),
}
"""Parameter -> what its refusal comes to."""

_BY_VALUE: dict[str, Callable[[Case], Lesson]] = {
    "tool_choice": _choice_of_tool,
    "response_format": lambda case: Lesson(_format(case)),
    "reasoning_effort": _one_effort,
    "effort": _one_effort,
    "summary": lambda case: Lesson(_withheld_summary(case)),
    "include": lambda case: Lesson(_no_sealing(case)),
}
"""Parameter -> what is learned when one of its values is refused."""

_VALUES: dict[str, tuple[str, ...]] = {
    "prompt_cache_retention": ("in_memory", "in-memory", "24h"),
    "service_tier": ("auto", "default", "flex", "priority", "scale", "ultrafast"),
    "verbosity": ("low", "medium", "high"),
}
"""Parameter -> all values that the API knows, of those that may be left out."""

_INNER = frozenset(
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
