"""Every profile is in the table, and every difference has its words."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from forwarder.docgen.providers import (
    FIELD_DESCRIPTIONS,
    describe_value,
    find_usual_drops,
    render_providers,
)
from forwarder.providers import PROFILES, Profile
from forwarder.providers.profile import PROFILE_FIELDS


def row(provider: str) -> str:
    [line] = [x for x in render_providers().splitlines() if x.startswith(f"| `{provider}` |")]
    return line


def test_every_knob_has_words() -> None:
    assert FIELD_DESCRIPTIONS.keys() == PROFILE_FIELDS


@pytest.mark.parametrize("knob", sorted(PROFILE_FIELDS))
def test_every_value_of_a_choice_has_words_of_its_own(knob: str) -> None:
    told = FIELD_DESCRIPTIONS[knob]
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
        if knob.name in PROFILE_FIELDS
        and getattr(profile, knob.name) != getattr(Profile("x"), knob.name)
    ]
    assert differing
    for knob in differing:
        assert describe_value(knob, getattr(profile, knob)) in line
    assert all(f"`{host}`" in line for host in profile.hosts or (f"<NAME>_PROVIDER={name}",))


def test_every_model_of_a_row_is_named() -> None:
    for name, profile in PROFILES.items():
        assert all(f"`{pattern}`" in row(name) for pattern in profile.models)


def test_the_careful_profile_tells_what_it_does_and_the_demo_is_nobody_s() -> None:
    assert "developer messages become system messages" in row("generic")
    assert "`demo`" not in render_providers()


def test_what_nearly_all_leave_out_is_told_once() -> None:
    assert "metadata" in find_usual_drops()
    assert "seed" not in find_usual_drops()
    assert render_providers().count("`verbosity`") == 1
    assert describe_value("drop", frozenset({"seed"})) == "leaves out `seed`"
    assert describe_value("drop", find_usual_drops()) == "leaves out the usual parameters"
    assert describe_value("drop", frozenset()) == "leaves out nothing more"


def test_models_and_efforts_that_fare_alike_are_told_together() -> None:
    assert describe_value("effort_map", {"a": "low", "b": None, "c": "low"}) == (
        "of the efforts `a`, `c` as `low` and no `b`"
    )
    models = {
        "x*": {"file": "none"},
        "y*": {"file": "none", "image_url": "none"},
        "z": {"file": "none"},
    }
    assert (
        describe_value("models", models)
        == "for `x*`, `z` no files; for `y*` no files and no images"
    )
