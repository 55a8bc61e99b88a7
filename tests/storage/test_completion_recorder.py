"""Chat completions that are to be stored."""

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

REQUEST: Json = {
    "model": "m",
    "store": True,
    "metadata": {"a": "b"},
    "messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}],
}


def chunk(text: str | None = None, finish: str | None = None, index: int = 0) -> Json:
    choice = {"index": index, "delta": {"content": text}, "finish_reason": finish}
    return {"id": "c", "object": "chat.completion.chunk", "model": "m", "choices": [choice]}


USAGE: Json = {"id": "c", "model": "m", "choices": [], "usage": {"total_tokens": 3}}


def keeper(database: SqliteDatabase, origin: str | None = "up", **more: Any) -> CompletionRecorder:
    return CompletionRecorder(database, "o", {**REQUEST, **more}, lambda: origin)


def heard(database: SqliteDatabase, batches: list[Batch], **more: Any) -> list[tuple[Batch, bool]]:
    """Each batch, and whether the completion was stored when it came."""
    stream = keeper(database, **more).record(iter(batches))
    return [(b, database.read(lambda c: stored.find(c, "o", "c")) is not None) for b in stream]


def test_who_hears_that_it_is_over_finds_it_stored(database: SqliteDatabase) -> None:
    batches = [[chunk("Hel")], [], [chunk("lo")], [chunk(finish="stop")], [USAGE]]

    assert heard(database, batches) == [(b, i > 2) for i, b in enumerate(batches)]
    kept = database.read(lambda c: stored.find(c, "o", "c"))
    assert kept is not None
    shown = completion_recorder.render_completion(kept)
    assert (shown["choices"][0]["message"]["content"], shown["usage"]) == ("Hello", USAGE["usage"])
    assert shown["metadata"] == {"a": "b"}


def test_usage_is_stored_and_told_to_those_who_want_it(database: SqliteDatabase) -> None:
    batches = [[chunk("x")], [], [chunk(finish="stop")], [USAGE]]
    for options, told in ((None, batches[:-1]), ({"include_usage": True}, batches)):
        given = keeper(database, stream=True, stream_options=options)
        assert list(given.record(iter(batches))) == told
        kept = database.read(lambda c: stored.find(c, "o", "c"))
        assert kept is not None
        assert kept.body["usage"] == USAGE["usage"]


def test_of_several_choices_the_last_ends_it(database: SqliteDatabase) -> None:
    batches = [[chunk("a", "stop")], [chunk("b", index=1)], [chunk(None, "stop", 1)]]

    assert [told for _, told in heard(database, batches, n=2)] == [False, False, True]


def test_a_whole_answer_is_stored_as_it_is(database: SqliteDatabase) -> None:
    message = {"role": "assistant", "content": "x"}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    whole = {"id": "c", "model": "m", "choices": [choice]}

    assert heard(database, [[whole]]) == [([whole], True)]


@pytest.mark.parametrize(("store", "kept"), [(True, True), (False, False), (None, False)])
def test_only_what_is_to_be_stored_is(store: bool | None, kept: bool) -> None:
    assert completion_recorder.is_completion_stored({**REQUEST, "store": store}) is kept


@pytest.mark.parametrize("whole", [True, False])
def test_an_id_is_made_up_unless_the_upstream_keeps_it(
    database: SqliteDatabase, whole: bool
) -> None:
    message = {"role": "assistant", "content": "x"}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    batches: list[Batch] = [[chunk("Hel")], [chunk("lo", "stop")], [USAGE]]
    if whole:
        batches = [[{"id": "c", "model": "m", "choices": [choice]}]]
    told = [
        {e["id"] for batch in keeper(database, None).record(iter(batches)) for e in batch}
        for _ in range(2)
    ]
    names = [name for each in told for name in each]
    assert len(names) == len(set(names)) == 2
    assert all(re.fullmatch(r"chatcmpl-[0-9a-f]{32}", name) for name in names)
    for name in names:
        found = database.read(lambda c, name=name: stored.find(c, "o", name))
        assert found.body["id"] == name


def test_an_answer_without_an_id_gets_one(database: SqliteDatabase) -> None:
    nameless = {k: v for k, v in chunk("x", "stop").items() if k != "id"}
    [[told]] = keeper(database).record(iter([[nameless]]))
    assert told["id"].startswith("chatcmpl-")


def test_what_failed_is_not(database: SqliteDatabase) -> None:
    batches: list[Batch] = [[chunk("x")], [{"error": {"message": "no"}}]]
    assert [told for _, told in heard(database, batches)] == [False, False]


def test_what_makes_no_sense_is_refused_before_anybody_is_asked(database: SqliteDatabase) -> None:
    with pytest.raises(InvalidRequest) as refused:
        completion_recorder.is_completion_stored({"store": "yes"})
    assert refused.value.param == "store"
    with pytest.raises(InvalidRequest) as refused:
        keeper(database, metadata={"a": 1})
    assert refused.value.param == "metadata.a"


def test_messages_are_told_with_their_parts(database: SqliteDatabase) -> None:
    list(heard(database, [[chunk("x", "stop")]]))
    kept = database.read(lambda c: stored.find(c, "o", "c"))
    assert kept is not None
    [message] = completion_recorder.render_messages(kept)
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
def test_what_a_lenient_upstream_took_for_messages_is_told(
    message: Any, content: Any, parts: Any, database: SqliteDatabase
) -> None:
    list(heard(database, [[chunk("x", "stop")]], messages=[message]))
    kept = database.read(lambda c: stored.find(c, "o", "c"))
    assert kept is not None
    [told] = completion_recorder.render_messages(kept)
    assert (told["content"], told["content_parts"]) == (content, parts)


def test_messages_that_are_no_list_are_none(database: SqliteDatabase) -> None:
    list(heard(database, [[chunk("x", "stop")]], messages="x"))
    kept = database.read(lambda c: stored.find(c, "o", "c"))
    assert kept is not None
    assert completion_recorder.render_messages(kept) == []
