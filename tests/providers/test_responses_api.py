"""Native Responses requests: their input items, and what they include."""

from __future__ import annotations

from typing import Any

import pytest

from forwarder.core.translation_context import LossReport
from forwarder.providers import adapt_request
from forwarder.providers.profile import Profile
from tests.providers.mending import Json, mended

USER = {"role": "user", "content": "U"}


def test_what_this_forwarder_sealed_does_not_reach_a_responses_upstream() -> None:
    theirs = {"type": "reasoning", "encrypted_content": "gAAAA"}
    ours = {"type": "reasoning", "encrypted_content": "fwd1.x"}
    assert mended({"input": [USER, ours, theirs]}, "responses") == {"input": [USER, theirs]}
    assert mended({"input": "Hi."}, "responses") == {"input": "Hi."}


@pytest.mark.parametrize("role", ["developer", "system", "user"])
def test_developers_have_their_name_there_too(role: str) -> None:
    body = {"input": [{"role": "developer", "content": "D"}, USER, "odd"]}
    made = mended(body, "responses", responses_developer=role)["input"]
    assert made == [{"role": role, "content": "D"}, USER, "odd"]


@pytest.mark.parametrize("codex_models", [True, False])
def test_only_openai_is_told_of_codex_s_session(codex_models: bool) -> None:
    body = {"input": "Hi.", "client_metadata": {"session_id": "s"}}
    ledger = LossReport(strict=True)
    made = adapt_request(body, "responses", Profile("x", codex_models=codex_models), ledger)
    assert made == (body if codex_models else {"input": "Hi."})
    assert ledger.losses == {}


THOUGHT: Json = {
    "type": "reasoning",
    "summary": [],
    "content": [{"type": "reasoning_text", "text": "t"}],
    "encrypted_content": "gAAAA",
}


def test_the_text_of_reasoning_goes_only_where_it_is_taken() -> None:
    bare = {k: v for k, v in THOUGHT.items() if k != "content"}
    assert mended({"input": [THOUGHT]}, "responses") == {"input": [THOUGHT]}
    assert mended({"input": [THOUGHT]}, "responses", keep_reasoning_text=False) == {"input": [bare]}


ASKING: Json = {
    "input": "Hi.",
    "reasoning": {"effort": "low", "summary": "auto"},
    "include": ["reasoning.encrypted_content", "web_search_call.action.sources"],
}


def test_a_model_that_does_not_reason_is_asked_for_no_reasoning() -> None:
    less = {
        "input": "Hi.",
        "reasoning": {"effort": "low"},
        "include": ["web_search_call.action.sources"],
    }
    assert mended(ASKING, "responses", reasons=False) == less
    assert mended(ASKING, "responses", reasons=True) == ASKING
    assert mended(ASKING, "responses") == ASKING
    bare = {"input": "Hi.", "reasoning": {"summary": "auto"}, "include": ASKING["include"][:1]}
    assert mended(bare, "responses", reasons=False) == {"input": "Hi."}
    ledger = LossReport()
    adapt_request(ASKING, "responses", Profile("p", reasons=False), ledger)
    assert list(ledger.losses) == ["reasoning.summary", "include.reasoning.encrypted_content"]
    assert noted(less, reasons=False) == []  # not even a strict request loses anything


def test_summaries_may_be_withheld_by_themselves() -> None:
    less = {**ASKING, "reasoning": {"effort": "low"}}
    assert mended(ASKING, "responses", drop=frozenset({"reasoning.summary"})) == less


def test_reasoning_that_cannot_be_opened_is_left_out() -> None:
    body = {"input": [USER, THOUGHT]}
    assert mended(body, "responses", reasoning_items="drop") == {"input": [USER]}


def test_reasoning_that_does_not_go_on_is_noted() -> None:
    ours = {"type": "reasoning", "encrypted_content": "fwd1.x"}
    assert noted({"input": [USER, THOUGHT, "odd"]}) == []
    assert noted({"input": [USER, ours]}) == ["input.reasoning"]
    assert noted({"input": [THOUGHT]}, reasoning_items="drop") == ["input.reasoning"]
    assert noted({"input": [THOUGHT]}, keep_reasoning_text=False) == ["input.reasoning.content"]
    bare = {**THOUGHT, "content": []}
    assert noted({"input": [bare]}, keep_reasoning_text=False) == []


def noted(body: Json, **knobs: Any) -> list[str]:
    ledger = LossReport(strict=True)
    adapt_request(body, "responses", Profile("p", **knobs), ledger)
    return [*ledger.losses]


def test_log_probabilities_that_are_not_taken_are_not_included_either() -> None:
    both = ["reasoning.encrypted_content", "message.output_text.logprobs"]
    body = {"include": both, "top_logprobs": 2}
    drop = frozenset({"logprobs", "top_logprobs"})
    assert mended(body, "responses") == body
    assert mended(body, "responses", drop=drop) == {"include": both[:1]}
    assert mended({"include": "odd"}, "responses", drop=drop) == {"include": "odd"}
    assert body["include"] == both


def test_system_messages_get_the_role_that_the_provider_takes() -> None:
    """ChatGPT's backend refuses the system role."""
    body = {"input": [{"role": "system", "content": "S"}, USER]}
    for role in ("developer", "system"):
        made = mended(body, "responses", responses_system=role)["input"]
        assert made == [{"role": role, "content": "S"}, USER]
