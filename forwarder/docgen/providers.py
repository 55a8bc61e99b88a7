"""What is done for each provider, as Markdown out of the profiles."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import fields
from typing import Any

from forwarder.docgen.markdown import format_code, render_table
from forwarder.providers import PROFILES, Profile
from forwarder.providers.profile import PROFILE_FIELDS, ProfileChanges

_HIDDEN_PROFILES = ("demo",)
"""Profiles that are nobody's provider."""

_ACTIVE_DEFAULTS = (
    "developer_role",
    "max_tokens",
    "join_text_parts",
    "custom_tools",
    "allowed_tools",
)
"""The knobs whose default does something to a request."""


def render_providers() -> str:
    """For each provider its name, how it is recognised, and what is done for it."""
    heads = ["provider", "recognised by", "what is done for it"]
    usual = format_code(sorted(find_usual_drops()))
    return f"{render_table(heads, iter_rows())}\n\nThe usual parameters are {usual}."


def iter_rows() -> Iterator[list[str]]:
    for name, profile in PROFILES.items():
        if name not in _HIDDEN_PROFILES:
            yield [f"`{name}`", describe_recognition(profile), describe_profile(profile)]


def describe_recognition(profile: Profile) -> str:
    if profile.name == "generic":
        return "whatever no other profile knows"
    return format_code(profile.hosts) or f"`<NAME>_PROVIDER={profile.name}`"


def describe_profile(profile: Profile) -> str:
    if profile.name == "generic":
        return "; ".join(
            filter(None, (describe_value(k, getattr(profile, k)) for k in _ACTIVE_DEFAULTS))
        )
    return "; ".join(iter_differences(profile)) or "what is done for `generic`"


def iter_differences(profile: Profile) -> Iterator[str]:
    generic = PROFILES["generic"]
    for knob in fields(Profile):
        value = getattr(profile, knob.name)
        if knob.name in PROFILE_FIELDS and value != getattr(generic, knob.name):
            yield describe_value(knob.name, value)


def describe_value(knob: str, value: Any) -> str:
    """What a knob with this value comes to, in a few words."""
    told = FIELD_DESCRIPTIONS[knob]
    return told(value) if callable(told) else told[value]


def find_usual_drops() -> frozenset[str]:
    """The parameters that most providers do not take."""
    counted = Counter(name for profile in PROFILES.values() for name in profile.drop)
    return frozenset(name for name, times in counted.items() if times > len(PROFILES) / 2)


def describe_dropped(names: frozenset[str]) -> str:
    is_usual = find_usual_drops() <= names
    rest = format_code(sorted(names - find_usual_drops() if is_usual else names))
    parts = (["the usual parameters"] if is_usual else []) + ([rest] if rest else [])
    return f"leaves out {' and '.join(parts)}" if parts else "leaves out nothing more"


def describe_length(limit: int) -> str:
    return f"up to {limit} characters" if limit else "any length"


def describe_efforts(efforts: ProfileChanges) -> str:
    same: dict[str | None, list[str]] = {}
    for effort, word in efforts.items():
        same.setdefault(word, []).append(effort)
    told = (
        f"{format_code(names)} as `{word}`" if word else f"no {format_code(names)}"
        for word, names in same.items()
    )
    return f"of the efforts {' and '.join(told)}"


def describe_models(models: ProfileChanges) -> str:
    """Patterns with the same changes are told together."""
    same: dict[str, list[str]] = {}
    for pattern, changes in models.items():
        told = " and ".join(describe_value(k, v) for k, v in changes.items())
        same.setdefault(told, []).append(pattern)
    return "; ".join(f"for {format_code(patterns)} {told}" for told, patterns in same.items())


FieldDescription = dict[Any, str] | Callable[[Any], str]

FIELD_DESCRIPTIONS: dict[str, FieldDescription] = {
    "developer_role": {
        "system": "developer messages become system messages",
        "developer": "the developer role stays",
        "user": "developer and system messages become user messages",
    },
    "system_at_head": {True: "one system message, at the head", False: "system messages stay"},
    "merge_neighbours": {True: "neighbours of one role are merged", False: "neighbours stay"},
    "join_text_parts": {True: "text parts are joined to one string", False: "text parts stay"},
    "null_content": {True: "content may be null", False: "content is never null"},
    "extra_message_fields": {
        True: "other fields of messages stay",
        False: "messages have OpenAI's fields alone",
    },
    "signature_fields": lambda names: (
        f"signatures go back in {format_code(sorted(names)) or 'no field'}"
    ),
    "max_tokens": lambda name: (
        "the token limit stays" if name == "as_is" else f"the token limit is called `{name}`"
    ),
    "stream_options": {True: "`stream_options` stay", False: "no `stream_options`"},
    "always_stream": {
        True: "whole answers are put together from streams",
        False: "whole answers are asked for whole",
    },
    "response_format": {
        "json_schema": "schemas are enforced there",
        "json_object": "JSON is enforced there, a schema is checked here",
        "none": "JSON is checked here",
        "schema_only": "`json_object` is asked for as a schema",
    },
    "drop": describe_dropped,
    "add": lambda added: f"adds {format_code(sorted(added))}",
    "chat_takes": lambda names: f"also takes {format_code(sorted(names))}",
    "forced_tool_choice": {
        "ok": "tools can be demanded",
        "auto": "a demanded tool is left to the model",
        "any": "`required` is spelled `any`",
        "disable_thinking": "no thinking where a tool is demanded",
    },
    "parallel_tool_calls": {True: "`parallel_tool_calls` stays", False: "no `parallel_tool_calls`"},
    "custom_tools": {True: "freeform tools stay", False: "freeform tools wear functions"},
    "allowed_tools": {
        True: "`allowed_tools` stays",
        False: "only the allowed tools are offered",
    },
    "strict_tools": {True: "`strict` stays", False: "no `strict` in tools"},
    "schema_dialect": lambda name: f"schemas in the dialect `{name}`",
    "tool_name_limit": lambda limit: f"tool names of {describe_length(limit)}",
    "call_id_limit": lambda limit: f"call ids of {describe_length(limit)}",
    "call_id_exact": {True: "of exactly so many", False: "or of fewer"},
    "reasons": {
        "auto": "its name tells whether a model reasons",
        True: "models reason",
        False: "models do not reason",
    },
    "reasoning_field": lambda name: (
        f"earlier reasoning goes back in `{name}`" if name else "earlier reasoning stays here"
    ),
    "reasoning_replay": {
        "all": "all earlier reasoning goes back",
        "tool_turns": "earlier reasoning goes back with calls",
        "none": "earlier reasoning stays here",
        "as_is": "earlier reasoning stays as it is",
    },
    "reasoning_placeholder": lambda text: "lost reasoning has a placeholder",
    "signature_placeholder": lambda text: "lost signatures have a placeholder",
    "thinking_switch": {
        "effort": "thinking is switched by `reasoning_effort`",
        "enable_thinking": "thinking is switched by `enable_thinking`",
        "thinking": "thinking is switched by `thinking.type`",
        "thinking_effort": "thinking is switched by `thinking.type` and `reasoning_effort`",
        "reasoning": "thinking is switched by `reasoning.effort`",
        "template": "thinking is switched by `chat_template_kwargs`",
    },
    "effort_map": describe_efforts,
    "image_url": {"url": "images by URL", "base64": "images as data", "none": "no images"},
    "tool_image": {
        "user": "images of results go into a user message",
        "inline": "images of results stay in them",
        "drop": "images of results are left out",
    },
    "file": {"inline": "files as data", "upload": "files are uploaded", "none": "no files"},
    "web_search_options": {
        True: "a search tool becomes `web_search_options`",
        False: "searches are left out",
    },
    "compaction": {
        True: "compacts conversations itself",
        False: "conversations are compacted here",
    },
    "responses_takes": lambda names: f"over Responses also takes {format_code(sorted(names))}",
    "key_header": lambda name: f"the key goes as `{name}`",
    "chat_path": lambda path: f"Chat at `{path}`",
    "responses_path": lambda path: f"Responses at `{path}`",
    "responses_developer": lambda role: f"Responses' developer role is called `{role}`",
    "responses_system": lambda role: f"Responses' system role is called `{role}`",
    "responses_add": lambda added: f"adds {format_code(sorted(added))} to Responses requests",
    "server_calls": lambda ids: f"calls `{'…`, `'.join(ids)}…` are its own work",
    "keep_reasoning_text": {
        True: "the text of reasoning items goes back",
        False: "the text of reasoning items stays here",
    },
    "reasoning_items": {"keep": "reasoning items go back", "drop": "no reasoning items go back"},
    "keeps_responses": {
        True: "`previous_response_id` is handed on to its Responses",
        False: "earlier turns are sent again",
    },
    "codex_models": {
        True: "serves the models that Codex asks for by itself",
        False: "another model stands in for those that Codex asks for by itself",
    },
    "repair_responses": {True: "its Responses streams are completed", False: "streams stay"},
    "learn": {True: "refusals are learned from", False: "nothing is learned from refusals"},
    "models": describe_models,
}
"""Knob -> what its values come to."""
