from __future__ import annotations

import datetime
import enum
import ipaddress
import uuid
from typing import Annotated, Any, Literal

import pytest
from pydantic import AwareDatetime, BaseModel, Field

from forwarder.demo.invent import FORMAT_EXAMPLES, ImpossibleSchema, invent_value
from tests.helpers.check_cases import check_each


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Leaf(BaseModel):
    colour: Colour
    kind: Literal["leaf"]


class Tree(BaseModel):
    children: list[Tree]
    parent: Tree | None
    leaf: Leaf


class Everything(BaseModel):
    name: Annotated[str, Field(min_length=12, max_length=20)]
    short: Annotated[str, Field(max_length=2)]
    count: Annotated[int, Field(ge=5, le=9)]
    even: Annotated[int, Field(gt=7, multiple_of=4)]
    share: Annotated[float, Field(gt=0, lt=1)]
    below: Annotated[int, Field(lt=-3)]
    when: AwareDatetime
    day: datetime.date
    key: uuid.UUID
    host: ipaddress.IPv4Address
    flag: bool
    nothing: None
    either: int | str
    pair: tuple[int, str]
    several: Annotated[list[Leaf], Field(min_length=3, max_length=4)]
    none_of_it: Annotated[list[int], Field(max_length=0)]
    by_name: dict[str, int]
    tree: Tree
    optional: int = 3


@check_each("model", [Leaf, Tree, Everything])
def test_invented_value_satisfies_the_schema(model: type[BaseModel]) -> None:
    model.model_validate(invent_value(model.model_json_schema()))


def test_a_recursive_schema_ends_at_the_first_way_out() -> None:
    assert invent_value(Tree.model_json_schema()) == {
        "children": [],
        "parent": None,
        "leaf": {"colour": "red", "kind": "leaf"},
    }


@check_each(
    ("schema", "value"),
    [
        ({}, "demo"),
        (True, "demo"),
        ({"type": "string", "enum": ["b", "a"]}, "b"),
        ({"const": {"a": 1}}, {"a": 1}),
        ({"type": ["integer", "null"]}, 1),
        ({"properties": {"a": {"type": "null"}}, "required": ["a", "b"]}, {"a": None, "b": "demo"}),
        ({"type": "object", "properties": {"a": {"type": "string"}}}, {}),
        ({"items": {"type": "boolean"}}, [True]),
        ({"type": "array", "items": {"type": "integer"}, "minItems": 2}, [1, 1]),
        ({"oneOf": [{"type": "integer"}, {"type": "string"}]}, 1),
        ({"type": "number", "minimum": 0.25, "maximum": 0.5}, 0.25),
        ({"type": "number", "multipleOf": 0.01}, 1),
        ({"type": "integer", "minimum": 1.5}, 2),
        ({"type": "string", "format": "email"}, FORMAT_EXAMPLES["email"]),
        ({"type": "string", "format": "unheard-of"}, "demo"),
        ({"$ref": "#/$defs/a~1b", "$defs": {"a/b": {"const": 7}}}, 7),
    ],
)
def test_each_keyword_has_its_value(schema: Any, value: Any) -> None:
    assert invent_value(schema) == value


def test_the_parts_of_all_of_are_joined() -> None:
    schema = {
        "$defs": {"named": {"properties": {"name": {"const": "n"}}, "required": ["name"]}},
        "allOf": [
            {"$ref": "#/$defs/named"},
            {"properties": {"age": {"const": 3}}, "required": ["age"]},
        ],
    }
    assert invent_value(schema) == {"name": "n", "age": 3}


def test_any_of_option_is_merged_with_its_siblings() -> None:
    schema = {
        "required": ["a"],
        "anyOf": [
            {"required": ["b"], "properties": {"b": {"type": "integer"}}},
            {"required": ["c"]},
        ],
        "properties": {"a": {"type": "boolean"}},
    }
    assert invent_value(schema) == {"a": True, "b": 1}


ENDLESS = {"properties": {"next": {"$ref": "#"}}, "required": ["next"]}


@check_each(
    "schema",
    [
        ENDLESS,
        {"type": "array", "minItems": 1, "items": {"$ref": "#"}},
        {"anyOf": [{"$ref": "#"}]},
        {"$ref": "http://elsewhere.invalid/schema.json"},
        {"$ref": "#/$defs/missing"},
        {"type": "integer", "minimum": 2, "maximum": 1},
        {"type": "integer", "multipleOf": 0},
        {"type": "stringg"},
        {"enum": []},
        {"properties": "none", "required": ["a"]},
        "string",
        None,
    ],
)
def test_a_schema_without_a_value_is_refused(schema: Any) -> None:
    with pytest.raises(ImpossibleSchema):
        invent_value(schema)


def make_doubling_schema(keyword: str, levels: int) -> dict[str, Any]:
    """A small schema with 2 ** levels values or paths."""

    def refer_twice(ref: dict[str, str]) -> dict[str, Any]:
        if keyword == "required":
            return {"properties": {"a": ref, "b": ref}, "required": ["a", "b"]}
        return {keyword: [ref, ref]}

    defs = {f"a{i}": refer_twice({"$ref": f"#/$defs/a{i + 1}"}) for i in range(levels)}
    return {
        "$ref": "#/$defs/a0",
        "$defs": {**defs, f"a{levels}": {"type": "integer", "minimum": 2, "maximum": 1}},
    }


@check_each(
    "schema",
    [
        make_doubling_schema("required", 40) | {"$defs": {**make_doubling_schema("required", 40)["$defs"], "a40": {"type": "null"}}},
        make_doubling_schema("anyOf", 40),
        make_doubling_schema("allOf", 40),
        {"type": "array", "minItems": 10**9, "items": {"const": 1}},
        {"type": "array", "minItems": 1000, "items": {"minItems": 1000, "items": {"const": 1}}},
        {"type": "string", "minLength": 10**12},
        {"allOf": [{"properties": {f"p{i}": {}}} for i in range(10_000)]},
    ],
)  # fmt: skip
def test_schema_with_too_many_parts_is_rejected(schema: dict[str, Any]) -> None:
    with pytest.raises(ImpossibleSchema):
        invent_value(schema)
