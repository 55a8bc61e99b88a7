"""Answers in the format of the Responses API, checked by the SDK's types and accumulator."""

from __future__ import annotations

from typing import Any, get_args

import pytest
from openai import OpenAI
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import BaseModel

from tests.fake_provider import SEALED, Answer, Call, ScriptedUpstream
from tests.fake_provider.answers import Json, ModelRequest
from tests.fake_provider.responses import make_events, make_output, make_response
from tests.fake_provider.samples import ANSWERS, CUSTOM
from tests.helpers.check_cases import check_each

ALL = {**ANSWERS, "custom": CUSTOM, "failed": Answer(finish="failed")}
MODELS: dict[str, type[BaseModel]] = {
    get_args(model.model_fields["type"].annotation)[0]: model
    for model in get_args(get_args(ResponseStreamEvent)[0])
}

kinds = check_each("answer", ALL.values(), ids=ALL)


def make_request(**body: Any) -> ModelRequest:
    """A request on the Responses API."""
    return ModelRequest("responses", {"model": "m", "input": "hello", **body})


def select_events(events: list[Json], kind: str) -> list[Json]:
    """The events of one type."""
    return [event for event in events if event["type"] == kind]


@kinds
def test_every_event_matches_the_sdk_s_type(answer: Answer) -> None:
    for event in make_events(
        answer, make_request(stream=True, include=["reasoning.encrypted_content"])
    ):
        MODELS[event["type"]].model_validate(event, strict=True)


@kinds
def test_the_terminal_event_has_the_whole_response(answer: Answer) -> None:
    response = make_response(answer, make_request(stream=True))
    last_event = make_events(answer, make_request(stream=True))[-1]

    Response.model_validate(response, strict=True)
    assert last_event["response"] == response
    assert last_event["type"] == f"response.{response['status']}"


@kinds
def test_every_item_has_added_and_done_events_with_its_index(answer: Answer) -> None:
    """No event of an item precedes ``added`` or follows ``done``; indexes and numbers have no gaps."""
    events = make_events(answer, make_request(stream=True))
    added = [e["output_index"] for e in select_events(events, "response.output_item.added")]
    done = [e["item"] for e in select_events(events, "response.output_item.done")]
    indexes = [event["output_index"] for event in events if "output_index" in event]

    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert added == list(range(len(done)))
    assert indexes == sorted(indexes)
    assert done == events[-1]["response"]["output"]


@kinds
def test_deltas_add_up_to_the_done_event(answer: Answer) -> None:
    events = make_events(answer, make_request(stream=True))
    for done in (e for e in events if e["type"].endswith((".done",)) and "item" not in e):
        kind = done["type"].removesuffix(".done")
        field = next((f for f in ("text", "refusal", "arguments", "input") if f in done), None)
        if field:
            deltas_of_item = [
                e
                for e in select_events(events, f"{kind}.delta")
                if e["output_index"] == done["output_index"]
            ]
            deltas_of_part = [
                e for e in deltas_of_item if e.get("summary_index") == done.get("summary_index")
            ]
            assert "".join(e["delta"] for e in deltas_of_part) == done[field]


def test_events_of_a_text_are_in_the_protocol_s_order() -> None:
    events = make_events(Answer(text="ab", pieces=2), make_request(stream=True))

    assert [event["type"].removeprefix("response.") for event in events] == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]


def test_reasoning_is_first_and_has_a_part_for_each_paragraph() -> None:
    items = make_output(ANSWERS["reasoning_content"], make_request())

    assert [item["type"] for item in items] == ["reasoning", "message"]
    assert [part["text"] for part in items[0]["summary"]] == ["I think.", "I am."]


def test_encrypted_content_is_sent_on_request() -> None:
    """It has this upstream's prefix, and only the finished item has it."""
    request = make_request(stream=True, include=["reasoning.encrypted_content"])
    events = make_events(ANSWERS["reasoning_text"], request)

    assert "encrypted_content" not in select_events(events, "response.output_item.added")[0]["item"]
    encrypted_content = select_events(events, "response.output_item.done")[0]["item"][
        "encrypted_content"
    ]
    assert encrypted_content.startswith(SEALED)
    assert "encrypted_content" not in make_output(ANSWERS["reasoning_text"], make_request())[0]


@check_each(
    ("finish", "reason"), [("length", "max_output_tokens"), ("content_filter", "content_filter")]
)
def test_incomplete_answer_has_its_reason(finish: str, reason: str) -> None:
    """Its last item is incomplete too."""
    response = make_response(Answer(text="cut", finish=finish), make_request())

    assert response["status"] == "incomplete"
    assert response["incomplete_details"] == {"reason": reason}
    assert response["output"][-1]["status"] == "incomplete"


def test_a_call_keeps_its_namespace() -> None:
    item = make_output(Answer(calls=[Call("find", namespace="mcp")]), make_request())[0]

    assert (item["name"], item["namespace"]) == ("find", "mcp")


def test_the_response_repeats_the_parameters_of_the_request() -> None:
    """Parameters that the request lacks have their defaults."""
    response = make_response(Answer(text="a"), make_request(temperature=0.5, metadata={"a": "b"}))

    assert (response["temperature"], response["metadata"]) == (0.5, {"a": "b"})
    assert response["truncation"] == "disabled"


def test_obfuscation_is_sent_unless_disabled() -> None:
    request = make_request(stream=True, stream_options={"include_obfuscation": False})
    events = make_events(Answer(text="abc"), make_request(stream=True))

    assert {e["type"] for e in events if "obfuscation" in e} == {"response.output_text.delta"}
    assert not any("obfuscation" in event for event in make_events(Answer(text="abc"), request))


@pytest.mark.parametrize(
    "answer",
    [answer for answer in ALL.values() if answer.finish is None],
    ids=[name for name, answer in ALL.items() if answer.finish is None],
)
def test_sdk_s_stream_helper_accumulates_the_same_response(
    answer: Answer, upstream: ScriptedUpstream, sdk: OpenAI
) -> None:
    upstream.script(answer, answer)

    with sdk.responses.stream(model="m", input="hello") as stream:
        final = stream.get_final_response()
    response = sdk.responses.create(model="m", input="hello")

    assert final.output_text == response.output_text
    assert [item.type for item in final.output] == [item.type for item in response.output]
