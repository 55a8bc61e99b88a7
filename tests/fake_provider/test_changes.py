"""Vendors' variations of a chat stream."""

from __future__ import annotations

from tests.fake_provider import Answer, Call, changes, faults
from tests.fake_provider.answers import Json, ModelRequest
from tests.fake_provider.chat import make_chunks
from tests.fake_provider.wire import Change
from tests.helpers.check_cases import check_each

REQUEST = ModelRequest(
    "chat", {"model": "m", "stream": True, "stream_options": {"include_usage": True}}
)
TEXT = make_chunks(Answer(text="abc"), REQUEST)
CALLS = make_chunks(Answer(calls=[Call("one", {"a": 1}), Call("two", {"b": 2})]), REQUEST)


def list_deltas(events: list[Json]) -> list[Json]:
    """All deltas."""
    return [choice["delta"] for chunk in events for choice in chunk["choices"]]


def list_calls(events: list[Json]) -> list[Json]:
    """All deltas of calls."""
    return [call for delta in list_deltas(events) for call in delta.get("tool_calls") or ()]


@check_each("change", [*faults.CHANGES, *faults.CALL_CHANGES])
def test_change_does_not_modify_its_input(change: Change) -> None:
    calls_before = str(CALLS)

    change(CALLS, REQUEST)

    assert str(CALLS) == calls_before


def test_usage_can_be_in_every_chunk() -> None:
    events = changes.usage_in_every_chunk(TEXT, REQUEST)

    assert [bool(chunk["usage"]) for chunk in events] == [False] + [True] * (len(events) - 1)
    assert events[-1]["choices"][0]["finish_reason"] == "stop"


def test_usage_can_be_in_the_chunk_of_the_finish_reason() -> None:
    events = changes.usage_with_finish(TEXT, REQUEST)

    assert len(events) == len(TEXT) - 1
    assert events[-1]["usage"]["prompt_tokens"] == 21
    assert events[-1]["choices"][0]["finish_reason"] == "stop"


def test_usage_null_adds_a_null_usage() -> None:
    events = changes.usage_null(
        make_chunks(Answer(text="a"), ModelRequest("chat", {"stream": True})), REQUEST
    )

    assert {str(chunk["usage"]) for chunk in events} == {"None"}
    assert changes.usage_null(TEXT, REQUEST)[-1]["usage"]


def test_roles_can_be_missing_or_in_every_chunk() -> None:
    """Without roles, the chunk that has only a role is left out too."""
    assert not any("role" in delta for delta in list_deltas(changes.roleless(TEXT, REQUEST)))
    assert all(delta["role"] for delta in list_deltas(changes.role_everywhere(TEXT, REQUEST)))
    assert all("content" in delta for delta in list_deltas(changes.role_everywhere(CALLS, REQUEST)))


def test_fields_can_be_null() -> None:
    assert list_deltas(changes.content_null(CALLS, REQUEST))[-1]["tool_calls"] is None
    assert list_deltas(changes.content_null(CALLS, REQUEST))[1]["content"] is None


def test_finish_reasons_can_be_empty_or_always_stop() -> None:
    blank = [
        choice["finish_reason"]
        for c in changes.finish_empty(TEXT, REQUEST)
        for choice in c["choices"]
    ]
    stop = [
        choice["finish_reason"]
        for c in changes.finish_stop(CALLS, REQUEST)
        for choice in c["choices"]
    ]

    assert blank == [""] * (len(blank) - 1) + ["stop"]
    assert stop == [None] * (len(stop) - 1) + ["stop"]


def test_a_stream_can_open_without_choices() -> None:
    first, *rest = changes.filters_first(TEXT, REQUEST)

    assert first["choices"] == []
    assert rest == TEXT


def test_deltas_can_be_called_messages() -> None:
    choice = changes.message_for_delta(TEXT, REQUEST)[1]["choices"][0]

    assert choice["message"] == {"content": "a"}
    assert "delta" not in choice


def test_names_can_be_blank_later_or_repeated() -> None:
    blank = list_calls(changes.names_blank_later(CALLS, REQUEST))
    repeated = list_calls(changes.names_repeated(CALLS, REQUEST))

    assert [call["function"]["name"] for call in blank if call["id"]] == ["one", "two"]
    assert {call["function"]["name"] for call in blank if not call["id"]} == {""}
    assert {(call["index"], call["id"]) for call in repeated} == {(0, "call_0_1"), (1, "call_1_1")}
    assert all(call["function"]["name"] for call in repeated)


def test_calls_can_share_an_index_or_have_none() -> None:
    """Only the ids tell the calls apart."""
    assert {call["index"] for call in list_calls(changes.one_index(CALLS, REQUEST))} == {0}
    assert not any("index" in call for call in list_calls(changes.no_index(CALLS, REQUEST)))


def test_calls_can_come_whole_as_text_or_as_an_object() -> None:
    calls = list_calls(changes.whole_calls(CALLS, REQUEST))
    objects = list_calls(changes.object_arguments(CALLS, REQUEST))

    assert [call["function"]["arguments"] for call in calls] == ['{"a": 1}', '{"b": 2}']
    assert [call["function"]["arguments"] for call in objects] == [{"a": 1}, {"b": 2}]
