"""What Codex wants to know of a model before it uses it, as an entry of its own catalog.

Codex asks for ``/models`` with its version and reads ``models`` in the answer, not ``data``.  For
a model that has no entry it warns and guesses.  An entry is put together from what the operator
says, what the upstream's list says, what its profile says, and careful defaults, in this order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any

from forwarder.config.settings import Settings
from forwarder.context.route import Route
from forwarder.core.types import Json
from forwarder.providers.profile import Profile

DEFAULT_CONTEXT_WINDOW = 128_000
"""Tokens, where nobody says it; Codex compacts a little before."""

_CONTEXT_WINDOW_FIELDS = ("context_window", "max_model_len", "context_length", "max_context_length")
"""Where providers' lists have a model's context window."""

_EFFORT_DESCRIPTIONS = {
    "low": "Answers quickly, thinks little",
    "medium": "Between speed and depth",
    "high": "Thinks longest",
}

BASE_INSTRUCTIONS = """\
You are a coding agent in a terminal, working for a person in a folder of theirs.

- Work until the task is done: read before you change anything, act with your tools instead of \
telling what you would do, and check what you did (build it, run its tests) where that is possible.
- Make the change that was asked for, in the style of the code around it, as small as it can be. \
Mend the cause, not the symptom. Leave alone what has nothing to do with it.
- Search with rg where it is there. Change files with apply_patch where you have it: the patch \
begins with "*** Begin Patch", ends with "*** End Patch", and each file in it begins with \
"*** Add File: path", "*** Update File: path" or "*** Delete File: path".
- The folder may hold work of others: never undo what you did not do, and commit, push or delete \
only when asked to.
- An AGENTS.md binds you for the folder it lies in; one that lies deeper goes before it, and what \
the person says goes before all.
- For long tasks keep a short plan with update_plan where you have it, with one step in progress.
- Before a group of commands say in a sentence what you are about to do.
- At the end say briefly what you did and where, what you could not check, and what is left. Name \
files by their paths; do not repeat what they hold.
"""
"""Codex insists that an entry brings the prompt; without one it would take none of the list."""

_CONSTANT_FIELDS: Mapping[str, Any] = {
    "description": None,
    "base_instructions": BASE_INSTRUCTIONS,
    "default_reasoning_level": None,  # what the model does unless asked
    "shell_type": "shell_command",
    "visibility": "list",
    "supported_in_api": True,
    "availability_nux": None,
    "upgrade": None,
    "supports_reasoning_summaries": True,  # or Codex would ask for no reasoning to carry
    "default_reasoning_summary": "auto",
    "support_verbosity": False,
    "default_verbosity": None,
    "apply_patch_tool_type": "freeform",
    "web_search_tool_type": "text",
    "truncation_policy": {"mode": "tokens", "limit": 10_000},
    "supports_parallel_tool_calls": True,
    "supports_image_detail_original": False,
    "auto_compact_token_limit": None,
    "effective_context_window_percent": 95,
    "experimental_supported_tools": [],
    "supports_search_tool": True,  # more than a hundred tools of MCP servers wait behind a search
}

_CODE_MODE_MODELS = ("gpt-6*", "gpt-5.6*")
"""Models of OpenAI that Codex's own catalog has use their tools by writing programs."""


def digest_settings(settings: Settings) -> str:
    """Another string when the settings from which entries are made have changed."""
    named = ("name", "base_url", "provider", "globs", "aliases", "context_window")
    facts = [
        # Sorted: the order of a set differs between processes.
        [sorted(upstream.apis), *(getattr(upstream, n) for n in (*named, "model_info", "quirks"))]
        for upstream in settings.upstreams
    ]
    made = repr((facts, settings.default_model, settings.codex_helper_model, _CONSTANT_FIELDS))
    return hashlib.sha256(made.encode()).hexdigest()


def make_entry(
    model: Json, route: Route, profile: Profile, rank: int, reviewer: str | None = None
) -> Json:
    """The entry of a model object; ``route`` is that of a Responses client that asks for it.

    ``rank`` is its place in the list, from 0.  ``reviewer`` is the name under which Codex's own
    reviewer is reached at the model's upstream, if its plain name leads elsewhere.
    """
    upstream, name = route.upstream, route.model
    has_reviewer = profile.codex_models and not upstream.registered
    said = select_model_info(upstream.model_info, (name, model["id"]))
    window = said.get("context_window") or upstream.context_window or read_context_window(model)
    return {
        "slug": model["id"],
        "display_name": model["id"],
        "priority": rank,
        **_CONSTANT_FIELDS,
        "supported_reasoning_levels": list(list_effort_levels(profile)),
        "input_modalities": list_input_modalities(model, profile),
        "context_window": window or DEFAULT_CONTEXT_WINDOW,
        "max_context_window": window or DEFAULT_CONTEXT_WINDOW,
        "tool_mode": choose_tool_mode(route, profile),
        # Else Codex has every command approved by a model of OpenAI's.
        "auto_review_model_override": reviewer if has_reviewer else model["id"],
        **said,
    }


def choose_tool_mode(route: Route, profile: Profile) -> str | None:
    """How Codex offers its tools; None is one by one, which every model understands."""
    native = route.protocol == "responses" and profile.codex_models
    return "code_mode_only" if native and _matches(route.model, _CODE_MODE_MODELS) else None


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def select_model_info(info: Mapping[str, Mapping[str, Any]], names: tuple[str, ...]) -> Json:
    """What the operator says of a model; of several patterns the last counts."""
    said: Json = {}
    for pattern, fields in info.items():
        if any(fnmatchcase(name, pattern) for name in names):
            said |= fields
    return said


def read_context_window(model: Json) -> int | None:
    found = (model.get(name) for name in _CONTEXT_WINDOW_FIELDS)
    return next((size for size in found if type(size) is int and size > 0), None)


def list_effort_levels(profile: Profile) -> Iterator[Json]:
    for effort, description in _EFFORT_DESCRIPTIONS.items():
        if profile.effort_map.get(effort, effort) is not None:
            yield {"effort": effort, "description": description}


def list_input_modalities(model: Json, profile: Profile) -> list[str]:
    """Codex leaves out images that a model does not take."""
    listed = model.get("architecture")
    listed = listed.get("input_modalities") if isinstance(listed, dict) else None
    takes = profile.image_url != "none" and (not isinstance(listed, list) or "image" in listed)
    return ["text", "image"] if takes else ["text"]
