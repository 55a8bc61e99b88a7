"""Resolution of the history that a request continues."""

from __future__ import annotations

from typing import Any

import pytest

from forwarder.core.errors import ForwarderError, InvalidRequest, NotFound, TooLarge
from forwarder.core.stored_data_limit import RequestLimits
from forwarder.core.translation_context import LossReport
from forwarder.core.types import EventStream, Json
from forwarder.storage.conversation_history import with_history
from forwarder.storage.db import conversations, responses
from forwarder.storage.db.conversations import Conversation
from forwarder.storage.db.database import SqliteDatabase
from forwarder.storage.db.responses import StoredResponse
from forwarder.storage.history_reference import UpstreamMemory
from forwarder.storage.repositories.history import HistoryRepository

USER: Json = {"type": "message", "role": "user", "content": "one"}
ANSWER: Json = {"type": "message", "role": "assistant", "id": "msg_1", "content": "two"}
NEXT: Json = {"type": "message", "role": "user", "content": "three"}


UPSTREAM = UpstreamMemory("up")


def call_with_history(
    database: SqliteDatabase, memory: UpstreamMemory = UPSTREAM, owner: str = "o", **request: Any
) -> Json:
    """Return the request as the wrapped handler receives it."""
    requests: list[Json] = []

    def handler(request: Json) -> EventStream:
        requests.append(request)
        return iter(())

    with_history(handler, HistoryRepository(database), lambda: owner, memory, LossReport().drop)(
        {"model": "m", **request}
    )
    return requests[0]


@pytest.fixture(autouse=True)
def _first(database: SqliteDatabase) -> None:
    one = StoredResponse(
        "resp_1",
        "completed",
        [USER],
        {"output": [ANSWER]},
        1.0,
        upstream="up",
        upstream_id="theirs",
    )
    database.write(lambda c: responses.add(c, "o", one, []))
    later = one._replace(id="resp_2", status="queued")
    database.write(lambda c: responses.add(c, "o", later, []))
    database.write(lambda c: conversations.create(c, "o", Conversation("conv_1", 1.0, {})))
    request_input = [("a", USER), ("b", ANSWER)]
    database.write(lambda c: conversations.append_items(c, "o", "conv_1", request_input))


@pytest.mark.parametrize(
    "base",
    [{"previous_response_id": "resp_1"}, {"conversation": "conv_1"},
     {"conversation": {"id": "conv_1"}}],
)  # fmt: skip
def test_history_is_prepended(database: SqliteDatabase, base: Json) -> None:
    for request_input in ("three", [NEXT]):
        request = call_with_history(database, input=request_input, background=False, **base)
        assert request == {"model": "m", "input": [USER, ANSWER, NEXT]}


def test_request_without_history_is_unchanged(database: SqliteDatabase) -> None:
    request_input: Any = [NEXT]
    request = call_with_history(database, input=request_input, previous_response_id=None)
    assert request["input"] is request_input


def test_background_is_sent_only_to_upstreams_that_store_responses(
    database: SqliteDatabase,
) -> None:
    request_input: Json = {"input": "three", "background": True}
    storing_upstream = UpstreamMemory("up", stores_responses=True)
    assert call_with_history(database, storing_upstream, **request_input) == {
        "model": "m",
        **request_input,
    }
    assert call_with_history(database, UpstreamMemory("up"), **request_input) == {
        "model": "m",
        "input": "three",
    }
    assert call_with_history(
        database, storing_upstream, **request_input | {"background": False}
    ).keys() == {
        "model",
        "input",
    }
    later = call_with_history(
        database, storing_upstream, **request_input, previous_response_id="resp_1"
    )
    assert later == {"model": "m", **request_input, "previous_response_id": "theirs"}


def test_upstream_that_stores_responses_gets_the_id(database: SqliteDatabase) -> None:
    request_input: Json = {"input": "three", "previous_response_id": "resp_1"}
    request = call_with_history(
        database, UpstreamMemory("up", stores_responses=True), **request_input
    )
    assert request == {"model": "m", "input": "three", "previous_response_id": "theirs"}
    at_other_upstream = call_with_history(
        database, UpstreamMemory("another", stores_responses=True), **request_input
    )
    assert at_other_upstream["input"] == [USER, ANSWER, NEXT]


def test_upstream_that_cannot_continue_gets_the_history(database: SqliteDatabase) -> None:
    memory = UpstreamMemory("up", stores_responses=True, can_continue=False)
    request = call_with_history(database, memory, input=[NEXT], previous_response_id="resp_1")
    assert request == {"model": "m", "input": [USER, ANSWER, NEXT]}


def test_unknown_history_is_passed_to_upstreams_with_client_keys(
    database: SqliteDatabase,
) -> None:
    upstream_memory = UpstreamMemory("up", stores_responses=True, has_client_key=True)
    for base in ({"previous_response_id": "resp_x"}, {"conversation": "conv_x"}):
        assert call_with_history(database, upstream_memory, input="hi", **base) == {
            "model": "m",
            "input": "hi",
            **base,
        }


@pytest.mark.parametrize("memory", [UPSTREAM, UpstreamMemory("up", stores_responses=True)])
def test_missing_history_is_not_found(database: SqliteDatabase, memory: UpstreamMemory) -> None:
    for owner, name in (("o", "resp_x"), ("p", "resp_1")):
        with pytest.raises(InvalidRequest) as raised:
            call_with_history(database, memory, owner, input="hi", previous_response_id=name)
        assert raised.value.code == "previous_response_not_found"
        with pytest.raises(NotFound):
            call_with_history(database, memory, owner, input="hi", conversation=name)


def test_running_response_cannot_be_continued(database: SqliteDatabase) -> None:
    with pytest.raises(InvalidRequest) as refused:
        call_with_history(database, input="hi", previous_response_id="resp_2")
    assert (refused.value.param, refused.value.code) == (
        "previous_response_id",
        "previous_response_not_completed",
    )


def test_background_options_are_not_forwarded(database: SqliteDatabase) -> None:
    options = {"completion_window": "2h", "continuation_id": "c"}
    sent = call_with_history(database, input="hi", background=True, background_options=options)
    assert sent == {"model": "m", "input": "hi"}


def test_references_are_resolved_for_their_owner(database: SqliteDatabase) -> None:
    request_input = [
        {"type": "item_reference", "id": "msg_1"},
        {"id": "msg_1"},
        {"id": "msg_x"},
        NEXT,
    ]
    assert call_with_history(database, input=request_input)["input"] == [
        ANSWER,
        ANSWER,
        {"id": "msg_x"},
        NEXT,
    ]
    assert call_with_history(database, owner="p", input=request_input)["input"] == request_input


@pytest.mark.parametrize(("position", "param"), [(2, "input[0].content"), (1, "conversation")])
def test_error_names_the_position_in_the_client_input(
    database: SqliteDatabase, position: int, param: str
) -> None:
    def handler(request: Json) -> EventStream:
        raise InvalidRequest("Wrong.", param=f"input[{position}].content")

    for base in ({"previous_response_id": "resp_1"}, {"conversation": "conv_1"}):
        with pytest.raises(ForwarderError) as refused:
            with_history(
                handler, HistoryRepository(database), lambda: "o", UPSTREAM, LossReport().drop
            )({"input": [NEXT], **base})
        assert refused.value.param == (param if position == 2 else next(iter(base)))


def test_references_of_earlier_turns_are_resolved(
    database: SqliteDatabase,
) -> None:
    references = [{"type": "item_reference", "id": name} for name in ("msg_1", "msg_x")]
    later = StoredResponse("resp_3", "completed", references, {"output": []}, 1.0)
    database.write(lambda c: responses.add(c, "o", later, []))
    loss_report = LossReport()
    requests: list[Json] = []

    def handler(request: Json) -> EventStream:
        requests.append(request)
        return iter(())

    request_input = {"input": [NEXT], "previous_response_id": "resp_3"}
    with_history(handler, HistoryRepository(database), lambda: "o", UPSTREAM, loss_report.drop)(
        request_input
    )
    assert requests[0]["input"] == [ANSWER, NEXT]
    assert [*loss_report.losses] == ["previous_response_id.item_reference"]


LARGE: Json = {**ANSWER, "id": "msg_large", "content": "x" * 10_000}
SMALL_LIMITS = RequestLimits(50_000, 1000)


def resume_within(database: SqliteDatabase, limits: RequestLimits, **request: Any) -> list[Json]:
    requests: list[Json] = []

    def handler(request: Json) -> EventStream:
        requests.append(request)
        return iter(())

    with_history(
        handler, HistoryRepository(database), lambda: "o", UPSTREAM, LossReport().drop, limits
    )({"model": "m", **request})
    return requests


def test_each_reference_counts_towards_the_limit(database: SqliteDatabase) -> None:
    one = StoredResponse("resp_l", "completed", [USER], {"output": [LARGE]}, 1.0)
    database.write(lambda c: responses.add(c, "o", one, []))
    reference = {"type": "item_reference", "id": "msg_large"}

    [request] = resume_within(database, SMALL_LIMITS, input=[reference] * 4)
    assert request["input"] == [LARGE] * 4
    with pytest.raises(TooLarge, match="FORWARDER_MAX_BODY") as refused:
        resume_within(database, SMALL_LIMITS, input=[reference] * 6)
    assert refused.value.param == "input"


@pytest.mark.parametrize("base", ["previous_response_id", "conversation"])
def test_history_counts_towards_the_limit(database: SqliteDatabase, base: str) -> None:
    previous = None
    for i in range(6):
        one = StoredResponse(
            f"resp_l{i}", "completed", [LARGE], {"output": []}, 1.0, previous=previous
        )
        database.write(lambda c, one=one: responses.add(c, "o", one, []))  # type: ignore[misc]
        request_input = [(f"item_{i}", LARGE)]
        database.write(
            lambda c, request_input=request_input: conversations.append_items(
                c, "o", "conv_1", request_input
            )
        )  # type: ignore[misc]
        previous = f"resp_l{i}"
    name = previous if base == "previous_response_id" else "conv_1"

    assert resume_within(database, RequestLimits(100_000, 1000), input="hi", **{base: name})
    with pytest.raises(TooLarge) as refused:
        resume_within(database, SMALL_LIMITS, input="hi", **{base: name})
    assert refused.value.param == base


def test_chain_stored_at_the_upstream_is_not_read(database: SqliteDatabase) -> None:
    one = StoredResponse(
        "resp_n", "completed", [LARGE] * 9, {"output": []}, 1.0, upstream="up", upstream_id="n"
    )
    database.write(lambda c: responses.add(c, "o", one, []))
    memory = UpstreamMemory("up", stores_responses=True)
    request = call_with_history(database, memory, input="hi", previous_response_id="resp_n")
    assert request["previous_response_id"] == "n"
