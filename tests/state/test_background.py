"""Background work: queued, made, read, ended."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from forwarder.errors import (
    ConversationLocked,
    InvalidRequest,
    NotFound,
    StoreUnavailable,
    UpstreamBroken,
)
from forwarder.exchange import Exchange
from forwarder.network.running import Running
from forwarder.state.background import Background, Made, Task
from forwarder.state.holding import Holds
from forwarder.store import conversations, responses, work
from forwarder.store.conversations import Talk
from forwarder.store.database import Sqlite
from forwarder.translate.call import Batch, Json, Stream
from forwarder.translate.terms import Ledger

ITEM: Json = {"type": "message", "id": "msg_1", "role": "assistant", "content": []}
THEIRS: Json = {"id": "theirs", "status": "in_progress", "output": [], "usage": None}


def event(kind: str, **more: Any) -> Json:
    return {"type": f"response.{kind}", "sequence_number": 77, **more}


ANSWER: list[Batch] = [
    [event("created", response=THEIRS), event("in_progress", response=THEIRS)],
    [event("output_text.delta", delta="x")],
    [event("completed", response={**THEIRS, "status": "completed", "output": [ITEM]})],
]


@pytest.fixture
def background(database: Sqlite) -> Background:
    return Background(database, Running(), Holds(database))


def task(made: Made, **more: Any) -> Task:
    def unfollowable(origin: work.Origin) -> Stream:
        raise AssertionError

    return Task(made, **{"follow": unfollowable, **more})


def start(background: Background, answer: Stream, **request: Any) -> str:
    asked = {"model": "m", "input": "hi", **request}
    exchange = Exchange("x", "background", Ledger())
    return str(background.start("o", asked, exchange, task(lambda: answer))["id"])


def heard(background: Background, name: str, after: int = -1) -> list[Json]:
    deadline = time.monotonic() + 10

    def waited(seconds: float) -> bool:
        time.sleep(0.01)
        return time.monotonic() < deadline

    told = background.told("o", name, after, 60, waited)
    return [event for batch in told for event in batch]


def test_work_is_told_as_its_own_from_the_first_event_to_the_last(background: Background) -> None:
    name = start(background, iter(ANSWER), metadata={"a": "b"})

    events = heard(background, name)
    assert [e["type"].removeprefix("response.") for e in events] == [
        "created", "queued", "in_progress", "output_text.delta", "completed",
    ]  # fmt: skip
    assert [e["sequence_number"] for e in events] == [0, 1, 2, 3, 4]
    assert {e["response"]["id"] for e in events if "response" in e} == {name}
    kept = background.found("o", name)
    assert kept.body == events[-1]["response"]
    assert (kept.body["output"], kept.body["background"]) == ([ITEM], True)
    assert heard(background, name, 3) == events[4:]
    assert heard(background, name, 9) == []


def test_it_can_be_heard_while_it_goes_on(background: Background) -> None:
    go = threading.Event()

    def slow() -> Iterator[Batch]:
        yield from ANSWER[:2]
        go.wait(10)
        yield ANSWER[2]

    name, types = start(background, slow()), []
    for batch in background.told("o", name, -1, 60, lambda seconds: not time.sleep(0.01)):
        types += [event["type"] for event in batch]
        if types[-1] == "response.output_text.delta":
            assert background.found("o", name).status == "in_progress"
            go.set()
    assert types[-1] == "response.completed"


def test_what_the_upstream_refuses_has_failed(background: Background) -> None:
    def broken() -> Iterator[Batch]:
        raise UpstreamBroken("It broke.")
        yield []

    *_, error, failed = heard(background, start(background, broken()))
    assert (error["type"], failed["type"]) == ("error", "response.failed")
    assert failed["response"]["error"]["message"] == "It broke."
    assert failed["response"]["status"] == "failed"


def test_work_that_is_cancelled_is_left(background: Background) -> None:
    left = threading.Event()
    stop = threading.Event()

    def endless() -> Iterator[Batch]:
        yield ANSWER[0]
        stop.wait(10)
        yield ANSWER[2]

    exchange = Exchange("x", "background", Ledger())
    exchange.opened.add(left.set)
    asked = {"model": "m", "input": "hi"}
    name = background.start("o", asked, exchange, task(endless))["id"]

    assert background.cancel("o", name).status == "cancelled"
    assert left.is_set()
    stop.set()
    assert heard(background, name)[-1]["response"]["status"] == "cancelled"
    assert background.cancel("o", name).status == "cancelled"


def test_only_one_s_own_background_work_is_cancelled(
    background: Background, database: Sqlite
) -> None:
    name = start(background, iter(ANSWER))
    for owner, other in (("p", name), ("o", "resp_x")):
        with pytest.raises(NotFound):
            background.cancel(owner, other)
    kept = responses.Kept("plain", "completed", [], {"id": "plain"}, 1.0)
    database.write(lambda c: responses.add(c, "o", kept, []))
    with pytest.raises(InvalidRequest):
        background.cancel("o", "plain")


def test_work_of_the_dead_has_failed_for_whoever_asks(
    background: Background, database: Sqlite
) -> None:
    body = {"id": "a", "background": True, "output": []}
    lost = responses.Kept("a", "in_progress", [], body, 1.0, worker="w", lease=time.time() - 1)
    database.write(lambda c: responses.add(c, "o", lost, []))

    assert heard(background, "a")[-1]["type"] == "response.failed"
    assert background.found("o", "a").body["error"] == work.DIED


def test_what_cannot_be_queued_is_not_begun(
    background: Background, database: Sqlite, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(work: Any) -> None:
        raise StoreUnavailable

    monkeypatch.setattr(database, "write", broken)
    asked: list[int] = []

    def answer() -> Iterator[Batch]:
        asked.append(1)
        yield from ANSWER

    with pytest.raises(StoreUnavailable):
        start(background, answer())
    assert asked == []


def test_what_is_deleted_is_gone(background: Background) -> None:
    name = start(background, iter(ANSWER))
    heard(background, name)

    assert background.remove("o", name)
    assert not background.remove("o", name)
    with pytest.raises(NotFound):
        background.found("o", name)


def test_work_holds_its_conversation_until_it_is_over(
    background: Background, database: Sqlite
) -> None:
    database.write(lambda c: conversations.create(c, "o", Talk("conv", 1.0, {})))
    go = threading.Event()

    def slow() -> Iterator[Batch]:
        go.wait(10)
        yield from ANSWER

    name = start(background, slow(), conversation="conv")
    with pytest.raises(ConversationLocked):
        start(background, iter(ANSWER), conversation="conv")
    go.set()
    assert heard(background, name)[-1]["type"] == "response.completed"
    again = start(background, iter(ANSWER), conversation={"id": "conv"})
    assert heard(background, again)[-1]["type"] == "response.completed"


def test_work_that_breaks_holds_nothing(background: Background, database: Sqlite) -> None:
    database.write(lambda c: conversations.create(c, "o", Talk("conv", 1.0, {})))
    for _ in range(2):

        def broken() -> Iterator[Batch]:
            raise UpstreamBroken("no")
            yield []

        name = start(background, broken(), conversation="conv")
        assert heard(background, name)[-1]["type"] == "response.failed"
