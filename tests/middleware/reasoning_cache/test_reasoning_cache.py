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
    make_call,
    make_output,
    make_reasoning_item,
    make_user_message,
)

Json = dict[str, Any]
SCOPE = ("key", "up", "model")
FIRST_REQUEST: Json = {"input": [make_user_message("go")], "store": False}
SECOND_REQUEST: Json = {
    "input": [make_user_message("go"), make_call("c"), make_output("c")],
    "store": False,
}


class Upstream:
    """A handler that answers with reasoning and a call; it records its requests."""

    def __init__(self, *refusals: UpstreamRefused | None) -> None:
        self.requests: list[Json] = []
        self._refusals = iter(refusals)

    def __call__(self, request: Json) -> Iterator[list[Json]]:
        self.requests.append(request)
        refusal = next(self._refusals, None)
        if refusal is not None:
            raise refusal
        response = {"output": [make_reasoning_item("rs"), make_call("c")]}
        return iter([[], [{"type": "response.completed", "response": response}]])

    @property
    def ids(self) -> list[str]:
        return [item.get("id", "") for item in self.requests[-1]["input"]]


def make_cache() -> ReasoningCache:
    return ReasoningCache(MemoryBackend(60))


def test_reasoning_is_restored_and_the_stream_unchanged() -> None:
    upstream, cache = Upstream(), make_cache()
    handler = cache.with_reasoning_cache(upstream, SCOPE, request_encrypted=True)

    first = list(handler(FIRST_REQUEST))
    list(handler(SECOND_REQUEST))

    assert first == list(Upstream()(FIRST_REQUEST))
    assert upstream.ids == ["", "rs", "", ""]
    assert [r["include"] for r in upstream.requests] == [["reasoning.encrypted_content"]] * 2
    assert upstream.requests[1]["input"][1]["encrypted_content"] == "sealed rs"


def test_encrypted_reasoning_is_requested_only_if_enabled() -> None:
    upstream = Upstream()
    with_encrypted = {**FIRST_REQUEST, "include": ["x", "reasoning.encrypted_content"]}

    list(make_cache().with_reasoning_cache(upstream, SCOPE, request_encrypted=True)(with_encrypted))
    list(make_cache().with_reasoning_cache(upstream, SCOPE, request_encrypted=False)(FIRST_REQUEST))

    assert upstream.requests == [with_encrypted, FIRST_REQUEST]


@check_each(
    "scope",
    [("other", "up", "model"), (None, "up", "model"), ("key", "up", "m"), ("key", "u", "model")],
)
def test_entries_are_separate_for_client_upstream_and_model(scope: Any) -> None:
    upstream, cache = Upstream(), make_cache()
    list(cache.with_reasoning_cache(upstream, SCOPE, request_encrypted=False)(FIRST_REQUEST))

    list(cache.with_reasoning_cache(upstream, scope, request_encrypted=False)(SECOND_REQUEST))

    assert upstream.requests[1] == SECOND_REQUEST


@check_each(
    "error",
    [
        {"code": "invalid_encrypted_content", "message": "could not be verified"},
        {"message": "Item 'rs_1' of type 'reasoning' was provided without its item."},
    ],
)
def test_refused_reasoning_is_removed_and_the_request_retried(error: Json) -> None:
    upstream, cache = Upstream(None, UpstreamRefused(400, error)), make_cache()
    handler = cache.with_reasoning_cache(upstream, SCOPE, request_encrypted=False)
    list(handler(FIRST_REQUEST))

    assert list(handler(SECOND_REQUEST))
    assert upstream.requests[1:] == [upstream.requests[1], SECOND_REQUEST]
    assert len(upstream.requests[1]["input"]) == 4


@check_each(
    "refusal",
    [
        UpstreamRefused(400, {"message": "no such model"}),
        UpstreamRefused(503, {"message": "reasoning is down"}),
    ],
)
def test_other_refusal_is_raised(refusal: UpstreamRefused) -> None:
    cache = make_cache()
    handler = cache.with_reasoning_cache(Upstream(None, refusal), SCOPE, request_encrypted=False)
    list(handler(FIRST_REQUEST))

    with pytest.raises(UpstreamRefused):
        handler(SECOND_REQUEST)


def test_refusal_of_an_unchanged_request_is_not_retried() -> None:
    upstream = Upstream(UpstreamRefused(400, {"message": "no reasoning here"}))

    with pytest.raises(UpstreamRefused):
        make_cache().with_reasoning_cache(upstream, SCOPE, request_encrypted=False)(FIRST_REQUEST)
    assert len(upstream.requests) == 1
