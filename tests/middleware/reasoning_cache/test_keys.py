"""Where reasoning belongs, and when that place is not known again."""

from __future__ import annotations

from typing import Any

import pytest

from forwarder.middleware.reasoning_cache import keys as anchors

Json = dict[str, Any]


def user(text: str) -> Json:
    return {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}


def thought(name: str) -> Json:
    return {"type": "reasoning", "id": name, "summary": [], "encrypted_content": f"sealed {name}"}


def call(name: str, arguments: str = "{}", **more: Any) -> Json:
    return {"type": "function_call", "call_id": name, "name": "f", "arguments": arguments, **more}


def output(name: str, said: str = "42") -> Json:
    return {"type": "function_call_output", "call_id": name, "output": said}


def said(text: str, **more: Any) -> Json:
    """A message as an answer has it."""
    part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    return {"type": "message", "id": "msg", "role": "assistant", "status": "completed",
            "content": [part], **more}  # fmt: skip


def told(text: str) -> Json:
    """The same as the history of a chat client has it."""
    part = {"type": "output_text", "text": text, "annotations": []}
    return {"type": "message", "role": "assistant", "content": [part]}


def back(asked: list[Json], given: list[Json], history: list[Json]) -> list[Any]:
    """The history with what is known again of one answer, told by ids and texts."""
    kept = anchors.collect_reasoning(asked, given)
    whole = anchors.restore_reasoning(history, lambda keys: kept)
    return [item.get("id") or item.get("call_id") or item["content"][0]["text"] for item in whole]


def test_reasoning_comes_back_before_the_call_that_it_led_to() -> None:
    given = [{**thought("rs"), "status": "completed", "content": None}, call("c", id="fc")]
    history = [user("go"), call("c"), output("c")]
    kept = anchors.collect_reasoning([user("go")], given)

    assert anchors.restore_reasoning(history, lambda keys: kept) == [
        user("go"),
        thought("rs"),
        call("c"),
        output("c"),
    ]


def test_a_call_is_known_again_when_its_arguments_are_written_otherwise() -> None:
    given = [thought("rs"), call("c", '{"b": 1, "a": "é"}')]
    history = [user("go"), call("c", '{"a":"\\u00e9","b":1}'), output("c")]
    assert back([user("go")], given, history) == ["go", "rs", "c", "c"]


def test_of_parallel_calls_each_has_its_own() -> None:
    given = [thought("r1"), call("a"), call("b"), thought("r2"), call("c")]
    history = [user("go"), call("a"), call("b"), call("c"), output("a"), output("b"), output("c")]

    assert back([user("go")], given, history) == [
        "go", "r1", "a", "b", "r2", "c", "a", "b", "c",
    ]  # fmt: skip


def test_a_text_comes_back_with_its_reasoning_and_its_phases() -> None:
    given = [
        thought("r1"),
        said("Let me see. ", phase="commentary"),
        thought("r2"),
        said("It is 42.", phase="final_answer"),
    ]
    kept = anchors.collect_reasoning([user("go")], given)
    history = [user("go"), told("Let me see. It is 42."), user("sure?")]

    restored = anchors.restore_reasoning(history, lambda keys: kept)

    assert [item.get("phase", item.get("id")) for item in restored] == [
        None, "r1", "commentary", "r2", "final_answer", None,
    ]  # fmt: skip
    assert "status" not in restored[2]
    assert "id" not in restored[2]


def test_a_text_and_its_calls_come_back_together() -> None:
    given = [thought("r1"), said("I look."), thought("r2"), call("a")]

    assert back([user("go")], given, [user("go"), told("I look."), call("a"), output("a")]) == [
        "go", "r1", "I look.", "r2", "a", "a",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "changed",
    [
        [user("go"), call("c", '{"x": 1}'), output("c")],
        [user("go"), call("other"), output("other")],
        [user("go"), {**call("c"), "name": "g"}, output("c")],
        [user("go"), {**call("c"), "type": "custom_tool_call", "input": "{}"}],
    ],
)
def test_a_call_that_was_changed_is_not_known_again(changed: list[Json]) -> None:
    assert "rs" not in back([user("go")], [thought("rs"), call("c")], changed)


@pytest.mark.parametrize(
    "changed",
    [
        [user("go"), told("Done!")],
        [user("went"), told("Done.")],
        [user("go"), call("c"), output("c"), told("Done.")],
        [told("Done.")],
    ],
)
def test_a_text_is_known_by_its_words_and_what_it_answers(changed: list[Json]) -> None:
    given = [thought("rs"), said("Done.")]

    assert "rs" not in back([user("go")], given, changed)
    assert "rs" in back([user("go")], given, [user("go"), told(" Done.\n")])


def test_a_text_behind_results_is_known_by_the_last_of_them() -> None:
    asked = [user("go"), call("c"), output("c", "42")]
    given = [thought("rs"), said("42 it is.")]

    assert "rs" in back(asked, given, [*asked, told("42 it is."), user("ok")])
    assert "rs" not in back(asked, given, [*asked[:2], output("c", "43"), told("42 it is.")])


def test_what_is_lost_without_a_store_is_not_remembered() -> None:
    lost = {"type": "reasoning", "id": "rs", "summary": [{"type": "summary_text", "text": "x"}]}
    readable = {**lost, "content": [{"type": "reasoning_text", "text": "x"}]}

    assert anchors.collect_reasoning([], [lost, call("c")]) == {}
    assert len(anchors.collect_reasoning([], [readable, call("c")])) == 1


def test_reasoning_before_a_hosted_tool_does_not_belong_to_what_follows() -> None:
    search = {"type": "web_search_call", "id": "ws"}

    assert anchors.collect_reasoning([], [thought("rs"), search, call("c"), said("x")]) == {}


def test_plain_answers_need_no_memory() -> None:
    assert anchors.collect_reasoning([user("go")], [said("Hi."), call("c")]) == {}
    assert anchors.collect_reasoning([], []) == {}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ('{"a": 1, "b": "é"}', '{"b":"\\u00e9","a":1}'),
        ("", "{}"),
        ('{"a": 1, "b": null}', '{"a": 1}'),
        ("[1, 2]", "[1,2]"),
    ],
)
def test_arguments_are_the_same_however_they_are_written(one: str, other: str) -> None:
    assert anchors.normalize_arguments(one) == anchors.normalize_arguments(other)


@pytest.mark.parametrize("arguments", ['{"a": ', '{"a":' * 500 + "1" + "}" * 500])
def test_arguments_that_cannot_be_written_again_stay(arguments: str) -> None:
    assert anchors.normalize_arguments(arguments) == arguments


@pytest.mark.parametrize("question", [None, {"type": "message", "role": "user", "content": "é"}])
def test_text_of_one_question_is_known_by_the_digest_of_both(question: Any) -> None:
    """Many texts may answer one question, which is digested once; what is stored keeps its key."""
    for text in ("", " a ", "ü\n"):
        whole = anchors.hash_json(["text", question, text.strip()])
        assert anchors.make_text_key(question, text) == whole
