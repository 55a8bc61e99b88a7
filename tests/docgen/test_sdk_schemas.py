"""The schemas of the SDK's types that the OpenAPI document uses."""

from __future__ import annotations

from pathlib import Path

from tools.docgen.blocks import COMMAND, ROOT
from tools.docgen.sdk_schemas import (
    FILE,
    PREFIX,
    ROOTS,
    drop_noise,
    drop_unused,
    merge_equal,
    shorten_names,
    write_schemas,
)


def make_reference(name: str) -> dict[str, str]:
    return {"$ref": PREFIX + name}


def test_file_has_the_schemas_of_the_installed_sdk(tmp_path: Path) -> None:
    (tmp_path / FILE).parent.mkdir(parents=True)

    write_schemas(tmp_path)

    text = (ROOT / FILE).read_text(encoding="utf-8")
    assert (tmp_path / FILE).read_text(encoding="utf-8") == text, (
        f"bring {FILE} up to date by: {COMMAND}"
    )


def test_titles_and_null_defaults_are_dropped_but_properties_with_these_names_kept() -> None:
    schema = {
        "title": "A",
        "properties": {
            "title": {"title": "Title", "type": "string"},
            "default": {"default": None, "title": "Default"},
            "n": {"default": 1},
        },
    }

    assert drop_noise(schema) == {
        "properties": {"title": {"type": "string"}, "default": {}, "n": {"default": 1}}
    }


def test_alternatives_are_sorted() -> None:
    null, number, text = {"type": "null"}, {"type": "number"}, {"type": "string"}

    assert drop_noise({"anyOf": [null, text, number]}) == {"anyOf": [number, text, null]}


def test_equal_schemas_are_merged_recursively() -> None:
    schemas = {
        "Long": {"properties": {"inner": make_reference("InnerLong")}},
        "A": {"properties": {"inner": make_reference("Inner")}},
        "Inner": {"type": "string"},
        "InnerLong": {"type": "string"},
    }

    merged = merge_equal({**{name: {"const": name} for name in ROOTS}, **schemas})

    assert merged["A"] == {"properties": {"inner": make_reference("Inner")}}
    assert merged.keys() == {*ROOTS, "A", "Inner"}


def test_names_include_the_module_only_if_ambiguous() -> None:
    names = [
        "Plain",
        "openai__types__chat__chat_completion__Choice",
        "openai__types__chat__chat_completion_chunk__Choice",
        "openai__types__shared__reasoning__Reasoning",
        "openai__types__shared_params__reasoning__Reasoning",
    ]

    assert list(shorten_names({name: {"const": name} for name in names})) == [
        "Plain",
        "ChatCompletionChoice",
        "ChatCompletionChunkChoice",
        "Reasoning",
        "ReasoningParam",
    ]


def test_unused_schemas_are_dropped() -> None:
    root = next(iter(ROOTS))
    schemas = {
        **{name: {} for name in ROOTS},
        root: make_reference("Used"),
        "Used": {"items": make_reference("Inner")},
        "Inner": {},
        "Unused": {},
    }

    assert drop_unused(schemas).keys() == {*ROOTS, "Used", "Inner"}
