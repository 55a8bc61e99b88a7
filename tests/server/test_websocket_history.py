"""The history of a WebSocket connection and its limits."""

from __future__ import annotations

from typing import Any

import pytest

from forwarder.core.body_memory import BodyMemory, BodyReservation
from forwarder.core.errors import InvalidRequest
from forwarder.server import websocket_history
from forwarder.server.websocket_history import expand_history

Json = dict[str, Any]
HI: Json = {"type": "message", "role": "user", "content": "hi"}
ANSWER: Json = {"type": "message", "role": "assistant", "content": []}


class SessionHistory(websocket_history.SessionHistory):
    """A history with enough memory, unless the test has its own."""

    def __init__(self, max_bytes: int, memory: BodyMemory | None = None) -> None:
        super().__init__(max_bytes, memory or BodyMemory(10**9))


def make_response(name: str, *output: Json) -> Json:
    return {"id": name, "output": list(output)}


def make_request_after(name: str, **more: Any) -> Json:
    return {"previous_response_id": name, "input": "and?", **more}


def add_response(history: SessionHistory, name: str, **more: Any) -> None:
    history.add_response(make_response(name, ANSWER), None, {"input": "hi", **more})


def test_expanded_request_has_all_earlier_items() -> None:
    history = SessionHistory(1000)
    add_response(history, "r1", store=False)
    link = history.find_previous(make_request_after("r1"), keeps_responses=True)

    assert link is not None
    assert expand_history(make_request_after("r1", model="m"), link) == {
        "model": "m",
        "input": [HI, ANSWER, {**HI, "content": "and?"}],
    }
    history.add_response(make_response("r2", ANSWER), link, make_request_after("r1"))
    second = history.find_previous(make_request_after("r2"), keeps_responses=False)
    assert second is not None
    assert len(second.items) == 4


def test_continuation_of_a_prepared_turn_uses_its_conversation() -> None:
    history = SessionHistory(1000)
    add_response(history, "r1", generate=False, conversation="conv_1")
    link = history.find_previous(make_request_after("r1"), keeps_responses=True)
    assert link is not None
    assert expand_history(make_request_after("r1"), link)["conversation"] == "conv_1"

    history.add_response(make_response("r2"), link, make_request_after("r1", generate=False))
    second = history.find_previous(make_request_after("r2"), keeps_responses=True)
    assert second is not None
    assert expand_history(make_request_after("r2"), second)["conversation"] == "conv_1"
    history.add_response(make_response("r3"), second, make_request_after("r2", store=False))
    third = history.find_previous(make_request_after("r3"), keeps_responses=True)
    assert third is not None
    assert "conversation" not in expand_history(make_request_after("r3"), third)


def test_stored_base_is_kept_when_expanding() -> None:
    history = SessionHistory(1000)
    history.add_response(make_response("r2", ANSWER), None, make_request_after("r1", store=False))
    for name, request in (
        ("r3", make_request_after("r2", store=False)),
        ("r4", make_request_after("r3", generate=False)),
    ):
        link = history.find_previous(request, keeps_responses=True)
        assert link is not None
        assert expand_history(request, link)["previous_response_id"] == "r1"
        history.add_response(make_response(name, ANSWER), link, request)


def test_stored_responses_are_left_to_the_store() -> None:
    history = SessionHistory(1000)
    add_response(history, "stored")
    add_response(history, "kept", store=False)
    add_response(history, "prepared", generate=False)

    assert history.find_previous(make_request_after("prepared"), keeps_responses=True) is not None
    assert history.find_previous(make_request_after("stored"), keeps_responses=True) is None
    assert history.find_previous(make_request_after("stored"), keeps_responses=False) is not None
    assert history.find_previous(make_request_after("kept"), keeps_responses=True) is not None


def test_unknown_previous_response_is_not_found() -> None:
    history = SessionHistory(1000)
    assert history.find_previous({"input": "hi"}, keeps_responses=False) is None
    assert history.find_previous(make_request_after("lost"), keeps_responses=False) is None
    with pytest.raises(InvalidRequest):
        history.find_previous({"previous_response_id": 7}, keeps_responses=False)


def test_failed_response_is_forgotten() -> None:
    history = SessionHistory(1000)
    add_response(history, "r1")
    history.forget_previous(make_request_after("r1"))
    history.forget_previous(make_request_after("r1"))
    history.forget_previous({})

    assert history.find_previous(make_request_after("r1"), keeps_responses=False) is None


def test_history_is_bounded_in_size() -> None:
    history = SessionHistory(500)
    add_response(history, "small")
    history.add_response(
        make_response("large", {**ANSWER, "content": "x" * 500}), None, {"input": "hi"}
    )
    assert history.find_previous(make_request_after("large"), keeps_responses=False) is None
    assert history.find_previous(make_request_after("small"), keeps_responses=False) is not None

    history.add_response(
        make_response("fits", {**ANSWER, "content": "x" * 210}), None, {"input": "hi"}
    )
    assert history.find_previous(make_request_after("fits"), keeps_responses=False) is not None
    assert history.find_previous(make_request_after("small"), keeps_responses=False) is None


def test_history_is_bounded_in_number() -> None:
    history = SessionHistory(100_000)
    for number in range(17):
        add_response(history, f"r{number}")

    assert history.find_previous(make_request_after("r0"), keeps_responses=False) is None
    assert history.find_previous(make_request_after("r1"), keeps_responses=False) is not None


def test_entry_size_includes_earlier_turns() -> None:
    history, link = SessionHistory(1000), None
    for number in range(9):
        history.add_response(make_response(f"r{number}", ANSWER), link, {"input": "hi"})
        link = history.find_previous(make_request_after(f"r{number}"), keeps_responses=False)
        if link is None:
            break
    assert 1 < number < 8


def test_unknown_reasoning_is_not_replayed() -> None:
    history = SessionHistory(2000)
    reasoning = {"type": "reasoning", "id": "rs_1", "summary": []}
    encrypted = {**reasoning, "encrypted_content": "x"}
    history.add_response(
        make_response("r1", reasoning, encrypted, ANSWER), None, {"input": "hi", "store": False}
    )
    link = history.find_previous(make_request_after("r1"), keeps_responses=True)

    assert link is not None
    assert link.items == [HI, encrypted, ANSWER]


# -- the memory of all connections ---------------------------------------------------------------


def is_known(history: SessionHistory, name: str) -> bool:
    return history.find_previous(make_request_after(name), keeps_responses=False) is not None


def test_shared_turns_count_once_in_the_memory() -> None:
    memory = BodyMemory(10**6)
    history, entry = SessionHistory(100_000, memory), None
    for number in range(5):
        request = {"input": "x" * 1000}
        history.add_response(make_response(f"r{number}"), entry, request)
        entry = history.find_previous(make_request_after(f"r{number}"), keeps_responses=False)
    assert 5000 < memory.kept < 6000
    history.forget_previous(make_request_after("r4"))
    assert 4000 < memory.kept < 5000
    history.close()
    assert memory.kept == 0


def test_least_recently_used_history_is_dropped_for_bodies() -> None:
    memory = BodyMemory(1_000_000)
    histories = [SessionHistory(10**6, memory) for _ in range(3)]
    for history in (*histories, histories[0]):
        history.add_response(make_response("r1"), None, {"input": "x" * 100_000})
    body = BodyReservation(memory)
    body.resize(250_000)  # three times
    assert [is_known(history, "r1") for history in histories] == [True, False, True]
    body.resize(333_000)
    assert [is_known(history, "r1") for history in histories] == [False, False, False]
    assert memory.kept == 0
    body.release()
    histories[1].add_response(make_response("r2"), None, {"input": "x" * 100_000})
    assert is_known(histories[1], "r2")


def test_all_histories_together_have_a_limit() -> None:
    memory = BodyMemory(1_000_000)
    histories = [SessionHistory(10**6, memory) for _ in range(10)]
    for history in histories:
        history.add_response(make_response("r1"), None, {"input": "x" * 300_000})
    assert memory.kept < 1_000_000
    assert [is_known(history, "r1") for history in histories] == [False] * 7 + [True] * 3


def test_closed_history_takes_no_memory() -> None:
    memory = BodyMemory(1_000_000)
    history = SessionHistory(10**6, memory)
    history.close()
    history.add_response(make_response("r1"), None, {"input": "x" * 1000})
    assert memory.kept == 0
