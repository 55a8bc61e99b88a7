"""Small requests that each test whether a provider takes one feature of OpenAI's API.

They are sent with a profile that adapts nothing.  Refusals become learned quirks, which together
form the provider's profile.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from forwarder.core.types import Json
from forwarder.providers import PASSTHROUGH_PROFILE
from forwarder.providers.profile import PROFILE_FIELDS, Profile, ProfileChanges

MAX_REFUSALS = 6
"""After this many refusals, a probe is given up."""


def make_openai_profile(profile: Profile) -> Profile:
    """Return the profile of a provider that takes all probed features like OpenAI."""
    fields = {name: getattr(PASSTHROUGH_PROFILE, name) for name in _PROBED_FIELDS}
    return replace(profile, **fields, max_tokens="max_completion_tokens", models={}, learn=True)


def diff_profiles(probed: Profile, known: Profile) -> ProfileChanges:
    """Return the changes that turn the ``known`` profile into the ``probed`` one."""
    fields = {name: getattr(probed, name) for name in PROFILE_FIELDS - {"models", "learn"}}
    return {name: value for name, value in fields.items() if value != getattr(known, name)}


_PROBED_FIELDS = (
    "developer_role",
    "system_at_head",
    "merge_neighbours",
    "join_text_parts",
    "null_content",
    "always_stream",
    "stream_options",
    "response_format",
    "forced_tool_choice",
    "parallel_tool_calls",
    "strict_tools",
    "schema_dialect",
    "drop",
)
"""The profile fields that the probes test."""

_USER_MESSAGE: Json = {"role": "user", "content": "Say ok."}
_PARTS_MESSAGE: Json = {"role": "user", "content": [{"type": "text", "text": "Say ok."}]}
_FULL_SCHEMA: Json = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "properties": {"city": {"$ref": "#/$defs/city", "description": "A city."}},
    "required": ["city"],
    "additionalProperties": False,
    "$defs": {"city": {"anyOf": [{"type": "string"}, {"type": "null"}]}},
}
_TOOL_CALL: Json = {"id": "call00001", "type": "function"}
_TOOL_TURN: list[Json] = [
    _USER_MESSAGE,
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {**_TOOL_CALL, "function": {"name": "look", "arguments": '{"city":"Bern"}'}}
        ],
    },
    {"role": "tool", "tool_call_id": "call00001", "content": "ok"},
]


def make_tool(**more: Any) -> Json:
    return {"type": "function", "function": {"name": "look", "parameters": _FULL_SCHEMA, **more}}


_PLAIN_SCHEMA = {"type": "object", "properties": {}}

PROBES: dict[str, Json] = {
    "a token limit": {"max_completion_tokens": 16},
    "a whole answer": {"stream": False},
    "stream_options": {"stream_options": {"include_usage": True}},
    "the developer role": {
        "messages": [{"role": "developer", "content": "Be brief."}, _USER_MESSAGE]
    },
    "a later system message": {
        "messages": [_USER_MESSAGE, {"role": "system", "content": "Be brief."}]
    },
    "two user messages in a row": {"messages": [_USER_MESSAGE, _USER_MESSAGE]},
    "content in parts": {"messages": [_PARTS_MESSAGE]},
    "tools": {"tools": [make_tool(parameters=_PLAIN_SCHEMA)]},
    "JSON Schema in full": {"tools": [make_tool()]},
    "strict tools": {"tools": [make_tool(parameters=_PLAIN_SCHEMA, strict=False)]},
    "parallel_tool_calls": {
        "tools": [make_tool(parameters=_PLAIN_SCHEMA)],
        "parallel_tool_calls": True,
    },
    "calls without content": {
        "messages": _TOOL_TURN,
        "tools": [make_tool(parameters=_PLAIN_SCHEMA)],
    },
    "a forced tool choice": {
        "tools": [make_tool(parameters=_PLAIN_SCHEMA)],
        "tool_choice": "required",
    },
    "json_schema": {
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": {"type": "object", "properties": {}}},
        }
    },
    "reasoning_effort": {"reasoning_effort": "low"},
    "metadata": {"metadata": {"a": "b"}},
    "store": {"store": False},
    "service_tier": {"service_tier": "auto"},
    "prompt_cache_key": {"prompt_cache_key": "probe"},
    "safety_identifier": {"safety_identifier": "probe"},
    "user": {"user": "probe"},
    "verbosity": {"verbosity": "medium"},
    "temperature": {"temperature": 0.5, "top_p": 0.9},
    "penalties": {"presence_penalty": 0.1, "frequency_penalty": 0.1},
    "seed": {"seed": 1},
}
"""Feature -> its parameters in the probe request."""


def make_probe_request(feature: str, model: str) -> Json:
    """Return the request that tests a feature.  Answers are short to save tokens."""
    limit: Json = {"max_completion_tokens": 16}
    return {
        "model": model,
        "messages": [_USER_MESSAGE],
        "stream": True,
        **limit,
        **PROBES[feature],
    }
