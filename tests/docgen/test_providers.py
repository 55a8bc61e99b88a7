"""The page of providers lists every profile, with a description of every difference."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from forwarder.providers import PROFILES, Profile
from forwarder.providers.profile import PROFILE_FIELDS
from tests.helpers.check_cases import check_each
from tools.docgen.providers import (
    FIELD_DESCRIPTIONS,
    describe,
    find_usual_drops,
    render_providers,
    render_quirks,
)


def render_section(provider: str) -> str:
    return render_providers().partition(f"## `{provider}`\n")[2].partition("\n## ")[0]


def test_every_field_has_a_description() -> None:
    assert FIELD_DESCRIPTIONS.keys() == PROFILE_FIELDS


@check_each("field", sorted(PROFILE_FIELDS))
def test_every_value_of_a_choice_has_its_own_description(field: str) -> None:
    descriptions = FIELD_DESCRIPTIONS[field]
    accepted: Any = Profile.__dataclass_fields__[field].metadata["takes"]
    if isinstance(descriptions, dict):
        values = accepted.removeprefix("one of ").replace(" or ", ", ").split(", ")
        assert {str(described_value).lower() for described_value in descriptions} == set(values)
        assert len(set(descriptions.values())) == len(descriptions)


@check_each("name", [name for name in PROFILES if name not in ("generic", "demo")])
def test_section_has_every_difference(name: str) -> None:
    profile, text = PROFILES[name], render_section(name)

    changed_fields = [
        field.name
        for field in fields(Profile)
        if field.name in PROFILE_FIELDS
        and getattr(profile, field.name) != getattr(Profile("x"), field.name)
    ]
    assert changed_fields
    for field in changed_fields:
        assert f"- {describe(field, getattr(profile, field))}" in text
    assert all(f"`{host}`" in text for host in profile.hosts or (f"<NAME>_PROVIDER={name}",))


def test_quirks_table_has_every_field_with_its_default() -> None:
    cells = [line.strip("| ").split(" | ") for line in render_quirks().splitlines()[2:]]

    assert {row[0].strip("`") for row in cells} == PROFILE_FIELDS
    assert all(len(row) == 3 and row[1] for row in cells)
    by_name = {row[0].strip("`"): row[1:] for row in cells}
    assert by_name["tool_name_limit"] == [
        "a whole number from 0; tool names of at most … characters",
        "`64`",
    ]
    assert by_name["drop"] == ["an array of names; drops `…`", "`[]`"]
    assert by_name["file"][0].startswith('`"inline"`: files are sent as data<br>`"upload"`: ')
    assert by_name["key_header"][1] == "`null`"


def test_every_model_pattern_is_named() -> None:
    for name, profile in PROFILES.items():
        assert all(f"`{pattern}`" in render_section(name) for pattern in profile.models)


def test_generic_profile_has_its_changes_and_the_demo_has_no_section() -> None:
    assert "- developer messages become system messages" in render_section("generic")
    assert "`demo`" not in render_providers()


def test_usual_drops_are_listed_once() -> None:
    assert "metadata" in find_usual_drops()
    assert "seed" not in find_usual_drops()
    assert render_providers().count("`verbosity`") == 1
    assert describe("drop", frozenset({"seed"})) == "drops `seed`"
    assert describe("drop", find_usual_drops()) == "drops the usual parameters"
    assert describe("drop", frozenset()) == "drops no parameters"


def test_equal_models_and_efforts_are_joined() -> None:
    assert describe("effort_map", {"a": "low", "b": None, "c": "low"}) == (
        "sends the reasoning efforts `a`, `c` as `low`, `b` not at all"
    )
    models = {
        "x*": {"file": "none"},
        "y*": {"file": "none", "image_url": "none"},
        "z": {"file": "none"},
    }
    assert describe("models", models) == (
        "for models `x*`, `z`: files are not sent; "
        "for models `y*`: files are not sent, images are not sent"
    )
