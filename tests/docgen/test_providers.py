"""Every profile is in the table, and every difference has its words."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from forwarder.docgen.providers import WORDS, everyone, usual, words
from forwarder.providers import PROFILES, Profile
from forwarder.providers.profile import KNOBS


def row(provider: str) -> str:
    [line] = [x for x in everyone().splitlines() if x.startswith(f"| `{provider}` |")]
    return line


def test_every_knob_has_words() -> None:
    assert WORDS.keys() == KNOBS


@pytest.mark.parametrize("knob", sorted(KNOBS))
def test_every_value_of_a_choice_has_words_of_its_own(knob: str) -> None:
    told = WORDS[knob]
    takes: Any = Profile.__dataclass_fields__[knob].metadata["takes"]
    if isinstance(told, dict):
        shown = takes.removeprefix("one of ").replace(" or ", ", ").split(", ")
        assert {str(value).lower() for value in told} == set(shown)
        assert len(set(told.values())) == len(told)


@pytest.mark.parametrize("name", [name for name in PROFILES if name not in ("generic", "demo")])
def test_a_provider_s_row_tells_every_difference(name: str) -> None:
    profile, line = PROFILES[name], row(name)

    differing = [
        knob.name
        for knob in fields(Profile)
        if knob.name in KNOBS and getattr(profile, knob.name) != getattr(Profile("x"), knob.name)
    ]
    assert differing
    for knob in differing:
        assert words(knob, getattr(profile, knob)) in line
    assert all(f"`{host}`" in line for host in profile.hosts or (f"<NAME>_PROVIDER={name}",))


def test_every_model_of_a_row_is_named() -> None:
    for name, profile in PROFILES.items():
        assert all(f"`{pattern}`" in row(name) for pattern in profile.models)


def test_the_careful_profile_tells_what_it_does_and_the_demo_is_nobody_s() -> None:
    assert "developer messages become system messages" in row("generic")
    assert "`demo`" not in everyone()


def test_what_nearly_all_leave_out_is_told_once() -> None:
    assert "metadata" in usual()
    assert "seed" not in usual()
    assert everyone().count("`verbosity`") == 1
    assert words("drop", frozenset({"seed"})) == "leaves out `seed`"
    assert words("drop", usual()) == "leaves out the usual parameters"
    assert words("drop", frozenset()) == "leaves out nothing more"


def test_models_and_efforts_that_fare_alike_are_told_together() -> None:
    assert words("effort_map", {"a": "low", "b": None, "c": "low"}) == (
        "of the efforts `a`, `c` as `low` and no `b`"
    )
    models = {
        "x*": {"file": "none"},
        "y*": {"file": "none", "image_url": "none"},
        "z": {"file": "none"},
    }
    assert words("models", models) == "for `x*`, `z` no files; for `y*` no files and no images"
