"""Adaptation of native Responses requests."""

from __future__ import annotations

from typing import Any

from forwarder.core.translation_context import LossReport
from forwarder.providers import adapt_request
from forwarder.providers.profile import Profile
from tests.helpers.check_cases import check_each
from tests.providers.adapting import Json, adapt

USER = {"role": "user", "content": "U"}


def test_items_encrypted_by_the_forwarder_are_dropped() -> None:
    theirs = {"type": "reasoning", "encrypted_content": "gAAAA"}
    ours = {"type": "reasoning", "encrypted_content": "fwd1.x"}
    assert adapt({"input": [USER, ours, theirs]}, "responses") == {"input": [USER, theirs]}
    assert adapt({"input": "Hi."}, "responses") == {"input": "Hi."}


@check_each("role", ["developer", "system", "user"])
def test_responses_developer_role(role: str) -> None:
    body = {"input": [{"role": "developer", "content": "D"}, USER, "odd"]}
    adapted = adapt(body, "responses", responses_developer=role)["input"]
    assert adapted == [{"role": role, "content": "D"}, USER, "odd"]


@check_each("codex_models", [True, False])
def test_client_metadata_only_for_openai(codex_models: bool) -> None:
    body = {"input": "Hi.", "client_metadata": {"session_id": "s"}}
    loss_report = LossReport(strict=True)
    adapted = adapt_request(body, "responses", Profile("x", codex_models=codex_models), loss_report)
    assert adapted == (body if codex_models else {"input": "Hi."})
    assert loss_report.losses == {}


THOUGHT: Json = {
    "type": "reasoning",
    "summary": [],
    "content": [{"type": "reasoning_text", "text": "t"}],
    "encrypted_content": "gAAAA",
}


def test_keep_reasoning_text() -> None:
    bare = {k: v for k, v in THOUGHT.items() if k != "content"}
    assert adapt({"input": [THOUGHT]}, "responses") == {"input": [THOUGHT]}
    assert adapt({"input": [THOUGHT]}, "responses", keep_reasoning_text=False) == {"input": [bare]}


ASKING: Json = {
    "input": "Hi.",
    "reasoning": {"effort": "low", "summary": "auto"},
    "include": ["reasoning.encrypted_content", "web_search_call.action.sources"],
}


def test_adapt_reasoning_for_non_reasoning_model() -> None:
    less = {
        "input": "Hi.",
        "reasoning": {"effort": "low"},
        "include": ["web_search_call.action.sources"],
    }
    assert adapt(ASKING, "responses", reasons=False) == less
    assert adapt(ASKING, "responses", reasons=True) == ASKING
    assert adapt(ASKING, "responses") == ASKING
    bare = {"input": "Hi.", "reasoning": {"summary": "auto"}, "include": ASKING["include"][:1]}
    assert adapt(bare, "responses", reasons=False) == {"input": "Hi."}
    loss_report = LossReport()
    adapt_request(ASKING, "responses", Profile("p", reasons=False), loss_report)
    assert list(loss_report.losses) == ["reasoning.summary", "include.reasoning.encrypted_content"]
    assert list_notes(less, reasons=False) == []  # a note, so strict requests pass


def test_summary_can_be_dropped_separately() -> None:
    less = {**ASKING, "reasoning": {"effort": "low"}}
    assert adapt(ASKING, "responses", drop=frozenset({"reasoning.summary"})) == less


def test_reasoning_items_drop() -> None:
    body = {"input": [USER, THOUGHT]}
    assert adapt(body, "responses", reasoning_items="drop") == {"input": [USER]}


def test_dropped_reasoning_is_noted() -> None:
    ours = {"type": "reasoning", "encrypted_content": "fwd1.x"}
    assert list_notes({"input": [USER, THOUGHT, "odd"]}) == []
    assert list_notes({"input": [USER, ours]}) == ["input.reasoning"]
    assert list_notes({"input": [THOUGHT]}, reasoning_items="drop") == ["input.reasoning"]
    assert list_notes({"input": [THOUGHT]}, keep_reasoning_text=False) == [
        "input.reasoning.content"
    ]
    bare = {**THOUGHT, "content": []}
    assert list_notes({"input": [bare]}, keep_reasoning_text=False) == []


def list_notes(body: Json, **fields: Any) -> list[str]:
    loss_report = LossReport(strict=True)
    adapt_request(body, "responses", Profile("p", **fields), loss_report)
    return [*loss_report.losses]


def test_dropped_logprobs_are_not_included() -> None:
    both = ["reasoning.encrypted_content", "message.output_text.logprobs"]
    body = {"include": both, "top_logprobs": 2}
    drop = frozenset({"logprobs", "top_logprobs"})
    assert adapt(body, "responses") == body
    assert adapt(body, "responses", drop=drop) == {"include": both[:1]}
    assert adapt({"include": "odd"}, "responses", drop=drop) == {"include": "odd"}
    assert body["include"] == both


def test_responses_system_role() -> None:
    """ChatGPT's backend refuses the system role."""
    body = {"input": [{"role": "system", "content": "S"}, USER]}
    for role in ("developer", "system"):
        adapted = adapt(body, "responses", responses_system=role)["input"]
        assert adapted == [{"role": role, "content": "S"}, USER]
