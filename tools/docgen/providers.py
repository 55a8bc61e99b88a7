"""Renders the provider profiles and the quirks as Markdown."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import Field, fields
from typing import Any

from forwarder.protocols.hosted_tool_names import EVERY_TOOL
from forwarder.providers import PROFILES, Profile
from forwarder.providers.profile import PROFILE_FIELDS, ProfileChanges
from tools.docgen.markdown import format_code, render_table

_HIDDEN_PROFILES = ("demo",)
"""Profiles that belong to no real provider."""

_ACTIVE_DEFAULTS = (
    "developer_role",
    "max_tokens",
    "join_text_parts",
    "custom_tools",
    "allowed_tools",
)
"""The fields whose default changes requests."""


def render_providers() -> str:
    """Return a section per provider: how it is recognised, and what the forwarder changes."""
    introduction = f"The *usual parameters* below are {format_code(sorted(find_usual_drops()))}."
    return "\n\n".join([introduction, *_iterate_sections()])


def render_quirks() -> str:
    """Return a table of the fields of a profile: values, their meaning, and the default."""
    rows = (
        [f"`{field.name}`", _describe_values(field), f"`{json.dumps(_get_default(field))}`"]
        for field in sorted(fields(Profile), key=lambda field: field.name)
        if field.name in PROFILE_FIELDS
    )
    return render_table(["quirk", "values", "default"], rows)


def _describe_values(field: Field[Any]) -> str:
    describe_value = FIELD_DESCRIPTIONS[field.name]
    if callable(describe_value):
        return f"{field.metadata['takes']}; {describe_value(_make_sample(field))}"
    return "<br>".join(
        f"`{json.dumps(value)}`: {meaning}" for value, meaning in describe_value.items()
    )


def _get_default(field: Field[Any]) -> Any:
    """Return the default as a JSON value."""
    default = getattr(PROFILES["generic"], field.name)
    return sorted(default) if isinstance(default, frozenset | tuple) else default


def _make_sample(field: Field[Any]) -> Any:
    """Return a value with an ellipsis in place of the user's text."""
    default = getattr(PROFILES["generic"], field.name)
    if field.name == "models":
        return {"…": {}}
    if isinstance(default, frozenset | tuple):
        return type(default)(["…"])
    return {"…": "…"} if isinstance(default, Mapping) else "…"


def _iterate_sections() -> Iterator[str]:
    for name, profile in PROFILES.items():
        if name not in _HIDDEN_PROFILES:
            changes = "\n".join(f"- {change}" for change in _list_changes(profile))
            yield f"## `{name}`"
            yield f"Recognised by {_describe_recognition(profile)}."
            yield changes or "- the same as for `generic`"


def _describe_recognition(profile: Profile) -> str:
    if profile.name == "generic":
        return "no address: it applies to every upstream that no other profile matches"
    return format_code(profile.hosts) or f"`<NAME>_PROVIDER={profile.name}` only"


def _list_changes(profile: Profile) -> list[str]:
    if profile.name == "generic":
        return [describe(field, getattr(profile, field)) for field in _ACTIVE_DEFAULTS]
    generic = PROFILES["generic"]
    return [
        describe(field.name, value)
        for field in fields(Profile)
        if field.name in PROFILE_FIELDS
        and (value := getattr(profile, field.name)) != getattr(generic, field.name)
    ]


def describe(field: str, value: Any) -> str:
    """Return the meaning of a profile field with this value, in a few words."""
    words = FIELD_DESCRIPTIONS[field]
    return words(value) if callable(words) else words[value]


def find_usual_drops() -> frozenset[str]:
    """Return the parameters that more than half of the providers do not accept."""
    counted = Counter(name for profile in PROFILES.values() for name in profile.drop)
    return frozenset(name for name, times in counted.items() if times > len(PROFILES) / 2)


def _describe_drop(names: frozenset[str]) -> str:
    has_usual = find_usual_drops() <= names
    rest = format_code(sorted(names - find_usual_drops() if has_usual else names))
    parts = (["the usual parameters"] if has_usual else []) + ([rest] if rest else [])
    return f"drops {' and '.join(parts)}" if parts else "drops no parameters"


def _describe_hosted_tools(names: frozenset[str]) -> str:
    if EVERY_TOOL in names:
        return "Responses: the upstream runs hosted tools itself"
    own = format_code(sorted(names)) or "no hosted tools"
    return f"Responses: the upstream runs {own} itself"


def _describe_length(limit: int) -> str:
    return f"at most {limit} characters" if limit else "any length"


def _describe_efforts(efforts: ProfileChanges) -> str:
    by_word: dict[str | None, list[str]] = {}
    for effort, word in efforts.items():
        by_word.setdefault(word, []).append(effort)
    mapped = (
        f"{format_code(names)} as `{word}`" if word else f"{format_code(names)} not at all"
        for word, names in by_word.items()
    )
    return f"sends the reasoning efforts {', '.join(mapped)}"


def _describe_models(models: ProfileChanges) -> str:
    """Describe the changes for patterns of model names. Patterns with equal changes are joined."""
    by_words: dict[str, list[str]] = {}
    for pattern, changes in models.items():
        words = ", ".join(describe(field, value) for field, value in changes.items())
        by_words.setdefault(words, []).append(pattern)
    return "; ".join(
        f"for models {format_code(names)}: {words or 'other quirks'}"
        for words, names in by_words.items()
    )


Words = dict[Any, str] | Callable[[Any], str]

FIELD_DESCRIPTIONS: dict[str, Words] = {
    "developer_role": {
        "system": "developer messages become system messages",
        "developer": "the developer role is kept",
        "user": "developer and system messages become user messages",
    },
    "system_at_head": {
        True: "all system messages are joined into one at the beginning",
        False: "system messages keep their places",
    },
    "merge_neighbours": {
        True: "consecutive messages of one role are merged",
        False: "consecutive messages of one role are kept",
    },
    "join_text_parts": {
        True: "text parts are joined into one string",
        False: "text parts are kept",
    },
    "null_content": {True: "`content` may be null", False: "`content` is never null"},
    "extra_message_fields": {
        True: "additional message fields are kept",
        False: "only OpenAI's own message fields are sent",
    },
    "signature_fields": lambda names: (
        f"signatures are sent back in {format_code(sorted(names)) or 'no field'}"
    ),
    "max_tokens": lambda name: (
        "the token limit keeps its name"
        if name == "as_is"
        else f"the token limit is sent as `{name}`"
    ),
    "stream_options": {True: "`stream_options` is sent", False: "`stream_options` is not sent"},
    "always_stream": {
        True: "answers are always requested as streams",
        False: "answers are requested as streams only if the client streams",
    },
    "response_format": {
        "json_schema": "JSON schemas are sent",
        "json_object": "a JSON schema becomes `json_object`; the forwarder checks the schema",
        "none": "`response_format` is not sent; the forwarder checks the JSON",
        "schema_only": "`json_object` becomes a JSON schema",
    },
    "drop": _describe_drop,
    "add": lambda added: f"adds {format_code(sorted(added))}",
    "chat_takes": lambda names: f"also accepts {format_code(sorted(names))}",
    "forced_tool_choice": {
        "ok": "a forced tool choice is sent",
        "auto": "a forced tool choice becomes `auto`",
        "any": "the tool choice `required` is sent as `any`",
        "disable_thinking": "a forced tool choice disables thinking",
    },
    "parallel_tool_calls": {
        True: "`parallel_tool_calls` is sent",
        False: "`parallel_tool_calls` is not sent",
    },
    "custom_tools": {
        True: "custom tools are sent",
        False: "custom tools become functions",
    },
    "allowed_tools": {
        True: "`allowed_tools` is sent",
        False: "with `allowed_tools` only those tools are sent",
    },
    "strict_tools": {
        True: "`strict` of tools is sent",
        False: "`strict` of tools is not sent",
    },
    "schema_dialect": lambda name: f"schemas are rewritten for the dialect `{name}`",
    "tool_name_limit": lambda limit: f"tool names of {_describe_length(limit)}",
    "call_id_limit": lambda limit: f"call ids of {_describe_length(limit)}",
    "call_id_exact": {
        True: "call ids of exactly that length",
        False: "call ids may be shorter",
    },
    "reasons": {
        "auto": "the model's name tells whether it reasons",
        True: "all models are treated as reasoning models",
        False: "no model is treated as a reasoning model",
    },
    "reasoning_field": lambda name: (
        f"earlier reasoning is sent back in `{name}`"
        if name
        else "earlier reasoning is not sent back"
    ),
    "reasoning_replay": {
        "all": "all earlier reasoning is sent back",
        "tool_turns": "only the reasoning of messages with tool calls is sent back",
        "none": "no earlier reasoning is sent back",
        "as_is": "earlier reasoning is sent back as the client sent it",
    },
    "reasoning_placeholder": lambda text: "missing reasoning is replaced by a placeholder",
    "signature_placeholder": lambda text: "missing signatures are replaced by a placeholder",
    "thinking_switch": {
        "effort": "thinking is controlled by `reasoning_effort`",
        "enable_thinking": "thinking is controlled by `enable_thinking`",
        "thinking": "thinking is controlled by `thinking.type`",
        "thinking_effort": "thinking is controlled by `thinking.type` and `reasoning_effort`",
        "reasoning": "thinking is controlled by `reasoning.effort`",
        "template": "thinking is controlled by `chat_template_kwargs`",
    },
    "effort_map": _describe_efforts,
    "image_url": {
        "url": "images are sent as URLs",
        "base64": "images are sent as data",
        "none": "images are not sent",
    },
    "tool_image": {
        "user": "images in tool results are moved into a user message",
        "inline": "images in tool results are kept",
        "drop": "images in tool results are dropped",
    },
    "file": {
        "inline": "files are sent as data",
        "upload": "files are uploaded first",
        "none": "files are not sent",
    },
    "web_search_options": {
        True: "a web search tool becomes `web_search_options`",
        False: "web search tools are dropped",
    },
    "compaction": {
        True: "the upstream compacts conversations itself",
        False: "the forwarder compacts conversations",
    },
    "responses_takes": lambda names: f"Responses also accepts {format_code(sorted(names))}",
    "key_header": lambda name: f"the key is sent in `{name}`",
    "chat_path": lambda path: f"Chat Completions at `{path}`",
    "responses_path": lambda path: f"Responses at `{path}`",
    "responses_developer": lambda role: f"Responses: the developer role is sent as `{role}`",
    "responses_system": lambda role: f"Responses: the system role is sent as `{role}`",
    "responses_add": lambda added: f"Responses: adds {format_code(sorted(added))}",
    "server_calls": lambda ids: (
        f"calls whose ids begin with {format_code(ids)} are answered by the provider"
    ),
    "keep_reasoning_text": {
        True: "Responses: the text of reasoning items is sent back",
        False: "Responses: the text of reasoning items is not sent back",
    },
    "reasoning_items": {
        "keep": "Responses: reasoning items are sent back",
        "drop": "Responses: reasoning items are not sent back",
    },
    "keeps_responses": {
        True: "`previous_response_id` is sent to its Responses API",
        False: "earlier turns are sent again",
    },
    "hosted_tools": _describe_hosted_tools,
    "codex_models": {
        True: "has the models that Codex requests by itself",
        False: "another model replaces those that Codex requests by itself",
    },
    "repair_responses": {
        True: "its Responses streams lack fields, which the forwarder adds",
        False: "Responses streams are not repaired",
    },
    "learn": {
        True: "the forwarder learns from refusals",
        False: "the forwarder does not learn from refusals",
    },
    "models": _describe_models,
}
"""Field of a profile -> the meaning of its values."""
