"""Messages of upstream chat requests."""

from __future__ import annotations

from typing import Any

from forwarder.core.translation_context import LossReport
from tests.helpers.check_cases import check_each
from tests.providers.adapting import Json, adapt_messages

DEVELOPER = {"role": "developer", "content": "D"}
SYSTEM = {"role": "system", "content": "S"}
USER = {"role": "user", "content": "U"}


@check_each("role", ["system", "developer"])
def test_rename_developer_role(role: str) -> None:
    assert adapt_messages(DEVELOPER, SYSTEM, developer_role=role)[0] == {
        "role": role,
        "content": "D",
    }
    assert adapt_messages(DEVELOPER, SYSTEM, developer_role=role)[1] == SYSTEM


@check_each(
    ("original", "expected"),
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
def test_join_system_messages(original: Any, expected: Any) -> None:
    assert adapt_messages(*original, system_at_head=True) == expected
    assert len(adapt_messages(*original)) == len(original)


TEXT = {"type": "text", "text": "a"}
IMAGE = {"type": "image_url", "image_url": {"url": "u"}}


@check_each(
    ("content", "joined"),
    [
        ([TEXT, TEXT], "a\na"),
        ([TEXT, IMAGE], [TEXT, IMAGE]),
        ("a", "a"),
        (None, None),
        (["odd"], ["odd"]),
    ],
)
def test_join_text_parts(content: Any, joined: Any) -> None:
    for role in ("user", "system", "assistant"):
        assert adapt_messages({"role": role, "content": content})[0]["content"] == joined
        assert (
            adapt_messages({"role": role, "content": content}, join_text_parts=False)[0]["content"]
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


@check_each(("original", "fields", "expected"), REASONING)
def test_place_reasoning(original: Json, fields: Json, expected: Json) -> None:
    assert adapt_messages({**CALLS, **original}, **fields) == [{**CALLS, **expected}]


def test_reasoning_placeholder_only_with_calls() -> None:
    message = {"role": "assistant", "content": "Yes."}
    assert adapt_messages(message, USER, reasoning_placeholder=" ") == [message, USER]


def test_system_role_becomes_user() -> None:
    roles = [m["role"] for m in adapt_messages(DEVELOPER, SYSTEM, USER, developer_role="user")]
    assert roles == ["user"] * 3


def test_merge_neighbours() -> None:
    answer = {"role": "assistant", "content": "A"}
    results = [{"role": "tool", "tool_call_id": x, "content": x} for x in "ab"]
    original = [USER, {"role": "user", "content": [IMAGE]}, answer, CALLS, *results, USER]
    assert adapt_messages(*original) == original
    assert adapt_messages(*original, merge_neighbours=True) == [
        {"role": "user", "content": [{"type": "text", "text": "U"}, IMAGE]},
        {**CALLS, "content": "A"},
        *results,
        USER,
    ]
    assert adapt_messages(CALLS, CALLS, merge_neighbours=True) == [CALLS, CALLS]
    assert adapt_messages(USER, USER, merge_neighbours=True) == [
        {"role": "user", "content": "U\n\nU"}
    ]


def test_messages_without_role_are_unchanged() -> None:
    assert adapt_messages({"content": "a"}, merge_neighbours=True) == [{"content": "a"}]


def test_null_content_becomes_empty() -> None:
    assert adapt_messages(CALLS)[0]["content"] is None
    assert adapt_messages(CALLS, null_content=False)[0]["content"] == ""


def test_extra_message_fields_are_removed() -> None:
    message = {"role": "assistant", "content": "a", "annotations": [], "reasoning": "t"}
    assert adapt_messages(message, extra_message_fields=False, reasoning_field="reasoning") == [
        {"role": "assistant", "content": "a", "reasoning": "t"}
    ]


@check_each(
    ("replay", "with_calls", "without_calls"),
    [("all", True, True), ("tool_turns", True, False), ("none", False, False)],
)
def test_reasoning_replay(replay: str, with_calls: bool, without_calls: bool) -> None:
    reasoning = {"reasoning_content": "t", "reasoning_details": DETAILS}
    message = {"role": "assistant", "content": "a", **reasoning}
    adapted = adapt_messages({**CALLS, **reasoning}, message, reasoning_replay=replay)
    assert [reasoning.items() <= m.items() for m in adapted] == [with_calls, without_calls]
    assert ["reasoning_details" in m for m in adapted] == [with_calls, without_calls]


def test_reasoning_replay_as_is() -> None:
    message = {**CALLS, "reasoning": "t", "reasoning_content": "u"}
    assert adapt_messages(message, reasoning_replay="as_is", reasoning_placeholder=" ") == [message]


def test_signature_placeholder_on_first_call() -> None:
    signed_call = {"id": "a", "extra_content": {"google": {"thought_signature": "s"}}}
    unsigned_message = {**CALLS, "tool_calls": [{"id": "a"}, {"id": "b"}]}
    first, second = adapt_messages(unsigned_message, signature_placeholder="none")[0]["tool_calls"]
    assert first["extra_content"] == {"google": {"thought_signature": "none"}}
    assert second == {"id": "b"}
    signed_message = {**CALLS, "tool_calls": [signed_call]}
    assert adapt_messages(signed_message, signature_placeholder="none") == [signed_message]
    assert adapt_messages(unsigned_message) == [unsigned_message]


SIGNATURE = {"google": {"thought_signature": "s"}}
SIGNED = {
    **CALLS,
    "extra_content": SIGNATURE,
    "tool_calls": [
        {"id": "a", "extra_content": SIGNATURE, "function": {"name": "f", "thought_signature": "t"}}
    ],
}


@check_each(
    ("accepted", "call", "names"),
    [
        ((), {"id": "a", "function": {"name": "f"}},
         ["messages.extra_content", "messages.tool_calls.extra_content",
          "messages.tool_calls.function.thought_signature"]),
        (("extra_content",),
         {"id": "a", "extra_content": SIGNATURE, "function": {"name": "f"}},
         ["messages.tool_calls.function.thought_signature"]),
    ],
)  # fmt: skip
def test_unaccepted_signatures_are_removed_and_noted(
    accepted: tuple[str, ...], call: Json, names: list[str]
) -> None:
    loss_report, fields = (
        LossReport(),
        {"extra_message_fields": False, "signature_fields": frozenset(accepted)},
    )
    [adapted] = adapt_messages(SIGNED, loss_report=loss_report, **fields)
    assert adapted["tool_calls"] == [call]
    assert ("extra_content" in adapted) is bool(accepted)
    assert sorted(loss_report.losses) == names
    assert adapt_messages(SIGNED) == [SIGNED]


def test_signature_placeholder_is_noted() -> None:
    for message, names in ((SIGNED, []), (CALLS, ["messages.tool_calls.extra_content"])):
        loss_report = LossReport()
        adapt_messages(message, loss_report=loss_report, signature_placeholder="none")
        assert list(loss_report.losses) == names


ANSWER: Json = {
    "role": "assistant",
    "content": "A",
    "reasoning_content": "R",
    "vendor": 1,
    "audio": None,
}


@check_each(
    ("fields", "names"),
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
def test_lost_message_fields_are_noted(fields: Json, names: list[str]) -> None:
    loss_report = LossReport(strict=True)
    [adapted] = adapt_messages(ANSWER, loss_report=loss_report, **fields)
    assert sorted(loss_report.losses) == names
    assert not {name.removeprefix("messages.") for name in names} & adapted.keys()
