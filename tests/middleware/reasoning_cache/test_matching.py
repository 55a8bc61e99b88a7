"""Keys of cached reasoning, and changes after which they do not match."""

from __future__ import annotations

from typing import Any

from forwarder.middleware.reasoning_cache import matching
from tests.helpers.check_cases import check_each

Json = dict[str, Any]


def make_user_message(text: str) -> Json:
    return {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}


def make_reasoning_item(name: str) -> Json:
    return {"type": "reasoning", "id": name, "summary": [], "encrypted_content": f"sealed {name}"}


def make_call(name: str, arguments: str = "{}", **more: Any) -> Json:
    return {"type": "function_call", "call_id": name, "name": "f", "arguments": arguments, **more}


def make_output(name: str, output: str = "42") -> Json:
    return {"type": "function_call_output", "call_id": name, "output": output}


def make_answer_message(text: str, **more: Any) -> Json:
    """A message of an answer."""
    part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    return {"type": "message", "id": "msg", "role": "assistant", "status": "completed",
            "content": [part], **more}  # fmt: skip


def make_history_message(text: str) -> Json:
    """The same message in a chat client's history."""
    part = {"type": "output_text", "text": text, "annotations": []}
    return {"type": "message", "role": "assistant", "content": [part]}


def restore_history(
    request_items: list[Json], answer_items: list[Json], history: list[Json]
) -> list[Any]:
    """Ids and texts of the history with restored items."""
    cached = matching.collect_reasoning(request_items, answer_items)
    restored = matching.restore_reasoning(history, lambda keys: cached)
    return [
        item.get("id") or item.get("call_id") or item["content"][0]["text"] for item in restored
    ]


def test_reasoning_is_restored_before_its_call() -> None:
    answer_items = [
        {**make_reasoning_item("rs"), "status": "completed", "content": None},
        make_call("c", id="fc"),
    ]
    history = [make_user_message("go"), make_call("c"), make_output("c")]
    cached = matching.collect_reasoning([make_user_message("go")], answer_items)

    assert matching.restore_reasoning(history, lambda keys: cached) == [
        make_user_message("go"),
        make_reasoning_item("rs"),
        make_call("c"),
        make_output("c"),
    ]


def test_call_matches_with_reformatted_arguments() -> None:
    answer_items = [make_reasoning_item("rs"), make_call("c", '{"b": 1, "a": "é"}')]
    history = [make_user_message("go"), make_call("c", '{"a":"\\u00e9","b":1}'), make_output("c")]
    assert restore_history([make_user_message("go")], answer_items, history) == [
        "go",
        "rs",
        "c",
        "c",
    ]


def test_parallel_calls_have_separate_entries() -> None:
    answer_items = [
        make_reasoning_item("r1"),
        make_call("a"),
        make_call("b"),
        make_reasoning_item("r2"),
        make_call("c"),
    ]
    history = [
        make_user_message("go"),
        make_call("a"),
        make_call("b"),
        make_call("c"),
        make_output("a"),
        make_output("b"),
        make_output("c"),
    ]

    assert restore_history([make_user_message("go")], answer_items, history) == [
        "go", "r1", "a", "b", "r2", "c", "a", "b", "c",
    ]  # fmt: skip


def test_text_is_restored_with_reasoning_and_phases() -> None:
    answer_items = [
        make_reasoning_item("r1"),
        make_answer_message("Let me see. ", phase="commentary"),
        make_reasoning_item("r2"),
        make_answer_message("It is 42.", phase="final_answer"),
    ]
    cached = matching.collect_reasoning([make_user_message("go")], answer_items)
    history = [
        make_user_message("go"),
        make_history_message("Let me see. It is 42."),
        make_user_message("sure?"),
    ]

    restored = matching.restore_reasoning(history, lambda keys: cached)

    assert [item.get("phase", item.get("id")) for item in restored] == [
        None, "r1", "commentary", "r2", "final_answer", None,
    ]  # fmt: skip
    assert "status" not in restored[2]
    assert "id" not in restored[2]


def test_text_and_calls_are_restored_together() -> None:
    answer_items = [
        make_reasoning_item("r1"),
        make_answer_message("I look."),
        make_reasoning_item("r2"),
        make_call("a"),
    ]

    assert restore_history([make_user_message("go")], answer_items, [make_user_message("go"), make_history_message("I look."), make_call("a"), make_output("a")]) == [
        "go", "r1", "I look.", "r2", "a", "a",
    ]  # fmt: skip


@check_each(
    "changed_history",
    [
        [make_user_message("go"), make_call("c", '{"x": 1}'), make_output("c")],
        [make_user_message("go"), make_call("other"), make_output("other")],
        [make_user_message("go"), {**make_call("c"), "name": "g"}, make_output("c")],
        [make_user_message("go"), {**make_call("c"), "type": "custom_tool_call", "input": "{}"}],
    ],
)
def test_changed_call_does_not_match(changed_history: list[Json]) -> None:
    assert "rs" not in restore_history(
        [make_user_message("go")], [make_reasoning_item("rs"), make_call("c")], changed_history
    )


@check_each(
    "changed_history",
    [
        [make_user_message("go"), make_history_message("Done!")],
        [make_user_message("went"), make_history_message("Done.")],
        [make_user_message("go"), make_call("c"), make_output("c"), make_history_message("Done.")],
        [make_history_message("Done.")],
    ],
)
def test_text_key_includes_the_question(changed_history: list[Json]) -> None:
    answer_items = [make_reasoning_item("rs"), make_answer_message("Done.")]

    assert "rs" not in restore_history([make_user_message("go")], answer_items, changed_history)
    assert "rs" in restore_history(
        [make_user_message("go")],
        answer_items,
        [make_user_message("go"), make_history_message(" Done.\n")],
    )


def test_text_after_results_is_keyed_by_the_last_result() -> None:
    request_items = [make_user_message("go"), make_call("c"), make_output("c", "42")]
    answer_items = [make_reasoning_item("rs"), make_answer_message("42 it is.")]

    assert "rs" in restore_history(
        request_items,
        answer_items,
        [*request_items, make_history_message("42 it is."), make_user_message("ok")],
    )
    assert "rs" not in restore_history(
        request_items,
        answer_items,
        [*request_items[:2], make_output("c", "43"), make_history_message("42 it is.")],
    )


def test_reasoning_without_content_is_not_cached() -> None:
    unreadable = {
        "type": "reasoning",
        "id": "rs",
        "summary": [{"type": "summary_text", "text": "x"}],
    }
    readable = {**unreadable, "content": [{"type": "reasoning_text", "text": "x"}]}

    assert matching.collect_reasoning([], [unreadable, make_call("c")]) == {}
    assert len(matching.collect_reasoning([], [readable, make_call("c")])) == 1


def test_reasoning_before_a_hosted_tool_is_not_attached_to_later_items() -> None:
    search = {"type": "web_search_call", "id": "ws"}

    assert (
        matching.collect_reasoning(
            [], [make_reasoning_item("rs"), search, make_call("c"), make_answer_message("x")]
        )
        == {}
    )


def test_plain_answers_are_not_cached() -> None:
    assert (
        matching.collect_reasoning(
            [make_user_message("go")], [make_answer_message("Hi."), make_call("c")]
        )
        == {}
    )
    assert matching.collect_reasoning([], []) == {}


@check_each(
    ("one", "other"),
    [
        ('{"a": 1, "b": "é"}', '{"b":"\\u00e9","a":1}'),
        ("", "{}"),
        ('{"a": 1, "b": null}', '{"a": 1}'),
        ("[1, 2]", "[1,2]"),
    ],
)
def test_normalized_arguments_ignore_formatting(one: str, other: str) -> None:
    assert matching.normalize_arguments(one) == matching.normalize_arguments(other)


@check_each("arguments", ['{"a": ', '{"a":' * 500 + "1" + "}" * 500])
def test_unserializable_arguments_are_unchanged(arguments: str) -> None:
    assert matching.normalize_arguments(arguments) == arguments


@check_each("question", [None, {"type": "message", "role": "user", "content": "é"}])
def test_text_key_is_the_digest_of_question_and_text(question: Any) -> None:
    """The incremental digest must equal the stored keys."""
    for text in ("", " a ", "ü\n"):
        expected_key = matching.hash_json(["text", question, text.strip()])
        assert matching.make_text_key(question, text) == expected_key
