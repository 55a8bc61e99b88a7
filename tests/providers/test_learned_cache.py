"""The cache of learned quirks."""

from __future__ import annotations

from forwarder.providers import PROFILES
from forwarder.providers.learned_cache import LearnedQuirks

GENERIC = PROFILES["generic"]


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_learned_quirk_expires_after_an_hour() -> None:
    clock = Clock()
    lessons = LearnedQuirks(clock)
    assert lessons.apply_to("m", GENERIC) is GENERIC
    lessons.remember("m", {"stream_options": False})
    assert not lessons.apply_to("m", GENERIC).stream_options
    assert lessons.apply_to("n", GENERIC) is GENERIC
    clock.now = 3599.0
    assert not lessons.apply_to("m", GENERIC).stream_options
    clock.now = 3601.0
    assert lessons.apply_to("m", GENERIC) is GENERIC
    assert lessons.describe() == {}


def test_learned_quirks_accumulate_and_are_described() -> None:
    lessons = LearnedQuirks(Clock())
    lessons.remember("m", {"drop": frozenset({"b"})})
    lessons.remember("m", {"drop": frozenset({"a", "b"}), "strict_tools": False})
    assert lessons.describe() == {
        "m": {"drop": ["a", "b"], "strict_tools": False, "seconds_left": 3600}
    }


def test_oldest_model_is_evicted() -> None:
    lessons = LearnedQuirks(Clock())
    for number in range(300):
        lessons.remember(f"m{number}", {"strict_tools": False})
    assert len(lessons.describe()) == 256
    assert lessons.apply_to("m0", GENERIC) is GENERIC
    assert not lessons.apply_to("m299", GENERIC).strict_tools
