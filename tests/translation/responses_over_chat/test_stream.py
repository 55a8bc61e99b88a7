"""Details of the final response and of failures; tests/cases and test_laws.py cover the rest."""

from __future__ import annotations

from typing import Any

import pytest

from forwarder.core.errors import UpstreamError, UpstreamProtocolError, UpstreamRefused
from forwarder.protocols import unfold
from forwarder.protocols.fold import fold_responses
from tests.helpers import sdk
from tests.helpers.check_cases import check_each
from tests.helpers.translating import NOW, SEAL, collect_events, make_translator_context, translate

Json = dict[str, Any]


def make_chunk(delta: Json | None = None, finish: str | None = None, **more: Any) -> Json:
    return {"choices": [{"index": 0, "delta": delta or {}, "finish_reason": finish}], **more}


def translate_chunks(*chunks: Json, **request: Any) -> Json:
    body = {"model": "m", "input": "Hi.", **request}
    stream = translate("responses_over_chat", body, make_translator_context()).answer(
        iter([[chunk] for chunk in chunks])
    )
    return fold_responses(stream)


STOP = make_chunk(finish="stop")
TEXT_CHUNK = make_chunk({"content": "a"})


@check_each("finish", ["stop", "tool_calls", "function_call", "eos"])
def test_unknown_finish_reason_completes_the_response(finish: str) -> None:
    response = translate_chunks(TEXT_CHUNK, make_chunk(finish=finish))
    assert (response["status"], response["completed_at"]) == ("completed", NOW)


@check_each(
    ("finish", "reason"),
    [("length", "max_output_tokens"), ("max_tokens", "max_output_tokens"),
     ("model_length", "max_output_tokens"), ("content_filter", "content_filter")],
)  # fmt: skip
def test_cut_answer_is_incomplete_with_a_reason(finish: str, reason: str) -> None:
    response = translate_chunks(TEXT_CHUNK, make_chunk(finish=finish))
    assert (response["status"], response["completed_at"]) == ("incomplete", None)
    assert response["incomplete_details"] == {"reason": reason}


@check_each("finish", ["error", "abort", "insufficient_system_resource"])
def test_failed_finish_reason_raises(finish: str) -> None:
    with pytest.raises(UpstreamError, match=finish):
        translate_chunks(TEXT_CHUNK, make_chunk(finish=finish))


def test_stream_error_keeps_its_status() -> None:
    error = {"message": "Slow down.", "code": 429, "metadata": {"x": 1}}
    choice_error = {"choices": [{"delta": {}, "finish_reason": "error", "error": error}]}
    for error_chunk in ({"error": error}, choice_error):
        with pytest.raises(UpstreamRefused, match=r"Slow down\.") as caught:
            translate_chunks(TEXT_CHUNK, error_chunk)
        assert caught.value.status == 429


def test_unnamed_call_raises() -> None:
    with pytest.raises(UpstreamProtocolError):
        translate_chunks(
            make_chunk({"tool_calls": [{"index": 0, "id": "a", "function": {"arguments": "{}"}}]}),
            STOP,
        )


def test_reasoning_is_encrypted_only_on_request() -> None:
    reasoning_chunk = make_chunk(
        {"reasoning_content": "t", "reasoning_details": [{"type": "x", "data": "d"}]}
    )
    [plain, _] = translate_chunks(reasoning_chunk, TEXT_CHUNK, STOP)["output"]
    assert "encrypted_content" not in plain
    [encrypted, _] = translate_chunks(
        reasoning_chunk, TEXT_CHUNK, STOP, include=["reasoning.encrypted_content"]
    )["output"]
    assert encrypted["encrypted_content"] == (
        SEAL + '{"reasoning_content": "t", "reasoning_details": [{"data": "d", "type": "x"}]}'
    )


def test_unreadable_reasoning_is_an_encrypted_item() -> None:
    reasoning_chunk = make_chunk(
        {"reasoning_details": [{"type": "reasoning.encrypted", "data": "d"}]}
    )
    [reasoning_item, _] = translate_chunks(
        reasoning_chunk, TEXT_CHUNK, STOP, include=["reasoning.encrypted_content"]
    )["output"]
    assert (reasoning_item["type"], reasoning_item["summary"]) == ("reasoning", [])
    assert '"data": "d"' in reasoning_item["encrypted_content"]


def test_response_names_the_served_tier_and_the_requested_model() -> None:
    response = translate_chunks(
        make_chunk({"content": "a"}, service_tier="flex", model="m-2026"), STOP
    )
    assert (response["service_tier"], response["model"]) == ("flex", "m")


def test_early_heartbeat_opens_the_response() -> None:
    stream = translate(
        "responses_over_chat", {"model": "m", "input": "Hi."}, make_translator_context()
    ).answer(iter([[], [], [TEXT_CHUNK], [STOP]]))
    assert [event["type"] for event in next(stream)] == ["response.created", "response.in_progress"]
    assert next(stream) == []
    assert next(event["sequence_number"] for event in collect_events(stream)) == 2


def test_chunks_of_one_batch_give_one_batch() -> None:
    stream = translate(
        "responses_over_chat", {"model": "m", "input": "Hi."}, make_translator_context()
    ).answer(iter([[TEXT_CHUNK] * 5, [STOP]]))
    assert sum(event["type"].endswith("text.delta") for event in next(stream)) == 5


# -- side data ----------------------------------------------------------------------------------

PNG = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
CITATION = {"type": "url_citation", "start_index": 0, "end_index": 2, "title": "T", "url": "u"}


@check_each("streamed", [False, True])
def test_whole_message_has_all_fields_of_a_stream(streamed: bool) -> None:
    message = {"role": "assistant", "content": "Hi", "annotations": [CITATION], "images": [PNG]}
    entries = [{"token": "Hi", "logprob": -0.5, "bytes": None, "top_logprobs": []}]
    choice = {"message": message, "logprobs": {"content": entries}, "finish_reason": "stop"}
    [chunk_] = unfold.unfold_answer("chat", {"choices": [choice]}, streamed)
    message_item, image_item = translate_chunks(chunk_)["output"]
    assert message_item["content"] == [
        {
            "type": "output_text",
            "text": "Hi",
            "annotations": [CITATION],
            "logprobs": [{**entries[0], "bytes": [72, 105]}],
        }
    ]
    assert image_item["result"] == "iVBORw0KGgo="


@check_each("streamed", [False, True])
def test_whole_message_with_legacy_function_call(streamed: bool) -> None:
    message = {"role": "assistant", "content": None, "tool_calls": None}
    message["function_call"] = {"name": "f", "arguments": '{"a": 1}'}
    body = {"choices": [{"message": message, "finish_reason": "function_call"}]}
    [call] = translate_chunks(*unfold.unfold_answer("chat", body, streamed))["output"]
    assert (call["type"], call["name"], call["arguments"]) == ("function_call", "f", '{"a": 1}')
    assert call["call_id"].startswith("call_")


def test_delta_logprobs_add_up_to_the_parts_logprobs() -> None:
    chunks = [
        {"choices": [{"delta": d, "logprobs": {"content": [{"token": t, "logprob": -1}]}}]}
        for d, t in (({}, "a"), ({"content": "b"}, "b"), ({}, "c"), ({"content": "d"}, "d"))
    ]
    stream = translate(
        "responses_over_chat", {"model": "m", "input": "Hi."}, make_translator_context()
    ).answer(iter([chunks, [make_chunk({"refusal": "No."})], [STOP]]))
    events = collect_events(stream)
    delta_tokens = [
        t["token"] for e in events if e["type"].endswith("text.delta") for t in e["logprobs"]
    ]
    [message] = events[-1]["response"]["output"]
    assert (
        delta_tokens
        == [t["token"] for t in message["content"][0]["logprobs"]]
        == ["a", "b", "c", "d"]
    )


def test_logprobs_of_other_fields_are_excluded_from_the_text() -> None:
    def make_logprobs_chunk(delta: Json, token: str) -> Json:
        entries = {"content": [{"token": token, "logprob": -1}]}
        return {"choices": [{"delta": delta, "logprobs": entries}]}

    call = {"index": 0, "id": "a", "function": {"name": "f", "arguments": "{}"}}
    chunks = [
        make_logprobs_chunk({"content": "<think>"}, "<think>"),
        make_logprobs_chunk({"content": "Hm."}, "Hm."),
        make_logprobs_chunk({"content": "</think>"}, "</think>"),
        make_logprobs_chunk({"content": "Hi"}, "Hi"),
        make_logprobs_chunk({"reasoning_content": "Hm."}, "Hm."),
        make_logprobs_chunk({"tool_calls": [call]}, "{}"),
    ]
    message_item = translate_chunks(*chunks, STOP)["output"][1]
    assert [t["token"] for t in message_item["content"][0]["logprobs"]] == ["Hi"]


def test_cut_image_is_not_completed() -> None:
    [image] = translate_chunks(make_chunk({"images": [PNG]}), make_chunk(finish="length"))["output"]
    assert (image["status"], image["result"]) == ("generating", "iVBORw0KGgo=")


@check_each("images", [None, [], [None], [{}], [{"image_url": None}], [{"type": "x"}]])
def test_malformed_images_are_ignored(images: Any) -> None:
    [message_item] = translate_chunks(make_chunk({"content": "a", "images": images}), STOP)[
        "output"
    ]
    assert message_item["type"] == "message"


# -- quirks of providers -------------------------------------------------------------------------


def make_choices(*entries: tuple[int, str, str | None]) -> Json:
    """Make a chunk of choices, each with index, text and finish reason."""
    choice_list = [
        {"index": index, "delta": {"content": text}, "finish_reason": finish}
        for index, text, finish in entries
    ]
    return {"choices": choice_list}


def join_text(response: Json) -> str:
    return "".join(
        part["text"]
        for item in response["output"]
        if item["type"] == "message"
        for part in item["content"]
    )


@check_each(
    "chunks",
    [
        [make_choices((0, "a", None)), make_choices((1, "x", None)), make_choices((0, "b", None)),
         make_choices((1, "y", "length")), make_choices((0, "", "stop"))],
        [make_choices((0, "a", None), (1, "x", None)), make_choices((1, "y", "length"), (0, "b", "stop"))],
        [make_choices((3, "a", None)), make_choices((3, "b", "stop"))],
    ],
    ids=["one by one", "side by side", "one that is not called 0"],
)  # fmt: skip
def test_further_choices_are_ignored(chunks: list[Json]) -> None:
    response = translate_chunks(*chunks)
    assert (join_text(response), response["status"]) == ("ab", "completed")


@check_each(
    ("tier", "expected"), [("on_demand", "default"), ("priority", "priority"), ("", "default")]
)
def test_service_tier_is_mapped_to_the_apis_values(tier: str, expected: str) -> None:
    assert translate_chunks({**TEXT_CHUNK, "service_tier": tier}, STOP)["service_tier"] == expected


@check_each(
    "delta",
    [{"reasoning_content": "\n\n"}, {"reasoning": " "}, {"content": "<think>\n\n</think>\n\n"},
     {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "\n"}]}]}],
)  # fmt: skip
def test_blank_reasoning_opens_no_item(delta: Json) -> None:
    response = translate_chunks(make_chunk(delta), TEXT_CHUNK, STOP)
    assert [item["type"] for item in response["output"]] == ["message"]


def test_leading_white_space_of_reasoning_is_kept() -> None:
    pieces = [make_chunk({"reasoning_content": text}) for text in ("\n", " ", "Hm.", "\n")]
    reasoning_item, _ = translate_chunks(*pieces, TEXT_CHUNK, STOP)["output"]
    assert reasoning_item["summary"] == [{"type": "summary_text", "text": "\n Hm.\n"}]


def test_reasoning_with_only_a_signature_is_an_item() -> None:
    detail = {"type": "reasoning.encrypted", "data": "x"}
    response = translate_chunks(
        make_chunk({"reasoning_details": [detail]}),
        TEXT_CHUNK,
        STOP,
        include=["reasoning.encrypted_content"],
    )
    assert [item["type"] for item in response["output"]] == ["reasoning", "message"]


def test_usage_in_a_choice_is_read() -> None:
    """Moonshot sends usage in the choice."""
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    last_choice = {"index": 0, "delta": {}, "finish_reason": "stop", "usage": usage}
    assert translate_chunks(TEXT_CHUNK, {"choices": [last_choice]})["usage"]["total_tokens"] == 3


def test_top_level_usage_takes_precedence() -> None:
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    last_choice = {"index": 0, "delta": {}, "finish_reason": "stop", "usage": usage}
    usage_chunk = {"choices": [], "usage": {**usage, "total_tokens": 9}}
    assert (
        translate_chunks(TEXT_CHUNK, {"choices": [last_choice]}, usage_chunk)["usage"][
            "total_tokens"
        ]
        == 9
    )


def test_message_beside_a_delta_is_ignored() -> None:
    """Perplexity sends the message so far with each delta, and in the last chunk without a delta."""
    pieces = [
        {"choices": [{"index": 0, "delta": {"content": text}, "message": {"content": so_far}}]}
        for text, so_far in (("Hel", "Hel"), ("lo.", "Hello."))
    ]
    last_choice = {
        "index": 0,
        "delta": {},
        "message": {"content": "Hello."},
        "finish_reason": "stop",
    }
    assert join_text(translate_chunks(*pieces, {"choices": [last_choice]})) == "Hello."


def test_moderation_is_carried() -> None:
    result = {"type": "moderation_result", "model": "omni", "flagged": True, "categories": {},
              "category_applied_input_types": {}, "category_scores": {}}  # fmt: skip
    result_list = {"type": "moderation_results", "model": "omni", "results": [result]}
    response = translate_chunks(
        TEXT_CHUNK,
        {"choices": [], "moderation": {"input": result_list}},
        {**STOP, "moderation": {"output": result_list}},
    )
    assert response["moderation"] == {"input": result, "output": result}
    assert sdk.response_mistakes({**response, "usage": None}) == []


def test_empty_answer_is_an_empty_message() -> None:
    response = translate_chunks(make_chunk({"role": "assistant", "content": ""}), STOP)
    assert (response["status"], join_text(response)) == ("completed", "")
    assert [item["type"] for item in response["output"]] == ["message"]


def test_delta_logprobs_have_bytes() -> None:
    token = {"token": "a", "logprob": -1.0, "bytes": [97]}
    chunk = make_chunk({"content": "a"})
    chunk["choices"][0]["logprobs"] = {"content": [{**token, "top_logprobs": [token]}]}
    body = {"model": "m", "input": "Hi."}
    stream = translate("responses_over_chat", body, make_translator_context()).answer(
        iter([[chunk], [STOP]])
    )
    [delta] = [e for e in collect_events(stream) if e["type"] == "response.output_text.delta"]
    assert delta["logprobs"] == [{**token, "top_logprobs": [token]}]
