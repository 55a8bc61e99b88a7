"""The wrapper around an upstream's call: what it asks for, the scope, what fails."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from forwarder.core.errors import UpstreamRefused
from forwarder.middleware.reasoning_cache import ReasoningCache
from forwarder.middleware.reasoning_cache.memory_backend import MemoryBackend
from tests.middleware.reasoning_cache.test_keys import call, output, thought, user

Json = dict[str, Any]
MINE = ("key", "up", "model")
ASKED: Json = {"input": [user("go")], "store": False}
AGAIN: Json = {"input": [user("go"), call("c"), output("c")], "store": False}


class Upstream:
    """A handler whose answers think before they call; it keeps what it was asked."""

    def __init__(self, *refusals: UpstreamRefused | None) -> None:
        self.asked: list[Json] = []
        self._refusals = iter(refusals)

    def __call__(self, request: Json) -> Iterator[list[Json]]:
        self.asked.append(request)
        refusal = next(self._refusals, None)
        if refusal is not None:
            raise refusal
        response = {"output": [thought("rs"), call("c")]}
        return iter([[], [{"type": "response.completed", "response": response}]])

    @property
    def ids(self) -> list[str]:
        return [item.get("id", "") for item in self.asked[-1]["input"]]


def recall() -> ReasoningCache:
    return ReasoningCache(MemoryBackend(60))


def test_what_was_thought_comes_back_and_the_stream_is_the_same() -> None:
    upstream, memory = Upstream(), recall()
    recalled = memory.with_reasoning_cache(upstream, MINE, request_encrypted=True)

    first = list(recalled(ASKED))
    list(recalled(AGAIN))

    assert first == list(Upstream()(ASKED))
    assert upstream.ids == ["", "rs", "", ""]
    assert [r["include"] for r in upstream.asked] == [["reasoning.encrypted_content"]] * 2
    assert upstream.asked[1]["input"][1]["encrypted_content"] == "sealed rs"


def test_seals_are_asked_for_once_and_only_of_models_that_reason() -> None:
    upstream = Upstream()
    sealing = {**ASKED, "include": ["x", "reasoning.encrypted_content"]}

    list(recall().with_reasoning_cache(upstream, MINE, request_encrypted=True)(sealing))
    list(recall().with_reasoning_cache(upstream, MINE, request_encrypted=False)(ASKED))

    assert upstream.asked == [sealing, ASKED]


@pytest.mark.parametrize(
    "scope",
    [("other", "up", "model"), (None, "up", "model"), ("key", "up", "m"), ("key", "u", "model")],
)
def test_it_is_for_nobody_else_and_no_other_model(scope: Any) -> None:
    upstream, memory = Upstream(), recall()
    list(memory.with_reasoning_cache(upstream, MINE, request_encrypted=False)(ASKED))

    list(memory.with_reasoning_cache(upstream, scope, request_encrypted=False)(AGAIN))

    assert upstream.asked[1] == AGAIN


@pytest.mark.parametrize(
    "error",
    [
        {"code": "invalid_encrypted_content", "message": "could not be verified"},
        {"message": "Item 'rs_1' of type 'reasoning' was provided without its item."},
    ],
)
def test_an_upstream_that_does_not_accept_it_is_asked_without(error: Json) -> None:
    upstream, memory = Upstream(None, UpstreamRefused(400, error)), recall()
    recalled = memory.with_reasoning_cache(upstream, MINE, request_encrypted=False)
    list(recalled(ASKED))

    assert list(recalled(AGAIN))
    assert upstream.asked[1:] == [upstream.asked[1], AGAIN]
    assert len(upstream.asked[1]["input"]) == 4


@pytest.mark.parametrize(
    "refusal",
    [
        UpstreamRefused(400, {"message": "no such model"}),
        UpstreamRefused(503, {"message": "reasoning is down"}),
    ],
)
def test_any_other_refusal_is_the_client_s(refusal: UpstreamRefused) -> None:
    memory = recall()
    recalled = memory.with_reasoning_cache(Upstream(None, refusal), MINE, request_encrypted=False)
    list(recalled(ASKED))

    with pytest.raises(UpstreamRefused):
        recalled(AGAIN)


def test_a_refusal_of_a_request_to_which_nothing_was_added_is_not_tried_again() -> None:
    upstream = Upstream(UpstreamRefused(400, {"message": "no reasoning here"}))

    with pytest.raises(UpstreamRefused):
        recall().with_reasoning_cache(upstream, MINE, request_encrypted=False)(ASKED)
    assert len(upstream.asked) == 1
