from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forwarder.translation.responses_over_chat.custom_tool_input import (
    INPUT_HEAD,
    read_custom_input,
    read_json,
    read_object,
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a": 1}', {"a": 1}),
        ('"a\nb"', "a\nb"),
        (r'"\d+ \. \u12 \\d"', r"\d+ \. \u12 \d"),
        (r'{"p": "C:\dir"}', {"p": r"C:\dir"}),
        (r'"\ud83d\ude00"', "😀"),
        (r'["\ud83d", "\ude00x"]', ["\ufffd", "\ufffdx"]),
        (r'"\\ud83d"', r"\ud83d"),
    ],
)
def test_json_is_read_as_the_model_meant_it(text: str, value: Any) -> None:
    assert read_json(text) == value


@pytest.mark.parametrize("text", ["", "{", '{"a": 1', "*** Begin Patch", '"a\\"'])
def test_what_is_no_json_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        read_json(text)
    assert read_object(text) == {}
    assert read_custom_input(text) == text


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists, max_leaves=5))
def test_well_formed_json_is_read_as_it_is(value: Any) -> None:
    assert read_json(json.dumps(value)) == value
    assert read_json(json.dumps(value, ensure_ascii=False)) == value


@given(st.text(alphabet='\\ud83"eDcnx {}'))
def test_what_is_read_can_always_be_encoded(text: str) -> None:
    read_custom_input(f'{{"input": "{text}"}}').encode()


@pytest.mark.parametrize("text", ['[{"a": 1}]', '"a"', "1", "null"])
def test_only_an_object_is_an_object(text: str) -> None:
    assert read_object(text) == {}
    assert read_object('{"a": 1}') == {"a": 1}


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ('{"input": "a"}', "a"),
        ('{"patch": "a"}', "a"),
        ('{"path": "p", "content": "a"}', "a"),
        ('{"code": "b", "input": "a"}', "a"),
        ('{"input": ""}', ""),
        ('"a"', "a"),
        ('{"input": {"a": 1}}', '{"input": {"a": 1}}'),
        ('{"other": "a"}', '{"other": "a"}'),
        ("[1]", "[1]"),
        ("print(1)", "print(1)"),
    ],
)
def test_a_freeform_input_is_found_in_whatever_it_was_wrapped_into(
    arguments: str, text: str
) -> None:
    assert read_custom_input(arguments) == text


@pytest.mark.parametrize("name", ["input", "patch", "command", "code", "text", "content"])
def test_a_wrapped_input_is_known_by_its_head(name: str) -> None:
    head = INPUT_HEAD.match(f' {{\n"{name}" : "a"}}')
    assert head
    assert head.group().endswith('"')
    assert not INPUT_HEAD.match(f'{{"{name}": 1}}')
    assert not INPUT_HEAD.match(f'{{"x": 1, "{name}": "a"}}')
