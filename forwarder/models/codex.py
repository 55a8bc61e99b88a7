"""Entries of Codex's model catalog.

Codex requests ``/models`` with its version and reads ``models`` in the response, not ``data``. For
a model without an entry Codex prints a warning and guesses its properties. Sources of an entry, in
order of precedence: the operator's settings, the upstream's model list, the provider profile,
conservative defaults.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any

from forwarder.config.settings import Settings
from forwarder.context.request_context import Route
from forwarder.core.types import Json
from forwarder.protocols.responses import RESPONSES
from forwarder.providers.profile import Profile

CODEX_PROTOCOL = RESPONSES.name
"""The protocol that Codex speaks, and its models at OpenAI."""

DEFAULT_CONTEXT_WINDOW = 128_000
"""Tokens, for a model of unknown size. Codex compacts slightly below this."""

_CONTEXT_WINDOW_FIELDS = ("context_window", "max_model_len", "context_length", "max_context_length")
"""Fields for the context window in the model lists of various providers."""

_EFFORT_DESCRIPTIONS = {
    "low": "Answers quickly, thinks little",
    "medium": "Between speed and depth",
    "high": "Thinks longest",
}

BASE_INSTRUCTIONS = """\
You are a coding agent. You work in a terminal, in a folder of the user.

- Continue until the task is done. Read code before you change it, use your tools instead of \
describing what you would do, and verify the result if you can, for example by building the \
project or running its tests.
- Make only the requested change, in the style of the surrounding code, and keep it as small as \
possible. Fix the cause of a problem, not its symptoms. Do not change unrelated code.
- Search with rg if it is installed. Edit files with apply_patch if you have it. A patch begins \
with "*** Begin Patch" and ends with "*** End Patch". Each file in it begins with \
"*** Add File: path", "*** Update File: path" or "*** Delete File: path".
- The folder may contain changes made by others. Never revert changes that you did not make, and \
commit, push or delete only if you are asked to.
- The instructions in an AGENTS.md file apply to its folder and all subfolders. If such files \
contradict each other, the one in the deepest folder takes precedence. Instructions of the user \
take precedence over all of them.
- For a long task, keep a short plan with update_plan if you have it, with exactly one step in \
progress.
- Before a group of commands, say in one sentence what you are about to do.
- At the end, say briefly what you changed and where, what you could not verify, and what remains. \
Refer to files by their paths, and do not repeat their contents.
"""
"""The system prompt. Codex rejects the whole catalog if an entry has none."""

_CONSTANT_FIELDS: Mapping[str, Any] = {
    "description": None,
    "base_instructions": BASE_INSTRUCTIONS,
    "default_reasoning_level": None,  # the model's own default
    "shell_type": "shell_command",
    "visibility": "list",
    "supported_in_api": True,
    "availability_nux": None,
    "upgrade": None,
    "supports_reasoning_summaries": True,  # otherwise Codex would not request any reasoning
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
    "supports_search_tool": True,  # Codex defers more than 100 MCP tools behind a tool search
}

_CODE_MODE_MODELS = ("gpt-6*", "gpt-5.6*")
"""OpenAI models that use tools by writing programs, according to Codex's built-in catalog."""


def digest_settings(settings: Settings) -> str:
    """Return a digest of all settings that affect catalog entries."""
    fields = ("name", "base_url", "provider", "globs", "aliases", "context_window")
    facts = [
        # Sorted: the order of a set differs between processes.
        [sorted(upstream.apis), *(getattr(upstream, n) for n in (*fields, "model_info", "quirks"))]
        for upstream in settings.upstreams
    ]
    names = (settings.groups, settings.default_model, settings.codex_helper_model)
    inputs = repr((facts, names, _CONSTANT_FIELDS))
    return hashlib.sha256(inputs.encode()).hexdigest()


def make_entry(
    model: Json, route: Route, profile: Profile, rank: int, reviewer: str | None = None
) -> Json:
    """Make the catalog entry of a model object.

    ``route`` is the route of a Responses client to the model. ``rank`` is its position in the
    list, from 0. ``reviewer`` is the qualified name of Codex's reviewer model at the same
    upstream, or ``None`` if the reviewer's plain name resolves to it.
    """
    upstream, name = route.upstream, route.model
    has_reviewer = profile.codex_models and not upstream.registered
    info = select_model_info(upstream.model_info, (name, model["id"]))
    window = info.get("context_window") or upstream.context_window or read_context_window(model)
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
        # Without an override Codex sends every command to an OpenAI model for approval.
        "auto_review_model_override": reviewer if has_reviewer else model["id"],
        **info,
    }


def choose_tool_mode(route: Route, profile: Profile) -> str | None:
    """Return how Codex offers its tools; ``None`` means one by one, which every model supports."""
    native = route.protocol == CODEX_PROTOCOL and profile.codex_models
    writes_programs = any(fnmatchcase(route.model, pattern) for pattern in _CODE_MODE_MODELS)
    return "code_mode_only" if native and writes_programs else None


def select_model_info(info: Mapping[str, Mapping[str, Any]], names: tuple[str, ...]) -> Json:
    """Merge the operator's fields for a model; later matching patterns override earlier ones."""
    merged: Json = {}
    for pattern, fields in info.items():
        if any(fnmatchcase(name, pattern) for name in names):
            merged |= fields
    return merged


def read_context_window(model: Json) -> int | None:
    sizes = (model.get(name) for name in _CONTEXT_WINDOW_FIELDS)
    return next((size for size in sizes if type(size) is int and size > 0), None)


def list_effort_levels(profile: Profile) -> Iterator[Json]:
    for effort, description in _EFFORT_DESCRIPTIONS.items():
        if profile.effort_map.get(effort, effort) is not None:
            yield {"effort": effort, "description": description}


def list_input_modalities(model: Json, profile: Profile) -> list[str]:
    """Return the input modalities; Codex omits images for a model without "image"."""
    listed = model.get("architecture")
    listed = listed.get("input_modalities") if isinstance(listed, dict) else None
    accepts_images = profile.image_url != "none" and (
        not isinstance(listed, list) or "image" in listed
    )
    return ["text", "image"] if accepts_images else ["text"]
