"""Provider quirks as data, and the pure functions that apply them at the upstream's edge.

A translator writes what OpenAI documents; a profile says where a provider differs.  `knobs.py`
says what can differ, `data.py` who differs how, `choose.py` which profile holds for an upstream
and a model.  `mend` gives a request as its provider takes it, `mended_answer` the answer as the
protocol says; `learned.py` makes knob settings out of refusals that no profile foresaw, and
`probing.py` holds the questions that find them all at once.
"""

from forwarder.providers.adapt_request import mend
from forwarder.providers.adapt_response import mended_answer
from forwarder.providers.builtin import PROFILES
from forwarder.providers.profile import KNOBS, Profile, checked
from forwarder.providers.reasoning_models import is_reasoning_model
from forwarder.providers.select import AS_IS, for_model, profile_for

__all__ = [
    "AS_IS",
    "KNOBS",
    "PROFILES",
    "Profile",
    "checked",
    "for_model",
    "is_reasoning_model",
    "mend",
    "mended_answer",
    "profile_for",
]
