from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forwarder.translation.responses_over_chat.custom_tool_input import read_custom_input
from forwarder.translation.responses_over_chat.custom_tool_stream import InputUnwrapper


def unwrapped(pieces: list[str]) -> tuple[str, str]:
    """``(streamed, whole)``: what was given out on the way, and what the input is in the end."""
    unwrapper = InputUnwrapper()
    streamed = "".join(unwrapper.feed(piece) for piece in pieces)
    return streamed, unwrapper.finish("".join(pieces))


INPUTS = st.text(alphabet=st.sampled_from('ab"\\/\n\t\u2028é😀{}u')) | st.text()


@st.composite
def wrapped(draw: st.DrawFn) -> tuple[str, list[str]]:
    """An input, and its wrapping in pieces."""
    text = draw(INPUTS)
    layout = draw(st.sampled_from(['{{"input": {}}}', '{{"input":{}}}', '\n{{ "patch" : {} }}\n']))
    whole = layout.format(json.dumps(text, ensure_ascii=draw(st.booleans())))
    cuts = sorted(draw(st.lists(st.integers(0, len(whole)))))
    return text, [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]


@given(wrapped())
def test_an_input_is_unwrapped_in_every_chunking(case: tuple[str, list[str]]) -> None:
    text, pieces = case
    assert unwrapped(pieces) == (text, text)


@given(st.text(alphabet='\\ud83"DeE00cnx \n'), st.integers(0, 40))
def test_ill_formed_input_is_the_same_in_every_chunking(body: str, cut: int) -> None:
    whole = f'{{"input": "{body}"}}'
    streamed, read = unwrapped(list(whole))
    assert unwrapped([whole])[1] == read
    assert unwrapped([whole[:cut], whole[cut:]])[1] == read
    assert read.startswith(streamed)


@pytest.mark.parametrize("text", ["*** Begin Patch", '"quoted"', "", '{"other": "a"}', "[1]", "{"])
def test_what_is_not_wrapped_as_told_is_held_back_for_the_whole(text: str) -> None:
    assert unwrapped(list(text)) == ("", read_custom_input(text))


@pytest.mark.parametrize(
    ("cut_off", "given"),
    [
        ('{"input": "a\\nb', "a\nb"),
        ('{"input": "a\\', "a"),
        ('{"input": "a\\ud83d\\ude', "a"),
        ('{"input": "', ""),
        ('{"input": "a"', "a"),
    ],
)
def test_an_input_that_was_cut_off_is_what_was_given_of_it(cut_off: str, given: str) -> None:
    assert unwrapped(list(cut_off)) == (given, given)


def test_what_was_given_out_stays_whatever_comes_after() -> None:
    assert unwrapped(['{"text": "a", ', '"input": "b"}']) == ("a", "a")


def test_characters_are_given_out_as_soon_as_they_are_certain() -> None:
    unwrapper = InputUnwrapper()
    steps = [('{"inp', ""), ('ut": "a', "a"), ("b\\", "b"), ("nc", "\nc"), ("\\ud83d", ""),
             ("\\ude0", ""), ("0d", "😀d"), ('"', ""), ("}", "")]  # fmt: skip
    assert [(text, unwrapper.feed(text)) for text, _ in steps] == steps
