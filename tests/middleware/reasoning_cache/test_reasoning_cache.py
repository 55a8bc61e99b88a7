"""The reasoning cache around an upstream's handler."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from forwarder.core.errors import UpstreamRefused
from forwarder.middleware.reasoning_cache import ReasoningCache
from forwarder.middleware.reasoning_cache.memory_backend import MemoryBackend
from tests.helpers.check_cases import check_each
from tests.middleware.reasoning_cache.test_matching import (
    call,
    make_output,
    make_reasoning_item,
    make_user_message,
)

Json = dict[str, Any]
MINE = ("key", "up", "model")
ASKED: Json = {"input": [make_user_message("go")], "store": False}
AGAIN: Json = {"input": [make_user_message("go"), call("c"), make_output("c")], "store": False}


class Upstream:
    """A handler scope answers have reasoning before calls; it records its requests."""

    def __init__(self, *refusals: UpstreamRefused | None) -> None:
        self.asked: list[Json] = []
        self._refusals = iter(refusals)

    def __call__(self, request: Json) -> Iterator[list[Json]]:
        self.asked.append(request)
        refusal = next(self._refusals, None)
        if refusal is not None:
            raise refusal
        response = {"output": [make_reasoning_item("rs"), call("c")]}
        return iter([[], [{"type": "response.completed", "response": response}]])

    @property
    def ids(self) -> list[str]:
        return [item.get("id", "") for item in self.asked[-1]["input"]]


def recall() -> ReasoningCache:
    return ReasoningCache(MemoryBackend(60))


def test_reasoning_is_restored_and_the_stream_unchanged() -> None:
    upstream, memory = Upstream(), recall()
    recalled = memory.with_reasoning_cache(upstream, MINE, request_encrypted=True)

    first = list(recalled(ASKED))
    list(recalled(AGAIN))

    assert first == list(Upstream()(ASKED))
    assert upstream.ids == ["", "rs", "", ""]
    assert [r["include"] for r in upstream.asked] == [["reasoning.encrypted_content"]] * 2
    assert upstream.asked[1]["input"][1]["encrypted_content"] == "sealed rs"


def test_encrypted_reasoning_is_requested_only_if_enabled() -> None:
    upstream = Upstream()
    sealing = {**ASKED, "include": ["x", "reasoning.encrypted_content"]}

    list(recall().with_reasoning_cache(upstream, MINE, request_encrypted=True)(sealing))
    list(recall().with_reasoning_cache(upstream, MINE, request_encrypted=False)(ASKED))

    assert upstream.asked == [sealing, ASKED]


@check_each(
    "scope",
    [("other", "up", "model"), (None, "up", "model"), ("key", "up", "m"), ("key", "u", "model")],
)
def test_entries_are_separate_for_client_upstream_and_model(scope: Any) -> None:
    upstream, memory = Upstream(), recall()
    list(memory.with_reasoning_cache(upstream, MINE, request_encrypted=False)(ASKED))

    list(memory.with_reasoning_cache(upstream, scope, request_encrypted=False)(AGAIN))

    assert upstream.asked[1] == AGAIN


@check_each(
    "error",
    [
        {"code": "invalid_encrypted_content", "message": "could not be verified"},
        {"message": "Item 'rs_1' of type 'reasoning' was provided without its item."},
    ],
)
def test_refused_reasoning_is_removed_and_the_request_retried(error: Json) -> None:
    upstream, memory = Upstream(None, UpstreamRefused(400, error)), recall()
    recalled = memory.with_reasoning_cache(upstream, MINE, request_encrypted=False)
    list(recalled(ASKED))

    assert list(recalled(AGAIN))
    assert upstream.asked[1:] == [upstream.asked[1], AGAIN]
    assert len(upstream.asked[1]["input"]) == 4


@check_each(
    "refusal",
    [
        UpstreamRefused(400, {"message": "no such model"}),
        UpstreamRefused(503, {"message": "reasoning is down"}),
    ],
)
def test_other_refusal_is_raised(refusal: UpstreamRefused) -> None:
    memory = recall()
    recalled = memory.with_reasoning_cache(Upstream(None, refusal), MINE, request_encrypted=False)
    list(recalled(ASKED))

    with pytest.raises(UpstreamRefused):
        recalled(AGAIN)


def test_refusal_of_an_unchanged_request_is_not_retried() -> None:
    upstream = Upstream(UpstreamRefused(400, {"message": "no reasoning here"}))

    with pytest.raises(UpstreamRefused):
        recall().with_reasoning_cache(upstream, MINE, request_encrypted=False)(ASKED)
    assert len(upstream.asked) == 1
