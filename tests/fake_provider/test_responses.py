"""Answers in the format of the Responses API, checked by the SDK's types and accumulator."""

from __future__ import annotations

from typing import Any, get_args

import pytest
from openai import OpenAI
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import BaseModel

from tests.fake_provider import SEALED, Answer, Call, ScriptedUpstream
from tests.fake_provider.answers import Ask, Json
from tests.fake_provider.responses import make_events, make_output, make_response
from tests.fake_provider.samples import ANSWERS, CUSTOM
from tests.helpers.check_cases import check_each

ALL = {**ANSWERS, "custom": CUSTOM, "failed": Answer(finish="failed")}
MODELS: dict[str, type[BaseModel]] = {
    get_args(model.model_fields["type"].annotation)[0]: model
    for model in get_args(get_args(ResponseStreamEvent)[0])
}

kinds = check_each("answer", ALL.values(), ids=ALL)


def ask(**body: Any) -> Ask:
    """A request on the Responses API."""
    return Ask("responses", {"model": "m", "input": "hello", **body})


def select_events(events: list[Json], kind: str) -> list[Json]:
    """The events of one type."""
    return [event for event in events if event["type"] == kind]


@kinds
def test_every_event_is_of_the_sdk_s_type(answer: Answer) -> None:
    for event in make_events(answer, ask(stream=True, include=["reasoning.encrypted_content"])):
        MODELS[event["type"]].model_validate(event, strict=True)


@kinds
def test_the_terminal_event_has_the_whole_response(answer: Answer) -> None:
    whole = make_response(answer, ask(stream=True))
    last = make_events(answer, ask(stream=True))[-1]

    Response.model_validate(whole, strict=True)
    assert last["response"] == whole
    assert last["type"] == f"response.{whole['status']}"


@kinds
def test_every_item_opens_grows_and_closes_in_its_place(answer: Answer) -> None:
    """No event of an item precedes ``added`` or follows ``done``; indexes and numbers have no gaps."""
    events = make_events(answer, ask(stream=True))
    added = [e["output_index"] for e in select_events(events, "response.output_item.added")]
    done = [e["item"] for e in select_events(events, "response.output_item.done")]
    indexes = [event["output_index"] for event in events if "output_index" in event]

    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert added == list(range(len(done)))
    assert indexes == sorted(indexes)
    assert done == events[-1]["response"]["output"]


@kinds
def test_deltas_add_up_to_the_done_event(answer: Answer) -> None:
    events = make_events(answer, ask(stream=True))
    for done in (e for e in events if e["type"].endswith((".done",)) and "item" not in e):
        kind = done["type"].removesuffix(".done")
        field = next((f for f in ("text", "refusal", "arguments", "input") if f in done), None)
        if field:
            same = [
                e
                for e in select_events(events, f"{kind}.delta")
                if e["output_index"] == done["output_index"]
            ]
            here = [e for e in same if e.get("summary_index") == done.get("summary_index")]
            assert "".join(e["delta"] for e in here) == done[field]


def test_the_order_of_a_text_is_the_protocol_s() -> None:
    events = make_events(Answer(text="ab", pieces=2), ask(stream=True))

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


def test_reasoning_is_in_front_and_has_a_part_for_each_paragraph() -> None:
    items = make_output(ANSWERS["reasoning_content"], ask())

    assert [item["type"] for item in items] == ["reasoning", "message"]
    assert [part["text"] for part in items[0]["summary"]] == ["I think.", "I am."]


def test_encrypted_content_is_there_when_it_is_asked_for() -> None:
    """It has this upstream's prefix, and only the finished item has it."""
    included = ask(stream=True, include=["reasoning.encrypted_content"])
    events = make_events(ANSWERS["reasoning_text"], included)

    assert "encrypted_content" not in select_events(events, "response.output_item.added")[0]["item"]
    sealed = select_events(events, "response.output_item.done")[0]["item"]["encrypted_content"]
    assert sealed.startswith(SEALED)
    assert "encrypted_content" not in make_output(ANSWERS["reasoning_text"], ask())[0]


@check_each(
    ("finish", "reason"), [("length", "max_output_tokens"), ("content_filter", "content_filter")]
)
def test_an_incomplete_answer_says_why(finish: str, reason: str) -> None:
    """Its last item is incomplete too."""
    whole = make_response(Answer(text="cut", finish=finish), ask())

    assert whole["status"] == "incomplete"
    assert whole["incomplete_details"] == {"reason": reason}
    assert whole["output"][-1]["status"] == "incomplete"


def test_a_call_keeps_its_namespace() -> None:
    item = make_output(Answer(calls=[Call("find", namespace="mcp")]), ask())[0]

    assert (item["name"], item["namespace"]) == ("find", "mcp")


def test_the_response_repeats_the_parameters_of_the_request() -> None:
    """Parameters that the request lacks have their defaults."""
    whole = make_response(Answer(text="a"), ask(temperature=0.5, metadata={"a": "b"}))

    assert (whole["temperature"], whole["metadata"]) == (0.5, {"a": "b"})
    assert whole["truncation"] == "disabled"


def test_obfuscation_is_there_unless_it_is_declined() -> None:
    declined = ask(stream=True, stream_options={"include_obfuscation": False})
    events = make_events(Answer(text="abc"), ask(stream=True))

    assert {e["type"] for e in events if "obfuscation" in e} == {"response.output_text.delta"}
    assert not any("obfuscation" in event for event in make_events(Answer(text="abc"), declined))


@pytest.mark.parametrize(
    "answer",
    [answer for answer in ALL.values() if answer.finish is None],
    ids=[name for name, answer in ALL.items() if answer.finish is None],
)
def test_the_sdk_s_stream_helper_comes_to_the_same_response(
    answer: Answer, up: ScriptedUpstream, sdk: OpenAI
) -> None:
    up.script(answer, answer)

    with sdk.responses.stream(model="m", input="hello") as stream:
        final = stream.get_final_response()
    whole = sdk.responses.create(model="m", input="hello")

    assert final.output_text == whole.output_text
    assert [item.type for item in final.output] == [item.type for item in whole.output]
