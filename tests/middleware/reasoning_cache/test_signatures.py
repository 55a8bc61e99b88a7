"""The signature cache; `test_signature_round_trips` tests all kinds of signatures."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest

from forwarder.core.errors import UpstreamRefused
from forwarder.core.translation_context import LossReport
from forwarder.middleware.reasoning_cache.memory_backend import MemoryBackend
from forwarder.middleware.reasoning_cache.signatures import ChoiceReader, SignatureCache

Json = dict[str, Any]
SCOPE = ("key", "up", "model")
USER = {"role": "user", "content": "go"}
SIGNED = {"extra_content": {"google": {"thought_signature": "s"}}}


def make_call(name: str = "a", arguments: str = "{}", **more: Any) -> Json:
    return {"id": name, "function": {"name": "f", "arguments": arguments}, **more}


def make_call_message(*calls: Json, **more: Any) -> Json:
    return {"role": "assistant", "content": None, "tool_calls": list(calls), **more}


class CountingBackend(MemoryBackend):
    """A backend that counts look-ups and keys."""

    def __init__(self) -> None:
        super().__init__(60)
        self.looked_up_counts: list[int] = []

    def find(self, owner: bytes, keys: Any) -> dict[bytes, bytes]:
        keys = list(keys)
        self.looked_up_counts.append(len(keys))
        return super().find(owner, keys)


class Upstream:
    """A handler that answers with one message and records its requests."""

    def __init__(self, message: Json, *refusals: UpstreamRefused | None) -> None:
        self.message = message
        self.requests: list[Json] = []
        self._refusals = iter(refusals)

    def __call__(self, request: Json) -> Iterator[list[Json]]:
        self.requests.append(request)
        refusal = next(self._refusals, None)
        if refusal is not None:
            raise refusal
        choice = {"index": 0, "message": self.message, "finish_reason": "stop"}
        return iter([[], [{"choices": [choice]}]])


def send_messages(
    upstream: Upstream, cache: SignatureCache, *messages: Any, scope: Any = SCOPE
) -> LossReport:
    loss_report = LossReport()
    list(cache.with_signature_cache(upstream, scope, loss_report)({"messages": list(messages)}))
    return loss_report


@pytest.fixture
def backend() -> CountingBackend:
    return CountingBackend()


@pytest.fixture
def cache(backend: CountingBackend) -> SignatureCache:
    return SignatureCache(backend)


def test_model_without_signatures_costs_one_look_up(
    backend: CountingBackend, cache: SignatureCache
) -> None:
    upstream = Upstream(make_call_message(make_call()))
    send_messages(upstream, cache, USER)
    assert backend.looked_up_counts == []

    send_messages(upstream, cache, USER, make_call_message(make_call()), USER)

    assert backend.looked_up_counts == [1]
    assert upstream.requests[-1] == {"messages": [USER, make_call_message(make_call()), USER]}


def test_message_with_signatures_is_unchanged(cache: SignatureCache) -> None:
    upstream = Upstream(
        make_call_message(make_call("a", **SIGNED), make_call("b"), thinking_blocks=[{"data": "d"}])
    )
    send_messages(upstream, cache, USER)

    signed_by_client = make_call_message(make_call("a"), make_call("b"), reasoning_opaque="mine")
    send_messages(
        upstream, cache, USER, signed_by_client, make_call_message(make_call("a"), make_call("b"))
    )

    assert upstream.requests[-1]["messages"][1:] == [signed_by_client, upstream.message]


@pytest.mark.parametrize(
    "changed_message",
    [
        make_call_message(make_call("a", '{"x": 1}')),
        make_call_message(make_call("a") | {"function": {"name": "g", "arguments": "{}"}}),
        {"role": "assistant", "content": "Hi."},
        {"role": "assistant", "tool_calls": "odd"},
        {"role": "assistant", "tool_calls": [{"id": "a", "function": "odd"}]},
    ],
)
def test_changed_message_gets_no_signatures(changed_message: Json, cache: SignatureCache) -> None:
    upstream = Upstream(make_call_message(make_call("a", **SIGNED)))
    send_messages(upstream, cache, USER)

    send_messages(upstream, cache, USER, changed_message)

    assert upstream.requests[-1]["messages"] == [USER, changed_message]


@pytest.mark.parametrize("messages", [None, "odd", ["odd", 1]])
def test_malformed_request_is_passed_on(messages: Any, cache: SignatureCache) -> None:
    upstream = Upstream(make_call_message(make_call("a", **SIGNED)))
    list(cache.with_signature_cache(upstream, SCOPE, LossReport())({"messages": messages}))
    assert upstream.requests == [{"messages": messages}]


@pytest.mark.parametrize("call_id", ["", "b"])
def test_call_without_id_matches_by_question(call_id: str, cache: SignatureCache) -> None:
    upstream = Upstream(make_call_message(make_call("a", **SIGNED), make_call("b")))
    send_messages(upstream, cache, USER)

    other_question = {"role": "user", "content": "other"}
    calls = make_call_message(make_call(call_id), make_call(call_id))
    send_messages(upstream, cache, USER, calls, other_question, calls)

    signed = make_call_message(make_call(call_id, **SIGNED), make_call(call_id))
    assert upstream.requests[-1]["messages"] == [USER, signed, other_question, calls]


def test_text_matches_by_question(cache: SignatureCache) -> None:
    answer = {"role": "assistant", "content": "Yes."}
    upstream = Upstream({**answer, **SIGNED})
    send_messages(upstream, cache, USER)

    other_question = {"role": "user", "content": "other"}
    send_messages(upstream, cache, USER, answer, other_question, answer)

    assert upstream.requests[-1]["messages"] == [USER, {**answer, **SIGNED}, other_question, answer]


@pytest.mark.parametrize(
    "scope", [("other", "up", "model"), ("key", "other", "model"), ("key", "up", "other")]
)
def test_signatures_are_separate_for_client_upstream_and_model(
    scope: Any, cache: SignatureCache
) -> None:
    upstream = Upstream(make_call_message(make_call("a", **SIGNED)))
    send_messages(upstream, cache, USER)

    send_messages(upstream, cache, USER, make_call_message(make_call("a")), scope=scope)

    assert upstream.requests[-1]["messages"] == [USER, make_call_message(make_call("a"))]


def make_refusal(message: str, status: int = 400) -> UpstreamRefused:
    return UpstreamRefused(status, {"message": message})


def test_refused_signatures_are_removed_and_reported(cache: SignatureCache) -> None:
    upstream = Upstream(
        make_call_message(make_call("a", **SIGNED)),
        None,
        make_refusal("Corrupted thought signature."),
    )
    send_messages(upstream, cache, USER)

    loss_report = send_messages(upstream, cache, USER, make_call_message(make_call("a")))

    assert upstream.requests[1]["messages"] == [USER, upstream.message]
    assert upstream.requests[2]["messages"] == [USER, make_call_message(make_call("a"))]
    assert loss_report.losses == {"messages.signatures": "the upstream refused them"}


@pytest.mark.parametrize(
    "refusal", [make_refusal("no such model"), make_refusal("the signature service is down", 503)]
)
def test_other_refusal_is_raised(refusal: UpstreamRefused, cache: SignatureCache) -> None:
    upstream = Upstream(make_call_message(make_call("a", **SIGNED)), None, refusal)
    send_messages(upstream, cache, USER)

    with pytest.raises(UpstreamRefused):
        send_messages(upstream, cache, USER, make_call_message(make_call("a")))
    assert len(upstream.requests) == 2


def test_signature_after_the_finish_is_stored(cache: SignatureCache) -> None:
    def upstream(request: Json) -> Iterator[list[Json]]:
        requests.append(request)
        finish = {
            "index": 0,
            "delta": {"tool_calls": [make_call("a")]},
            "finish_reason": "tool_calls",
        }
        late = {"index": 0, "delta": {"reasoning_opaque": "o"}}
        return iter([[{"choices": [finish]}], [{"choices": [late]}], [{"choices": []}]])

    requests: list[Json] = []
    handler = cache.with_signature_cache(upstream, SCOPE, LossReport())
    list(handler({"messages": [USER]}))
    list(handler({"messages": [USER, make_call_message(make_call("a"))]}))

    assert requests[-1]["messages"][1]["reasoning_opaque"] == "o"


def test_message_beside_deltas_is_ignored() -> None:
    reader, whole_reader = ChoiceReader(), ChoiceReader()
    reader.add_choice({"delta": {"content": "Hi"}, "message": {"content": "Hi"}})
    reader.add_choice({"delta": {}, "message": {"content": "Hi"}, "finish_reason": "stop"})
    whole_reader.add_choice({"message": {"content": "Hi"}, "finish_reason": "stop"})

    assert reader.make_entries(b"q").keys() == whole_reader.make_entries(b"q").keys()


def test_long_text_is_stored_in_few_pieces() -> None:
    reader = ChoiceReader()
    tracemalloc.start()
    for number in range(20_000):
        reader.add_choice({"delta": {"content": f"{number:05}"}})
    used_bytes, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert used_bytes < 200_000  # of 100,000 characters
    text = "".join(f"{number:05}" for number in range(20_000))
    whole_reader = ChoiceReader()
    whole_reader.add_choice({"message": {"content": text}})
    assert reader.make_entries(b"q").keys() == whole_reader.make_entries(b"q").keys()
