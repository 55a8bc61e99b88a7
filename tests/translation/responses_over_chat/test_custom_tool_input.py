from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forwarder.translation.responses_over_chat.custom_tool_input import (
    INPUT_HEAD,
    InputUnwrapper,
    read_custom_input,
    read_json,
    read_object,
)
from tests.helpers.check_cases import check_each


@check_each(
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
def test_read_json_accepts_typical_mistakes(text: str, value: Any) -> None:
    assert read_json(text) == value


@check_each("text", ["", "{", '{"a": 1', "*** Begin Patch", '"a\\"'])
def test_read_json_raises_for_other_text(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        read_json(text)
    assert read_object(text) == {}
    assert read_custom_input(text) == text


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists, max_leaves=5))
def test_read_json_leaves_valid_json_unchanged(value: Any) -> None:
    assert read_json(json.dumps(value)) == value
    assert read_json(json.dumps(value, ensure_ascii=False)) == value


@given(st.text(alphabet='\\ud83"eDcnx {}'))
def test_custom_input_can_always_be_encoded(text: str) -> None:
    read_custom_input(f'{{"input": "{text}"}}').encode()


@check_each("text", ['[{"a": 1}]', '"a"', "1", "null"])
def test_read_object_returns_only_objects(text: str) -> None:
    assert read_object(text) == {}
    assert read_object('{"a": 1}') == {"a": 1}


@check_each(
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
def test_custom_input_is_read_from_any_wrapping(arguments: str, text: str) -> None:
    assert read_custom_input(arguments) == text


@check_each("name", ["input", "patch", "command", "code", "text", "content"])
def test_input_head_matches_the_first_field_only(name: str) -> None:
    head = INPUT_HEAD.match(f' {{\n"{name}" : "a"}}')
    assert head
    assert head.group().endswith('"')
    assert not INPUT_HEAD.match(f'{{"{name}": 1}}')
    assert not INPUT_HEAD.match(f'{{"x": 1, "{name}": "a"}}')


# -- streams ------------------------------------------------------------------------------------


def unwrap(pieces: list[str]) -> tuple[str, str]:
    """Return the input as it was streamed and as it was finished."""
    unwrapper = InputUnwrapper()
    streamed = "".join(unwrapper.feed(piece) for piece in pieces)
    return streamed, unwrapper.finish("".join(pieces))


INPUTS = st.text(alphabet=st.sampled_from('ab"\\/\n\t\u2028é😀{}u')) | st.text()


@st.composite
def wrapped_inputs(draw: st.DrawFn) -> tuple[str, list[str]]:
    """Return an input, and the arguments that wrap it, cut into pieces."""
    text = draw(INPUTS)
    layout = draw(st.sampled_from(['{{"input": {}}}', '{{"input":{}}}', '\n{{ "patch" : {} }}\n']))
    arguments = layout.format(json.dumps(text, ensure_ascii=draw(st.booleans())))
    cuts = sorted(draw(st.lists(st.integers(0, len(arguments)))))
    return text, [arguments[a:b] for a, b in zip([0, *cuts], [*cuts, len(arguments)], strict=True)]


@given(wrapped_inputs())
def test_unwrapper_result_is_independent_of_chunking(case: tuple[str, list[str]]) -> None:
    text, pieces = case
    assert unwrap(pieces) == (text, text)


@given(st.text(alphabet='\\ud83"DeE00cnx \n'), st.integers(0, 40))
def test_unwrapper_reads_malformed_input_independent_of_chunking(body: str, cut: int) -> None:
    arguments = f'{{"input": "{body}"}}'
    streamed, whole_input = unwrap(list(arguments))
    assert unwrap([arguments])[1] == whole_input
    assert unwrap([arguments[:cut], arguments[cut:]])[1] == whole_input
    assert whole_input.startswith(streamed)


@check_each("text", ["*** Begin Patch", '"quoted"', "", '{"other": "a"}', "[1]", "{"])
def test_unwrapper_holds_back_unexpected_arguments(text: str) -> None:
    assert unwrap(list(text)) == ("", read_custom_input(text))


@check_each(
    ("arguments", "text"),
    [
        ('{"input": "a\\nb', "a\nb"),
        ('{"input": "a\\', "a"),
        ('{"input": "a\\ud83d\\ude', "a"),
        ('{"input": "', ""),
        ('{"input": "a"', "a"),
    ],
)
def test_unwrapper_keeps_the_streamed_part_of_a_cut_input(arguments: str, text: str) -> None:
    assert unwrap(list(arguments)) == (text, text)


def test_unwrapper_never_revokes_streamed_text() -> None:
    assert unwrap(['{"text": "a", ', '"input": "b"}']) == ("a", "a")


def test_unwrapper_streams_characters_once_they_are_certain() -> None:
    unwrapper = InputUnwrapper()
    steps = [('{"inp', ""), ('ut": "a', "a"), ("b\\", "b"), ("nc", "\nc"), ("\\ud83d", ""),
             ("\\ude0", ""), ("0d", "😀d"), ('"', ""), ("}", "")]  # fmt: skip
    assert [(text, unwrapper.feed(text)) for text, _ in steps] == steps
