"""Provider quirks as data, and the pure functions that apply them at the upstream's edge.

A translator writes what OpenAI documents; a profile says where a provider differs.  `knobs.py`
says what can differ, `data.py` who differs how, `choose.py` which profile holds for an upstream
and a model.  `mend` gives a request as its provider takes it, `mended_answer` the answer as the
protocol says; `learned.py` makes knob settings out of refusals that no profile foresaw, and
`probing.py` holds the questions that find them all at once.
"""

from forwarder.profiles.answers import mended_answer
from forwarder.profiles.choose import AS_IS, for_model, profile_for
from forwarder.profiles.data import PROFILES
from forwarder.profiles.knobs import KNOBS, Profile, checked
from forwarder.profiles.mends import mend
from forwarder.profiles.reasoning_models import is_reasoning_model

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
