"""Compaction by the SDK's own calls, over upstreams of both protocols that know nothing of it."""

from __future__ import annotations

from typing import Any

import pytest
from openai import OpenAI

from tests.fake_provider import ScriptedUpstream
from tests.fake_provider.answers import Answer, Usage
from tests.fake_provider.faults import refuse_with_status
from tests.helpers import sdk
from tests.live.conftest import KEY
from tests.live.server import Server
from tests.live.talk import send_request

Json = dict[str, Any]
TALK: list[Any] = [
    {"role": "user", "content": "launch on Tuesday"},
    {"role": "assistant", "content": "Noted."},
]
SUMMARY = "SUMMARY: Tuesday it is."

over_both = pytest.mark.parametrize("model", ["chat/m", "responses/m"])


@pytest.fixture
def client(forwarder: Server) -> OpenAI:
    return OpenAI(base_url=forwarder.v1, api_key=KEY, max_retries=0)


def read_last_request(upstream: ScriptedUpstream) -> str:
    """The upstream's latest request."""
    body = upstream.requests[-1].body
    assert upstream.requests[-1].violations == []
    return str(body.get("messages") or body.get("input"))


@over_both
def test_next_turn_continues_from_the_compaction(
    model: str, client: OpenAI, upstream: ScriptedUpstream
) -> None:
    upstream.script(Answer(text=SUMMARY, usage=Usage(input=30, output=5)))

    compaction = client.responses.compact(model=model, input=TALK)
    question: Any = {"role": "user", "content": "When?"}
    output: list[Any] = [item.to_dict(warnings=False) for item in compaction.output]
    answer = client.responses.create(model=model, input=[*output, question], store=False)

    assert sdk.compaction_mistakes(compaction.to_dict(warnings=False)) == []
    assert compaction.usage.total_tokens == 35
    assert answer.output_text
    assert SUMMARY in read_last_request(upstream)
    assert "launch on Tuesday" in read_last_request(upstream)
    assert "Noted." not in read_last_request(upstream)


@over_both
@pytest.mark.parametrize("stream", [True, False])
def test_compaction_trigger_item_compacts_the_input(
    model: str, stream: bool, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    upstream.script(Answer(text=SUMMARY))
    body = {"model": model, "input": [*TALK, {"type": "compaction_trigger"}], "stream": stream}

    response = send_request(forwarder, "responses", body)

    assert response.mistakes == []
    assert [item["type"] for item in response.whole["output"]] == ["compaction"]


@over_both
@pytest.mark.parametrize("stream", [True, False])
def test_answer_above_the_threshold_contains_a_compaction(
    model: str, stream: bool, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    upstream.script(Answer(text=SUMMARY), Answer(text="Tuesday.", reasoning="Hm."))
    question = {"role": "user", "content": "When?"}
    body = {
        "model": model,
        "input": [*TALK, question],
        "context_management": [{"type": "compaction", "compact_threshold": 5}],
        "store": False,
    }
    stream_options = {"stream_options": {"include_obfuscation": False}} if stream else {}

    response = send_request(forwarder, "responses", {**body, "stream": stream, **stream_options})
    output = response.whole["output"]
    next_input = [*TALK, question, *output, {"role": "user", "content": "Sure?"}]
    send_request(forwarder, "responses", {"model": model, "input": next_input, "store": False})

    assert response.mistakes == []
    assert response.ending == "completed"
    assert output[0]["type"] == "compaction"
    assert response.content.text == "Tuesday."
    assert SUMMARY in read_last_request(upstream)
    assert "Noted." not in read_last_request(upstream)


@over_both
def test_failed_summary_is_an_error_for_the_client(
    model: str, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    upstream.script(Answer(refusal="No."))
    response = send_request(
        forwarder, "responses", {"model": model, "input": TALK}, path="/v1/responses/compact"
    )

    assert (response.status, response.error["code"]) == (502, "empty_answer")


def test_a_conversation_that_is_too_long_even_for_a_summary_is_cut(
    forwarder: Server, upstream: ScriptedUpstream
) -> None:
    upstream.script(
        refuse_with_status(400, message="This model's maximum context length is 8 tokens."),
        Answer(text=SUMMARY),
    )
    items = [*TALK, *TALK, *TALK, {"type": "compaction_trigger"}]

    response = send_request(forwarder, "responses", {"model": "chat/m", "input": items})

    assert [item["type"] for item in response.whole["output"]] == ["compaction"]
    first, second = (len(r.body["messages"]) for r in upstream.requests)
    assert second < first
