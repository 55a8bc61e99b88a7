"""What a connection remembers of its responses, and for how long."""

from __future__ import annotations

from typing import Any

import pytest

from forwarder.core.errors import InvalidRequest
from forwarder.server.websocket_history import Chain, continued, items_of, not_found

Json = dict[str, Any]
HI: Json = {"type": "message", "role": "user", "content": "hi"}
SAID: Json = {"type": "message", "role": "assistant", "content": []}


def response(name: str, *output: Json) -> Json:
    return {"id": name, "output": list(output)}


def after(name: str, **more: Any) -> Json:
    return {"previous_response_id": name, "input": "and?", **more}


def kept(chain: Chain, name: str, **more: Any) -> None:
    chain.keep(response(name, SAID), None, {"input": "hi", **more})


def test_a_continued_request_has_all_that_was_said() -> None:
    chain = Chain(1000)
    kept(chain, "r1", store=False)
    link = chain.previous(after("r1"), elsewhere=True)

    assert link is not None
    assert continued(after("r1", model="m"), link) == {
        "model": "m",
        "input": [HI, SAID, {**HI, "content": "and?"}],
    }
    chain.keep(response("r2", SAID), link, after("r1"))
    second = chain.previous(after("r2"), elsewhere=False)
    assert second is not None
    assert len(second.items) == 4


def test_what_continues_a_prepared_turn_is_said_in_its_conversation() -> None:
    chain = Chain(1000)
    kept(chain, "r1", generate=False, conversation="conv_1")
    link = chain.previous(after("r1"), elsewhere=True)
    assert link is not None
    assert continued(after("r1"), link)["conversation"] == "conv_1"

    chain.keep(response("r2"), link, after("r1", generate=False))
    second = chain.previous(after("r2"), elsewhere=True)
    assert second is not None
    assert continued(after("r2"), second)["conversation"] == "conv_1"
    chain.keep(response("r3"), second, after("r2", store=False))
    third = chain.previous(after("r3"), elsewhere=True)
    assert third is not None
    assert "conversation" not in continued(after("r3"), third)


def test_what_is_stored_elsewhere_stays_behind_what_is_not() -> None:
    chain = Chain(1000)
    chain.keep(response("r2", SAID), None, after("r1", store=False))
    for name, request in (("r3", after("r2", store=False)), ("r4", after("r3", generate=False))):
        link = chain.previous(request, elsewhere=True)
        assert link is not None
        assert continued(request, link)["previous_response_id"] == "r1"
        chain.keep(response(name, SAID), link, request)


def test_who_stores_responses_is_left_those_that_were_stored() -> None:
    chain = Chain(1000)
    kept(chain, "stored")
    kept(chain, "kept", store=False)
    kept(chain, "prepared", generate=False)

    assert chain.previous(after("prepared"), elsewhere=True) is not None
    assert chain.previous(after("stored"), elsewhere=True) is None
    assert chain.previous(after("stored"), elsewhere=False) is not None
    assert chain.previous(after("kept"), elsewhere=True) is not None


def test_without_a_name_or_with_a_strange_one_nothing_is_continued() -> None:
    chain = Chain(1000)
    assert chain.previous({"input": "hi"}, elsewhere=False) is None
    assert chain.previous(after("lost"), elsewhere=False) is None
    with pytest.raises(InvalidRequest):
        chain.previous({"previous_response_id": 7}, elsewhere=False)


def test_what_failed_is_forgotten() -> None:
    chain = Chain(1000)
    kept(chain, "r1")
    chain.forget(after("r1"))
    chain.forget(after("r1"))
    chain.forget({})

    assert chain.previous(after("r1"), elsewhere=False) is None


def test_memory_is_bounded_in_size() -> None:
    chain = Chain(300)
    kept(chain, "small")
    chain.keep(response("large", {**SAID, "content": "x" * 300}), None, {"input": "hi"})
    assert chain.previous(after("large"), elsewhere=False) is None
    assert chain.previous(after("small"), elsewhere=False) is not None

    chain.keep(response("fits", {**SAID, "content": "x" * 110}), None, {"input": "hi"})
    assert chain.previous(after("fits"), elsewhere=False) is not None
    assert chain.previous(after("small"), elsewhere=False) is None


def test_memory_is_bounded_in_number() -> None:
    chain = Chain(100_000)
    for number in range(17):
        kept(chain, f"r{number}")

    assert chain.previous(after("r0"), elsewhere=False) is None
    assert chain.previous(after("r1"), elsewhere=False) is not None


def test_a_chain_s_size_is_that_of_all_its_links() -> None:
    chain, link = Chain(300), None
    for number in range(9):
        chain.keep(response(f"r{number}", SAID), link, {"input": "hi"})
        link = chain.previous(after(f"r{number}"), elsewhere=False)
        if link is None:
            break
    assert 1 < number < 8


def test_reasoning_that_its_upstream_cannot_know_any_more_stays_out() -> None:
    chain = Chain(2000)
    lost = {"type": "reasoning", "id": "rs_1", "summary": []}
    sealed = {**lost, "encrypted_content": "x"}
    chain.keep(response("r1", lost, sealed, SAID), None, {"input": "hi", "store": False})
    link = chain.previous(after("r1"), elsewhere=True)

    assert link is not None
    assert link.items == [HI, sealed, SAID]


def test_an_input_is_a_list_or_a_text() -> None:
    assert items_of({}) == []
    assert items_of({"input": [HI]}) == [HI]
    with pytest.raises(InvalidRequest):
        items_of({"input": 7})


def test_a_lost_response_is_named() -> None:
    error = not_found("r1")
    assert (error.code, error.param) == ("previous_response_not_found", "previous_response_id")
    assert "r1" in error.message
