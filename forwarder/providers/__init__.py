"""Provider profiles: differences from OpenAI's documented APIs, and functions that apply them.

Clients and translators write requests as OpenAI documents them. `upstream/client.py` adapts each
request after all stages of the pipeline, and repairs the answer before them. Not here: forms of an
answer that are recognized without a profile (`protocols`), the classification of errors (`core`),
media that are fetched or uploaded (`middleware/media`), and the sending of probes
(`upstream/quirk_probe.py`).

A `Profile` (`profile.py`) is a frozen set of fields; each has a default that suits most servers,
and a check of its values. The providers are in `builtin.py`. A *quirk* is a field with another
value, whatever its source. The profile of a request is made in three steps:

1. `select_profile`, once for each upstream: the profile of the provider that the settings name or
   that the base URL shows, changed by the quirks of the settings. `config` checks these with
   `validate_quirks`.
2. `apply_model_overrides` adds the changes in ``models`` that match the upstream's name of the
   model.
3. `LearnedQuirks.apply_to` (`learned_cache.py`) adds the quirks that refusals of this upstream and
   model have taught.

`Upstream.get_profile` joins steps 2 and 3. An `Attempt` of the pipeline calls it too, because
stages read fields: hosted tools, media, extra parameters, stored responses. `connection.py` of
`upstream` reads the paths and the header of the key, from the profile of step 1. A Chat client's
own body for an unknown provider gets `PASSTHROUGH_PROFILE` and the learned quirks.

A request and its answer:

1. `adapt_request` (`adapt.py`) runs the steps of the upstream's protocol over a copy of the body.
   The order in `_ADAPTATION_STEPS` matters: `adapt_tools` before `adapt_forced_choice`, because the
   mode of ``allowed_tools`` becomes the choice; this before `apply_thinking_switch`, because it may
   disable thinking; `adapt_schemas` before `adapt_response_format`, because the schema may become
   an instruction; this before `adapt_messages`, which gives the instruction its role; `fit_names`
   last.
2. If the provider refuses the request, `infer_quirk` (`learn.py`) reads the adapted body and the
   message. `error_parsing.py` finds the kind of complaint or the names of parameters, and a rule
   makes profile changes of it. `upstream/client.py` adapts the original body again and sends it
   once more. If that helped, it remembers the changes, unless they concern this request only.
3. `adapt_response` restores shortened names of tools (Chat), or adds the missing parts of events if
   the profile has ``repair_responses`` (`responses_repair.py`).

Rules:

- Adaptation keeps nothing from one request to the next. Only `LearnedQuirks` does; it is in the
  memory of the process and forgets after ``MAX_AGE_SECONDS``. The endpoints of one upstream share
  it.
- A learned quirk must change the profile. So each retry differs from the request before it.
- Quirks are learned only from the statuses in ``REQUEST_ERROR_STATUSES``, and only if the profile
  allows it (``learn``). The first rule that changes the profile wins; the patterns of phrases come
  before the names of parameters.
- A body that a client passes through was not checked before. A step that finds a wrong type raises
  InvalidRequest.

To add

- a provider or a field: see `CONTRIBUTING.md`. `tests/docgen/test_providers.py` fails for a field
  without a description, `tests/providers/test_builtin.py` for an invalid profile, and for a
  name or host of two profiles. A field that ``forwarder probe`` should find needs an entry in
  `_PROBED_FIELDS` and a request in `PROBES` (`quirk_probe_requests.py`);
- a refusal that teaches a quirk: a pattern in `_COMPLAINT_PATTERNS` and the rule of its kind in
  `_RULES_BY_PHRASE`, or the parameter in `_RULES_BY_PARAMETER` (and in `_NESTED_PARAMETERS` if it
  is inside another one), or in `_RULES_BY_VALUE` if only one value is refused; and the message in
  `tests/providers/test_learn.py`;
- a dialect of JSON Schema: `DIALECTS` in `schemas.py` and the values of ``schema_dialect``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
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
    each.name: type(each.default)
    for each in fields(Profile)
    if isinstance(each.default, frozenset | tuple)
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
