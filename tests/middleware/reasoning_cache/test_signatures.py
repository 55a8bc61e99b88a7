"""The signature cache; `test_signature_round_trips` has the whole table."""

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
MINE = ("key", "up", "model")
USER = {"role": "user", "content": "go"}
SIGNED = {"extra_content": {"google": {"thought_signature": "s"}}}


def call(name: str = "a", arguments: str = "{}", **more: Any) -> Json:
    return {"id": name, "function": {"name": "f", "arguments": arguments}, **more}


def make_call_message(*calls: Json, **more: Any) -> Json:
    return {"role": "assistant", "content": None, "tool_calls": list(calls), **more}


class Shelf(MemoryBackend):
    """A backend that counts look-ups and keys."""

    def __init__(self) -> None:
        super().__init__(60)
        self.looks: list[int] = []

    def find(self, owner: bytes, keys: Any) -> dict[bytes, bytes]:
        keys = list(keys)
        self.looks.append(len(keys))
        return super().find(owner, keys)


class Upstream:
    """A handler that answers with one message and records its requests."""

    def __init__(self, message: Json, *refusals: UpstreamRefused | None) -> None:
        self.message = message
        self.asked: list[Json] = []
        self._refusals = iter(refusals)

    def __call__(self, request: Json) -> Iterator[list[Json]]:
        self.asked.append(request)
        refusal = next(self._refusals, None)
        if refusal is not None:
            raise refusal
        choice = {"index": 0, "message": self.message, "finish_reason": "stop"}
        return iter([[], [{"choices": [choice]}]])


def ask(
    upstream: Upstream, recall: SignatureCache, *messages: Any, scope: Any = MINE
) -> LossReport:
    loss_report = LossReport()
    list(recall.with_signature_cache(upstream, scope, loss_report)({"messages": list(messages)}))
    return loss_report


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


@pytest.fixture
def recall(shelf: Shelf) -> SignatureCache:
    return SignatureCache(shelf)


def test_model_without_signatures_costs_one_look_up(shelf: Shelf, recall: SignatureCache) -> None:
    upstream = Upstream(make_call_message(call()))
    ask(upstream, recall, USER)
    assert shelf.looks == []

    ask(upstream, recall, USER, make_call_message(call()), USER)

    assert shelf.looks == [1]
    assert upstream.asked[-1] == {"messages": [USER, make_call_message(call()), USER]}


def test_message_with_signatures_is_unchanged(recall: SignatureCache) -> None:
    upstream = Upstream(
        make_call_message(call("a", **SIGNED), call("b"), thinking_blocks=[{"data": "d"}])
    )
    ask(upstream, recall, USER)

    own = make_call_message(call("a"), call("b"), reasoning_opaque="mine")
    ask(upstream, recall, USER, own, make_call_message(call("a"), call("b")))

    assert upstream.asked[-1]["messages"][1:] == [own, upstream.message]


@pytest.mark.parametrize(
    "changed",
    [
        make_call_message(call("a", '{"x": 1}')),
        make_call_message(call("a") | {"function": {"name": "g", "arguments": "{}"}}),
        {"role": "assistant", "content": "Hi."},
        {"role": "assistant", "tool_calls": "odd"},
        {"role": "assistant", "tool_calls": [{"id": "a", "function": "odd"}]},
    ],
)
def test_changed_message_gets_no_signatures(changed: Json, recall: SignatureCache) -> None:
    upstream = Upstream(make_call_message(call("a", **SIGNED)))
    ask(upstream, recall, USER)

    ask(upstream, recall, USER, changed)

    assert upstream.asked[-1]["messages"] == [USER, changed]


@pytest.mark.parametrize("messages", [None, "odd", ["odd", 1]])
def test_malformed_request_is_passed_on(messages: Any, recall: SignatureCache) -> None:
    upstream = Upstream(make_call_message(call("a", **SIGNED)))
    list(recall.with_signature_cache(upstream, MINE, LossReport())({"messages": messages}))
    assert upstream.asked == [{"messages": messages}]


@pytest.mark.parametrize("given", ["", "b"])
def test_call_without_id_matches_by_question(given: str, recall: SignatureCache) -> None:
    upstream = Upstream(make_call_message(call("a", **SIGNED), call("b")))
    ask(upstream, recall, USER)

    other = {"role": "user", "content": "other"}
    calls = make_call_message(call(given), call(given))
    ask(upstream, recall, USER, calls, other, calls)

    signed = make_call_message(call(given, **SIGNED), call(given))
    assert upstream.asked[-1]["messages"] == [USER, signed, other, calls]


def test_text_matches_by_question(recall: SignatureCache) -> None:
    told = {"role": "assistant", "content": "Yes."}
    upstream = Upstream({**told, **SIGNED})
    ask(upstream, recall, USER)

    other = {"role": "user", "content": "other"}
    ask(upstream, recall, USER, told, other, told)

    assert upstream.asked[-1]["messages"] == [USER, {**told, **SIGNED}, other, told]


@pytest.mark.parametrize(
    "scope", [("other", "up", "model"), ("key", "other", "model"), ("key", "up", "other")]
)
def test_signatures_are_separate_for_client_upstream_and_model(
    scope: Any, recall: SignatureCache
) -> None:
    upstream = Upstream(make_call_message(call("a", **SIGNED)))
    ask(upstream, recall, USER)

    ask(upstream, recall, USER, make_call_message(call("a")), scope=scope)

    assert upstream.asked[-1]["messages"] == [USER, make_call_message(call("a"))]


def make_refusal(message: str, status: int = 400) -> UpstreamRefused:
    return UpstreamRefused(status, {"message": message})


def test_refused_signatures_are_removed_and_reported(recall: SignatureCache) -> None:
    upstream = Upstream(
        make_call_message(call("a", **SIGNED)), None, make_refusal("Corrupted thought signature.")
    )
    ask(upstream, recall, USER)

    loss_report = ask(upstream, recall, USER, make_call_message(call("a")))

    assert upstream.asked[1]["messages"] == [USER, upstream.message]
    assert upstream.asked[2]["messages"] == [USER, make_call_message(call("a"))]
    assert loss_report.losses == {"messages.signatures": "the upstream refused them"}


@pytest.mark.parametrize(
    "refusal", [make_refusal("no such model"), make_refusal("the signature service is down", 503)]
)
def test_other_refusal_is_raised(refusal: UpstreamRefused, recall: SignatureCache) -> None:
    upstream = Upstream(make_call_message(call("a", **SIGNED)), None, refusal)
    ask(upstream, recall, USER)

    with pytest.raises(UpstreamRefused):
        ask(upstream, recall, USER, make_call_message(call("a")))
    assert len(upstream.asked) == 2


def test_signature_after_the_finish_is_stored(recall: SignatureCache) -> None:
    def upstream(request: Json) -> Iterator[list[Json]]:
        asked.append(request)
        finish = {"index": 0, "delta": {"tool_calls": [call("a")]}, "finish_reason": "tool_calls"}
        late = {"index": 0, "delta": {"reasoning_opaque": "o"}}
        return iter([[{"choices": [finish]}], [{"choices": [late]}], [{"choices": []}]])

    asked: list[Json] = []
    wrapped = recall.with_signature_cache(upstream, MINE, LossReport())
    list(wrapped({"messages": [USER]}))
    list(wrapped({"messages": [USER, make_call_message(call("a"))]}))

    assert asked[-1]["messages"][1]["reasoning_opaque"] == "o"


def test_message_beside_deltas_is_ignored() -> None:
    reader, whole = ChoiceReader(), ChoiceReader()
    reader.add_choice({"delta": {"content": "Hi"}, "message": {"content": "Hi"}})
    reader.add_choice({"delta": {}, "message": {"content": "Hi"}, "finish_reason": "stop"})
    whole.add_choice({"message": {"content": "Hi"}, "finish_reason": "stop"})

    assert reader.make_entries(b"q").keys() == whole.make_entries(b"q").keys()


def test_long_text_is_kept_in_few_pieces() -> None:
    reader = ChoiceReader()
    tracemalloc.start()
    for number in range(20_000):
        reader.add_choice({"delta": {"content": f"{number:05}"}})
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert held < 200_000  # of 100,000 characters
    text = "".join(f"{number:05}" for number in range(20_000))
    whole = ChoiceReader()
    whole.add_choice({"message": {"content": text}})
    assert reader.make_entries(b"q").keys() == whole.make_entries(b"q").keys()
