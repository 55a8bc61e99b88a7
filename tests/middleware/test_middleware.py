"""The emulations together, in the order in which a call wears them."""

from __future__ import annotations

import pytest

from forwarder.core.errors import InvalidRequest, UpstreamRefused
from forwarder.middleware import with_chat_upstream_middleware, with_responses_upstream_middleware
from forwarder.protocols.fold import fold_chat
from tests.helpers.translating import events_of
from tests.middleware.chatting import REQUEST, USAGE, Scripted, chunk, one_by_one, said

TOO_LONG = UpstreamRefused(400, {"message": "x", "code": "context_length_exceeded"})
MESSAGES = [{"role": "user", "content": "a"}] * 3


def test_every_choice_is_stopped_and_limited_on_its_own() -> None:
    scripts = [
        one_by_one(said("one END two")),
        one_by_one(said("three four", " five")),
        [said("six")],
    ]
    call = with_responses_upstream_middleware(Scripted(*scripts), stop_drain=True, max_choices=8)
    completion = fold_chat(call({**REQUEST, "n": 3, "stop": "END", "max_tokens": 2}))
    answers = {
        (choice["message"]["content"], choice["finish_reason"]) for choice in completion["choices"]
    }
    assert answers == {("one ", "stop"), ("three four", "length"), ("six", "stop")}
    assert completion["usage"]["prompt_tokens"] == USAGE["prompt_tokens"]


def test_the_exact_usage_of_one_choice_tells_the_prompt_of_all() -> None:
    scripts = [one_by_one(said("one END", " two")), one_by_one(said("three"))]
    call = with_responses_upstream_middleware(Scripted(*scripts), stop_drain=False, max_choices=8)
    completion = fold_chat(call({**REQUEST, "n": 2, "stop": "END"}))
    assert completion["usage"]["prompt_tokens"] == USAGE["prompt_tokens"]


def test_what_stands_beside_the_text_is_told_where_it_is_cut() -> None:
    noted = chunk({"notes": {"annotations": [[3, {"a": 1}]], "files": [], "metadata": {}}})
    script = one_by_one([chunk({"content": "one two"}), noted, *said(" END")])
    for cut in ({"stop": "END"}, {"max_tokens": 1}):
        call = with_responses_upstream_middleware(Scripted(script), stop_drain=False, max_choices=8)
        message = fold_chat(call({**REQUEST, **cut}))["choices"][0]["message"]
        assert message["annotations"] == [{"a": 1}]


def test_a_request_that_uses_none_has_the_very_stream_of_the_call() -> None:
    stream = iter([[]])
    asked = []
    call = with_chat_upstream_middleware(
        lambda request: asked.append(request) or stream, "json_object", None
    )  # type: ignore[func-returns-value]
    assert with_responses_upstream_middleware(call, False, 8)(REQUEST) is stream
    assert asked[0] is REQUEST


def test_a_conversation_is_shortened_only_for_those_who_want_it() -> None:
    upstream = Scripted(TOO_LONG, [[chunk({"content": "ok"}, "stop")]])
    events_of(
        with_chat_upstream_middleware(upstream, "json_schema", "auto")(
            {**REQUEST, "messages": MESSAGES}
        )
    )
    assert [len(request["messages"]) for request in upstream.requests] == [3, 2]


@pytest.mark.parametrize("truncation", [None, "disabled"])
def test_others_get_the_refusal(truncation: str | None) -> None:
    upstream = Scripted(TOO_LONG)
    with pytest.raises(UpstreamRefused):
        with_chat_upstream_middleware(upstream, "json_schema", truncation)(
            {**REQUEST, "messages": MESSAGES}
        )
    assert len(upstream.requests) == 1


@pytest.mark.parametrize("truncation", ["yes", 5, {}])
def test_a_malformed_truncation_is_refused(truncation: object) -> None:
    with pytest.raises(InvalidRequest) as refused:
        with_chat_upstream_middleware(Scripted(), "json_schema", truncation)
    assert refused.value.param == "truncation"
