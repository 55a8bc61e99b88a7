"""The messages of a body that is about to leave."""

from __future__ import annotations

from typing import Any

import pytest

from forwarder.core.translation_context import LossReport
from tests.providers.mending import Json, messages

DEVELOPER = {"role": "developer", "content": "D"}
SYSTEM = {"role": "system", "content": "S"}
USER = {"role": "user", "content": "U"}


@pytest.mark.parametrize("role", ["system", "developer"])
def test_developers_are_called_what_the_provider_calls_them(role: str) -> None:
    assert messages(DEVELOPER, SYSTEM, developer_role=role)[0] == {"role": role, "content": "D"}
    assert messages(DEVELOPER, SYSTEM, developer_role=role)[1] == SYSTEM


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ([SYSTEM, USER], [SYSTEM, USER]),
        ([USER], [USER]),
        ([USER, SYSTEM], [SYSTEM, USER]),
        ([DEVELOPER, USER, SYSTEM], [{"role": "system", "content": "D\n\nS"}, USER]),
        (
            [SYSTEM, USER, {"role": "system", "content": [{"type": "text", "text": "A"}, {"type": "text", "text": "B"}]}],
            [{"role": "system", "content": "S\n\nA\nB"}, USER],
        ),
        ([SYSTEM, USER, {"role": "system", "content": None}], [{"role": "system", "content": "S\n\n"}, USER]),
    ],
)  # fmt: skip
def test_system_messages_go_to_the_head_where_only_one_is_taken(given: Any, sent: Any) -> None:
    assert messages(*given, system_at_head=True) == sent
    assert len(messages(*given)) == len(given)


TEXT = {"type": "text", "text": "a"}
IMAGE = {"type": "image_url", "image_url": {"url": "u"}}


@pytest.mark.parametrize(
    ("content", "joined"),
    [
        ([TEXT, TEXT], "a\na"),
        ([TEXT, IMAGE], [TEXT, IMAGE]),
        ("a", "a"),
        (None, None),
        (["odd"], ["odd"]),
    ],
)
def test_text_parts_alone_go_as_one_string(content: Any, joined: Any) -> None:
    for role in ("user", "system", "assistant"):
        assert messages({"role": role, "content": content})[0]["content"] == joined
        assert (
            messages({"role": role, "content": content}, join_text_parts=False)[0]["content"]
            == content
        )


CALLS = {"role": "assistant", "content": None, "tool_calls": [{"id": "a"}]}
DETAILS = [{"type": "reasoning.text", "text": "t"}]

REASONING: list[tuple[Json, Json, Json]] = [
    ({"reasoning_content": "t"}, {"reasoning_field": "reasoning"}, {"reasoning": "t"}),
    ({"reasoning": "t"}, {"reasoning_field": "reasoning_content"}, {"reasoning_content": "t"}),
    (
        {"reasoning": "t", "reasoning_content": "t"},
        {"reasoning_field": "reasoning"},
        {"reasoning": "t"},
    ),
    ({"reasoning_content": "t"}, {"reasoning_field": None}, {}),
    ({"reasoning_details": DETAILS}, {"reasoning_field": None}, {}),
    (
        {"reasoning_content": "t", "reasoning_details": DETAILS},
        {"reasoning_field": "reasoning"},
        {"reasoning": "t", "reasoning_details": DETAILS},
    ),
    ({}, {"reasoning_placeholder": " "}, {"reasoning_content": " "}),
    ({"reasoning_content": "t"}, {"reasoning_placeholder": " "}, {"reasoning_content": "t"}),
    ({}, {}, {}),
]


@pytest.mark.parametrize(("given", "knobs", "sent"), REASONING)
def test_earlier_reasoning_goes_back_in_the_field_that_the_provider_reads(
    given: Json, knobs: Json, sent: Json
) -> None:
    assert messages({**CALLS, **given}, **knobs) == [{**CALLS, **sent}]


def test_only_messages_with_calls_need_a_placeholder() -> None:
    said = {"role": "assistant", "content": "Yes."}
    assert messages(said, USER, reasoning_placeholder=" ") == [said, USER]


def test_where_only_users_are_heard_everyone_is_one() -> None:
    roles = [m["role"] for m in messages(DEVELOPER, SYSTEM, USER, developer_role="user")]
    assert roles == ["user"] * 3


def test_neighbours_of_one_role_are_merged_where_they_must_be() -> None:
    answer = {"role": "assistant", "content": "A"}
    results = [{"role": "tool", "tool_call_id": x, "content": x} for x in "ab"]
    given = [USER, {"role": "user", "content": [IMAGE]}, answer, CALLS, *results, USER]
    assert messages(*given) == given
    assert messages(*given, merge_neighbours=True) == [
        {"role": "user", "content": [{"type": "text", "text": "U"}, IMAGE]},
        {**CALLS, "content": "A"},
        *results,
        USER,
    ]
    assert messages(CALLS, CALLS, merge_neighbours=True) == [CALLS, CALLS]
    assert messages(USER, USER, merge_neighbours=True) == [{"role": "user", "content": "U\n\nU"}]


def test_messages_of_no_role_are_left_alone() -> None:
    assert messages({"content": "a"}, merge_neighbours=True) == [{"content": "a"}]


def test_null_is_no_content_everywhere() -> None:
    assert messages(CALLS)[0]["content"] is None
    assert messages(CALLS, null_content=False)[0]["content"] == ""


def test_only_known_fields_go_where_others_are_refused() -> None:
    said = {"role": "assistant", "content": "a", "annotations": [], "reasoning": "t"}
    assert messages(said, extra_message_fields=False, reasoning_field="reasoning") == [
        {"role": "assistant", "content": "a", "reasoning": "t"}
    ]


@pytest.mark.parametrize(
    ("replay", "with_calls", "without"),
    [("all", True, True), ("tool_turns", True, False), ("none", False, False)],
)
def test_reasoning_comes_back_as_far_as_it_is_wanted(
    replay: str, with_calls: bool, without: bool
) -> None:
    thought = {"reasoning_content": "t", "reasoning_details": DETAILS}
    said = {"role": "assistant", "content": "a", **thought}
    made = messages({**CALLS, **thought}, said, reasoning_replay=replay)
    assert [thought.items() <= m.items() for m in made] == [with_calls, without]
    assert ["reasoning_details" in m for m in made] == [with_calls, without]


def test_as_it_is_reasoning_stays_in_its_field() -> None:
    said = {**CALLS, "reasoning": "t", "reasoning_content": "u"}
    assert messages(said, reasoning_replay="as_is", reasoning_placeholder=" ") == [said]


def test_a_lost_signature_has_a_stand_in_on_the_first_call() -> None:
    signed = {"id": "a", "extra_content": {"google": {"thought_signature": "s"}}}
    bare = {**CALLS, "tool_calls": [{"id": "a"}, {"id": "b"}]}
    first, second = messages(bare, signature_placeholder="none")[0]["tool_calls"]
    assert first["extra_content"] == {"google": {"thought_signature": "none"}}
    assert second == {"id": "b"}
    whole = {**CALLS, "tool_calls": [signed]}
    assert messages(whole, signature_placeholder="none") == [whole]
    assert messages(bare) == [bare]


SIGNATURE = {"google": {"thought_signature": "s"}}
SIGNED = {
    **CALLS,
    "extra_content": SIGNATURE,
    "tool_calls": [
        {"id": "a", "extra_content": SIGNATURE, "function": {"name": "f", "thought_signature": "t"}}
    ],
}


@pytest.mark.parametrize(
    ("taken", "call", "names"),
    [
        ((), {"id": "a", "function": {"name": "f"}},
         ["messages.extra_content", "messages.tool_calls.extra_content",
          "messages.tool_calls.function.thought_signature"]),
        (("extra_content",),
         {"id": "a", "extra_content": SIGNATURE, "function": {"name": "f"}},
         ["messages.tool_calls.function.thought_signature"]),
    ],
)  # fmt: skip
def test_signatures_that_are_not_taken_are_removed_and_named(
    taken: tuple[str, ...], call: Json, names: list[str]
) -> None:
    ledger, knobs = (
        LossReport(),
        {"extra_message_fields": False, "signature_fields": frozenset(taken)},
    )
    [made] = messages(SIGNED, ledger=ledger, **knobs)
    assert made["tool_calls"] == [call]
    assert ("extra_content" in made) is bool(taken)
    assert sorted(ledger.losses) == names
    assert messages(SIGNED) == [SIGNED]


def test_a_placeholder_for_a_signature_is_named() -> None:
    for message, names in ((SIGNED, []), (CALLS, ["messages.tool_calls.extra_content"])):
        ledger = LossReport()
        messages(message, ledger=ledger, signature_placeholder="none")
        assert list(ledger.losses) == names


SAID: Json = {
    "role": "assistant",
    "content": "A",
    "reasoning_content": "R",
    "vendor": 1,
    "audio": None,
}


@pytest.mark.parametrize(
    ("knobs", "names"),
    [
        ({}, []),
        ({"reasoning_replay": "tool_turns"}, []),
        ({"reasoning_replay": "as_is", "reasoning_field": None}, []),
        ({"reasoning_replay": "none"}, ["messages.reasoning_content"]),
        ({"reasoning_field": None}, ["messages.reasoning_content"]),
        ({"extra_message_fields": False, "reasoning_field": "reasoning"}, ["messages.vendor"]),
        (
            {"extra_message_fields": False, "reasoning_field": None},
            ["messages.reasoning_content", "messages.vendor"],
        ),
    ],
)
def test_fields_that_are_taken_in_no_message_are_noted(knobs: Json, names: list[str]) -> None:
    ledger = LossReport(strict=True)
    [made] = messages(SAID, ledger=ledger, **knobs)
    assert sorted(ledger.losses) == names
    assert not {name.removeprefix("messages.") for name in names} & made.keys()
