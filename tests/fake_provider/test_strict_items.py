"""Refused histories in a Responses request."""

from __future__ import annotations

from tests.fake_provider import SEALED, check_responses
from tests.fake_provider.answers import Json
from tests.fake_provider.history import Turn
from tests.helpers.check_cases import check_each

USER: Json = {"role": "user", "content": "hi"}
SAID: Json = {"role": "assistant", "content": "a"}
THOUGHT: Json = {
    "type": "reasoning",
    "id": "rs_1",
    "summary": [],
    "encrypted_content": SEALED + "x",
}


def call(id_: str = "a", **more: str) -> Json:
    """A function call."""
    return {"type": "function_call", "call_id": id_, "name": "f", "arguments": "{}", **more}


def make_output(id_: str = "a") -> Json:
    """Its output."""
    return {"type": "function_call_output", "call_id": id_, "output": "1"}


CUSTOM: Json = {"type": "custom_tool_call", "call_id": "a", "name": "c", "input": "x"}
CUSTOM_RESULT: Json = {"type": "custom_tool_call_output", "call_id": "a", "output": "1"}
SHELL: Json = {
    "type": "local_shell_call",
    "id": "lsh_1",
    "call_id": "a",
    "status": "completed",
    "action": {"type": "exec", "command": ["ls"], "env": {}},
}
SHELL_RESULT: Json = {"type": "local_shell_call_output", "id": "a", "output": "{}"}


def make_request(*items: Json, **more: object) -> Json:
    """A request with this input."""
    return {"model": "m", "input": [USER, *items], **more}


@check_each(
    "items",
    [
        (call(), make_output(), SAID),
        (call("a"), call("b"), make_output("b"), USER, make_output("a")),
        (CUSTOM, CUSTOM_RESULT),
        (SHELL, SHELL_RESULT),
        (call(id="fc_1", status="completed", namespace="ns"), make_output()),
        (THOUGHT, SAID),
        (THOUGHT, call(), make_output()),
    ],
    ids=lambda items: "-".join(item.get("type", "message") for item in items),
)
def test_right_histories_pass(items: tuple[Json, ...]) -> None:
    assert (
        check_responses(make_request(*items))
        == check_responses(make_request(*items, store=False))
        == []
    )


@check_each(
    ("items", "message"),
    [
        ((call(),), "No tool output found for function call a."),
        ((make_output(),), "No tool call found for function call output with call_id a."),
        ((make_output(), call()), "No tool call found for function call output with call_id a."),
        ((CUSTOM,), "No tool output found for custom tool call a."),
        ((CUSTOM, make_output()), "No tool call found for function call output with call_id a."),
        ((call(), make_output(), make_output()), "No tool call found for function call output"),
        ((call(id="call_1"), make_output()), "Expected an ID that begins with 'fc'"),
        ((call(name="a b"), make_output()), "does not match pattern"),
        ((THOUGHT,), "without its required following item"),
        ((THOUGHT, USER), "without its required following item"),
        ((THOUGHT, SAID, THOUGHT, SAID), "Duplicate item found with id rs_1"),
        (({**THOUGHT, "encrypted_content": "foreign"}, SAID), "could not be verified"),
        (({**THOUGHT, "encrypted_content": None}, SAID), "Item with id 'rs_1' not found"),
        (({"type": "item_reference", "id": "msg_x"},), "Item with id 'msg_x' not found"),
        (({"id": "msg_x"},), "Item with id 'msg_x' not found"),
    ],
)
def test_wrong_histories_are_refused(items: tuple[Json, ...], message: str) -> None:
    assert message in " ".join(check_responses(make_request(*items)))


@check_each(
    ("item", "param"),
    [
        ({**call(), "role": "assistant"}, "input[1].role"),
        ({**call(), "arguments": {}}, "input[1].arguments"),
        ({**make_output(), "output": {"a": 1}}, "input[1].output"),
        ({**make_output(), "output": [{"type": "text", "text": "1"}]}, "input[1].output[0].type"),
        ({"type": "function_call", "name": "f", "arguments": "{}"}, "input[1].call_id"),
    ],
)
def test_wrong_items_are_named(item: Json, param: str) -> None:
    assert param in [violation.param for violation in check_responses(make_request(item))]


def test_an_output_needs_a_call_id() -> None:
    """The SDK's types do not require it."""
    violations = check_responses(
        make_request(call(), {"type": "function_call_output", "output": "1"})
    )

    assert "input[2].call_id" in [violation.param for violation in violations]


def test_stored_calls_and_items_can_be_referenced() -> None:
    """A request can answer stored calls, and refer to stored items by id."""
    thought = {"type": "reasoning", "id": "rs_9", "summary": []}
    turns = {"resp_1": Turn([USER], [thought, call(id="fc_9")])}
    following = {"model": "m", "input": [make_output()], "previous_response_id": "resp_1"}

    assert check_responses(following, turns=turns) == []
    assert check_responses(following)
    assert check_responses(make_request(thought, call(id="fc_9"), make_output()), turns=turns) == []
    reference = {"type": "item_reference", "id": "rs_9"}
    assert check_responses(make_request(reference, SAID), turns=turns) == []
