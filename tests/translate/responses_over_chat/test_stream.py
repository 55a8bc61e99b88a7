"""Beyond the cases and the laws: what the stream does not show, and how it fails."""

from __future__ import annotations

from typing import Any

import pytest

from forwarder.errors import UpstreamBroken, UpstreamError, UpstreamRefused
from forwarder.translate import whole
from forwarder.translate.fold import fold_responses
from tests.helpers.translating import NOW, SEAL, events_of, terms, translate

Json = dict[str, Any]


def chunk(delta: Json | None = None, finish: str | None = None, **more: Any) -> Json:
    return {"choices": [{"index": 0, "delta": delta or {}, "finish_reason": finish}], **more}


def answer(*chunks: Json, **request: Any) -> Json:
    asked = {"model": "m", "input": "Hi.", **request}
    stream = translate("responses_over_chat", asked, terms()).answer(
        iter([[each] for each in chunks])
    )
    return fold_responses(stream)


STOP = chunk(finish="stop")
SAID = chunk({"content": "a"})


@pytest.mark.parametrize("finish", ["stop", "tool_calls", "function_call", "eos"])
def test_a_finish_of_any_name_completes(finish: str) -> None:
    response = answer(SAID, chunk(finish=finish))
    assert (response["status"], response["completed_at"]) == ("completed", NOW)


@pytest.mark.parametrize(
    ("finish", "reason"),
    [("length", "max_output_tokens"), ("max_tokens", "max_output_tokens"),
     ("model_length", "max_output_tokens"), ("content_filter", "content_filter")],
)  # fmt: skip
def test_a_cut_answer_is_incomplete_for_a_reason(finish: str, reason: str) -> None:
    response = answer(SAID, chunk(finish=finish))
    assert (response["status"], response["completed_at"]) == ("incomplete", None)
    assert response["incomplete_details"] == {"reason": reason}


@pytest.mark.parametrize("finish", ["error", "abort", "insufficient_system_resource"])
def test_a_finish_that_means_failure_fails(finish: str) -> None:
    with pytest.raises(UpstreamError, match=finish):
        answer(SAID, chunk(finish=finish))


def test_an_error_in_the_stream_has_the_status_it_would_have_had() -> None:
    error = {"message": "Slow down.", "code": 429, "metadata": {"x": 1}}
    broken = {"choices": [{"delta": {}, "finish_reason": "error", "error": error}]}
    for odd in ({"error": error}, broken):
        with pytest.raises(UpstreamRefused, match=r"Slow down\.") as caught:
            answer(SAID, odd)
        assert caught.value.status == 429


def test_a_call_that_is_never_named_fails() -> None:
    with pytest.raises(UpstreamBroken):
        answer(
            chunk({"tool_calls": [{"index": 0, "id": "a", "function": {"arguments": "{}"}}]}), STOP
        )


def test_reasoning_is_sealed_only_when_asked_for() -> None:
    thought = chunk({"reasoning_content": "t", "reasoning_details": [{"type": "x", "data": "d"}]})
    [plain, _] = answer(thought, SAID, STOP)["output"]
    assert "encrypted_content" not in plain
    [sealed, _] = answer(thought, SAID, STOP, include=["reasoning.encrypted_content"])["output"]
    assert sealed["encrypted_content"] == (
        SEAL + '{"reasoning_content": "t", "reasoning_details": [{"data": "d", "type": "x"}]}'
    )


def test_reasoning_that_cannot_be_read_is_an_item_that_holds_its_seal() -> None:
    hidden = chunk({"reasoning_details": [{"type": "reasoning.encrypted", "data": "d"}]})
    [thought, _] = answer(hidden, SAID, STOP, include=["reasoning.encrypted_content"])["output"]
    assert (thought["type"], thought["summary"]) == ("reasoning", [])
    assert '"data": "d"' in thought["encrypted_content"]


def test_the_response_names_the_tier_that_served_it_and_the_model_that_was_asked_for() -> None:
    response = answer(chunk({"content": "a"}, service_tier="flex", model="m-2026"), STOP)
    assert (response["service_tier"], response["model"]) == ("flex", "m")


def test_a_heartbeat_before_the_first_chunk_begins_the_response() -> None:
    stream = translate("responses_over_chat", {"model": "m", "input": "Hi."}, terms()).answer(
        iter([[], [], [SAID], [STOP]])
    )
    assert [event["type"] for event in next(stream)] == ["response.created", "response.in_progress"]
    assert next(stream) == []
    assert next(event["sequence_number"] for event in events_of(stream)) == 2


def test_a_burst_of_chunks_is_one_batch() -> None:
    stream = translate("responses_over_chat", {"model": "m", "input": "Hi."}, terms()).answer(
        iter([[SAID] * 5, [STOP]])
    )
    assert sum(event["type"].endswith("text.delta") for event in next(stream)) == 5


# -- what comes beside the text -----------------------------------------------------------------

PNG = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
CITED = {"type": "url_citation", "start_index": 0, "end_index": 2, "title": "T", "url": "u"}


@pytest.mark.parametrize("streamed", [False, True])
def test_a_whole_message_brings_all_that_a_stream_brings(streamed: bool) -> None:
    message = {"role": "assistant", "content": "Hi", "annotations": [CITED], "images": [PNG]}
    entries = [{"token": "Hi", "logprob": -0.5, "bytes": None, "top_logprobs": []}]
    choice = {"message": message, "logprobs": {"content": entries}, "finish_reason": "stop"}
    [chunk_] = whole.events("chat", {"choices": [choice]}, streamed)
    said, drawn = answer(chunk_)["output"]
    assert said["content"] == [
        {
            "type": "output_text",
            "text": "Hi",
            "annotations": [CITED],
            "logprobs": [{**entries[0], "bytes": [72, 105]}],
        }
    ]
    assert drawn["result"] == "iVBORw0KGgo="


@pytest.mark.parametrize("streamed", [False, True])
def test_a_whole_message_may_call_in_the_legacy_way(streamed: bool) -> None:
    message = {"role": "assistant", "content": None, "tool_calls": None}
    message["function_call"] = {"name": "f", "arguments": '{"a": 1}'}
    body = {"choices": [{"message": message, "finish_reason": "function_call"}]}
    [call] = answer(*whole.events("chat", body, streamed))["output"]
    assert (call["type"], call["name"], call["arguments"]) == ("function_call", "f", '{"a": 1}')
    assert call["call_id"].startswith("call_")


def test_the_log_probabilities_of_deltas_add_up_to_those_of_the_part() -> None:
    chunks = [
        {"choices": [{"delta": d, "logprobs": {"content": [{"token": t, "logprob": -1}]}}]}
        for d, t in (({}, "a"), ({"content": "b"}, "b"), ({}, "c"), ({"content": "d"}, "d"))
    ]
    stream = translate("responses_over_chat", {"model": "m", "input": "Hi."}, terms()).answer(
        iter([chunks, [chunk({"refusal": "No."})], [STOP]])
    )
    events = events_of(stream)
    told = [t["token"] for e in events if e["type"].endswith("text.delta") for t in e["logprobs"]]
    [message] = events[-1]["response"]["output"]
    assert told == [t["token"] for t in message["content"][0]["logprobs"]] == ["a", "b", "c", "d"]


def test_log_probabilities_of_what_is_no_text_are_none_of_the_texts() -> None:
    def weighed(delta: Json, token: str) -> Json:
        entries = {"content": [{"token": token, "logprob": -1}]}
        return {"choices": [{"delta": delta, "logprobs": entries}]}

    call = {"index": 0, "id": "a", "function": {"name": "f", "arguments": "{}"}}
    chunks = [
        weighed({"content": "<think>"}, "<think>"),
        weighed({"content": "Hm."}, "Hm."),
        weighed({"content": "</think>"}, "</think>"),
        weighed({"content": "Hi"}, "Hi"),
        weighed({"reasoning_content": "Hm."}, "Hm."),
        weighed({"tool_calls": [call]}, "{}"),
    ]
    said = answer(*chunks, STOP)["output"][1]
    assert [t["token"] for t in said["content"][0]["logprobs"]] == ["Hi"]


def test_an_image_that_is_cut_off_is_not_completed() -> None:
    [image] = answer(chunk({"images": [PNG]}), chunk(finish="length"))["output"]
    assert (image["status"], image["result"]) == ("generating", "iVBORw0KGgo=")


@pytest.mark.parametrize("images", [None, [], [None], [{}], [{"image_url": None}], [{"type": "x"}]])
def test_what_holds_no_image_is_none(images: Any) -> None:
    [said] = answer(chunk({"content": "a", "images": images}), STOP)["output"]
    assert said["type"] == "message"
