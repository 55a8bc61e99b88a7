"""Beyond the cases and the laws: what the stream does not show, and how it fails."""

from __future__ import annotations

from typing import Any

import pytest

from forwarder.errors import UpstreamBroken, UpstreamError, UpstreamRefused
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
