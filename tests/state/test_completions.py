"""Chat completions that are to be stored."""

from __future__ import annotations

from typing import Any

import pytest

from forwarder.errors import InvalidRequest
from forwarder.state import completions
from forwarder.store import completions as stored
from forwarder.store.database import Sqlite
from forwarder.translate.call import Batch, Json

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


def heard(database: Sqlite, batches: list[Batch], **more: Any) -> list[tuple[Batch, bool]]:
    """Each batch, and whether the completion was stored when it came."""
    stream = completions.kept(iter(batches), database, "o", {**REQUEST, **more})
    return [(b, database.read(lambda c: stored.find(c, "o", "c")) is not None) for b in stream]


def test_who_hears_that_it_is_over_finds_it_stored(database: Sqlite) -> None:
    batches = [[chunk("Hel")], [], [chunk("lo")], [chunk(finish="stop")], [USAGE]]

    assert heard(database, batches) == [(b, i > 2) for i, b in enumerate(batches)]
    kept = database.read(lambda c: stored.find(c, "o", "c"))
    assert kept is not None
    shown = completions.shown(kept)
    assert (shown["choices"][0]["message"]["content"], shown["usage"]) == ("Hello", USAGE["usage"])
    assert shown["metadata"] == {"a": "b"}


def test_of_several_choices_the_last_ends_it(database: Sqlite) -> None:
    batches = [[chunk("a", "stop")], [chunk("b", index=1)], [chunk(None, "stop", 1)]]

    assert [told for _, told in heard(database, batches, n=2)] == [False, False, True]


def test_a_whole_answer_is_stored_as_it_is(database: Sqlite) -> None:
    message = {"role": "assistant", "content": "x"}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    whole = {"id": "c", "model": "m", "choices": [choice]}

    assert heard(database, [[whole]]) == [([whole], True)]


@pytest.mark.parametrize("store", [False, None])
def test_what_is_not_to_be_stored_is_not(database: Sqlite, store: bool | None) -> None:
    batches = [[chunk("x", "stop")]]
    assert heard(database, batches, store=store) == [(batches[0], False)]


def test_what_failed_is_not(database: Sqlite) -> None:
    batches: list[Batch] = [[chunk("x")], [{"error": {"message": "no"}}]]
    assert [told for _, told in heard(database, batches)] == [False, False]


def test_what_makes_no_sense_is_refused_before_anybody_is_asked(database: Sqlite) -> None:
    for more, param in (({"store": "yes"}, "store"), ({"metadata": {"a": 1}}, "metadata.a")):
        with pytest.raises(InvalidRequest) as refused:
            completions.kept(iter([]), database, "o", {**REQUEST, **more})
        assert refused.value.param == param


def test_messages_are_told_with_their_parts(database: Sqlite) -> None:
    list(heard(database, [[chunk("x", "stop")]]))
    kept = database.read(lambda c: stored.find(c, "o", "c"))
    assert kept is not None
    [message] = completions.messages_of(kept)
    parts = REQUEST["messages"][0]["content"]
    assert (message["id"], message["role"], message["content"]) == ("c-0", "user", "hi")
    assert message["content_parts"] == parts
