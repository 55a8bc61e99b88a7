"""Provider profiles: differences from OpenAI's documented APIs, and functions that apply them.

Translators write requests as OpenAI documents them.  `profile.py` defines the profile fields and
`builtin.py` the known providers.  This module selects the profile for an upstream, by provider or
URL, and applies its overrides for a model.  `adapt.py` changes a request to fit the provider and
repairs the answer.  `learn.py` infers quirks from refusals, and `quirk_probe_requests.py` holds the
requests that find all quirks of an unknown provider.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any
from urllib.parse import urlsplit

from forwarder.providers.adapt import adapt_request, adapt_response
from forwarder.providers.builtin import PROFILES
from forwarder.providers.profile import PROFILE_FIELDS, Profile, ProfileChanges, validate_quirks
from forwarder.providers.reasoning_models import is_reasoning_model

__all__ = [
    "PASSTHROUGH_PROFILE",
    "PROFILES",
    "PROFILE_FIELDS",
    "Profile",
    "adapt_request",
    "adapt_response",
    "apply_model_overrides",
    "convert_types",
    "is_reasoning_model",
    "select_profile",
    "validate_quirks",
]


PASSTHROUGH_PROFILE = Profile(
    "generic",
    developer_role="developer",
    join_text_parts=False,
    max_tokens="as_is",
    custom_tools=True,
    allowed_tools=True,
    tool_name_limit=0,
    call_id_limit=0,
    reasoning_replay="as_is",
    tool_image="inline",
)
"""Adapts nothing: for passthrough requests to an unknown provider."""


def select_profile(provider: str, base_url: str, quirks: ProfileChanges) -> Profile:
    """Return the provider's profile, by name or else by URL, with the operator's overrides.

    An operator's override for all models replaces the profile's own overrides for single models.
    """
    profile = PROFILES[provider] if provider else infer_from_url(base_url)
    known = {
        glob: {k: v for k, v in changes.items() if k not in quirks}
        for glob, changes in profile.models.items()
    }
    own = {glob: convert_types(changes) for glob, changes in quirks.get("models", {}).items()}
    return replace(profile, **{**convert_types(quirks), "models": {**known, **own}})


def apply_model_overrides(profile: Profile, model: str) -> Profile:
    """Return the profile with its overrides for a model; names match case-insensitively."""
    changes: dict[str, Any] = {}
    for glob, special in profile.models.items():
        if fnmatchcase(model.lower(), glob.lower()):
            changes |= special
    return replace(profile, **changes) if changes else profile


def convert_types(changes: ProfileChanges) -> ProfileChanges:
    return {k: _FIELD_TYPES[k](v) if k in _FIELD_TYPES else v for k, v in changes.items()}


_FIELD_TYPES: dict[str, Callable[[Any], Any]] = {
    "drop": frozenset,
    "hosted_tools": frozenset,
    "chat_takes": frozenset,
    "responses_takes": frozenset,
    "server_calls": tuple,
}
"""Profile field -> the type of its value if settings hold a list instead."""


def infer_from_url(base_url: str) -> Profile:
    host = urlsplit(base_url).netloc.lower()
    for profile in PROFILES.values():
        if any(is_host_of(host, part) for part in profile.hosts):
            return profile
    return PROFILES["generic"]


def is_host_of(host: str, part: str) -> bool:
    """Return whether ``host`` has this part of a provider's host name, or this ``:port``."""
    return host.endswith(part) if part.startswith(":") else part in host
