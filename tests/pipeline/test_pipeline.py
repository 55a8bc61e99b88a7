"""The stages of the pipeline together, in their declared order."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from forwarder.core.errors import InvalidRequest, UpstreamRefused
from forwarder.core.types import Handler
from forwarder.pipeline.pipeline import (
    PIPELINE,
    AttemptKind,
    is_chat_over_responses,
    is_chat_upstream,
    select_carried_wraps,
    wrap_messages_limits,
    wrap_stages,
)
from forwarder.protocols.fold import fold_chat
from tests.helpers.check_cases import check_each
from tests.helpers.translating import collect_events
from tests.middleware.chatting import (
    REQUEST,
    USAGE,
    Scripted,
    make_chunk,
    make_text_chunks,
    one_by_one,
)


def wrap_for_responses(handler: Handler, stop_drain: bool, max_choices: int) -> Handler:
    """The stages for a chat client over a Responses upstream."""
    settings = SimpleNamespace(stop_drain=stop_drain, max_choices=max_choices)
    attempt: Any = SimpleNamespace(
        client="chat",
        route=SimpleNamespace(protocol="responses"),
        request=REQUEST,
        services=SimpleNamespace(settings=settings),
        native_tools={"all"},
        runs_tools=False,
        extra_tools=[],
    )
    wraps = [stage.wrap for stage in PIPELINE if stage.applies is is_chat_over_responses]
    return wrap_stages(handler, attempt, wraps)


def wrap_for_chat(handler: Handler, response_format: str, truncation: Any) -> Handler:
    """The stages for a Responses client over a Chat upstream."""
    attempt: Any = SimpleNamespace(
        client="responses",
        route=SimpleNamespace(protocol="chat"),
        profile=SimpleNamespace(response_format=response_format),
        truncation=truncation,
        services=SimpleNamespace(settings=SimpleNamespace(max_schema_nodes=50_000)),
    )
    wraps = [stage.wrap for stage in PIPELINE if stage.applies is is_chat_upstream]
    return wrap_stages(handler, attempt, wraps)


TOO_LONG = UpstreamRefused(400, {"message": "x", "code": "context_length_exceeded"})
MESSAGES = [{"role": "user", "content": "a"}] * 3


def test_stop_and_limit_apply_to_each_choice() -> None:
    scripts = [
        one_by_one(make_text_chunks("one END two")),
        one_by_one(make_text_chunks("three four", " five")),
        [make_text_chunks("six")],
    ]
    call = wrap_for_responses(Scripted(*scripts), stop_drain=True, max_choices=8)
    completion = fold_chat(call({**REQUEST, "n": 3, "stop": "END", "max_tokens": 2}))
    answers = {
        (choice["message"]["content"], choice["finish_reason"]) for choice in completion["choices"]
    }
    assert answers == {("one ", "stop"), ("three four", "length"), ("six", "stop")}
    assert completion["usage"]["prompt_tokens"] == USAGE["prompt_tokens"]


@check_each(
    ("client", "carrier", "wraps"),
    [
        ("messages", "responses", (wrap_messages_limits,)),
        ("messages", "chat", ()),
        ("ollama", "responses", ()),
    ],
)
def test_stages_before_a_carrier_emulate_missing_features(
    client: str, carrier: str, wraps: tuple[Any, ...]
) -> None:
    kind = AttemptKind(client, carrier, True, True, True)

    assert select_carried_wraps(kind) == wraps


def test_prompt_tokens_are_those_of_one_choice() -> None:
    scripts = [
        one_by_one(make_text_chunks("one END", " two")),
        one_by_one(make_text_chunks("three")),
    ]
    call = wrap_for_responses(Scripted(*scripts), stop_drain=False, max_choices=8)
    completion = fold_chat(call({**REQUEST, "n": 2, "stop": "END"}))
    assert completion["usage"]["prompt_tokens"] == USAGE["prompt_tokens"]


def test_annotations_are_cut_with_the_text() -> None:
    annotated_chunk = make_chunk(
        {"notes": {"annotations": [[3, {"a": 1}]], "files": [], "metadata": {}}}
    )
    script = one_by_one(
        [make_chunk({"content": "one two"}), annotated_chunk, *make_text_chunks(" END")]
    )
    for cut in ({"stop": "END"}, {"max_tokens": 1}):
        call = wrap_for_responses(Scripted(script), stop_drain=False, max_choices=8)
        message = fold_chat(call({**REQUEST, **cut}))["choices"][0]["message"]
        assert message["annotations"] == [{"a": 1}]


def test_request_without_emulations_gets_the_unwrapped_stream() -> None:
    stream = iter([[]])
    requests = []
    call = wrap_for_chat(lambda request: requests.append(request) or stream, "json_object", None)  # type: ignore[func-returns-value]
    assert wrap_for_responses(call, False, 8)(REQUEST) is stream
    assert requests[0] is REQUEST


def test_conversation_is_truncated_only_on_request() -> None:
    upstream = Scripted(TOO_LONG, [[make_chunk({"content": "ok"}, "stop")]])
    collect_events(
        wrap_for_chat(upstream, "json_schema", "auto")({**REQUEST, "messages": MESSAGES})
    )
    assert [len(request["messages"]) for request in upstream.requests] == [3, 2]


@check_each("truncation", [None, "disabled"])
def test_client_gets_the_refusal_without_truncation(truncation: str | None) -> None:
    upstream = Scripted(TOO_LONG)
    with pytest.raises(UpstreamRefused):
        wrap_for_chat(upstream, "json_schema", truncation)({**REQUEST, "messages": MESSAGES})
    assert len(upstream.requests) == 1


@check_each("truncation", ["yes", 5, {}])
def test_a_malformed_truncation_is_refused(truncation: object) -> None:
    with pytest.raises(InvalidRequest) as refused:
        wrap_for_chat(Scripted(), "json_schema", truncation)
    assert refused.value.param == "truncation"
