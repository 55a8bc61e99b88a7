"""Remembering, and forgetting."""

from __future__ import annotations

from forwarder.providers import PROFILES
from forwarder.providers.learned_cache import Lessons

GENERIC = PROFILES["generic"]


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_lesson_holds_for_its_model_and_for_an_hour() -> None:
    clock = Clock()
    lessons = Lessons(clock)
    assert lessons.applied("m", GENERIC) is GENERIC
    lessons.keep("m", {"stream_options": False})
    assert not lessons.applied("m", GENERIC).stream_options
    assert lessons.applied("n", GENERIC) is GENERIC
    clock.now = 3599.0
    assert not lessons.applied("m", GENERIC).stream_options
    clock.now = 3601.0
    assert lessons.applied("m", GENERIC) is GENERIC
    assert lessons.shown() == {}


def test_lessons_add_up_and_can_be_shown() -> None:
    lessons = Lessons(Clock())
    lessons.keep("m", {"drop": frozenset({"b"})})
    lessons.keep("m", {"drop": frozenset({"a", "b"}), "strict_tools": False})
    assert lessons.shown() == {
        "m": {"drop": ["a", "b"], "strict_tools": False, "seconds_left": 3600}
    }


def test_the_oldest_lessons_make_room() -> None:
    lessons = Lessons(Clock())
    for number in range(300):
        lessons.keep(f"m{number}", {"strict_tools": False})
    assert len(lessons.shown()) == 256
    assert lessons.applied("m0", GENERIC) is GENERIC
    assert not lessons.applied("m299", GENERIC).strict_tools
