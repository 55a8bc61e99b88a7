"""Provider profiles: differences from OpenAI's documented APIs, and functions that apply them.

Translators write requests as OpenAI documents them.  `profile.py` defines the profile fields,
`builtin.py` the known providers, and `select.py` selects the profile for an upstream and a model.
`adapt_request` changes a request to fit the provider, `adapt_response` repairs its answer.
`learn.py` infers quirks from refusals, and `probe.py` holds the requests that find all quirks of
an unknown provider.
"""

from forwarder.providers.adapt_request import adapt_request
from forwarder.providers.adapt_response import adapt_response
from forwarder.providers.builtin import PROFILES
from forwarder.providers.profile import PROFILE_FIELDS, Profile, validate_quirks
from forwarder.providers.reasoning_models import is_reasoning_model
from forwarder.providers.select import PASSTHROUGH_PROFILE, apply_model_overrides, select_profile

__all__ = [
    "PASSTHROUGH_PROFILE",
    "PROFILES",
    "PROFILE_FIELDS",
    "Profile",
    "adapt_request",
    "adapt_response",
    "apply_model_overrides",
    "is_reasoning_model",
    "select_profile",
    "validate_quirks",
]
