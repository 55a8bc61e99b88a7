"""What a request stands on."""

from __future__ import annotations

from typing import Any

import pytest

from forwarder.core.errors import ForwarderError, InvalidRequest, NotFound, TooLarge
from forwarder.core.read_limit import RequestLimits
from forwarder.core.translation_context import LossReport
from forwarder.core.types import EventStream, Json
from forwarder.storage.db import conversations, responses
from forwarder.storage.db.conversations import Conversation
from forwarder.storage.db.database import SqliteDatabase
from forwarder.storage.db.responses import StoredResponse
from forwarder.storage.resume import UpstreamMemory, with_history

USER: Json = {"type": "message", "role": "user", "content": "one"}
SAID: Json = {"type": "message", "role": "assistant", "id": "msg_1", "content": "two"}
NEXT: Json = {"type": "message", "role": "user", "content": "three"}


UP = UpstreamMemory("up")


def asked(
    database: SqliteDatabase, memory: UpstreamMemory = UP, owner: str = "o", **request: Any
) -> Json:
    """The request that is left when what it stands on is known."""
    found: list[Json] = []

    def call(left: Json) -> EventStream:
        found.append(left)
        return iter(())

    with_history(call, database, lambda: owner, memory, LossReport().drop)(
        {"model": "m", **request}
    )
    return found[0]


@pytest.fixture(autouse=True)
def _first(database: SqliteDatabase) -> None:
    one = StoredResponse(
        "resp_1", "completed", [USER], {"output": [SAID]}, 1.0, upstream="up", upstream_id="theirs"
    )
    database.write(lambda c: responses.add(c, "o", one, []))
    later = one._replace(id="resp_2", status="queued")
    database.write(lambda c: responses.add(c, "o", later, []))
    database.write(lambda c: conversations.create(c, "o", Conversation("conv_1", 1.0, {})))
    given = [("a", USER), ("b", SAID)]
    database.write(lambda c: conversations.append_items(c, "o", "conv_1", given))


@pytest.mark.parametrize(
    "base",
    [{"previous_response_id": "resp_1"}, {"conversation": "conv_1"},
     {"conversation": {"id": "conv_1"}}],
)  # fmt: skip
def test_what_came_before_is_put_before(database: SqliteDatabase, base: Json) -> None:
    for given in ("three", [NEXT]):
        left = asked(database, input=given, background=False, **base)
        assert left == {"model": "m", "input": [USER, SAID, NEXT]}


def test_what_stands_on_nothing_is_left_alone(database: SqliteDatabase) -> None:
    given: Any = [NEXT]
    left = asked(database, input=given, previous_response_id=None)
    assert left["input"] is given


def test_only_an_upstream_that_keeps_its_own_is_asked_to_work_in_the_background(
    database: SqliteDatabase,
) -> None:
    given: Json = {"input": "three", "background": True}
    keeping = UpstreamMemory("up", stores_responses=True)
    assert asked(database, keeping, **given) == {"model": "m", **given}
    assert asked(database, UpstreamMemory("up"), **given) == {"model": "m", "input": "three"}
    assert asked(database, keeping, **given | {"background": False}).keys() == {"model", "input"}
    later = asked(database, keeping, **given, previous_response_id="resp_1")
    assert later == {"model": "m", **given, "previous_response_id": "theirs"}


def test_an_upstream_that_keeps_its_own_gets_the_id(database: SqliteDatabase) -> None:
    given: Json = {"input": "three", "previous_response_id": "resp_1"}
    left = asked(database, UpstreamMemory("up", stores_responses=True), **given)
    assert left == {"model": "m", "input": "three", "previous_response_id": "theirs"}
    elsewhere = asked(database, UpstreamMemory("another", stores_responses=True), **given)
    assert elsewhere["input"] == [USER, SAID, NEXT]


def test_an_upstream_that_is_to_be_told_all_again_is(database: SqliteDatabase) -> None:
    memory = UpstreamMemory("up", stores_responses=True, can_continue=False)
    left = asked(database, memory, input=[NEXT], previous_response_id="resp_1")
    assert left == {"model": "m", "input": [USER, SAID, NEXT]}


def test_what_only_the_upstream_can_know_is_handed_on_for_clients_that_it_knows(
    database: SqliteDatabase,
) -> None:
    theirs = UpstreamMemory("up", stores_responses=True, has_client_key=True)
    for base in ({"previous_response_id": "resp_x"}, {"conversation": "conv_x"}):
        assert asked(database, theirs, input="hi", **base) == {"model": "m", "input": "hi", **base}


@pytest.mark.parametrize("memory", [UP, UpstreamMemory("up", stores_responses=True)])
def test_what_is_not_there_is_not_found(database: SqliteDatabase, memory: UpstreamMemory) -> None:
    for owner, name in (("o", "resp_x"), ("p", "resp_1")):
        with pytest.raises(InvalidRequest) as lost:
            asked(database, memory, owner, input="hi", previous_response_id=name)
        assert lost.value.code == "previous_response_not_found"
        with pytest.raises(NotFound):
            asked(database, memory, owner, input="hi", conversation=name)


@pytest.mark.parametrize(
    ("request_", "param"),
    [
        ({"previous_response_id": "resp_1", "conversation": "conv_1"}, "previous_response_id"),
        ({"previous_response_id": "resp_2"}, "previous_response_id"),
        ({"previous_response_id": 5}, "previous_response_id"),
        ({"conversation": {}}, "conversation.id"),
        ({"conversation": 5}, "conversation"),
        ({"background": "yes"}, "background"),
        ({"background": True, "store": False}, "background"),
        ({"background_options": "2h"}, "background_options"),
    ],
)
def test_what_makes_no_sense_is_refused(
    database: SqliteDatabase, request_: Json, param: str
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        asked(database, input="hi", **request_)
    assert refused.value.param == param


def test_options_of_background_work_stay_here(database: SqliteDatabase) -> None:
    options = {"completion_window": "2h", "continuation_id": "c"}
    sent = asked(database, input="hi", background=True, background_options=options)
    assert sent == {"model": "m", "input": "hi"}


def test_references_are_resolved_for_their_owner(database: SqliteDatabase) -> None:
    given = [{"type": "item_reference", "id": "msg_1"}, {"id": "msg_1"}, {"id": "msg_x"}, NEXT]
    assert asked(database, input=given)["input"] == [SAID, SAID, {"id": "msg_x"}, NEXT]
    assert asked(database, owner="p", input=given)["input"] == given


@pytest.mark.parametrize(("place", "told"), [(2, "input[0].content"), (1, "conversation")])
def test_a_mistake_is_named_where_the_client_made_it(
    database: SqliteDatabase, place: int, told: str
) -> None:
    def call(left: Json) -> EventStream:
        raise InvalidRequest("Wrong.", param=f"input[{place}].content")

    for base in ({"previous_response_id": "resp_1"}, {"conversation": "conv_1"}):
        with pytest.raises(ForwarderError) as refused:
            with_history(call, database, lambda: "o", UP, LossReport().drop)(
                {"input": [NEXT], **base}
            )
        assert refused.value.param == (told if place == 2 else next(iter(base)))


def test_what_earlier_turns_referred_to_is_found_as_long_as_it_is_there(
    database: SqliteDatabase,
) -> None:
    references = [{"type": "item_reference", "id": name} for name in ("msg_1", "msg_x")]
    later = StoredResponse("resp_3", "completed", references, {"output": []}, 1.0)
    database.write(lambda c: responses.add(c, "o", later, []))
    ledger = LossReport()
    found: list[Json] = []

    def call(left: Json) -> EventStream:
        found.append(left)
        return iter(())

    given = {"input": [NEXT], "previous_response_id": "resp_3"}
    with_history(call, database, lambda: "o", UP, ledger.drop)(given)
    assert found[0]["input"] == [SAID, NEXT]
    assert [*ledger.losses] == ["previous_response_id.item_reference"]


LARGE: Json = {**SAID, "id": "msg_large", "content": "x" * 10_000}
SMALL_LIMITS = RequestLimits(50_000, 1000)


def resume_within(database: SqliteDatabase, limits: RequestLimits, **request: Any) -> list[Json]:
    found: list[Json] = []

    def call(left: Json) -> EventStream:
        found.append(left)
        return iter(())

    with_history(call, database, lambda: "o", UP, LossReport().drop, limits)(
        {"model": "m", **request}
    )
    return found


def test_each_reference_to_an_item_counts(database: SqliteDatabase) -> None:
    one = StoredResponse("resp_l", "completed", [USER], {"output": [LARGE]}, 1.0)
    database.write(lambda c: responses.add(c, "o", one, []))
    reference = {"type": "item_reference", "id": "msg_large"}

    [left] = resume_within(database, SMALL_LIMITS, input=[reference] * 4)
    assert left["input"] == [LARGE] * 4
    with pytest.raises(TooLarge, match="FORWARDER_MAX_BODY") as refused:
        resume_within(database, SMALL_LIMITS, input=[reference] * 6)
    assert refused.value.param == "input"


@pytest.mark.parametrize("base", ["previous_response_id", "conversation"])
def test_what_a_request_continues_counts(database: SqliteDatabase, base: str) -> None:
    previous = None
    for i in range(6):
        one = StoredResponse(
            f"resp_l{i}", "completed", [LARGE], {"output": []}, 1.0, previous=previous
        )
        database.write(lambda c, one=one: responses.add(c, "o", one, []))  # type: ignore[misc]
        given = [(f"item_{i}", LARGE)]
        database.write(lambda c, given=given: conversations.append_items(c, "o", "conv_1", given))  # type: ignore[misc]
        previous = f"resp_l{i}"
    name = previous if base == "previous_response_id" else "conv_1"

    assert resume_within(database, RequestLimits(100_000, 1000), input="hi", **{base: name})
    with pytest.raises(TooLarge) as refused:
        resume_within(database, SMALL_LIMITS, input="hi", **{base: name})
    assert refused.value.param == base


def test_a_chain_that_the_upstream_keeps_is_not_read(database: SqliteDatabase) -> None:
    one = StoredResponse(
        "resp_n", "completed", [LARGE] * 9, {"output": []}, 1.0, upstream="up", upstream_id="n"
    )
    database.write(lambda c: responses.add(c, "o", one, []))
    memory = UpstreamMemory("up", stores_responses=True)
    left = asked(database, memory, input="hi", previous_response_id="resp_n")
    assert left["previous_response_id"] == "n"
