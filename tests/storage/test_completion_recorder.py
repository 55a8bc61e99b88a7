"""Storing chat completions."""

from __future__ import annotations

import re
from typing import Any

import pytest

from forwarder.core.errors import InvalidRequest
from forwarder.core.types import Batch, Json
from forwarder.storage import completion_recorder
from forwarder.storage.completion_recorder import CompletionRecorder
from forwarder.storage.db import completions as stored
from forwarder.storage.db.database import SqliteDatabase
from forwarder.storage.repositories.completions import CompletionRepository
from tests.helpers.check_cases import check_each

REQUEST: Json = {
    "model": "m",
    "store": True,
    "metadata": {"a": "b"},
    "messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}],
}


def make_chunk(text: str | None = None, finish: str | None = None, index: int = 0) -> Json:
    choice = {"index": index, "delta": {"content": text}, "finish_reason": finish}
    return {"id": "c", "object": "chat.completion.chunk", "model": "m", "choices": [choice]}


USAGE: Json = {"id": "c", "model": "m", "choices": [], "usage": {"total_tokens": 3}}


def make_recorder(
    database: SqliteDatabase, origin: str | None = "up", **more: Any
) -> CompletionRecorder:
    completions = CompletionRepository(database)
    return CompletionRecorder(completions, "o", {**REQUEST, **more}, lambda: origin)


def record_batches(
    database: SqliteDatabase, batches: list[Batch], **more: Any
) -> list[tuple[Batch, bool]]:
    """Return each batch, and whether the completion was stored when the batch arrived."""
    stream = make_recorder(database, **more).record(iter(batches))
    return [(b, database.read(lambda c: stored.find(c, "o", "c")) is not None) for b in stream]


def test_completion_is_stored_before_its_end_is_sent(database: SqliteDatabase) -> None:
    batches = [[make_chunk("Hel")], [], [make_chunk("lo")], [make_chunk(finish="stop")], [USAGE]]

    assert record_batches(database, batches) == [(b, i > 2) for i, b in enumerate(batches)]
    stored_completion = database.read(lambda c: stored.find(c, "o", "c"))
    assert stored_completion is not None
    rendered = completion_recorder.render_completion(stored_completion)
    assert (rendered["choices"][0]["message"]["content"], rendered["usage"]) == (
        "Hello",
        USAGE["usage"],
    )
    assert rendered["metadata"] == {"a": "b"}


def test_usage_is_stored_and_sent_only_on_request(database: SqliteDatabase) -> None:
    batches = [[make_chunk("x")], [], [make_chunk(finish="stop")], [USAGE]]
    for options, expected in ((None, batches[:-1]), ({"include_usage": True}, batches)):
        recorder = make_recorder(database, stream=True, stream_options=options)
        assert list(recorder.record(iter(batches))) == expected
        stored_completion = database.read(lambda c: stored.find(c, "o", "c"))
        assert stored_completion is not None
        assert stored_completion.body["usage"] == USAGE["usage"]


def test_completion_ends_with_its_last_choice(database: SqliteDatabase) -> None:
    batches = [[make_chunk("a", "stop")], [make_chunk("b", index=1)], [make_chunk(None, "stop", 1)]]

    assert [expected for _, expected in record_batches(database, batches, n=2)] == [
        False,
        False,
        True,
    ]


def test_non_streamed_completion_is_stored(database: SqliteDatabase) -> None:
    message = {"role": "assistant", "content": "x"}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    completion = {"id": "c", "model": "m", "choices": [choice]}

    assert record_batches(database, [[completion]]) == [([completion], True)]


@check_each(("store", "is_stored"), [(True, True), (False, False), (None, False)])
def test_completion_is_stored_only_on_request(store: bool | None, is_stored: bool) -> None:
    assert completion_recorder.is_completion_stored({**REQUEST, "store": store}) is is_stored


@pytest.mark.parametrize("is_whole", [True, False])
def test_id_is_generated_unless_the_upstream_stores_it(
    database: SqliteDatabase, is_whole: bool
) -> None:
    message = {"role": "assistant", "content": "x"}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    batches: list[Batch] = [[make_chunk("Hel")], [make_chunk("lo", "stop")], [USAGE]]
    if is_whole:
        batches = [[{"id": "c", "model": "m", "choices": [choice]}]]
    expected = [
        {e["id"] for batch in make_recorder(database, None).record(iter(batches)) for e in batch}
        for _ in range(2)
    ]
    names = [name for each in expected for name in each]
    assert len(names) == len(set(names)) == 2
    assert all(re.fullmatch(r"chatcmpl-[0-9a-f]{32}", name) for name in names)
    for name in names:
        completion = database.read(lambda c, name=name: stored.find(c, "o", name))
        assert completion.body["id"] == name


def test_completion_without_id_gets_one(database: SqliteDatabase) -> None:
    nameless = {k: v for k, v in make_chunk("x", "stop").items() if k != "id"}
    [[expected]] = make_recorder(database).record(iter([[nameless]]))
    assert expected["id"].startswith("chatcmpl-")


def test_failed_completion_is_not_stored(database: SqliteDatabase) -> None:
    batches: list[Batch] = [[make_chunk("x")], [{"error": {"message": "no"}}]]
    assert [expected for _, expected in record_batches(database, batches)] == [False, False]


def test_invalid_completion_request_is_rejected_early(database: SqliteDatabase) -> None:
    with pytest.raises(InvalidRequest) as refused:
        completion_recorder.is_completion_stored({"store": "yes"})
    assert refused.value.param == "store"
    with pytest.raises(InvalidRequest) as refused:
        make_recorder(database, metadata={"a": 1})
    assert refused.value.param == "metadata.a"


def test_messages_are_rendered_with_their_parts(database: SqliteDatabase) -> None:
    list(record_batches(database, [[make_chunk("x", "stop")]]))
    stored_completion = database.read(lambda c: stored.find(c, "o", "c"))
    assert stored_completion is not None
    [message] = completion_recorder.render_messages(stored_completion)
    parts = REQUEST["messages"][0]["content"]
    assert (message["id"], message["role"], message["content"]) == ("c-0", "user", "hi")
    assert message["content_parts"] == parts


@pytest.mark.parametrize(
    ("message", "content", "parts"),
    [
        ({"role": "user", "content": ["x"]}, "x", [{"type": "text", "text": "x"}]),
        ({"role": "user", "content": [5, {"type": "text", "text": 5}, {"type": ["text"]}]}, None,
         [{"type": "text", "text": 5}]),
        ({"role": "user", "content": [{"type": {}}]}, None, []),
        ("x", "x", None),
        (5, None, None),
    ],
)  # fmt: skip
def test_malformed_messages_are_rendered(
    message: Any, content: Any, parts: Any, database: SqliteDatabase
) -> None:
    list(record_batches(database, [[make_chunk("x", "stop")]], messages=[message]))
    stored_completion = database.read(lambda c: stored.find(c, "o", "c"))
    assert stored_completion is not None
    [expected] = completion_recorder.render_messages(stored_completion)
    assert (expected["content"], expected["content_parts"]) == (content, parts)


def test_refusal_of_an_earlier_message_is_rendered(database: SqliteDatabase) -> None:
    refused = {"role": "assistant", "content": None, "refusal": "I cannot help."}
    messages = [refused, {"role": "user", "content": "why?"}]
    list(record_batches(database, [[make_chunk("x", "stop")]], messages=messages))
    stored_completion = database.read(lambda c: stored.find(c, "o", "c"))
    assert stored_completion is not None
    rendered = completion_recorder.render_messages(stored_completion)
    assert [message["refusal"] for message in rendered] == ["I cannot help.", None]


def test_messages_that_are_not_a_list_are_ignored(database: SqliteDatabase) -> None:
    list(record_batches(database, [[make_chunk("x", "stop")]], messages="x"))
    stored_completion = database.read(lambda c: stored.find(c, "o", "c"))
    assert stored_completion is not None
    assert completion_recorder.render_messages(stored_completion) == []
