"""A scripted upstream for tests: a real HTTP server that speaks both protocols strictly.

It imports nothing of the package under test.
"""

from . import changes, faults
from .answers import SEALED, Answer, Call, Usage
from .scripted import Recorded, ScriptedUpstream
from .strict import Violation, check_chat, check_responses
from .wire import Cut, Framing, Pause, Raw, Stall, Stream

__all__ = [
    "SEALED",
    "Answer",
    "Call",
    "Cut",
    "Framing",
    "Pause",
    "Raw",
    "Recorded",
    "ScriptedUpstream",
    "Stall",
    "Stream",
    "Usage",
    "Violation",
    "changes",
    "check_chat",
    "check_responses",
    "faults",
]
