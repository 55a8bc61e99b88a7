"""The provider of the scale-out test sees when a conversation lacks a turn."""

from __future__ import annotations

import http.client
import json
from typing import Any

from bench.conversations import (
    SINGLE,
    SINGLE_USAGE,
    CheckingProvider,
    Conversation,
    Prompt,
    Turn,
    pair_turns,
)
from tests.helpers.check_cases import check_each


def keep(count: int, conversation_id: str | None = None) -> Conversation:
    """A conversation with ``count`` acknowledged turns."""
    conversation = Conversation("alice", "c1", 5, conversation_id)
    for _ in range(count):
        prompt = conversation.make_prompt()
        conversation.acknowledged.append(Turn(prompt, conversation.make_answer(prompt)))
    return conversation


def ask(provider: CheckingProvider, messages: list[dict[str, str]]) -> Any:
    connection = http.client.HTTPConnection(provider.url.split("/")[2], timeout=5)
    headers = {"Authorization": "Bearer sk-bench", "X-Machine": "one"}
    body = json.dumps({"model": "m", "messages": messages})
    connection.request("POST", "/v1/chat/completions", body, headers)
    answer = json.loads(connection.getresponse().read())
    connection.close()
    return answer["choices"][0]["message"]["content"]


def to_messages(turns: list[Turn]) -> list[dict[str, str]]:
    return [
        {"role": role, "content": text}
        for turn in turns
        for role, text in zip(("user", "assistant"), turn[:2], strict=True)
    ]


def test_prompts_are_parsed_and_differ_by_attempt() -> None:
    conversation = keep(1)
    first, second = conversation.make_prompt(), conversation.make_prompt()
    assert Prompt.parse(first) == ("alice", "c1", 1, 1)
    assert Prompt.parse(second) == ("alice", "c1", 1, 2)
    assert conversation.make_answer(first) != conversation.make_answer(second)


@check_each(
    ("conversation_id", "change", "fault"),
    [
        (None, lambda turns: turns, None),
        (None, lambda turns: turns[1:], "turn 0 is missing"),
        (None, lambda turns: [*turns, turns[-1]], "wrong turns"),
        ("conv_1", lambda turns: turns, None),
        ("conv_1", lambda turns: turns[:2], "turn 2 is missing"),
        ("conv_1", lambda turns: turns[::-1], "wrong turns"),
        ("conv_1", lambda turns: [*turns, turns[-1]], None),
        ("conv_1", lambda turns: [*turns, Turn("other", "text")], "wrong turns"),
        ("conv_1", lambda turns: [*turns, Turn(turns[0].prompt, "text")], "wrong turns"),
    ],
    ids=["chain", "chain without a turn", "chain with a turn twice", "object", "object without a"
         " turn", "object in another order", "object with a repeated turn", "object with a foreign"
         " turn", "object with a wrong answer"],
)  # fmt: skip
def test_missing_turns_are_found(conversation_id: str | None, change: Any, fault: str) -> None:
    conversation = keep(3, conversation_id)
    found = conversation.find_fault(change(conversation.acknowledged), 3)
    assert (found is None) == (fault is None)
    assert (fault or "") in (found or "")


def test_a_stored_turn_whose_answer_the_client_did_not_get_may_be_in_the_history() -> None:
    conversation = keep(2, "conv_1")
    prompt = conversation.make_prompt()
    stored = Turn(prompt, conversation.make_answer(prompt))
    assert conversation.find_fault([*conversation.acknowledged, stored], 2) is None


def test_messages_that_do_not_alternate_equal_no_turn() -> None:
    assert pair_turns([("user", "a"), ("assistant", "b")]) == [Turn("a", "b")]
    assert pair_turns([("user", "a"), ("user", "b")]) == [Turn("", "user user")]


def test_provider_checks_histories_and_counts_tokens() -> None:
    conversation = keep(2)
    prompt = conversation.make_prompt()
    with CheckingProvider(seconds=0) as provider:
        provider.conversations["c1"] = conversation
        question = {"role": "user", "content": prompt}
        messages = [*to_messages(conversation.acknowledged), question]
        assert ask(provider, messages) == conversation.make_answer(prompt)
        assert provider.faults == []
        ask(provider, messages[2:])
        assert provider.faults == [
            "c1: turn 0 is missing; 2 turns are acknowledged, the history has 1"
        ]
        ask(provider, [{"role": "user", "content": Prompt("bob", SINGLE, 0, 7).text}])
    first, _, single = provider.served
    size = sum(len(message["content"]) for message in messages)
    answer = conversation.make_answer(prompt)
    assert first[1:] == ("one", "alice", size // 4 + len(answer) // 4)
    assert single[1:] == ("one", "bob", SINGLE_USAGE.input + SINGLE_USAGE.output)
