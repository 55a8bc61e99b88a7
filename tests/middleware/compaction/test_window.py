"""Items that survive a compaction, and compaction items in requests."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from forwarder.core.errors import Unsupported
from forwarder.core.ids import ID_SOURCE
from forwarder.middleware.compaction import window
from tests.helpers.check_cases import check_each
from tests.middleware.compaction.talking import (
    make_assistant_message,
    make_translation_context,
    make_user_message,
)

Json = dict[str, Any]


def make_compaction_item(text: Any, secret: str = "s") -> Json:
    encrypted = make_translation_context(secret=secret).encrypt({"compaction": text, "model": "m"})
    return {"type": "compaction", "encrypted_content": encrypted}


FOREIGN: Json = {"type": "compaction", "encrypted_content": "gAAAAABx"}


def list_texts(items: list[Json]) -> list[str]:
    def text(item: Json) -> str:
        content = item.get("content", item.get("type"))
        return content if isinstance(content, str) else content[0]["text"].rpartition("\n")[2]

    return [text(item) for item in items]


def replace_compactions(
    items: list[Json], native: bool = False, strict: bool = False
) -> list[Json]:
    result: list[Json] = window.replace_compactions(
        {"input": items}, make_translation_context(strict), native
    )["input"]
    return result


def test_request_without_compaction_items_is_the_same_object() -> None:
    for input_value in ("hi", None, [make_user_message("hi")], ["?"]):
        request = {"input": input_value}
        assert window.replace_compactions(request, make_translation_context(), False) is request


def test_last_summary_replaces_earlier_items_except_client_messages() -> None:
    items = [
        {"type": "message", "role": "developer", "content": "rules"},
        make_user_message("one"),
        make_assistant_message("gone"),
        make_compaction_item("old"),
        {"role": "user", "content": "two"},
        {"type": "reasoning", "summary": []},
        make_compaction_item("new"),
        make_assistant_message("kept"),
        make_user_message("three"),
    ]

    assert list_texts(replace_compactions(items)) == ["rules", "one", "two", "new", "kept", "three"]


@check_each(
    "unreadable_item",
    [
        FOREIGN,
        make_compaction_item("x", secret="another"),
        {
            **make_compaction_item("x"),
            "encrypted_content": make_compaction_item("x")["encrypted_content"][:-3] + "abc",
        },
        {
            "type": "compaction",
            "encrypted_content": make_translation_context().encrypt({"reasoning_content": "x"}),
        },
        {"type": "compaction"},
        {"type": "compaction", "encrypted_content": 7},
    ],
)
def test_foreign_compaction_is_dropped_or_rejected_in_strict_mode(unreadable_item: Json) -> None:
    context = make_translation_context()

    request = window.replace_compactions(
        {"input": [make_assistant_message("a"), unreadable_item, make_user_message("b")]},
        context,
        False,
    )

    assert request["input"] == [make_assistant_message("a"), make_user_message("b")]
    assert list(context.loss_report.losses) == ["input.compaction"]
    with pytest.raises(Unsupported):
        replace_compactions([unreadable_item], strict=True)


def test_native_upstream_gets_its_own_items_and_the_forwarders_summary() -> None:
    assert replace_compactions(
        [make_assistant_message("a"), FOREIGN, make_user_message("b")], native=True
    ) == [
        make_assistant_message("a"),
        FOREIGN,
        make_user_message("b"),
    ]
    assert list_texts(
        replace_compactions(
            [make_assistant_message("a"), make_compaction_item("s"), FOREIGN], native=True
        )
    ) == ["s", "compaction"]


def test_native_upstream_does_not_get_damaged_own_items() -> None:
    context = make_translation_context()
    damaged = {"type": "compaction", "encrypted_content": "fwd1.damaged"}

    assert window.replace_compactions({"input": [damaged]}, context, True)["input"] == []
    assert list(context.loss_report.losses) == ["input.compaction"]


def test_newest_user_messages_are_kept_within_the_limit() -> None:
    long = "x" * (window.MAX_KEPT_TOKENS * 3)
    rules = {"type": "message", "role": "system", "content": "rules"}

    assert list_texts(
        window.select_kept_items(
            [rules, make_user_message(long), make_user_message(long), make_user_message("new")]
        )
    ) == [
        "rules",
        long,
        "new",
    ]
    assert list_texts(
        window.select_kept_items([make_user_message("old"), make_user_message(long + long)])
    ) == [long + long]


def test_open_question_is_the_trailing_client_messages() -> None:
    items = [
        make_user_message("a"),
        make_assistant_message("b"),
        make_user_message("c"),
        make_user_message("d"),
    ]

    assert window.split_open_question(items) == (items[:2], items[2:])
    assert window.split_open_question(items[:2]) == (items[:2], [])
    assert not window.has_model_items(window.split_open_question(items[2:])[0])


def test_kept_messages_have_the_fields_of_output_items() -> None:
    [plain, rich] = window.make_compact_output(
        [
            make_user_message("a"),
            {"role": "user", "id": "msg_1", "content": [{"type": "input_image"}]},
        ],
        ID_SOURCE,
    )

    assert plain["content"] == [{"type": "input_text", "text": "a"}]
    assert (rich["type"], rich["id"], rich["status"]) == ("message", "msg_1", "completed")
    assert rich["content"] == [{"type": "input_image"}]


def test_only_the_last_summary_is_decrypted() -> None:
    context, count = make_translation_context(), 0

    def decrypt_and_count(blob: str) -> Any:
        nonlocal count
        count += 1
        return make_translation_context().decrypt(blob)

    items = [make_compaction_item(f"summary {i}") for i in range(50)]
    request = {"input": [*items, make_user_message("go on")]}
    result = window.replace_compactions(
        request, replace(context, decrypt=decrypt_and_count), False
    )["input"]
    assert "summary 49" in result[0]["content"][0]["text"]
    assert count == 1
