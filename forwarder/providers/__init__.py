"""Provider quirks as data, and the pure functions that apply them at the upstream's edge.

A translator writes what OpenAI documents; a profile says where a provider differs.  `knobs.py`
says what can differ, `data.py` who differs how, `choose.py` which profile holds for an upstream
and a model.  `mend` gives a request as its provider takes it, `mended_answer` the answer as the
protocol says; `learned.py` makes knob settings out of refusals that no profile foresaw, and
`probing.py` holds the questions that find them all at once.
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
