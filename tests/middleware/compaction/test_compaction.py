"""The three ways to request compaction, and their responses."""

from __future__ import annotations

from typing import Any

import pytest

from forwarder.core.errors import InvalidRequest, UpstreamError, UpstreamTimeout
from forwarder.middleware.compaction import (
    has_compaction_trigger,
    make_compact_handler,
    with_compaction,
)
from tests.helpers import sdk
from tests.helpers.check_cases import check_each
from tests.middleware.compaction.talking import (
    USAGE,
    Model,
    events_of,
    make_assistant_message,
    make_text_response,
    make_translation_context,
    make_user_message,
)

Json = dict[str, Any]

CALL_AND_RESULT: list[Json] = [
    {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
    {"type": "function_call_output", "call_id": "c", "output": "42"},
]
CONVERSATION: list[Json] = [
    make_user_message("build it"),
    make_assistant_message("I did."),
    *CALL_AND_RESULT,
]
TRIGGER: Json = {"type": "compaction_trigger"}
THRESHOLD: Json = {"context_management": [{"type": "compaction", "compact_threshold": 5}]}


def make_request(items: Any, **more: Any) -> Json:
    tools = [{"type": "function", "name": "f"}]
    return {"model": "m", "input": items, "tools": tools, "stream": True, **more}


def list_mistakes(events: list[Json]) -> list[str]:
    return [mistake for event in events for mistake in sdk.event_mistakes(event)]


def join_items(items: list[Json]) -> str:
    return str(items)


def test_trigger_returns_exactly_one_compaction_item() -> None:
    model = Model(make_text_response("We built it."))

    events = events_of(
        with_compaction(model, make_translation_context(), False)(
            make_request([*CONVERSATION, TRIGGER])
        )
    )

    done = [e["item"] for e in events if e["type"] == "response.output_item.done"]
    assert [item["type"] for item in done] == ["compaction"]
    response = events[-1]["response"]
    assert (response["status"], response["output"]) == ("completed", done)
    assert response["usage"] == USAGE
    assert [e["sequence_number"] for e in events] == list(range(len(events)))
    assert list_mistakes(events) == []


def test_summary_request_has_the_conversation_without_tools() -> None:
    model = Model(make_text_response("We built it."))
    tools_item = {"type": "additional_tools", "tools": [{"type": "function", "name": "g"}]}
    request = make_request(
        [tools_item, *CONVERSATION, TRIGGER],
        instructions="Be kind.",
        text={"verbosity": "low"},
        store=True,
    )

    events_of(with_compaction(model, make_translation_context(), False)(request))

    [summary_request] = model.requests
    assert summary_request["input"][:-1] == CONVERSATION
    assert "summary" in summary_request["input"][-1]["content"]
    assert summary_request["instructions"] == "Be kind."
    assert summary_request["store"] is False
    assert not {"tools", "text", "tool_choice"} & summary_request.keys()


def test_compaction_item_is_replaced_by_its_summary() -> None:
    context = make_translation_context()
    compaction_output = events_of(with_compaction(Model(make_text_response("We built it.")), context, False)(
        make_request([*CONVERSATION, TRIGGER])
    ))[-1]["response"]["output"]  # fmt: skip
    model = Model(make_text_response("Yes."))

    events_of(
        with_compaction(model, context, False)(
            make_request([*CONVERSATION, *compaction_output, make_user_message("and now?")])
        )
    )

    first_message, summary, question = model.requests[0]["input"]
    assert (first_message, question) == (
        make_user_message("build it"),
        make_user_message("and now?"),
    )
    assert summary["content"][0]["text"].endswith("We built it.")
    assert context.loss_report.losses == {}


@check_each("status", ["incomplete", "completed"])
def test_truncated_summary_is_accepted(status: str) -> None:
    model = Model(
        make_text_response(
            "We bui", status=status, incomplete_details={"reason": "max_output_tokens"}
        )
    )

    events = events_of(
        with_compaction(model, make_translation_context(), False)(
            make_request([*CONVERSATION, TRIGGER])
        )
    )

    assert events[-1]["response"]["status"] == "completed"
    assert events[-1]["response"]["incomplete_details"] is None


@check_each(
    "answer",
    [
        make_text_response(" "),
        make_text_response("", output=[]),
        make_text_response("x", status="failed", error={"code": "server_error"}),
    ],
)
def test_missing_summary_fails(answer: Json) -> None:
    with pytest.raises(UpstreamError):
        events_of(
            with_compaction(Model(answer), make_translation_context(), False)(
                make_request([*CONVERSATION, TRIGGER])
            )
        )


def test_misplaced_trigger_is_rejected() -> None:
    with pytest.raises(InvalidRequest) as caught:
        has_compaction_trigger(
            make_request([make_user_message("a"), TRIGGER, make_user_message("b")])
        )
    assert caught.value.param == "input[1]"


# -- the threshold ----------------------------------------------------------------------------------


def test_request_below_the_threshold_is_unchanged() -> None:
    model = Model(make_text_response("Yes."))
    request = make_request([make_user_message("a"), make_assistant_message("b"), make_user_message("c")], context_management=[
        {"type": "compaction", "compact_threshold": 10_000}
    ])  # fmt: skip

    events = events_of(with_compaction(model, make_translation_context(), False)(request))

    assert len(model.requests) == 1
    assert model.requests[0] == {k: v for k, v in request.items() if k != "context_management"}
    assert [i["type"] for i in events[-1]["response"]["output"]] == ["message"]


def test_answer_above_the_threshold_follows_a_compaction_item() -> None:
    model = Model(make_text_response("We built it."), make_text_response("Yes."))
    request = make_request([*CONVERSATION, make_user_message("done?")], **THRESHOLD)

    events = events_of(with_compaction(model, make_translation_context(), False)(request))

    assert model.requests[0]["input"][:-1] == CONVERSATION
    first_message, summary, question = model.requests[1]["input"]
    assert (first_message, question) == (make_user_message("build it"), make_user_message("done?"))
    assert "We built it." in join_items([summary])
    assert model.requests[1]["tools"] == request["tools"]
    response = events[-1]["response"]
    assert [item["type"] for item in response["output"]] == ["compaction", "message"]
    assert response["usage"]["total_tokens"] == 30
    assert response["usage"]["input_tokens_details"]["cached_tokens"] == 2
    assert [e["sequence_number"] for e in events] == list(range(len(events)))
    assert list_mistakes(events) == []
    assert sdk.rebuild_response(events)


def test_summary_is_last_in_the_middle_of_tool_calls() -> None:
    model = Model(make_text_response("We built it."), make_text_response("Yes."))

    events_of(
        with_compaction(model, make_translation_context(), False)(
            make_request(CONVERSATION, **THRESHOLD)
        )
    )

    assert [item["role"] for item in model.requests[1]["input"]] == ["user", "user"]
    assert "We built it." in join_items(model.requests[1]["input"][-1:])


@check_each("items", ["a long question " * 9, [make_user_message("a long question " * 9)]])
def test_client_messages_alone_are_not_summarized(items: Any) -> None:
    model = Model(make_text_response("Yes."))

    events_of(
        with_compaction(model, make_translation_context(), False)(make_request(items, **THRESHOLD))
    )

    assert [request["input"] for request in model.requests] == [items]


def test_stateful_request_is_not_compacted_by_threshold() -> None:
    model = Model(make_text_response("Yes."))
    request = make_request(
        [*CONVERSATION, make_user_message("done?")], **THRESHOLD, previous_response_id="resp_1"
    )

    events_of(with_compaction(model, make_translation_context(), False)(request))

    assert [len(r["input"]) for r in model.requests] == [len(request["input"])]


def test_summary_request_keeps_upstream_state() -> None:
    model = Model(make_text_response("Sum."))

    events_of(
        with_compaction(model, make_translation_context(), False)(
            make_request([TRIGGER], previous_response_id="resp_1")
        )
    )

    assert model.requests[0]["previous_response_id"] == "resp_1"


@check_each("failure", [UpstreamTimeout("late"), make_text_response("", output=[])])
def test_failed_summary_sends_the_whole_conversation(failure: Any) -> None:
    model = Model(failure, make_text_response("Yes."))

    events = events_of(
        with_compaction(model, make_translation_context(), False)(
            make_request([*CONVERSATION, make_user_message("done?")], **THRESHOLD)
        )
    )

    assert model.requests[1]["input"] == [*CONVERSATION, make_user_message("done?")]
    assert [i["type"] for i in events[-1]["response"]["output"]] == ["message"]


@check_each(
    ("context_management", "param"),
    [
        ("x", "context_management"),
        (["x"], "context_management[0]"),
        ([{"type": "pruning"}], "context_management[0].type"),
        (
            [{"type": "compaction", "compact_threshold": "5"}],
            "context_management[0].compact_threshold",
        ),
    ],
)
def test_invalid_context_management_is_named(context_management: Any, param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        with_compaction(Model(), make_translation_context(), False)(
            make_request("hi", context_management=context_management)
        )
    assert caught.value.param == param


# -- the endpoint -----------------------------------------------------------------------------------


def test_endpoint_returns_client_messages_and_one_item() -> None:
    model = Model(make_text_response("We built it."))

    batches = list(
        make_compact_handler(model, make_translation_context(), False)(
            {"model": "m", "input": CONVERSATION}
        )
    )

    assert batches[:-1] == [[] for _ in batches[:-1]]
    [[response]] = batches[-1:]
    message, item = response["output"]
    assert message["content"] == [{"type": "input_text", "text": "build it"}]
    assert (message["id"][:4], message["status"]) == ("msg_", "completed")
    assert item["type"] == "compaction"
    assert (response["object"], response["usage"]) == ("response.compaction", USAGE)


@check_each(
    "fields", [{"input": "hello"}, {"previous_response_id": "resp_1"}, {"conversation": "conv_1"}]
)
def test_endpoint_accepts_a_string_and_stored_state(fields: Any) -> None:
    model = Model(make_text_response("They greeted.", usage=None))

    [response] = events_of(
        make_compact_handler(model, make_translation_context(), False)({"model": "m", **fields})
    )

    assert [item["type"] for item in response["output"]][-1] == "compaction"
    assert response["usage"]["total_tokens"] == 0


@check_each("native", [True, False])
@check_each("fields", [{}, {"input": None}, {"input": []}, {"input": ""},
                                   {"input": [TRIGGER]}])  # fmt: skip
def test_empty_input_is_rejected(fields: Any, native: bool) -> None:
    model = Model()

    with pytest.raises(InvalidRequest) as caught:
        make_compact_handler(model, make_translation_context(), native)({"model": "m", **fields})

    assert (caught.value.status, caught.value.param) == (400, "input")
    assert model.requests == []


# -- upstreams with their own compaction ------------------------------------------------------------


def test_native_upstream_gets_compaction_requests_unchanged() -> None:
    model = Model(make_text_response("Yes."), make_text_response("Yes."))
    upstream_item = {"type": "compaction", "encrypted_content": "gAAAA"}
    request = make_request([upstream_item, *CONVERSATION, TRIGGER], **THRESHOLD)

    events_of(with_compaction(model, make_translation_context(), True)(request))
    events_of(
        make_compact_handler(model, make_translation_context(), True)(
            {"model": "m", "input": "hello"}
        )
    )

    assert model.requests[0] == request
    assert model.requests[1] == {"model": "m", "input": [
        {"type": "message", "role": "user", "content": "hello"}
    ]}  # fmt: skip
