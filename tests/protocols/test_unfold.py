from __future__ import annotations

from typing import Any

import pytest

from forwarder.core.errors import UpstreamProtocolError, UpstreamRefused
from forwarder.protocols import unfold
from forwarder.protocols.chat_responses_mappings import TERMINAL_EVENTS
from tests.helpers import sdk
from tests.helpers.cases import Case, list_cases
from tests.helpers.check_cases import check_each

COMPLETION: dict[str, Any] = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": "m",
    "choices": [
        {
            "index": 0,
            "finish_reason": "tool_calls",
            "message": {
                "role": "assistant",
                "content": "Hi.",
                "tool_calls": [
                    {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}},
                    {"id": "b", "type": "function", "function": {"name": "g", "arguments": "{}"}},
                ],
            },
        }
    ],
    "usage": None,
}


def test_unfold_chat_without_streaming() -> None:
    assert unfold.unfold_answer("chat", COMPLETION, streamed=False) == [COMPLETION]


def test_unfold_chat_to_one_chunk() -> None:
    [chunk] = unfold.unfold_answer("chat", COMPLETION, streamed=True)
    assert sdk.chunk_mistakes(chunk) == []
    assert [call["index"] for call in chunk["choices"][0]["delta"]["tool_calls"]] == [0, 1]
    assert "message" not in chunk["choices"][0]
    assert "delta" not in COMPLETION["choices"][0]


@check_each(
    ("fields", "reason"),
    [
        ({}, "tool_calls"),
        ({"message": {"content": "Hi."}}, "stop"),
        ({"error": {"code": 1}}, "error"),
    ],
)
@check_each("streamed", [False, True])
def test_unfold_chat_adds_missing_finish_reason(
    fields: dict[str, Any], reason: str, streamed: bool
) -> None:
    choice = {**COMPLETION["choices"][0], "finish_reason": None, **fields}
    [event] = unfold.unfold_answer("chat", {**COMPLETION, "choices": [choice]}, streamed)
    assert event["choices"][0]["finish_reason"] == reason


@check_each(("code", "status"), [(1008, 402), (1002, 429), (9999, 502)])
def test_unfold_raises_error_in_body_with_its_status(code: int, status: int) -> None:
    body = {"choices": None, "base_resp": {"status_code": code, "status_msg": "No balance."}}
    for streamed in (False, True):
        with pytest.raises(UpstreamRefused, match=r"No balance\.") as caught:
            unfold.unfold_answer("chat", body, streamed)
        assert caught.value.status == status


def test_unfold_response_annotations_and_logprobs() -> None:
    token = {"token": "a", "logprob": -1.0}
    entry = {**token, "bytes": [97], "top_logprobs": [{**token, "bytes": [97]}]}
    annotation = {"type": "file_path", "file_id": "f", "index": 0}
    part = {
        "type": "output_text",
        "text": "a",
        "annotations": [annotation],
        "logprobs": [entry],
    }
    item = {"type": "message", "id": "msg_1", "content": [part]}
    body = {"object": "response", "status": "completed", "output": [item]}
    events = unfold.unfold_answer("responses", body, streamed=True)[4:-2]
    assert [e["type"].removeprefix("response.") for e in events] == [
        "output_text.delta",
        "output_text.annotation.added",
        "output_text.done",
        "content_part.done",
    ]
    assert [m for event in events[:3] for m in sdk.event_mistakes(event)] == []
    assert [events[0]["logprobs"], events[2]["logprobs"]] == [[entry], [entry]]
    assert events[1]["annotation"] == annotation
    assert events[3]["part"] == part


@check_each("case", list_cases("chat_over_responses", streams=True))
def test_unfold_response_to_events(case: Case) -> None:
    response = case.read("upstream.jsonl")[-1]["response"]
    events = unfold.unfold_answer("responses", response, streamed=True)
    assert [m for event in events for m in sdk.event_mistakes(event)] == []
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert [event["type"] in TERMINAL_EVENTS for event in events].index(True) == len(events) - 1
    assert events[-1]["response"] == response
    assert _list_texts(sdk.rebuild_response(events)) == _list_texts(response)


def _list_texts(response: dict[str, Any]) -> list[Any]:
    """Return the texts of all messages; the SDK does not collect refusals."""
    items = [item for item in response["output"] if item["type"] == "message"]
    return [part.get("text") for item in items for part in item["content"]]


@check_each("status", ["completed", "incomplete", "failed"])
def test_unfold_response_without_streaming(status: str) -> None:
    body = {"object": "response", "status": status, "output": [], "error": {"message": "m"}}
    assert unfold.unfold_answer("responses", body, streamed=False) == [
        {"type": f"response.{status}", "response": body}
    ]


@check_each(
    ("protocol", "body", "error", "message"),
    [
        ("chat", {"error": {"message": "Full.", "code": 503}}, UpstreamRefused, "Full."),
        ("responses", {"error": {"message": "Full.", "code": 503}}, UpstreamRefused, "Full."),
        ("chat", {"choices": []}, UpstreamProtocolError, "no choices"),
        ("chat", {"choices": None}, UpstreamProtocolError, "no choices"),
        ("chat", {"choices": [], "base_resp": {"status_msg": "No."}}, UpstreamProtocolError, "no choices"),
        ("responses", {"id": "x"}, UpstreamProtocolError, "not a response"),
        ("responses", COMPLETION, UpstreamProtocolError, "not a response"),
    ],
)  # fmt: skip
def test_unfold_raises_for_malformed_body(
    protocol: str, body: Any, error: Any, message: str
) -> None:
    for streamed in (False, True):
        with pytest.raises(error, match=message):
            unfold.unfold_answer(protocol, body, streamed)


def test_unfold_compaction() -> None:
    body = {"object": "response.compaction", "output": []}

    assert unfold.unfold_answer("compact", body, streamed=False) == [body]
    for malformed in ({}, {"output": "x"}):
        with pytest.raises(UpstreamProtocolError):
            unfold.unfold_answer("compact", malformed, streamed=False)


def test_unfold_embeddings() -> None:
    vectors: list[Any] = [[0.5, 1], "AAAA"]
    entries = [{"index": i, "embedding": vector} for i, vector in enumerate(vectors)]
    for body in ({"object": "list", "data": []}, {"data": entries}, {"data": [{"embedding": [1]}]}):
        assert unfold.unfold_answer("embeddings", body, streamed=False) == [body]

    malformed_entries: list[Any] = [
        *(None, 7, "x", [], [[0.5]]),
        *({}, {"embedding": None}, {"embedding": []}, {"embedding": ""}, {"embedding": {"a": 1}}),
        *({"embedding": ["0.5"]}, {"embedding": [0.5, None]}, {"embedding": [[0.5]]}),
        *({"embedding": [True]}, {"embedding": [0.5], "index": "0"}),
    ]
    for malformed in (
        {},
        {"data": None},
        {"data": {}},
        *({"data": [entry]} for entry in malformed_entries),
    ):
        with pytest.raises(UpstreamProtocolError):
            unfold.unfold_answer("embeddings", malformed, streamed=False)
