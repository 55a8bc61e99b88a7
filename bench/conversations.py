"""Conversations whose turns can be checked, and a provider that checks each request of them.

    prompt = "CLIENT CONVERSATION TURN ATTEMPT words …"      answer = a text that follows from it

A client acknowledges a turn when it has received the whole answer. Even if servers fail, each later
request to the provider must contain all acknowledged turns, in order.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, NamedTuple

from tests.fake_provider import Answer, Framing, Recorded, ScriptedUpstream, Stream, Usage
from tests.fake_provider.answers import ModelRequest, Protocol
from tests.fake_provider.history import as_items, text_of
from tests.fake_provider.wire import Reply

API_KEY = "sk-bench"
SINGLE = "-"
"""The conversation name of single prompts. Their answers are short and come at once."""

SINGLE_USAGE = Usage(input=40, output=10)

_SYLLABLES = ("ba", "ce", "di", "fo", "gu", "la", "me", "ni", "po", "ru", "sa", "te", "vi", "zo")
_VOCABULARY = [one + two + three for one in _SYLLABLES for two in _SYLLABLES for three in "nrst"]
_PROMPT_WORDS = 30
_PIECES = 20
"""Deltas of a streamed answer."""


class Prompt(NamedTuple):
    """The beginning of a prompt; ``attempt`` counts how often a client has sent this turn."""

    client: str
    conversation: str
    turn: int
    attempt: int

    @property
    def text(self) -> str:
        head = " ".join(map(str, self))
        return f"{head} {make_words(head, _PROMPT_WORDS)}"

    @classmethod
    def parse(cls, text: str) -> Prompt:
        client, conversation, turn, attempt = text.split(" ", 4)[:4]
        return cls(client, conversation, int(turn), int(attempt))


class Turn(NamedTuple):
    """A turn as the client or the provider knows it."""

    prompt: str
    answer: str
    response_id: str = ""


@dataclass
class Conversation:
    """One conversation of a client.

    ``id`` is that of a conversation object; without it, turns refer to the previous response.
    ``acknowledged`` are the turns whose answers the client has received, ``sent`` all prompts.
    """

    client: str
    name: str
    words: int
    id: str | None = None
    acknowledged: list[Turn] = field(default_factory=list)
    sent: set[str] = field(default_factory=set)

    def make_prompt(self) -> str:
        """Return the prompt of the next turn, a new one for each attempt."""
        text = Prompt(self.client, self.name, len(self.acknowledged), len(self.sent)).text
        self.sent.add(text)
        return text

    def make_answer(self, prompt: str) -> str:
        """Return the answer of the provider."""
        return make_words(prompt, self.words)

    def find_fault(self, turns: Sequence[Turn], count: int) -> str | None:
        """Return the fault of a history that must have the first ``count`` turns, or None.

        A conversation object may also have repeated turns, and stored turns whose answers the
        client did not receive.
        """
        expected = [(turn.prompt, turn.answer) for turn in self.acknowledged[:count]]
        received = [(turn.prompt, turn.answer) for turn in turns]
        if self.id is None:
            return None if received == expected else describe_history(self.name, expected, received)
        are_known = all(prompt in self.sent for prompt, _ in received)
        are_correct = all(answer == self.make_answer(prompt) for prompt, answer in received)
        remaining = iter(received)  # ``in`` consumes it up to the match, so this checks the order
        are_in_order = all(turn in remaining for turn in expected)
        if are_known and are_correct and are_in_order:
            return None
        return describe_history(self.name, expected, received)


def describe_history(
    name: str, expected: Sequence[tuple[str, str]], received: Sequence[tuple[str, str]]
) -> str:
    """Describe the first difference between two histories."""
    missing = next((turn for turn in expected if turn not in received), None)
    fault = f"turn {Prompt.parse(missing[0]).turn} is missing" if missing else "wrong turns"
    return (
        f"{name}: {fault}; {len(expected)} turns are acknowledged, the history has {len(received)}"
    )


def make_words(seed: str, count: int) -> str:
    """Return ``count`` words, derived from ``seed``; about 6 bytes each."""
    return " ".join(Random(seed).choices(_VOCABULARY, k=count))


def pair_turns(messages: Sequence[tuple[str, str]]) -> list[Turn]:
    """Return the turns of (role, text) pairs that alternate between user and assistant."""
    roles = [role for role, _ in messages]
    if roles != ["user", "assistant"] * (len(messages) // 2):
        return [Turn("", " ".join(roles))]  # equals no turn
    texts = [text for _, text in messages]
    return [Turn(*pair) for pair in zip(texts[::2], texts[1::2], strict=True)]


# -- the provider ---------------------------------------------------------------------------------


class Served(NamedTuple):
    """A request that the provider answered; ``time`` is the monotonic time of its arrival."""

    time: float
    machine: str
    client: str
    tokens: int


class CheckingProvider(ScriptedUpstream):
    """A provider of both APIs that checks histories and counts what it answers.

    ``seconds`` is the duration of the answer to a turn.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__(keys={API_KEY}, strict=False)
        self.conversations: dict[str, Conversation] = {}
        self.faults: list[str] = []
        self.served: list[Served] = []
        self._framing = Framing(delay=seconds / _PIECES)
        self._counting = threading.Lock()

    def _generate(self, method: str, protocol: Protocol, recorded: Recorded) -> Reply:
        self.requests.clear()  # their bodies would fill the memory
        body = recorded.body
        messages = list_messages(protocol, body)
        prompt = Prompt.parse(messages[-1][1])
        with self._counting:
            self._serial += 1
            request = ModelRequest(protocol, body, self._serial)
        stream = self._make_stream(prompt, messages)
        usage = stream.answer.usage
        assert usage is not None
        self.served.append(
            Served(
                time.monotonic(),
                recorded.headers["x-machine"],
                prompt.client,
                usage.input + usage.output,
            )
        )
        return stream.reply(request)

    def _make_stream(self, prompt: Prompt, messages: list[tuple[str, str]]) -> Stream:
        if prompt.conversation == SINGLE:
            return Stream(Answer(text="A short answer.", usage=SINGLE_USAGE))
        conversation = self.conversations[prompt.conversation]
        fault = conversation.find_fault(pair_turns(messages[:-1]), prompt.turn)
        if fault:
            self.faults.append(fault)
        answer = conversation.make_answer(messages[-1][1])
        size = sum(len(text) for _, text in messages)
        usage = Usage(input=size // 4, output=len(answer) // 4, cached=0, reasoning=0)
        return Stream(Answer(text=answer, usage=usage, pieces=_PIECES), framing=self._framing)


def list_messages(protocol: Protocol, body: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the messages of a request as (role, text)."""
    messages = body["messages"] if protocol == "chat" else as_items(body["input"])
    return [(message["role"], text_of(message["content"])) for message in messages]
